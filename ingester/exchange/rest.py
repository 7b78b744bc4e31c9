"""GET requests to an exchange: limits are obeyed, answers are bounded and checked, errors are sentences."""

import contextlib
import logging
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3

from ingester.errors import ExchangeError, RateLimited, RegionRefused, SettingsError, cause
from ingester.exchange.dial import Deadline, NotConnected, connect_socket, retry_after, tls_context
from ingester.exchange.registry import region_refused
from ingester.exchange.venue import RestRequest, Venue
from ingester.proxies import Proxy, proxy_for

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

LONGEST_RETRY_SECONDS = 60.0
"""How long a request waits at most before it is repeated, where the exchange answers `Retry-After`."""
DEFAULT_WAIT_SECONDS = 30.0
"""Where the exchange does not say how long to wait."""
LARGEST_ANSWER = 64 << 20
"""Bytes, unpacked: the list of all of Binance's pairs has about 20 MB."""
MOST_REDIRECTS = 3
READ_BYTES = 1 << 16
AGAIN_SECONDS = 0.5
"""Before a request is repeated that got no answer."""
TOO_MANY, BANNED = 429, 418
_PORTS = {"http": 80, "https": 443}


class Got(NamedTuple):
    """An answer, whole."""

    status: int
    headers: urllib3.HTTPHeaderDict
    data: bytes


def ask(
    venue: Venue,
    request: RestRequest[Answer],
    *,
    timeout: float = 10.0,
    patience: float = LONGEST_RETRY_SECONDS,
    wait: Callable[[float], None] = time.sleep,
) -> Answer:
    """Returns the exchange's answer to a request; for the rest see `get`."""
    return get(venue.rest_address(request), request.decode, venue, timeout=timeout, patience=patience, wait=wait)


def get(
    url: str,
    decode: Callable[[bytes], Answer],
    venue: Venue,
    *,
    timeout: float = 10.0,
    patience: float = LONGEST_RETRY_SECONDS,
    wait: Callable[[float], None] = time.sleep,
) -> Answer:
    """Returns what `decode` makes of the answer to a GET; the address may be another one than the exchange's.

    `timeout`: seconds for all of a request, from the name's look-up to the last byte. HTTP 429 and 418 are obeyed: the
    request is repeated once after what `Retry-After` says, up to `patience` seconds.
    Raises RegionRefused on HTTP 451, RateLimited, and ExchangeError where the exchange does not answer as it should.
    """
    answer = _request(url, timeout, venue)
    if answer.status in (TOO_MANY, BANNED) and (seconds := _wait_of(answer)) <= patience:
        log.info("%s answered HTTP %d; asked again after %.0f s", url, answer.status, seconds)
        wait(seconds)
        answer = _request(url, timeout, venue)
    if answer.status in (TOO_MANY, BANNED):
        seconds = _wait_of(answer)
        raise RateLimited(
            f"{url} answered HTTP {answer.status}: too many requests from this address. Try again in {seconds:.0f} s.",
            seconds,
        )
    if answer.status == 451:
        raise RegionRefused(region_refused(venue, url))
    if answer.status != 200:
        raise ExchangeError(f"{url} answered HTTP {answer.status}: {_plain(answer.data)}")
    try:
        return decode(answer.data)
    except (ValueError, RecursionError) as error:  # msgspec's errors are among the former
        raise ExchangeError(f"{url} did not answer as {venue.title} does: {error}") from error


def fetch(
    url: str,
    timeout: float,
    largest: int = LARGEST_ANSWER,
    ca_file: Path | None = None,
    headers: Mapping[str, str] | None = None,
) -> Got:
    """The answer to one GET, within so many seconds and bytes; redirects are followed on the same host only.

    Raises ExchangeError naming the address, and the proxy where there is one.
    """
    deadline = Deadline(timeout)
    origin = urlsplit(url)
    for _ in range(MOST_REDIRECTS + 1):
        answer = _fetch_once(url, deadline, largest, ca_file, headers or {})
        if not 300 <= answer.status < 400 or not (location := answer.headers.get("location")):
            return answer
        target = urljoin(url, location)
        if not is_same_host(origin, urlsplit(target)):
            raise ExchangeError(
                f"{url} redirects to {target[:200]!r}, which is not followed: it is another host, or less safe. "
                "If that is the exchange's address, give it as --rest-url."
            )
        url = target
    raise ExchangeError(f"{url} redirects too many times")


def _request(url: str, timeout: float, venue: Venue) -> Got:
    """As `fetch`; what fails at once, as on a connection that was closed meanwhile, is tried twice."""
    deadline = Deadline(timeout)
    try:
        return fetch(url, timeout, ca_file=venue.ca_file, headers=venue.headers)
    except ExchangeError:
        try:
            left = deadline.left() - AGAIN_SECONDS
        except TimeoutError:
            left = 0.0
        if left < timeout / 2:
            raise
    time.sleep(AGAIN_SECONDS)
    return fetch(url, left, ca_file=venue.ca_file, headers=venue.headers)


def _fetch_once(url: str, deadline: Deadline, largest: int, ca_file: Path | None, headers: Mapping[str, str]) -> Got:
    try:
        proxy = proxy_for(url)
    except SettingsError as error:
        raise ExchangeError(str(error)) from error
    where = url + (f" through the proxy {proxy}" if proxy else "")
    context = tls_context(ca_file) if urlsplit(url).scheme == "https" else None
    try:
        with http_connections(proxy, deadline, context) as made:
            return fetch_over(made, url, deadline, largest, where, headers)
    except NotConnected as error:
        raise ExchangeError(f"{where} cannot be reached: {error}") from error
    except (TimeoutError, urllib3.exceptions.TimeoutError) as error:
        raise ExchangeError(f"{where} did not answer in full within {deadline.seconds:.0f} s") from error
    except urllib3.exceptions.SSLError as error:
        raise ExchangeError(
            f"{where}: its certificate is not trusted: {cause(error)}. A certificate of your own network's issuer is "
            "given with --exchange-ca FILE"
        ) from error
    except urllib3.exceptions.HTTPError as error:
        raise ExchangeError(f"{where} cannot be reached: {cause(error)}") from error
    except (OSError, ValueError, zlib.error) as error:
        raise ExchangeError(f"{where} cannot be reached: {str(error)[:200]}") from error


def fetch_over(
    made: "Connections",
    url: str,
    deadline: Deadline,
    largest: int,
    where: str,
    headers: Mapping[str, str] | None = None,
) -> Got:
    """Returns the answer to one GET, over an open connection where there is one; `where` names the address in errors.

    Raises ExchangeError where it is too large, TimeoutError, and what urllib3 raises.
    """
    with _cut_off(made.opened, deadline) as was_cut_off:
        try:
            answer = made.manager.request(
                "GET",
                url,
                headers={**(headers or {}), "accept-encoding": "gzip"},
                timeout=deadline.left(),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            with contextlib.closing(answer):
                data = _read(answer, largest, where)
            if was_cut_off.is_set():  # what came until then looks whole where no length was announced
                raise TimeoutError
            return Got(answer.status, answer.headers, data)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if was_cut_off.is_set():
                raise TimeoutError from error
            raise


def _read(answer: urllib3.BaseHTTPResponse, largest: int, where: str) -> bytes:
    """The whole body, unpacked as it comes, so that little never becomes much unseen. Raises ExchangeError."""
    unpack: Any = zlib.decompressobj(31) if answer.headers.get("content-encoding", "").lower() == "gzip" else None
    data = bytearray()
    while piece := answer.read1(READ_BYTES):
        data += unpack.decompress(piece, largest + 1 - len(data)) if unpack else piece
        if len(data) > largest:
            raise ExchangeError(f"{where} answers with more than {largest} bytes, which is refused")
    return bytes(data)


class Connections(NamedTuple):
    """What a request is made with, and the sockets that it has opened."""

    manager: urllib3.PoolManager
    opened: list[socket.socket]


@contextlib.contextmanager
def http_connections(
    proxy: Proxy | None, deadline: Deadline, context: ssl.SSLContext | None = None
) -> Iterator[Connections]:
    """For requests through a proxy, or directly, until a deadline; what fails on the way to TCP is NotConnected."""
    opened: list[socket.socket] = []

    class Plain(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            sock = _dialled(self.host, self.port, proxy, deadline)
            opened.append(sock)
            return sock

        def connect(self) -> None:
            super().connect()
            opened.append(self.sock)

    class Secure(urllib3.connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            sock = _dialled(self.host, self.port, proxy, deadline)
            opened.append(sock)
            return sock

        def connect(self) -> None:
            super().connect()
            opened.append(self.sock)  # TLS has made another one of it

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    if proxy is None or proxy.is_socks:
        manager = urllib3.PoolManager(ssl_context=context)
    else:
        manager = urllib3.ProxyManager(proxy.url, proxy_headers=proxy.headers, ssl_context=context)
    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    with manager:
        try:
            yield Connections(manager, opened)
        finally:
            for sock in opened:
                if (descriptor := sock.detach()) >= 0:  # an answer that was broken off may hold it open
                    socket.close(descriptor)


def _dialled(host: str, port: int, proxy: Proxy | None, deadline: Deadline) -> socket.socket:
    """Through a SOCKS proxy to the host; of an HTTP proxy urllib3 gives the host itself, and asks it for the rest."""
    try:
        sock = connect_socket(host, port, proxy if proxy is not None and proxy.is_socks else None, deadline)
    except socket.gaierror as error:
        raise NotConnected(f"the name {host} cannot be resolved: {error.strerror or error}") from error
    except TimeoutError as error:
        raise NotConnected(f"{host}:{port} takes no connection within {deadline.seconds:.0f} s") from error
    except OSError as error:
        raise NotConnected(f"{host}:{port}: {error.strerror or error}") from error
    sock.settimeout(deadline.left())
    return sock


@contextlib.contextmanager
def _cut_off(opened: list[socket.socket], deadline: Deadline) -> Iterator[threading.Event]:
    """Ends a request from outside when its time is over: each of its bytes may come in time, and all of them never."""
    over = threading.Event()

    def cut() -> None:
        over.set()
        for sock in list(opened):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(deadline.left(), cut)
    timer.daemon = True
    timer.start()
    try:
        yield over
    finally:
        timer.cancel()


def is_same_host(origin: SplitResult, target: SplitResult) -> bool:
    """Whether a redirect stays where it was sent from, at most from http to https."""
    try:
        ports = [parts.port or _PORTS.get(parts.scheme) for parts in (origin, target)]
    except ValueError:
        return False
    if (origin.hostname, target.username) != (target.hostname, None) or target.scheme not in _PORTS:
        return False
    if origin.scheme == target.scheme:
        return ports[0] == ports[1]
    return origin.scheme == "http" and ports == [80, 443]


def _plain(data: bytes) -> str:
    """The begin of an answer, as it may be shown: without what would steer a terminal, on one line."""
    text = data[:200].decode(errors="replace")
    return "".join(character if character.isprintable() else " " for character in text)


def _wait_of(answer: Got) -> float:
    seconds = retry_after(answer.headers.get("Retry-After"), answer.data)
    return DEFAULT_WAIT_SECONDS if seconds is None else seconds
