"""The way to the exchange, step by step: name, TCP, TLS, websocket, REST, and whether both clocks agree."""

import contextlib
import socket
import ssl
import time
import zlib
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

import msgspec
import urllib3
import websocket

from ingester.clock import Now
from ingester.connection import DATA_FRAMES, FrameSplitter, ProtocolError
from ingester.errors import ExchangeError, SettingsError
from ingester.exchange import (
    Book,
    Deadline,
    Method,
    NotConnected,
    Refused,
    StreamSpec,
    UpgradeRefused,
    Venue,
    connect_socket,
    fetch_over,
    http_connections,
    open_websocket,
    region_refused,
    tls_context,
)
from ingester.monitoring.doctor import Check, Finding, State
from ingester.proxies import Proxy, proxy_for

CONNECT_SECONDS = 5.0
BOOK_SECONDS = 5.0
"""How long a subscription may bring no book."""
LONGEST_SECONDS = 20.0
"""For all questions about the time together."""
SAMPLES = 3
LARGEST_TIME = 1 << 16
"""Bytes of an answer that tells the time; Binance's has 30."""
READ_BYTES = 1 << 15
_NOT_THERE = "is that the exchange's REST address? --rest-url, or another --exchange"
OFF_SECONDS, FAR_OFF_SECONDS = 0.5, 5.0
EXPIRES_DAYS = 7
_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}
_OTHER_RESOLVER = "look at /etc/resolv.conf: getent hosts {host}"
_PROXY = "is that this network's proxy? hosts to be reached without it go into NO_PROXY: NO_PROXY=host,.domain"
_FIREWALL = "a firewall or proxy may be in the way: curl -v https://{host}:{port}/"


class Sample(NamedTuple):
    """One look at the exchange's clock, in ns: asked and answered by ours, `theirs` in between."""

    asked: int
    theirs: int
    answered: int


def exchange_checks(exchange: Venue, now: Now = time.time_ns) -> list[Check]:
    """Both ways to an exchange."""
    return [
        Check("stream", lambda: _stream(exchange)),
        Check("rest", lambda: _rest(exchange, now)),
    ]


def offset(samples: Sequence[Sample]) -> tuple[float, float]:
    """By how many seconds the exchange's clock is ahead of ours, and how far off that may be.

    The quickest answer tells most: its time was taken between question and answer, half way as far as anyone knows.
    """
    best = min(samples, key=lambda sample: sample.answered - sample.asked)
    return (best.theirs - (best.asked + best.answered) / 2) / 1e9, (best.answered - best.asked) / 2e9


def clock_finding(seconds: float, doubt: float) -> Finding:
    """What an offset means: receive times are by our clock."""
    text = f"{abs(seconds):.3f} s {'behind' if seconds > 0 else 'ahead of'} the exchange's (give or take {doubt:.3f} s)"
    certain = max(0.0, abs(seconds) - doubt)
    if certain <= OFF_SECONDS:
        return Finding("clock", "ok", f"this machine's clock is {text}")
    state: State = "fail" if certain > FAR_OFF_SECONDS else "warning"
    mend = "sudo timedatectl set-ntp true, or sudo apt-get install chrony"
    return Finding("clock", state, f"this machine's clock is {text}: receive times will be as wrong", mend)


def _stream(exchange: Venue) -> Iterator[Finding]:
    url = urlsplit(exchange.stream_url)
    passed = yield from _reach("stream", url, exchange.ca_file)
    if not passed:
        yield Finding("stream websocket", "skipped", "the step before failed")
        return
    begun = time.monotonic()
    try:
        connection = open_websocket(exchange.connection_url, CONNECT_SECONDS, exchange.ca_file, exchange.headers)
    except UpgradeRefused as error:
        yield refusal_finding("stream websocket", error.status, exchange, exchange.stream_url)
    except NotConnected as error:
        mend = "something between here and the exchange does not let websockets through; try another network"
        yield Finding("stream websocket", "fail", f"no handshake: {error}", mend)
    else:
        shaken = f"handshake in {_ms(begun)}"
        try:
            came, problem = _first_book(connection, exchange)
        finally:
            with contextlib.suppress(OSError, websocket.WebSocketException):
                connection.send_close()
            connection.shutdown()  # type: ignore[no-untyped-call]  # without waiting for a goodbye, which may never end
        if came:
            yield Finding("stream websocket", "ok", f"{shaken}, {came}")
        else:
            mend = (
                f"is {exchange.connection_url} the right address? On a wrong path an exchange may acknowledge "
                "subscriptions and stay silent (--stream-url)"
            )
            yield Finding("stream websocket", "warning", f"{shaken}, but {problem}", mend)


def _first_book(connection: websocket.WebSocket, exchange: Venue) -> tuple[str, str]:
    """Subscribes to one pair; returns when its first book came, or else why there was none."""
    channel, symbol = exchange.books, exchange.example
    streams = StreamSpec(channel=channel, depth=channel.depths[0], interval_ms=channel.intervals_ms[0])
    deadline, splitter, sock = Deadline(BOOK_SECONDS), FrameSplitter(), connection.sock
    assert sock is not None
    begun = time.monotonic()
    try:
        for request in exchange.requests(Method.SUBSCRIBE, [streams.name(symbol).decode()], 1):
            connection.send(request.text)
        while True:
            sock.settimeout(deadline.left())
            if not (data := sock.recv(READ_BYTES)):
                return "", f"it was closed before a book of {symbol} came"
            for message in channel.decode([text for kind, text in splitter.split(data) if kind in DATA_FRAMES]):
                if isinstance(message, Book):
                    return f"first book of {symbol} in {_ms(begun)}", ""
                if isinstance(message, Refused):
                    return "", f"a subscription of {symbol} was refused: {message.code} {message.message[:200]}"
    except TimeoutError:
        return "", f"a subscription brought no book of {symbol} within {BOOK_SECONDS:.0f} s"
    except (OSError, websocket.WebSocketException, ProtocolError) as error:
        return "", f"no book of {symbol} came: {str(error)[:200]}"


def _rest(exchange: Venue, now: Now) -> Iterator[Finding]:
    url = urlsplit(exchange.rest_url)
    passed = yield from _reach("rest", url, exchange.ca_file)
    if not passed:
        yield Finding("rest answer", "skipped", "the step before failed")
        yield Finding("clock", "skipped", "the exchange cannot be asked for its time")
        return
    begun = time.monotonic()
    samples, problem = _sample(exchange, now)
    if problem is not None:
        yield problem
        yield Finding("clock", "skipped", "the exchange did not tell its time")
        return
    yield Finding("rest answer", "ok", f"{len(samples)} answers in {_ms(begun)}")
    yield clock_finding(*offset(samples))


def _sample(exchange: Venue, now: Now) -> tuple[list[Sample], Finding | None]:
    address = exchange.rest_address(exchange.server_time)
    samples = []
    context = tls_context(exchange.ca_file) if urlsplit(address).scheme == "https" else None
    with http_connections(proxy_for(address), Deadline(LONGEST_SECONDS), context) as made:
        for _ in range(SAMPLES + 1):
            asked = now()
            try:
                answer = fetch_over(made, address, Deadline(CONNECT_SECONDS), LARGEST_TIME, address, exchange.headers)
                answered = now()
                if answer.status != 200:
                    return [], refusal_finding("rest answer", answer.status, exchange, exchange.rest_url)
                theirs = exchange.server_time.decode(answer.data)
            except TimeoutError:
                text = f"{address} did not answer in full within {CONNECT_SECONDS:.0f} s"
                return [], Finding("rest answer", "fail", text, _NOT_THERE)
            except (
                urllib3.exceptions.HTTPError,
                ExchangeError,
                OSError,
                zlib.error,
                LookupError,
                TypeError,
                ValueError,  # msgspec's errors are among them
                OverflowError,
                RecursionError,
            ) as error:
                return [], Finding(
                    "rest answer", "fail", f"{address}: {type(error).__name__}: {str(error)[:200]}", _NOT_THERE
                )
            samples.append(Sample(asked, theirs, answered))
    return samples[1:], None  # the first had to connect


def refusal_finding(subject: str, status: int, exchange: Venue, url: str) -> Finding:
    """What an HTTP status other than the expected one means."""
    if status == 451:
        return Finding(subject, "fail", "HTTP 451: this region is not served", region_refused(exchange, url))
    if status in (403, 418, 429):
        mend = "wait some minutes; other programs behind this address may ask too much"
        return Finding(subject, "fail", f"HTTP {status}: this address has asked too often, or is kept out", mend)
    return Finding(
        subject, "fail", f"HTTP {status}", "the exchange has a problem, or this is not its address; try later"
    )


def _reach(subject: str, url: SplitResult, ca_file: Path | None) -> Generator[Finding, None, bool]:
    """DNS, TCP and TLS; returns whether all went well."""
    host, port = url.hostname or "", url.port or _PORTS[url.scheme]
    try:
        proxy = proxy_for(url.geturl())
    except SettingsError as error:
        yield Finding(f"{subject} proxy", "fail", str(error), "correct or unset that variable")
        return False
    if proxy is not None:
        return (yield from _reach_through(subject, url, host, port, proxy, ca_file))
    try:
        begun = time.monotonic()
        found = {str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        text = f"the name {host} cannot be resolved: {error.strerror or error}"
        yield Finding(f"{subject} name", "fail", text, _OTHER_RESOLVER.format(host=host))
        return False
    yield Finding(f"{subject} name", "ok", f"{host} is {_some(sorted(found))}, in {_ms(begun)}")
    try:
        begun = time.monotonic()
        plain = socket.create_connection((host, port), CONNECT_SECONDS)
    except OSError as error:
        text = f"{host}:{port} takes no connection: {error.strerror or error}"
        yield Finding(f"{subject} TCP", "fail", text, _FIREWALL.format(host=host, port=port))
        return False
    with plain:
        yield Finding(f"{subject} TCP", "ok", f"{host}:{port} in {_ms(begun)}")
        return (yield from _secured(subject, url, plain, host, ca_file))


def _reach_through(
    subject: str, url: SplitResult, host: str, port: int, proxy: Proxy, ca_file: Path | None
) -> Generator[Finding, None, bool]:
    """As `_reach`, where a proxy finds the name and makes the TCP connection."""
    begun = time.monotonic()
    try:
        plain = connect_socket(host, port, proxy, Deadline(CONNECT_SECONDS))
    except (OSError, NotConnected) as error:
        yield Finding(f"{subject} proxy", "fail", str(error) or f"the proxy {proxy} does not answer", _PROXY)
        return False
    with plain:
        yield Finding(f"{subject} proxy", "ok", f"{host}:{port} through the proxy {proxy} in {_ms(begun)}")
        return (yield from _secured(subject, url, plain, host, ca_file))


def _secured(
    subject: str, url: SplitResult, plain: socket.socket, host: str, ca_file: Path | None
) -> Generator[Finding, None, bool]:
    """TLS over a connection, where the address asks for it."""
    if url.scheme in ("ws", "http"):
        return True
    tls = _tls(plain, host, ca_file)
    yield msgspec.structs.replace(tls, subject=f"{subject} TLS")
    return tls.state != "fail"


def _tls(plain: socket.socket, host: str, ca_file: Path | None) -> Finding:
    begun = time.monotonic()
    try:
        with tls_context(ca_file).wrap_socket(plain, server_hostname=host) as secure:
            certificate, version = secure.getpeercert() or {}, secure.version()
    except ssl.SSLCertVerificationError as error:
        mend = (
            "is the clock right, are certificates there (apt-get install ca-certificates)? Where a proxy shows "
            "one of its own, give its issuer's with --exchange-ca"
        )
        return Finding("", "fail", f"the certificate of {host} is not trusted: {error.verify_message}", mend)
    except OSError as error:
        return Finding(
            "", "fail", f"no TLS with {host}: {error}", "something between here and the exchange cuts it off"
        )
    days = expires_in(str(certificate.get("notAfter", "")), datetime.now(UTC))
    text = f"{version} in {_ms(begun)}, certificate good for {days:.0f} days"
    if days < EXPIRES_DAYS:
        return Finding("", "warning", text, "its owner has to renew it; or this machine's clock is wrong")
    return Finding("", "ok", text)


def expires_in(not_after: str, now: datetime) -> float:
    """Days until a certificate expires, from its `notAfter`."""
    return (ssl.cert_time_to_seconds(not_after) - now.timestamp()) / 86_400


def _ms(begun: float) -> str:
    return f"{(time.monotonic() - begun) * 1000:.0f} ms"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
