"""Connections to an exchange, directly or through a proxy: TCP, TLS and the websocket upgrade within one deadline.

The other side cannot hold up a connection or fill memory: it is closed when the deadline passes, however slowly or
little it answers, and after `LARGEST_HEADER` bytes.
"""

import contextlib
import email.utils
import http.client
import importlib
import io
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import websocket

from ingester.errors import ExchangeError, SettingsError
from ingester.proxies import Proxy, proxy_for
from ingester.threads import beside, within

LARGEST_HEADER = 1 << 14
"""Bytes of an answer to an upgrade, or of a proxy; real ones have a few hundred."""
SHORTEST_SHARE = 0.5
"""Seconds that each of several addresses is tried at least."""
LONGEST_WAIT_SECONDS = 3600.0
"""Nothing waits longer, so that a wrong number costs an hour at most. A ban that lasts is answered by the next one."""
LONGEST_BAN_SECONDS = 3 * 86_400.0
"""The longest that Binance documents. A greater number is a date, or nonsense."""
_BANNED_UNTIL = re.compile(rb"banned until (\d{10,16})\b")
_PORTS = {"ws": 80, "wss": 443}
_Address = tuple[Any, ...]
_lookups: dict[tuple[str, int], Future[Sequence[_Address]]] = {}  # those that run
_lookups_lock = threading.Lock()


class NotConnected(ExchangeError):
    """A connection could not be made; the text names the other side and the reason."""


class UpgradeRefused(NotConnected):
    """The exchange answered an upgrade with this HTTP status; `seconds`: from its `Retry-After`."""

    def __init__(self, text: str, status: int, seconds: float | None) -> None:
        super().__init__(text)
        self.status = status
        self.seconds = seconds


class Deadline:
    """The time by which something has to be done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Returns the seconds that are left. Raises TimeoutError where none are."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def open_websocket(
    url: str, seconds: float, ca_file: Path | None = None, headers: Mapping[str, str] | None = None
) -> websocket.WebSocket:
    """Returns an open websocket, within so many seconds; for `ca_file` see `tls_context`.

    Raises NotConnected, and UpgradeRefused.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    deadline = Deadline(seconds)
    try:
        proxy = proxy_for(url)
    except SettingsError as error:
        raise NotConnected(str(error)) from error
    where = f"{host}:{port}" + (f" through the proxy {proxy}" if proxy else "")
    with contextlib.ExitStack() as closing, _in_words(where, host, deadline):
        sock = connect_socket(host, port, proxy, deadline)
        closing.callback(lambda: sock.close())
        if parts.scheme == "wss":
            sock.settimeout(deadline.left())
            sock = tls_context(ca_file).wrap_socket(sock, server_hostname=host)
        connection, bounded = websocket.WebSocket(skip_utf8_validation=True), _BoundedReads(sock, deadline)
        try:
            connection.connect(url, socket=bounded, redirect_limit=0, header=dict(headers or {}))  # type: ignore[no-untyped-call]
        finally:  # an answer that is none to an upgrade says more than what the library makes of it
            if refusal := _refusal(bytes(bounded.received), where):
                raise refusal
        connection.sock = sock
        closing.pop_all()
        return connection


def connect_socket(host: str, port: int, proxy: Proxy | None, deadline: Deadline) -> socket.socket:
    """A TCP connection to a host, through a proxy where there is one. Raises OSError and NotConnected."""
    if proxy is None:
        return _connect(host, port, deadline)
    try:
        if proxy.is_socks:
            return _through_socks(host, port, proxy, deadline)
        sock = _connect(proxy.host, proxy.port, deadline)
    except OSError as error:
        raise NotConnected(f"the proxy {proxy} cannot be reached: {error.strerror or error or 'no answer'}") from error
    try:
        _through_http(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", proxy, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(host: str, port: int, deadline: Deadline) -> socket.socket:
    found = _addresses(host, port, deadline)
    failure: OSError = OSError("it has no address")
    for number, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            left = deadline.left()
            sock.settimeout(min(left, max(SHORTEST_SHARE, left / (len(found) - number))))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _addresses(host: str, port: int, deadline: Deadline) -> Sequence[_Address]:
    """The addresses of a host. Raises socket.gaierror, also where the system's resolver has not answered in time.

    The system's call cannot be ended, so it runs in a thread of its own. While one does, all who ask for the same wait
    for it: a resolver that hangs for hours holds one thread for each name.
    """
    with _lookups_lock:
        lookup = _lookups.get((host, port))
        if lookup is None or lookup.done():
            lookup = _lookups[host, port] = beside(
                lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), f"look up {host}"
            )
    if not wait([lookup], deadline.left()).done:
        raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {deadline.seconds:.0f} s")
    with _lookups_lock:
        if _lookups.get((host, port)) is lookup:
            del _lookups[host, port]
    return lookup.result()


def _through_http(sock: socket.socket, target: str, proxy: Proxy, deadline: Deadline) -> None:
    fields = "".join(f"{name}: {value}\r\n" for name, value in proxy.headers.items())
    sock.settimeout(deadline.left())
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n".encode())
    bounded, answer = _BoundedReads(sock, deadline), b""
    while not answer.endswith(b"\r\n\r\n"):
        piece = bounded.recv(1)  # what follows the header is the exchange's
        if not piece:
            raise NotConnected(f"the proxy {proxy} hung up instead of connecting to {target}")
        answer += piece
    status = answer.split(b"\r\n")[0].split(b" ", 2)[1:2]
    if status == [b"407"]:
        raise NotConnected(f"the proxy {proxy} wants a user and password: {proxy.variable}=http://user:password@host")
    if not status or not status[0].startswith(b"2"):
        text = answer.split(b"\r\n")[0][:100].decode(errors="replace")
        raise NotConnected(
            f"the proxy {proxy} does not connect to {target} ({text!r}); many allow port 443 only, on which "
            "wss://stream.binance.com:443 serves too (--stream-url)"
        )


def _through_socks(host: str, port: int, proxy: Proxy, deadline: Deadline) -> socket.socket:
    try:
        socks, through = importlib.import_module("python_socks"), importlib.import_module("python_socks.sync")
    except ImportError as error:
        raise NotConnected(
            f"the proxy {proxy} speaks SOCKS, for which a package is missing: pip install python-socks"
        ) from error
    kind = socks.ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else socks.ProxyType.SOCKS5
    resolves = proxy.scheme in ("socks4a", "socks5h")
    made = through.Proxy.create(kind, proxy.host, proxy.port, proxy.user, proxy.password, rdns=resolves)
    try:
        connected: socket.socket = within(
            deadline.left(), lambda: made.connect(host, port, timeout=deadline.left()), f"connect through {proxy}"
        )
    except (socks.ProxyError, socks.ProxyConnectionError, socks.ProxyTimeoutError) as error:
        raise NotConnected(f"the proxy {proxy} does not connect to {host}:{port}: {error}") from error
    return connected


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the certificates in a file alone, or without one those that the system or `SSL_CERT_FILE` names.

    Raises NotConnected where the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise NotConnected(
            f"--exchange-ca {ca_file} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)."
        ) from error
    except OSError as error:
        raise NotConnected(f"--exchange-ca {ca_file} cannot be read: {error.strerror}.") from error


class _BoundedReads:
    """A socket during a handshake: each of its reads must be over by the deadline, and all of them are short."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self.received = bytearray()

    def recv(self, size: int) -> bytes:
        room = LARGEST_HEADER - len(self.received)
        if not room:
            raise NotConnected(f"more than {LARGEST_HEADER} bytes of header")
        self._sock.settimeout(self._deadline.left())
        data = self._sock.recv(min(size, room))
        self.received += data
        return data

    def send(self, data: bytes) -> int:
        self._sock.settimeout(self._deadline.left())
        return self._sock.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _refusal(answer: bytes, where: str) -> UpgradeRefused | None:
    """Returns the error that a complete answer to an upgrade means, or None where it accepts the websocket."""
    head, whole, body = answer.partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    match = re.match(rb"HTTP/1\.\d (\d{3})\b", line)
    if not whole or match is None or match[1] == b"101":
        return None
    status, headers = int(match[1]), http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    if 300 <= status < 400:  # what is recorded must come from the address that was given
        text = (
            f"{where} redirects to {headers.get('location', 'nowhere')[:200]!r} (HTTP {status}), which is refused. "
            "If that is the exchange's address, give it as --stream-url."
        )
        return UpgradeRefused(text, status, None)
    text, seconds = f"{where}: upgrade refused with HTTP {status}", retry_after(headers.get("retry-after"), body)
    if seconds:
        text += f", not to be tried again for {seconds:.0f} s"
    return UpgradeRefused(text, status, seconds)


def retry_after(header: str | None, body: bytes = b"", now: Callable[[], float] = time.time) -> float | None:
    """Returns seconds from 0 to `LONGEST_WAIT_SECONDS`, from `Retry-After` or else "banned until <ms>" in the text.

    The header may hold seconds, an HTTP date, or a Unix time in s or ms. None where neither says anything sensible.
    """
    seconds = _seconds((header or "").strip()[:100], now)
    if seconds is None and (until := _BANNED_UNTIL.search(body[:4096])):
        seconds = _seconds(until[1].decode(), now)
    return None if seconds is None else min(seconds, LONGEST_WAIT_SECONDS)


def _seconds(text: str, now: Callable[[], float]) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return _until_date(text, now)
    if not math.isfinite(number) or number < 0:
        return None
    if number <= LONGEST_BAN_SECONDS:
        return number
    return _sensible(number / (1000 if number > 1e11 else 1) - now())  # 1e11 s are the year 5138, as ms 1973


def _until_date(text: str, now: Callable[[], float]) -> float | None:
    try:
        return _sensible(email.utils.parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, OverflowError):
        return None


def _sensible(left: float) -> float | None:
    """What is left of a ban until a moment, which may be over."""
    return max(0.0, left) if left <= LONGEST_BAN_SECONDS else None


@contextlib.contextmanager
def _in_words(where: str, host: str, deadline: Deadline) -> Iterator[None]:
    """Raises NotConnected, with the name of the other side, for every error inside."""
    try:
        yield
    except UpgradeRefused:
        raise
    except NotConnected as error:
        text = str(error)
        raise NotConnected(text if text.startswith(("the proxy", "--")) else f"{where} sent {text}") from error
    except socket.gaierror as error:
        raise NotConnected(f"the name {host} cannot be resolved: {error.strerror or error}") from error
    except (TimeoutError, websocket.WebSocketTimeoutException) as error:
        raise NotConnected(f"{where} did not complete a connection within {deadline.seconds:.0f} s") from error
    except ConnectionRefusedError as error:
        raise NotConnected(f"{where} refused the connection") from error
    except ssl.SSLCertVerificationError as error:
        raise NotConnected(
            f"the certificate of {host} is not trusted: {error.verify_message}. A certificate of your own network's "
            "issuer is given with --exchange-ca FILE"
        ) from error
    except websocket.WebSocketException as error:
        raise NotConnected(f"{where} did not answer as a websocket does: {str(error)[:200]}") from error
    except (OSError, ValueError) as error:
        raise NotConnected(f"{where}: {str(error)[:200] or type(error).__name__}") from error
