"""One websocket connection in one thread: connect, stamp what comes, send what is asked, connect again when lost."""

import contextlib
import logging
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import websocket

from ingester.capture import frames
from ingester.clock import SECOND, Now, PauseDetector, backoff, elapsed_ns
from ingester.exchange import binance

log = logging.getLogger(__name__)

READ_BYTES = 1 << 15
HANDSHAKE_SECONDS = 10.0
READ_SECONDS = 1.0
SETTLED_SECONDS = 30.0
"""A connection that lived this long was a good one: the next attempt after it waits as little as the first."""
LOOK_MS = 500
"""So often the thread looks, where nothing comes."""
PAUSED = "the process was paused"
SEND_SPACING_NS = SECOND // (binance.MESSAGES_PER_SECOND - 1)
"""One message a second of the five that are allowed stays free for pongs (binance.py, rule 4)."""


class Opened(NamedTuple):
    """A connection stands; nothing is subscribed on it yet."""

    stream: "Stream"
    at_ns: int


class Frames(NamedTuple):
    """Text frames that one read brought, stamped right after that read."""

    stream: "Stream"
    receive_ns: int
    payloads: list[bytes]


class Lost(NamedTuple):
    """A connection ended, or an attempt failed; `status` is the HTTP status where the upgrade was refused with one.

    `final`: the thread was told to stop, and this is the last that is heard of it.
    """

    stream: "Stream"
    at_ns: int
    reason: str
    status: int | None = None
    final: bool = False

    @property
    def paused(self) -> bool:
        """Whether it was closed because the process had not run for a while."""
        return self.reason.startswith(PAUSED)


Arrival = Opened | Frames | Lost


class AttemptLimit:
    """Keeps the connection attempts of a whole process under the exchange's limit (binance.py, rule 6)."""

    def __init__(self, monotonic: Callable[[], float], attempts: int = binance.ATTEMPTS_PER_WINDOW * 4 // 5) -> None:
        # Some of the allowance is left to other programs behind the same address.
        self._attempts = attempts
        self._monotonic = monotonic
        self._made: deque[float] = deque()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Counts one attempt, and says how many seconds from now it may be made."""
        with self._lock:
            at = now = self._monotonic()
            if len(self._made) >= self._attempts:
                at = max(now, self._made.popleft() + binance.ATTEMPT_WINDOW_SECONDS)
            self._made.append(at)
            return at - now


class Stream:
    """A connection slot: one thread that keeps one websocket open until `stop` and puts all that happens into `inbox`.

    It never parses a payload and never waits for anyone downstream.
    """

    def __init__(
        self,
        name: str,
        url: str,
        inbox: deque[Arrival],
        arrived: Callable[[], None],
        now: Now,
        limit: AttemptLimit,
        waits: Callable[[], Iterator[float]] = backoff,
        elapsed: Now = elapsed_ns,
    ) -> None:
        self.name = name
        self.reading_ns: int | None = None
        """Since when it has been reading what is not in the inbox yet; None where there is no such thing."""
        self._url = url
        self._inbox = inbox
        self._arrived = arrived
        self._now = now
        self._limit = limit
        self._elapsed = elapsed
        self._waits = waits
        self._outbox: deque[str] = deque()
        self._last_sent_ns = 0
        self._renewal = ""  # why the connection that stands is to be closed
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"stream {name}", daemon=True)

    def start(self) -> None:
        """Starts connecting."""
        self._thread.start()

    def send(self, text: str) -> None:
        """Queues a request for the connection that stands now, paced to the exchange's limit; a loss forgets it."""
        self._outbox.append(text)
        self._wake()

    def idle(self) -> bool:
        """Whether everything queued has been sent."""
        return not self._outbox

    def renew(self, reason: str) -> None:
        """Closes the connection that stands and connects anew; nothing where none stands."""
        self._renewal = reason
        self._wake()

    def stop(self) -> None:
        """Ends the connection for good; returns at once."""
        self._stopping.set()
        self._wake()

    def join(self, timeout: float | None = None) -> None:
        """Waits for the thread to end after `stop`."""
        self._thread.join(timeout)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # a wake-up is pending already, or the thread is gone
            self._wake_write.send(b"!")

    def _run(self) -> None:
        waits = self._waits()
        try:
            while not self._stopping.is_set():
                if self._stopping.wait(self._limit.reserve()):
                    break
                opened_ns, retry_after = self._now(), 0.0
                try:
                    reason, status = self._live(), None
                except websocket.WebSocketBadStatusException as error:
                    headers = error.resp_headers or {}
                    retry_after = _seconds(headers.get("retry-after"))
                    reason, status = f"upgrade refused with HTTP {error.status_code}", error.status_code
                except Exception as error:  # whatever it was, this thread has to try again
                    reason, status = f"{type(error).__name__}: {error}", None
                self._outbox.clear()
                if self._stopping.is_set():
                    break
                self._put(Lost(self, self._now(), reason, status))
                if self._now() - opened_ns > SETTLED_SECONDS * SECOND:
                    waits = self._waits()
                self._stopping.wait(max(next(waits), retry_after))
        finally:
            self._put(Lost(self, self._now(), "stopped", final=True))
            self._wake_read.close()
            self._wake_write.close()

    def _live(self) -> str:
        """Connects and reads until the connection ends; returns why it did."""
        connection = websocket.create_connection(
            self._url,
            timeout=HANDSHAKE_SECONDS,
            skip_utf8_validation=True,
            sockopt=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        try:
            self._renewal = ""
            self._outbox.clear()  # what came late was meant for the connection before
            self._put(Opened(self, self._now()))
            return self._read(connection)
        finally:
            self.reading_ns = None
            if connection.sock is not None:
                connection.sock.close()

    def _read(self, connection: websocket.WebSocket) -> str:
        sock = connection.sock
        assert sock is not None
        sock.settimeout(READ_SECONDS)
        pending = sock.pending if isinstance(sock, ssl.SSLSocket) else lambda: 0
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        splitter = frames.FrameSplitter()
        wake_read = self._wake_read.fileno()
        pauses = PauseDetector(self._elapsed)
        while True:
            self.reading_ns = None
            if not pending():
                ready = {descriptor for descriptor, _ in poll.poll(self._send_due(connection))}
                if paused_ns := pauses.look():
                    return _paused_for(paused_ns)
                if wake_read in ready:
                    self._wake_read.recv(4096)
                    if self._stopping.is_set():
                        self._flush(connection)
                        connection.send_close()
                        return "stopped"
                    if self._renewal:
                        return self._renewal
                if not ready - {wake_read}:
                    continue
            self.reading_ns = self._now()
            try:
                data = sock.recv(READ_BYTES)
            except TimeoutError:  # the rest of a TLS record is still on its way
                continue
            receive_ns = self._now()
            if paused_ns := pauses.look():  # what it has read may have waited
                return _paused_for(paused_ns)
            if not data:
                return "closed by the exchange without a goodbye"
            payloads = []
            for opcode, payload in splitter.split(data):
                if opcode <= frames.BINARY:
                    payloads.append(payload)
                elif opcode == frames.PING:
                    connection.pong(payload)
                elif opcode == frames.CLOSE:
                    if payloads:
                        self._put(Frames(self, receive_ns, payloads))
                    code = int.from_bytes(payload[:2]) if len(payload) >= 2 else 1005
                    return f"closed by the exchange: {code} {payload[2:].decode(errors='replace')}".rstrip()
            if payloads:
                self._put(Frames(self, receive_ns, payloads))

    def _send_due(self, connection: websocket.WebSocket) -> int:
        """Sends what may be sent now; returns the milliseconds until there is more to do at the latest."""
        while self._outbox:
            wait_ns = self._last_sent_ns + SEND_SPACING_NS - self._now()
            if wait_ns > 0:
                return min(LOOK_MS, wait_ns // 1_000_000 + 1)
            connection.send(self._outbox.popleft())
            self._last_sent_ns = self._now()
        return LOOK_MS

    def _flush(self, connection: websocket.WebSocket) -> None:
        """A goodbye needs no pacing: the connection ends with it anyway."""
        while self._outbox:
            connection.send(self._outbox.popleft())

    def _put(self, arrival: Arrival) -> None:
        self._inbox.append(arrival)
        self._arrived()


def _paused_for(ns: int) -> str:
    return f"{PAUSED} for {ns / SECOND:.1f} s"


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
