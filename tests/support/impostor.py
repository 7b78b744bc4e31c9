"""A process that listens where a QuestDB should, and notes what it is sent: of another user, where root runs the tests.

As a program: `impostor.py PORT [ARGUMENT…]`; PORT 0 takes any. It prints its port, then each request line with its
authorization.
"""

import os
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

PYTHON = os.path.realpath(sys.executable)
NOBODY = 65534


class Impostor:
    """The running process; as context manager it is ended."""

    def __init__(self, port=0, *arguments):
        other = (
            {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 and os.access("/usr/bin/python3", os.X_OK) else {}
        )
        self.user = "nobody" if other else ""
        command = [
            "/usr/bin/python3" if other else PYTHON,
            "-c",
            Path(__file__).read_text(),
            str(port),
            *map(str, arguments),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **other)
        self.port = int(self.process.stdout.readline())
        self.requests = []
        self._reader = threading.Thread(target=lambda: self.requests.extend(self.process.stdout))
        self._reader.start()

    @property
    def pid(self):
        return self.process.pid

    def end(self):
        """Ends it; gives all that it was sent."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        return self.requests

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.end()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        sys.stdout.write(f"{self.command} {self.path} {self.headers.get('authorization')}\n")
        sys.stdout.flush()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"columns": [{"name": "1", "type": "INT"}], "dataset": [[1]]}')

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


if __name__ == "__main__":
    socketserver.TCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), _Handler) as server:
        server.daemon_threads = True
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()
