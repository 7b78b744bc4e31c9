"""From the frames of all connections to books: drops copies, decodes, checks the sequence, handles answers.

Everything here runs in the feed thread, so nothing needs a lock. `gap_detector.py` has the rule by which books pass
and what is a gap, `slot.py` watches connections and replaces them, `subscriptions.py` knows which pairs they carry.

What is not stored is quarantined: a frame that is no book, a crossed book, a book of a stream nobody asked for. It is
counted, it is an event, it never ends a thread, and its symbol has a gap unless a sound copy comes. Thin and empty
books are stored: halted pairs have them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ingester.book import OrderBook
from ingester.clock import PAUSED_NS, SECOND, Throttle, next_full_second
from ingester.connection import (
    STALE_AFTER_NS,
    Connection,
    ConnectionPool,
    ConnectionSlot,
    FeedConfig,
    FeedContext,
    Frames,
    Lost,
    Opened,
    SubscriptionManager,
)
from ingester.events import PROCESS_PAUSED, Event
from ingester.exchange import (
    Acknowledged,
    Book,
    Malformed,
    Message,
    Method,
    Refused,
    ShuttingDown,
)
from ingester.sequence import SequenceMonitor

log = logging.getLogger(__name__)

STEP_SNAPSHOTS = 100
"""So many are decoded, then encoded, at a time: fewer objects in flight than the processor's cache holds."""
START_PATIENCE_NS = 5 * SECOND
"""How long the first subscriptions wait until all connections are open, so that all pairs begin at the same second."""
TICK_NS = SECOND
"""How often connections and symbols are looked after."""
MOST_FRAMES = 2_000
"""After so many, which need not be books, others have their turn: a flood holds up nothing else."""
LARGEST_BOOK = 1 << 16
"""Bytes; the largest that Binance sends has about 2 kB. A larger frame is none, and decoding it would take time."""
REFUSALS_AT_ONCE, REFUSAL_SECONDS = 20, 10.0
"""So many error answers of the exchange go on record one by one, and then one in so many seconds, of all connections
together."""
LONGEST_DETAIL = 200
"""Characters of what the exchange says that go on record."""
GARBLED_PER_TICK = 20
"""A frame that names no symbol makes all symbols of its connection suspect; so many do within a second, not more."""

make_book: Callable[[tuple[object, ...]], OrderBook] = partial(tuple.__new__, OrderBook)  # half the cost of OrderBook()


class Feed:
    """Turns what the connections bring into books. `poll` returns those that have arrived since the last call."""

    def __init__(
        self, *, monitor: SequenceMonitor, pool: ConnectionPool, config: FeedConfig, context: FeedContext
    ) -> None:
        now = context.now
        self.monitor = monitor
        self._pool = pool
        self._inbox = pool.inbox
        self._peek, self._decode = config.venue.books.peek, config.venue.books.decode
        self._keep_every = config.keep_every
        self._now = now
        self._metrics = context.metrics
        self._note = context.note
        self._refusals = Throttle(REFUSALS_AT_ONCE, REFUSAL_SECONDS, lambda: now() / SECOND)
        self._begun = False  # whether the common first second has come
        self._started_ns = 0
        self._begin_ns = 0  # when the first subscriptions go out, once known
        self._ended = False
        self._tick_ns = 0  # when the next look after connections and symbols is due
        self._polled_ns = now()  # when `poll` was last called
        self._lost_ns: dict[ConnectionSlot, int] = {}  # slots that deliver nothing, since when
        self.subscriptions = SubscriptionManager(monitor=monitor, pool=pool, config=config, context=context)

    @property
    def connected(self) -> int:
        """Connections that are open now."""
        return sum(slot.connection.opened_ns is not None for slot in self.subscriptions.slots)

    @property
    def connections(self) -> int:
        """Connections there should be."""
        return len(self.subscriptions.slots)

    @property
    def pairs(self) -> int:
        """Pairs that are recorded now."""
        return len(self.monitor.detectors)

    def connection_states(self) -> list[tuple[str, int | None, int | None]]:
        """Returns (label, open since, without data since) of each connection, in ns. May be called from any thread."""
        return [
            (slot.label, slot.connection.opened_ns, self._lost_ns.get(slot)) for slot in list(self.subscriptions.slots)
        ]

    @property
    def pending(self) -> bool:
        """Whether more has arrived than `poll` took."""
        return bool(self._inbox)

    @property
    def waiting(self) -> int:
        """Arrivals that `poll` has not taken."""
        return len(self._inbox)

    def start(self, started_ns: int | None = None) -> None:
        """Opens all connections; they subscribe together at a full second. `started_ns`: when recording began."""
        now = self._now()
        self._started_ns = now if started_ns is None else started_ns
        self._begin_ns = next_full_second(now + START_PATIENCE_NS)
        self._pool.start()

    def add(self, requested: Mapping[str, str]) -> None:
        """Has more symbols recorded, each for a reason, from the next full second on."""
        self.subscriptions.add(requested, self._now(), self._begun)

    def remove(self, requested: Mapping[str, str]) -> None:
        """Has symbols no longer recorded, each for a reason, from now on."""
        self.subscriptions.remove(requested, self._now())

    def poll(self) -> list[OrderBook]:
        """Takes in what has arrived, in its order; returns the books that pass. `pending`: whether there is more."""
        snapshots: list[OrderBook] = []
        inbox, frames = self._inbox, 0
        while inbox and len(snapshots) < STEP_SNAPSHOTS and frames < MOST_FRAMES:
            arrival = inbox.popleft()
            try:
                if isinstance(arrival, Frames):
                    frames += len(arrival.payloads)
                    if arrival.size > LARGEST_BOOK:
                        self._drop_large(arrival)
                    self._take(arrival, snapshots)
                elif isinstance(arrival, Opened):
                    self._on_opened(arrival)
                else:
                    self._on_lost(arrival)
            except Exception:  # a bug must not cost what was accepted before it
                log.exception("what a connection brought could not be taken in")
            finally:
                if isinstance(arrival, Frames) and arrival.size:
                    arrival.stream.taken(arrival)
        try:
            self._keep_up(self._now())
        except Exception:
            log.exception("connections and pairs could not be looked after")
        return snapshots

    def _keep_up(self, now: int) -> None:
        """What time demands."""
        if now - self._polled_ns > PAUSED_NS:  # streams are to say first that they were paused too
            self._tick_ns = now + TICK_NS
        self._polled_ns = now
        if not self._begun and now >= self._begin_ns:
            self._begin(now)
        if self._begun and not self._ended:
            self.subscriptions.admit(now)
        if now >= self._tick_ns and not self._ended:
            self._tick_ns = now + TICK_NS
            self._tick(now)

    def watermark(self) -> int:
        """All that was received before this time is in the inbox, or was taken from it; see `loop.py`."""
        return self._pool.watermark(self._now())

    def unsubscribe(self) -> None:
        """Asks the exchange to send nothing more; what is already on the way still arrives."""
        for connection in self._pool.connections.values():
            if connection.subscribed_ns is not None:
                self._pool.request(Method.UNSUBSCRIBE, connection, connection.slot.names)
        self._ended = True

    def unanswered(self) -> bool:
        """Whether an open connection still owes an answer to a request."""
        return self._pool.owes_answers()

    def stop(self, timeout: float) -> None:
        """Closes all connections and waits for their threads, so many seconds at most."""
        self._ended = True
        self._pool.stop(timeout)

    def _begin(self, now: int) -> None:
        self._begun = True
        down = [
            slot for slot in self.subscriptions.slots if all(peer.connection.opened_ns is None for peer in slot.peers)
        ]
        self.monitor.miss_since(self._started_ns, {name for slot in down for name in slot.names})
        self.monitor.begin(now)
        for connection in self._pool.connections.values():
            if connection.opened_ns is not None:
                connection.slot.subscribe(connection, now)

    def _on_opened(self, opened: Opened) -> None:
        connection = self._pool.connections[opened.stream]
        slot = connection.slot
        if slot.closed:
            return
        slot.opened(connection, opened.at_ns)
        self._metrics.connects += 1
        self._metrics.reconnects += slot in self._lost_ns
        log.info("connection %s is open", slot.label)
        self._note(Event(opened.at_ns, "connected", connection=slot.label))
        if self._begun:
            slot.subscribe(connection, self._now())
        elif self.connected == self.connections:
            self._begin_ns = min(self._begin_ns, next_full_second(self._now()))

    def _on_lost(self, lost: Lost) -> None:
        connection = self._pool.connections[lost.stream]
        slot, stood = connection.slot, connection.opened_ns is not None
        self._pool.lost(lost.stream, lost.final)
        if lost.final:
            return
        if self._ended or slot.closed:
            return
        self._metrics.losses += 1
        self._metrics.region_refused |= lost.status == 451
        if not stood:
            self._metrics.failed_attempts += 1
            self._metrics.last_failure = lost.reason
            if slot.failed(lost.reason):
                again = f" (the {slot.failures}. time in a row)" if slot.failures > 1 else ""
                log.warning(
                    "connection %s: attempt failed%s: %s; it is tried again. `ingester doctor` checks the way there",
                    *(slot.label, again, lost.reason),
                )
            return
        log.warning("connection %s lost: %s", slot.label, lost.reason)
        self._note(Event(lost.at_ns, "disconnected", connection=slot.label, detail=lost.reason))
        serving = connection is slot.connection
        slot.lost(connection, lost.at_ns, PROCESS_PAUSED if lost.paused else "")
        if serving and slot.connection is connection:
            self._lost_ns.setdefault(slot, lost.at_ns)

    def _take(self, frames: Frames, snapshots: list[OrderBook]) -> None:
        """Drops the copies among the frames of one read undecoded, and takes in the others in their order."""
        connection, receive_ns = self._pool.connections[frames.stream], frames.receive_ns
        detectors, metrics, peek, ids = self.monitor.detectors, self._metrics, self._peek, connection.ids
        kept: list[bytes] = []
        ahead: set[bytes] | None = set()  # streams with a frame in `kept`; None: there may be one of any stream
        restarts: tuple[int, ...] = ()  # places in `kept` from which the update ids of their stream go on
        for payload in frames.payloads:
            try:
                head = peek(payload)
                if head is None:
                    ahead = None
                elif ahead is not None:
                    name, _, update_id = head
                    detector = detectors.get(name)
                    if detector is not None and update_id <= (last_id := detector.update_id) and name not in ahead:
                        restarted = update_id < last_id and detector.restarted(update_id, connection, ids.get(name, -1))
                        ids[name] = update_id
                        if not restarted:  # most copies end here, not decoded
                            metrics.copies += 1
                            if detector.found is not None:
                                self.monitor.record_found(detector)
                            continue
                        restarts += (len(kept),)
                    ahead.add(name)
                kept.append(payload)
            except Exception as error:
                self._lose(payload, connection, receive_ns, error)
        if not kept:
            return
        messages: Sequence[Message | None]
        try:
            messages = self._decode(kept)
            if len(messages) != len(kept):
                raise ValueError(f"{len(kept)} frames became {len(messages)} messages")
        except Exception:
            messages = [self._decode_one(each, connection, receive_ns) for each in kept]
        for place, book in enumerate(messages):
            try:
                if not isinstance(book, Book):
                    if book is not None:
                        self._answer(book, connection, receive_ns, kept[place])
                    continue
                name, update_id = book.stream, book.update_id
                detector = detectors.get(name)
                if detector is None:
                    if name not in connection.unsubscribing:  # else it was on its way when the pair went
                        stream = name.decode(errors="replace")
                        self._quarantine(connection, receive_ns, f"a stream nobody asked for: {stream}")
                    continue
                before_id, last_id = ids.get(name, -1), detector.update_id
                ids[name] = update_id
                if update_id <= last_id:
                    if place not in restarts and (
                        update_id == last_id or not detector.restarted(update_id, connection, before_id)
                    ):
                        metrics.copies += 1
                        if detector.found is not None:
                            self.monitor.record_found(detector)
                        continue
                elif update_id >= detector.ceiling:
                    if detector.outdated(update_id, connection, before_id, receive_ns):
                        metrics.copies += 1
                        continue
                    if detector.held(update_id):
                        detector.quarantine(None)
                        reason = f"update id {update_id} after {last_id}"
                        self._quarantine(connection, receive_ns, reason, detector.symbol)
                        continue
                bids, asks = book.bids, book.asks
                if bids and asks and bids[0][0] >= asks[0][0]:
                    detector.quarantine(update_id)
                    reason = f"crossed: {bids[0]} {asks[0]}"
                    self._quarantine(connection, receive_ns, reason, detector.symbol)
                    continue
                if update_id < last_id:
                    self.monitor.restarted(detector, update_id, receive_ns)
                    last_id = detector.update_id
                last_ns = detector.receive_ns
                gap = detector.accept(receive_ns, update_id)
                if gap is not None:
                    self.monitor.record(gap, detector)
                if before_id != last_id:
                    detector.out_of_turn(before_id, last_ns, gap)
                if (detector.count - 1) % self._keep_every:
                    metrics.skipped += 1
                    continue
                metrics.snapshots += 1
                snapshots.append(
                    make_book((detector.symbol, detector.receive_ns, update_id, bids, asks, book.event_ns))
                )
            except Exception as error:
                self._lose(kept[place], connection, receive_ns, error)

    def _decode_one(self, payload: bytes, connection: Connection, receive_ns: int) -> Message | None:
        """What a frame says; None where a bug has cost it."""
        try:
            return self._decode([payload])[0]
        except Exception as error:
            self._lose(payload, connection, receive_ns, error)
            return None

    def _lose(self, payload: bytes, connection: Connection, receive_ns: int, error: Exception) -> None:
        """A bug cost this frame; the others of the read go on."""
        log.error("connection %s: a frame could not be taken in", connection.slot.label, exc_info=error)
        self.monitor.lose(payload, connection.slot.names)
        self._quarantine(connection, receive_ns, f"{type(error).__name__}: {error}")

    def _drop_large(self, frames: Frames) -> None:
        """Quarantines what is too large for a book."""
        connection = self._pool.connections[frames.stream]
        for payload in [each for each in frames.payloads if len(each) > LARGEST_BOOK]:
            frames.payloads.remove(payload)
            what = Malformed(f"a frame of {len(payload)} bytes, where a book has some thousand", payload)
            self._answer(what, connection, frames.receive_ns, payload)

    def _answer(self, message: Message, connection: Connection, receive_ns: int, payload: bytes) -> None:
        label = connection.slot.label
        if isinstance(message, Acknowledged):
            self._pool.answered(message.id)
            connection.acknowledged(message.id, receive_ns)
        elif isinstance(message, Refused):
            self._metrics.refused += 1
            if message.id is not None:
                self._pool.answered(message.id)
            if (held := self._refusals.take()) is not None:
                more = f" ({held:,} more before it)" if held else ""
                detail = f"{message.code} {message.message[:LONGEST_DETAIL]}{more}"
                log.error("connection %s: the exchange refused a request: %s", label, detail)
                self._note(Event(receive_ns, "refused", connection=label, detail=detail))
        elif isinstance(message, ShuttingDown):
            if not connection.shutting_down:
                connection.shutting_down = True
                log.warning("connection %s: the exchange announces its shutdown", label)
                self._note(Event(receive_ns, "exchange_shutdown", connection=label))
                connection.slot.shutdown_announced(connection, receive_ns)
        elif isinstance(message, Malformed):
            names = connection.slot.names if connection.garbled < GARBLED_PER_TICK else ()
            connection.garbled += not self.monitor.suspect(payload, names)
            self._quarantine(connection, receive_ns, message.reason)

    def _quarantine(self, connection: Connection, receive_ns: int, reason: str, symbol: str = "") -> None:
        metrics, label, reason = self._metrics, connection.slot.label, reason[:LONGEST_DETAIL]
        metrics.malformed += 1
        if metrics.malformed & (metrics.malformed - 1) == 0:  # at 1, 2, 4, 8, … so that a bad day does not fill the log
            log.warning("connection %s: frame not stored (the %d.): %s %s", label, metrics.malformed, symbol, reason)
            self._note(Event(receive_ns, "quarantined", symbol, label, reason))

    def _tick(self, now: int) -> None:
        for slot in self.subscriptions.tick():
            self._lost_ns.pop(slot, None)
        for slot in self.subscriptions.slots:
            slot.tick(now)
        suspects = any(True for slot in self.subscriptions.slots for _ in slot.suspects())
        self.monitor.tick(now, self._begun and now > self._begin_ns + STALE_AFTER_NS, suspects)
        for slot in [slot for slot in self._lost_ns if slot.connection.ids]:
            after = (now - self._lost_ns.pop(slot)) / SECOND
            log.warning("connection %s delivers again after %.1f s", slot.label, after)
