"""A web server that takes messages, for tests of the webhook."""

import json
import queue
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "/services/T000/hush"


class Receiver:
    """A web server that answers as it is told: a status, or None for never."""

    def __init__(self):
        self.answers = []
        self.received = queue.Queue()
        self.attempts = queue.Queue()
        self.release = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.attempts.put(time.monotonic())
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status is None:
                    receiver.release.wait(30)
                    return
                if status == 200:
                    receiver.received.put((self.path, json.loads(body)))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
