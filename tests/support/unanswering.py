"""Servers for tests that take connections and do not answer as they should."""

import contextlib
import json
import socket
import threading
import urllib.request

from small_servers import Answering


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
        self._simulator, self._without = simulator, without
        self._answering = Answering(self._answer)
        self.url = self._answering.url

    def _answer(self, path):
        self.release.wait(60)
        with urllib.request.urlopen(self._simulator.rest_url + path) as answer:
            found = json.load(answer)
        if "symbols" in found:
            names = {each["symbol"] for each in found["symbols"]} - {self._without}
            names = names if self.only is None else names.intersection(self.only)
            found["symbols"] = [each for each in found["symbols"] if each["symbol"] in names]
        return json.dumps(found).encode()

    def __enter__(self):
        self._answering.__enter__()
        return self

    def __exit__(self, *exception):
        self.release.set()
        self._answering.__exit__(*exception)
