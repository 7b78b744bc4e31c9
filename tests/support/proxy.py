"""A TCP proxy for tests: passes bytes on, counts who connects, and misbehaves when told to."""

import contextlib
import socket
import threading
import time


class Proxy:
    """In front of `address` (host, port); a `with` block. Each connection has a thread for either direction."""

    def __init__(self, address):
        self._address = address
        self._swallow = 0
        self._refusing = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._open = set()
        self.swallowed = 0
        """Answers to rows that were thrown away."""
        self.accepted = []
        """When (monotonic) each connection was accepted."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def swallow(self, answers):
        """Throws away the answers to the next so many requests that carry rows, and cuts their connections."""
        with self._lock:
            self._swallow += answers

    def refuse(self):
        """Cuts all connections and every new one, until `admit`."""
        self._refusing.set()
        self._cut()

    def admit(self):
        self._refusing.clear()

    def hang(self):
        """Takes connections and whatever is sent, and passes nothing on, until `resume`."""
        self._flowing.clear()

    def resume(self):
        self._flowing.set()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flowing.set()
        self._cut()

    def _cut(self):
        with self._lock:
            sockets = list(self._open)
        for each in sockets:
            _hang_up(each)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted.append(time.monotonic())
                if self._refusing.is_set():
                    client.close()
                else:
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            server = socket.create_connection(self._address, 5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        with self._lock:
            self._open |= {client, server}
        rows = threading.Event()  # whether the request under way carries rows
        up = threading.Thread(target=self._pass_on, args=(client, server, rows, True), daemon=True)
        up.start()
        self._pass_on(server, client, rows, False)
        up.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _pass_on(self, source, target, rows, upward):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flowing.wait()
                if upward and data.startswith(b"POST /write"):
                    rows.set()
                elif not upward and rows.is_set():
                    rows.clear()
                    if self._takes_answer():
                        break
                target.sendall(data)
        _hang_up(source)
        _hang_up(target)

    def _takes_answer(self):
        with self._lock:
            taken = self._swallow > 0
            self._swallow -= taken
            self.swallowed += taken
        return taken


def _hang_up(sock):
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
