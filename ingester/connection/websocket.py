"""One websocket connection in one thread: connect, stamp what comes, send what is asked, connect again when lost."""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import websocket

from ingester.clock import SECOND, Now, PauseDetector, backoff, elapsed_ns
from ingester.connection import frames
from ingester.errors import ExchangeError
from ingester.exchange import Limits, UpgradeRefused, Venue, open_websocket
from ingester.threads import SupervisedThread

READ_BYTES = 1 << 15
HANDSHAKE_SECONDS = 10.0
READ_SECONDS = 1.0
SETTLED_SECONDS = 30.0
"""A connection that lived this long was a good one: the next attempt after it waits as little as the first."""
SLOWEST_SPACING_NS = 8 * SECOND
ATTEMPT_PERCENT = 80
"""Of the connection attempts that the exchange allows; the rest is left to other programs behind the same address."""
TOO_MANY = 1008
"""The close code of a client that sent too much ("policy violation"): the next connection sends half as often."""
TOO_MANY_SECONDS = 5.0
"""How long to stay away after that at least; doubled each time in a row, up to `TOO_MANY_LONGEST`."""
TOO_MANY_LONGEST = 300.0
MOST_WAITING = 32 << 20
"""Bytes that one connection may hold in memory until the feed thread takes them. More are left in the socket: it is a
flood, or this machine is far too slow."""
MESSAGE_BYTES = 200
"""What a message costs beyond its own bytes: memory, and the time to look at it."""
CROWDED_SECONDS = 0.02
LOOK_MS = 500
"""So often the thread looks, where nothing comes."""
PAUSED = "the process was paused"


class Opened(NamedTuple):
    """A connection is open; nothing is subscribed on it yet."""

    stream: "WebSocketThread"
    at_ns: int


class Frames(NamedTuple):
    """Text frames that one read brought, stamped right after that read."""

    stream: "WebSocketThread"
    receive_ns: int
    payloads: list[bytes]
    size: int = 0
    """What they take in memory."""


class Lost(NamedTuple):
    """A connection ended, or an attempt failed; `status` is the HTTP status where the upgrade was refused with one.

    `final`: the thread was stopped, and this is its last arrival.
    """

    stream: "WebSocketThread"
    at_ns: int
    reason: str
    status: int | None = None
    final: bool = False

    @property
    def paused(self) -> bool:
        """Whether it was closed because the process had not run for a while."""
        return self.reason.startswith(PAUSED)


Arrival = Opened | Frames | Lost


def send_spacing_ns(limits: Limits) -> int:
    """How long to wait between two messages to the exchange: they take less than half of what it allows.

    Where 5 a second are allowed, one every 250 ms was seen to be closed with 1008, and one every 500 ms was not.
    """
    return 2 * SECOND // (limits.messages_per_second - 1)


class AttemptLimit:
    """Keeps the connection attempts of a whole process under the exchange's limit."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._attempts = limits.attempts * ATTEMPT_PERCENT // 100
        self._window_seconds = limits.attempt_window_seconds
        self._monotonic = monotonic
        self._made: deque[float] = deque()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Counts one attempt, and says how many seconds from now it may be made."""
        with self._lock:
            at = now = self._monotonic()
            if len(self._made) >= self._attempts:
                at = max(now, self._made.popleft() + self._window_seconds)
            self._made.append(at)
            return at - now


class WebSocketThread:
    """A connection slot: one thread that keeps one websocket open until `stop` and puts all that happens into `inbox`.

    It never parses a payload and never waits for anyone downstream.
    """

    def __init__(
        self,
        name: str,
        *,
        venue: Venue,
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
        self._venue = venue
        self._inbox = inbox
        self._arrived = arrived
        self._now = now
        self._limit = limit
        self._elapsed = elapsed
        self._waits = waits
        self._outbox: deque[str] = deque()
        self._pong: bytes | None = None  # the answer that the last ping wants
        self._last_sent_ns = 0
        self._spacing_ns = self._usual_spacing_ns = send_spacing_ns(venue.limits)
        self._closes_in_a_row = 0  # how often in a row the exchange has closed because too much was sent
        self._opened = False  # whether the feed has been sent `Opened` and not `Lost`
        self._put_bytes = self._taken_bytes = 0  # into the inbox, out of it: written by one thread each
        self._renewal = ""  # why the open connection is to be closed
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._thread = SupervisedThread(self._run, f"stream {name}", self._stopping)

    def start(self) -> None:
        """Starts connecting."""
        self._thread.start()

    def send(self, text: str) -> None:
        """Queues a request for the open connection, paced to the exchange's limit; it is dropped when that is lost."""
        self._outbox.append(text)
        self._wake()

    def taken(self, frames: Frames) -> None:
        """These need no more memory here. For the thread that empties the inbox."""
        self._taken_bytes += frames.size

    def idle(self) -> bool:
        """Whether everything queued has been sent."""
        return not self._outbox

    def renew(self, reason: str) -> None:
        """Closes the open connection and connects again; does nothing where none is open."""
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
        if self._opened:  # this thread died, and runs again
            self._lose("its thread died and was restarted")
        waits = self._waits()
        while not self._stopping.is_set():
            if self._stopping.wait(self._limit.reserve()):
                break
            begun_ns, status, pause = self._now(), None, 0.0
            try:
                reason = self._live()
            except UpgradeRefused as error:
                reason, status, pause = str(error), error.status, error.seconds or 0.0
            except ExchangeError as error:
                reason = str(error)
            except Exception as error:  # whatever it was, this thread has to try again
                reason = f"{type(error).__name__}: {error}"
            self._outbox.clear()
            if self._stopping.is_set():
                break
            self._lose(reason, status)
            if self._now() - begun_ns > SETTLED_SECONDS * SECOND:
                waits = self._waits()
            self._stopping.wait(max(next(waits), pause, self._penalty()))
        self._put(Lost(self, self._now(), "stopped", final=True))
        self._wake_read.close()
        self._wake_write.close()

    def _lose(self, reason: str, status: int | None = None) -> None:
        self._opened = False
        self._put(Lost(self, self._now(), reason, status))

    def _penalty(self) -> float:
        """Seconds to stay away because the exchange was sent too much."""
        return (
            min(TOO_MANY_LONGEST, TOO_MANY_SECONDS * 2 ** min(self._closes_in_a_row - 1, 10))
            if self._closes_in_a_row
            else 0.0
        )

    def _live(self) -> str:
        """Connects and reads until the connection ends; returns why it did."""
        connection = open_websocket(
            self._venue.connection_url, HANDSHAKE_SECONDS, self._venue.ca_file, self._venue.headers
        )
        try:
            self._renewal = ""
            self._outbox.clear()  # what came late was meant for the connection before
            self._pong = None
            begun_ns, self._opened = self._now(), True
            self._put(Opened(self, begun_ns))
            reason, code = self._read(connection)
            if code == TOO_MANY:
                self._closes_in_a_row += 1
                self._spacing_ns = min(SLOWEST_SPACING_NS, 2 * self._spacing_ns)
            elif self._now() - begun_ns > SETTLED_SECONDS * SECOND:
                self._closes_in_a_row, self._spacing_ns = 0, self._usual_spacing_ns
            return reason
        finally:
            self.reading_ns = None
            if connection.sock is not None:
                connection.sock.close()

    def _read(self, connection: websocket.WebSocket) -> tuple[str, int]:
        """Reads until the connection ends; gives why it did, and the code of a close frame or 0."""
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
            if self._put_bytes - self._taken_bytes > MOST_WAITING and not self._stopping.is_set():
                self._stopping.wait(CROWDED_SECONDS)
                if paused_ns := pauses.look():
                    return _paused_for(paused_ns), 0
                continue
            wait = self._send_due(connection)
            if not pending() or self._stopping.is_set():
                ready = {descriptor for descriptor, _ in poll.poll(wait)}
                if paused_ns := pauses.look():
                    return _paused_for(paused_ns), 0
                if wake_read in ready:
                    self._wake_read.recv(4096)
                    if self._stopping.is_set():
                        self._flush(connection)
                        connection.send_close()
                        return "stopped", 0
                    if self._renewal:
                        return self._renewal, 0
                if not ready - {wake_read}:
                    continue
            self.reading_ns = self._now()
            try:
                data = sock.recv(READ_BYTES)
            except TimeoutError:  # the rest of a TLS record is still on its way
                continue
            receive_ns = self._now()
            if paused_ns := pauses.look():  # what it has read may have waited
                return _paused_for(paused_ns), 0
            if not data:
                return "closed by the exchange without a goodbye", 0
            payloads = []
            for opcode, payload in splitter.split(data):
                if opcode <= frames.BINARY:
                    payloads.append(payload)
                elif opcode == frames.PING:
                    self._pong = payload  # of several pings the last one may be answered alone (RFC 6455, 5.5.3)
                elif opcode == frames.CLOSE:
                    if payloads:
                        self._put_frames(receive_ns, payloads)
                    code = int.from_bytes(payload[:2]) if len(payload) >= 2 else 1005
                    return f"closed by the exchange: {code} {payload[2:].decode(errors='replace')}".rstrip(), code
            if payloads:
                self._put_frames(receive_ns, payloads)

    def _send_due(self, connection: websocket.WebSocket) -> int:
        """Sends what may be sent now; returns the milliseconds until there is more to do at the latest."""
        while self._outbox or self._pong is not None:
            wait_ns = self._last_sent_ns + self._spacing_ns - self._now()
            if wait_ns > 0:
                return min(LOOK_MS, wait_ns // 1_000_000 + 1)
            if self._pong is not None:
                connection.pong(self._pong)
                self._pong = None
            else:
                connection.send(self._outbox.popleft())
            self._last_sent_ns = self._now()
        return LOOK_MS

    def _flush(self, connection: websocket.WebSocket) -> None:
        """A goodbye needs no pacing: the connection ends with it anyway."""
        while self._outbox:
            connection.send(self._outbox.popleft())

    def _put_frames(self, receive_ns: int, payloads: list[bytes]) -> None:
        size = sum(map(len, payloads)) + MESSAGE_BYTES * len(payloads)
        self._put_bytes += size
        self._put(Frames(self, receive_ns, payloads, size))

    def _put(self, arrival: Arrival) -> None:
        self._inbox.append(arrival)
        self._arrived()


def _paused_for(ns: int) -> str:
    return f"{PAUSED} for {ns / SECOND:.1f} s"
