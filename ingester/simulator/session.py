"""One client of the simulator: what it has subscribed to, its requests, its heartbeat, what is written to it."""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event, State

from ingester.simulator.markets import BookStream, ExchangeLimits, MessageRate, StreamPath

POLICY_VIOLATION, GOING_AWAY = 1008, 1001

_METHODS = "SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS"


def answer_request(message: str | bytes, subscribed: dict[str, None]) -> bytes:
    """Carries a client's JSON request out on `subscribed`, the ordered set of stream names, and returns the answer.

    Forms and texts are those of Binance's "Live Subscribing/Unsubscribing to streams".
    """
    try:
        request: Any = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _error(3, "Invalid JSON: expected value at line 1 column 1")
    if not isinstance(request, dict):
        return _error(2, "Invalid request: expected an object")
    method, number, streams = request.get("method"), request.get("id"), request.get("params", [])
    if method is None:
        return _error(2, "Invalid request: missing field `method` at line 1 column 1", number)
    if isinstance(number, bool) or not isinstance(number, int | str) or (isinstance(number, int) and number < 0):
        return _error(2, "Invalid request: request ID must be an unsigned integer")
    if not isinstance(streams, list) or not all(isinstance(name, str) for name in streams):
        return _error(2, "Invalid request: invalid type: expected a sequence of strings", number)
    match method:
        case "SUBSCRIBE":
            subscribed.update(dict.fromkeys(streams))
            return _result(None, number)
        case "UNSUBSCRIBE":
            for name in streams:
                subscribed.pop(name, None)
            return _result(None, number)
        case "LIST_SUBSCRIPTIONS":
            return _result(list(subscribed), number)
    return _error(2, f"Invalid request: unknown variant `{method}`, expected one of {_METHODS}", number)


def _result(result: list[str] | None, number: int | str) -> bytes:
    return msgspec.json.encode({"result": result, "id": number})


def _error(code: int, message: str, number: object = None) -> bytes:
    # Where the id could not be read the error stands by itself.
    error = {"code": code, "msg": message}
    return msgspec.json.encode(error if number is None else {"error": error, "id": number})


def frame(text: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """A websocket frame as a server sends it: final and unmasked (RFC 6455, 5.2)."""
    return header(len(text), opcode) + text


def header(length: int, opcode: Opcode = Opcode.TEXT) -> bytes:
    """The head of a frame of `length` bytes."""
    first = bytes((0x80 | opcode,))
    if length < 126:
        return first + bytes((length,))
    if length < 2**16:
        return first + b"\x7e" + length.to_bytes(2, "big")
    return first + b"\x7f" + length.to_bytes(8, "big")


class ClientProtocol(ServerConnection):
    """A websocket connection that reports every frame to its session, pings and pongs included."""

    session: "Session | None" = None

    def process_event(self, event: Event) -> None:
        if self.session is not None and isinstance(event, Frame):
            self.session.received(event.opcode)
        super().process_event(event)


class Session:
    """A client's connection from the handshake to its end. All times are of the event loop's clock, in seconds.

    Frames are written to the transport as they are, many at a time: passing them to websockets one by one would cost
    more than all the rest of the simulator.
    """

    def __init__(
        self,
        *,
        number: int,
        connection: ClientProtocol,
        path: StreamPath,
        limits: ExchangeLimits,
        clock: Callable[[], float],
    ) -> None:
        self.number = number
        self.connection = connection
        self.market = path.market
        self.is_combined = path.is_combined
        self.subscribed: dict[str, None] = dict.fromkeys(path.streams)
        self.opened = self._last_ping = clock()
        self._unanswered_since: float | None = None
        """Time of the first ping without a pong after it."""
        self.closing: tuple[int, str] | None = None
        """Code and reason, once the connection is to be closed."""
        self.bytes_sent = 0
        self._has_books = path.has_books
        self._limits = limits
        self._clock = clock
        self._rate = MessageRate(limits.messages_per_second)
        self._mute_until = 0.0
        self._bytes_per_second: float | None = None
        self._credit = 0.0
        self._credit_at = 0.0
        self._queue: deque[bytes] = deque()
        self._queued = 0

    def streams(self) -> dict[str, BookStream]:
        """The streams of books that it gets, by name; the others that it has subscribed to are silent."""
        if not self._has_books:
            return {}
        streams = {name: self.market.stream(name) for name in self.subscribed}
        return {name: stream for name, stream in streams.items() if stream is not None}

    @property
    def has_too_many_streams(self) -> bool:
        return len(self.subscribed) > self._limits.streams

    def received(self, opcode: Opcode) -> None:
        """Counts an incoming frame."""
        now = self._clock()
        if opcode is Opcode.PONG:
            self._unanswered_since = None
        if opcode is not Opcode.CLOSE and self._rate.exceeded(now):
            self.close_soon(POLICY_VIOLATION, "Too many requests")

    @property
    def muted(self) -> bool:
        return self._mute_until > self._clock()

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client to read."""
        return self.connection.transport.get_write_buffer_size() + self._queued

    @property
    def writable(self) -> bool:
        """Whether the connection takes frames: it is neither closing nor half open."""
        return not self.closing and self.connection.state is State.OPEN and not self.muted

    def write(self, frames: list[bytes]) -> None:
        """Writes whole frames at once, unless the connection takes none."""
        if not self.writable:
            return
        if self._bytes_per_second is not None:
            self._queue.extend(frames)
            self._queued += sum(map(len, frames))
            self._trickle()
        else:
            data = b"".join(frames)
            self.bytes_sent += len(data)
            self.connection.transport.write(data)
        if self.backlog > self._limits.write_buffer:
            self.abort()

    def mute(self, until: float) -> None:
        """Half open: neither writes nor reads (and so answers) anything before `until`."""
        self._mute_until = until
        self.connection.transport.pause_reading()

    def unmute(self) -> None:
        """Ends a half open state."""
        if self._mute_until:
            self._mute_until = 0.0
            self._unanswered_since = None
            self.connection.transport.resume_reading()

    def close_soon(self, code: int, reason: str) -> None:
        """Writes nothing more and has the connection closed with this code."""
        self.closing = self.closing or (code, reason)

    def throttle(self, bytes_per_second: float | None) -> None:
        """Writes at most so many bytes per second; None: as many as there are."""
        self._bytes_per_second = bytes_per_second
        self._credit_at = self._clock()
        if bytes_per_second is None and self._queue:
            queued, self._queue, self._queued = list(self._queue), deque(), 0
            self.write(queued)

    def keep_alive(self, now: float) -> None:
        """Does what is due: sends pings, drops the dead and the old, ends a half open state."""
        if self._mute_until:
            if self._mute_until > now:
                return
            self.unmute()
        if now - self.opened >= self._limits.lifetime:
            self.close_soon(GOING_AWAY, "Connection is at the end of its life time")
        if self._unanswered_since is not None and now - self._unanswered_since >= self._limits.pong_timeout:
            self.abort()
        elif now - self._last_ping >= self._limits.ping_interval:
            self._last_ping = now
            self.write([frame(b"%d" % (now * 1000), Opcode.PING)])
            self._unanswered_since = self._unanswered_since or now
        if self._queue:
            self._trickle()

    def abort(self) -> None:
        """Cuts the TCP connection."""
        self.connection.transport.abort()

    def _trickle(self) -> None:
        assert self._bytes_per_second is not None
        now = self._clock()
        # What a second allows can be saved up, no more; but a frame is never cut, it goes when the credit reaches it.
        most = max(self._bytes_per_second, len(self._queue[0]) if self._queue else 0)
        self._credit = min(most, self._credit + (now - self._credit_at) * self._bytes_per_second)
        self._credit_at = now
        while self._queue and self._credit >= len(self._queue[0]):
            data = self._queue.popleft()
            self._credit -= len(data)
            self._queued -= len(data)
            self.bytes_sent += len(data)
            self.connection.transport.write(data)
