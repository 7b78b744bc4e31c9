"""All connections together: splits pairs among them, subscribes, decodes what comes, lets each snapshot pass once.

Everything here runs in the pump's thread, so nothing needs a lock.

What passes, per symbol, by update id:

* greater than the last one: passes.
* equal: a copy (from another connection, or the exchange repeating itself). It is counted, not passed on.
* smaller: late. It is counted, not passed on, except that `RESTART_AFTER` of them in a row on a symbol mean that the
  exchange has begun to count anew; then the last one passes and the count goes on from it.

A frame that is no book, or a crossed one, is counted as malformed and not passed on; it never ends a thread.
Receive times rise strictly per symbol, by at least the table's resolution of a microsecond.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from ingester.capture.stream import Arrival, Frames, Lost, Opened, Stream
from ingester.clock import SECOND, Now, next_full_second
from ingester.events import Event
from ingester.exchange import binance
from ingester.metrics import FeedMetrics
from ingester.snapshot import Snapshot

log = logging.getLogger(__name__)

RESTART_AFTER = 20
STEP_SNAPSHOTS = 100
"""So many are decoded, then encoded, at a time: fewer objects in flight than the processor's cache holds."""
START_PATIENCE_NS = 5 * SECOND
"""How long the first subscriptions wait for all connections to stand, so that all pairs begin at the same second."""
RESOLUTION_NS = 1_000


MakeStream = Callable[[str, deque[Arrival]], Stream]


class _Book:
    """What the feed remembers of one symbol."""

    __slots__ = ("backward", "count", "receive_ns", "symbol", "update_id")

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.update_id = -1
        self.receive_ns = 0
        self.backward = 0  # late snapshots in a row
        self.count = 0  # passed snapshots, for down-sampling


class Feed:
    """Keeps all pairs flowing. `poll` gives what has arrived since the last call."""

    def __init__(
        self,
        symbols: Sequence[str],
        depth: int,
        keep_every: int,
        copies: int,
        make_stream: MakeStream,
        now: Now,
        metrics: FeedMetrics,
        on_event: Callable[[Event], None],
    ) -> None:
        """`keep_every`: keep each k-th snapshot of a symbol. `copies`: connections that receive the same pairs."""
        self._keep_every = keep_every
        self._now = now
        self._metrics = metrics
        self._on_event = on_event
        self._books = {binance.stream_name(symbol, depth): _Book(symbol) for symbol in symbols}
        self._inbox: deque[Arrival] = deque()
        self._requests = 0  # ids given to requests so far
        self._asked: dict[int, Stream] = {}  # requests not yet answered
        self._begun = False  # whether the common first second has come
        self._begin_ns = 0  # when the first subscriptions go out, once known
        self._opened: set[Stream] = set()  # connections that stand
        self._lost: dict[Stream, int] = {}  # since when a connection delivers nothing, from its loss to its next frame
        self._streams: dict[Stream, list[str]] = {}
        groups = split(list(self._books), binance.STREAMS_PER_CONNECTION)
        for copy in range(copies):
            for number, names in enumerate(groups):
                label = f"{number + 1}{chr(ord('a') + copy)}" if copies > 1 else str(number + 1)
                self._streams[make_stream(label, self._inbox)] = names

    @property
    def connected(self) -> int:
        """Connections that stand now."""
        return len(self._opened)

    @property
    def connections(self) -> int:
        """Connections there should be."""
        return len(self._streams)

    def start(self) -> None:
        """Opens all connections; they subscribe together at a full second."""
        self._begin_ns = next_full_second(self._now() + START_PATIENCE_NS)
        for stream in self._streams:
            stream.start()

    def poll(self) -> list[Snapshot]:
        """Takes what has arrived, in its order, and gives the snapshots that pass; `pending` tells of more."""
        snapshots: list[Snapshot] = []
        inbox = self._inbox
        while inbox and len(snapshots) < STEP_SNAPSHOTS:
            arrival = inbox.popleft()
            if isinstance(arrival, Frames):
                self._take(arrival, snapshots)
            elif isinstance(arrival, Opened):
                self._on_opened(arrival)
            else:
                self._on_lost(arrival)
        if not self._begun and self._now() >= self._begin_ns:
            self._begun = True
            for stream in self._opened:
                self._request("SUBSCRIBE", stream)
        return snapshots

    @property
    def pending(self) -> bool:
        """Whether more has arrived than `poll` took."""
        return bool(self._inbox)

    def unsubscribe(self) -> None:
        """Asks the exchange to send nothing more; what is already on the way still arrives."""
        for stream in self._opened:
            self._request("UNSUBSCRIBE", stream)

    def unanswered(self) -> bool:
        """Whether a standing connection still owes an answer to a request."""
        return any(stream in self._opened for stream in self._asked.values())

    def stop(self, timeout: float) -> None:
        """Closes all connections and waits for their threads."""
        for stream in self._streams:
            stream.stop()
        for stream in self._streams:
            stream.join(timeout)

    def _request(self, method: str, stream: Stream) -> None:
        for request, text in binance.requests(method, self._streams[stream], self._requests + 1):
            self._requests = request
            self._asked[request] = stream
            stream.send(text)

    def _on_opened(self, opened: Opened) -> None:
        stream = opened.stream
        self._opened.add(stream)
        self._metrics.connects += 1
        self._metrics.reconnects += stream in self._lost
        log.info("connection %s stands", stream.name)
        self._on_event(Event(opened.at_ns, "connected", connection=stream.name))
        if self._begun:
            self._request("SUBSCRIBE", stream)
        elif len(self._opened) == len(self._streams):
            self._begin_ns = min(self._begin_ns, next_full_second(self._now()))

    def _on_lost(self, lost: Lost) -> None:
        stream = lost.stream
        self._metrics.losses += 1
        self._metrics.region_refused |= lost.status == 451
        self._asked = {request: asked for request, asked in self._asked.items() if asked is not stream}
        if stream in self._opened:
            self._opened.remove(stream)
            self._lost.setdefault(stream, lost.at_ns)
            log.warning("connection %s lost: %s", stream.name, lost.reason)
            self._on_event(Event(lost.at_ns, "disconnected", connection=stream.name, detail=lost.reason))
        else:
            log.warning("connection %s: attempt failed: %s", stream.name, lost.reason)

    def _take(self, frames: Frames, snapshots: list[Snapshot]) -> None:
        books, metrics = self._books, self._metrics
        receive_ns = frames.receive_ns
        for payload in frames.payloads:
            message = binance.decode(payload)
            if not isinstance(message, binance.Book):
                self._answer(message, frames)
                continue
            book = books.get(message.stream)
            if book is None:
                self._malformed(frames, f"a stream nobody asked for: {message.stream}")
                continue
            partial = message.data
            update_id = partial.update_id
            if update_id <= book.update_id and not self._restarted(book, update_id):
                metrics.copies += 1
                continue
            if binance.is_crossed(partial):
                self._malformed(frames, f"crossed: {partial.bids[0]} {partial.asks[0]}", book.symbol)
                continue
            if frames.stream in self._lost:
                self._close_gap(frames.stream, receive_ns)
            book.update_id, book.backward = update_id, 0
            book.receive_ns = max(receive_ns, book.receive_ns + RESOLUTION_NS)
            book.count += 1
            if (book.count - 1) % self._keep_every:
                metrics.skipped += 1
                continue
            metrics.snapshots += 1
            snapshots.append(Snapshot(book.symbol, book.receive_ns, update_id, partial.bids, partial.asks))

    def _close_gap(self, stream: Stream, until_ns: int) -> None:
        since_ns = self._lost.pop(stream)
        length = (until_ns - since_ns) / SECOND
        self._metrics.last_gap = f"{length:.1f} s on connection {stream.name}"
        log.warning("connection %s delivers again after %.1f s", stream.name, length)
        self._on_event(Event(since_ns, "gap", connection=stream.name, detail="connection lost", until_ns=until_ns))

    def _restarted(self, book: _Book, update_id: int) -> bool:
        if update_id == book.update_id:
            return False
        book.backward += 1
        if book.backward < RESTART_AFTER:
            return False
        log.warning("%s: update ids began anew at %d after %d", book.symbol, update_id, book.update_id)
        detail = f"from {book.update_id} to {update_id}"
        self._on_event(Event(self._now(), "update_ids_restarted", symbol=book.symbol, detail=detail))
        return True

    def _answer(self, message: binance.Message, frames: Frames) -> None:
        if isinstance(message, binance.Acknowledged):
            self._asked.pop(message.id, None)
        elif isinstance(message, binance.Refused):
            self._metrics.refused += 1
            if message.id is not None:
                self._asked.pop(message.id, None)
            detail = f"{message.code} {message.message}"
            log.error("connection %s: the exchange refused a request: %s", frames.stream.name, detail)
            self._on_event(Event(frames.receive_ns, "refused", connection=frames.stream.name, detail=detail))
        elif isinstance(message, binance.ShuttingDown):
            log.warning("connection %s: the exchange announces its shutdown", frames.stream.name)
            self._on_event(Event(frames.receive_ns, "exchange_shutdown", connection=frames.stream.name))
        elif isinstance(message, binance.Malformed):
            self._malformed(frames, message.reason)

    def _malformed(self, frames: Frames, reason: str, symbol: str = "") -> None:
        metrics = self._metrics
        metrics.malformed += 1
        if metrics.malformed & (metrics.malformed - 1) == 0:  # at 1, 2, 4, 8, … so that a bad day does not fill the log
            connection = frames.stream.name
            log.warning(
                "connection %s: frame not stored (the %d.): %s %s", connection, metrics.malformed, symbol, reason
            )
            self._on_event(Event(frames.receive_ns, "malformed", symbol, connection, reason))


def split(names: list[str], at_most: int) -> list[list[str]]:
    """As few groups as possible of at most `at_most` names, all of nearly the same size."""
    groups = -(-len(names) // at_most)
    return [names[group::groups] for group in range(groups)]
