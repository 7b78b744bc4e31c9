"""A proxy for tests that ends TLS before a QuestDB, and turns a token into the user and password that it stands for.

Open source QuestDB knows no tokens: who wants them puts such a proxy before it.
"""

import base64
import contextlib
import re
import socket
import ssl
import threading

import trustme
from small_servers import Accepting


class TlsProxy:
    """In front of the server of `endpoint`; a `with` block. `ca` made its certificate, unless another is given."""

    def __init__(self, endpoint, *names, ca=None, **certificate):
        self.ca = ca or trustme.CA()
        self.token = None
        """Who gives it as Bearer is let through as the endpoint's user."""
        self.seen = []
        """The authorization of each request."""
        self._endpoint = endpoint
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*(names or ("127.0.0.1",)), **certificate).configure_cert(self._context)
        self._accepting = Accepting(self._serve)
        self.port = self._accepting.port
        self.url = f"https://127.0.0.1:{self.port}"

    def trust(self, path):
        """Writes the CA's certificate to a file."""
        path.write_bytes(self.ca.cert_pem.bytes())
        return path

    def __enter__(self):
        self._accepting.__enter__()
        return self

    def __exit__(self, *exception):
        self._accepting.__exit__(*exception)

    def _serve(self, client):
        host, port = self._endpoint.http_url.removeprefix("http://").split(":")
        with (
            self._context.wrap_socket(client, server_side=True) as inside,
            socket.create_connection((host, int(port))) as server,
        ):
            down = threading.Thread(target=self._pass_on, args=(server, inside), daemon=True)
            down.start()
            while data := inside.recv(1 << 16):
                server.sendall(self._translated(data) if data[:5] in (b"GET /", b"POST ") else data)
            server.shutdown(socket.SHUT_WR)
            down.join()

    def _pass_on(self, server, client):
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
            client.unwrap()

    def _translated(self, head):
        found = re.search(rb"authorization: (.*?)\r\n", head)
        self.seen.append(found[1].decode() if found else None)
        if self.token is None or self.seen[-1] != f"Bearer {self.token}":
            return head
        pair = base64.b64encode(f"{self._endpoint.user}:{self._endpoint.password}".encode())
        return head.replace(found[0], b"authorization: Basic " + pair + b"\r\n")
