"""All connections of a feed: opened for their slots, and asked for streams. All of this runs in the feed thread."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ingester.clock import Now
from ingester.connection.connection import Connection
from ingester.connection.websocket import Arrival, WebSocketThread
from ingester.events import Event
from ingester.exchange import Method, Venue
from ingester.metrics import FeedMetrics

if TYPE_CHECKING:
    from ingester.connection.slot import ConnectionSlot


@dataclass(frozen=True)
class FeedContext:
    """What all parts of a feed share: the clock, where events go, and the counters."""

    now: Now
    note: Callable[[Event], None]
    metrics: FeedMetrics


@dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """How pairs are received."""

    venue: Venue
    connections_per_pair: int
    keep_every: int
    """Of each pair, keep every k-th book."""
    life_ns: Callable[[], int]
    """How old a connection may become; called for each one, so that not all end at once."""


class MakeStream(Protocol):
    """Makes the thread of a connection, which is not started yet."""

    def __call__(self, *, name: str, inbox: deque[Arrival]) -> WebSocketThread: ...


class ConnectionPool:
    """The connections, those that are about to end included, and the requests that they have not answered."""

    def __init__(self, venue: Venue, make_stream: MakeStream) -> None:
        self.inbox: deque[Arrival] = deque()
        """What has arrived over all of them; their threads add to it, the feed thread takes."""
        self._venue = venue
        self._make_stream = make_stream
        self.connections: dict[WebSocketThread, Connection] = {}
        """All connections by their threads, those that are about to end included."""
        self._started = False
        self._requests = 0  # ids given to requests so far
        self._unanswered: dict[int, WebSocketThread] = {}

    def start(self) -> None:
        """Starts connecting; what is opened later starts at once."""
        self._started = True
        for stream in self.connections:
            stream.start()

    def open(self, slot: "ConnectionSlot") -> Connection:
        """Returns a new connection of a slot."""
        stream = self._make_stream(name=slot.label, inbox=self.inbox)
        self.connections[stream] = connection = Connection(slot, stream)
        if self._started:
            stream.start()
        return connection

    def request(self, method: Method, connection: Connection, names: Sequence[bytes]) -> dict[bytes, int]:
        """Asks the exchange for streams, or to end them; returns the id of the request that names each stream."""
        ids: dict[bytes, int] = {}
        for request in self._venue.requests(method, [name.decode() for name in names], self._requests + 1):
            self._requests = request.id
            self._unanswered[request.id] = connection.stream
            connection.stream.send(request.text)
            ids.update((name.encode(), request.id) for name in request.streams)
        return ids

    def answered(self, request_id: int) -> None:
        """The exchange has answered a request."""
        self._unanswered.pop(request_id, None)

    def lost(self, stream: WebSocketThread, final: bool) -> None:
        """A connection was lost, and what it was asked with it; `final`: it will not be made again."""
        self._unanswered = {number: asked for number, asked in self._unanswered.items() if asked is not stream}
        if final:
            del self.connections[stream]

    def owes_answers(self) -> bool:
        """Whether an open connection still owes an answer to a request."""
        open_ones = {connection.stream for connection in self.connections.values() if connection.opened_ns is not None}
        return any(stream in open_ones for stream in self._unanswered.values())

    def watermark(self, now: int) -> int:
        """All that was received before this time is in the inbox, or was taken from it; see `feed/loop.py`."""
        return min((stream.reading_ns or now for stream in self.connections), default=now)

    def stop(self, timeout: float) -> None:
        """Closes all connections and waits for their threads, so many seconds at most."""
        streams = list(self.connections)
        for stream in streams:
            stream.stop()
        ends = time.monotonic() + timeout
        for stream in streams:
            stream.join(max(0.0, ends - time.monotonic()))
