"""An HTTP proxy for tests: CONNECT and whole URLs, names as it is told, a password where one is wanted."""

import base64
import contextlib
import socket
import threading
from urllib.parse import urlsplit

from small_servers import Accepting


class ProxyServer:
    """Listens on 127.0.0.1 within a `with` block. `names`: the address of each host that it knows."""

    def __init__(self, names, user=None, password=None):
        self.names = names
        self.asked = []
        """Method and target of each request."""
        self._wanted = user and "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._accepting = Accepting(self._serve)
        self.port = self._accepting.port

    def __enter__(self):
        self._accepting.__enter__()
        return self

    def __exit__(self, *exception):
        self._accepting.__exit__(*exception)

    def _serve(self, client):
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := client.recv(4096)):
                    return
                head += piece
            lines = head.decode().split("\r\n")
            method, target, _ = lines[0].split()
            fields = dict(line.split(": ", 1) for line in lines[1:] if line)
            if self._wanted and fields.get("Proxy-Authorization") != self._wanted:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            self.asked.append(f"{method} {target}")
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            if parts.hostname not in self.names:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection((self.names[parts.hostname], parts.port or 80), 5) as server:
                server.settimeout(None)
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    server.sendall(head)
                back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
                back.start()
                self._pass_on(client, server)
                back.join(5)

    @staticmethod
    def _pass_on(source, target):
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
