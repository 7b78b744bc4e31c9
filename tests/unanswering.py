"""Servers for tests that take connections and do not answer as they should."""

import contextlib
import json
import socket
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Unanswering:
    """Says nothing; or, with `drip`, sends an answer that never ends, a byte every so many seconds."""

    def __init__(self, drip=None):
        self._drip = drip
        self._open = []
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                self._open.append(client)
                if self._drip:
                    threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{")
            while not self._stopped.wait(self._drip):
                client.sendall(b" ")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in [self._listener, *self._open]:
            each.close()


class Late:
    """The REST address of a simulator that answers once it is released, and may leave out a pair."""

    def __init__(self, simulator, without=None):
        self.release = threading.Event()
        self.only = None
        """The pairs to list; None for all."""
        late = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                late.release.wait(60)
                with urllib.request.urlopen(simulator.rest_url + self.path) as answer:
                    found = json.load(answer)
                if "symbols" in found:
                    found["symbols"] = [each for each in found["symbols"] if each["symbol"] != without]
                if "symbols" in found and late.only is not None:
                    found["symbols"] = [each for each in found["symbols"] if each["symbol"] in late.only]
                body = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


def eventually(condition, seconds=30):
    """Waits until `condition` gives something true, and gives that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it never came within {seconds} s"
        time.sleep(0.1)
    return found
