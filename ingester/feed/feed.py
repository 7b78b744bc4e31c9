"""All connections together: subscribes, decodes what comes, lets each snapshot pass once.

Everything here runs in the pump's thread, so nothing needs a lock. `track.py` has the rule by which snapshots pass and
what counts as a gap, `link.py` how connections are watched and replaced, `roster.py` which pairs they carry.

What is not stored is quarantined: a frame that is no book, a crossed book, a book of a stream nobody asked for. It is
counted, it is an event, it never ends a thread, and its symbol has a gap unless a sound copy comes. Thin and empty
books are stored: halted pairs have them.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import length_hint

from ingester.book import Snapshot
from ingester.clock import PAUSED_NS, SECOND, Now, next_full_second
from ingester.connection.connection import Leg
from ingester.connection.slot import SILENT_NS, Link
from ingester.connection.subscriptions import Roster
from ingester.connection.websocket import Arrival, Frames, Lost, Opened, Stream
from ingester.events import PROCESS_PAUSED, Event
from ingester.exchange import binance_spot
from ingester.metrics import FeedMetrics
from ingester.sequence.gap_detector import Track
from ingester.sequence.monitor import Continuity

log = logging.getLogger(__name__)

STEP_SNAPSHOTS = 100
"""So many are decoded, then encoded, at a time: fewer objects in flight than the processor's cache holds."""
START_PATIENCE_NS = 5 * SECOND
"""How long the first subscriptions wait for all connections to stand, so that all pairs begin at the same second."""
TICK_NS = SECOND
"""How often connections and symbols are looked after."""
MOST_FRAMES = 2_000
"""After so many, which need not be books, others have their turn: a flood holds up nothing else."""
LARGEST_BOOK = 1 << 16
"""Bytes; the largest that Binance sends has about 2 kB. A larger frame is none, and decoding it would take time."""
REFUSALS_TOLD = 20
"""So many error answers of a connection are told one by one; then the 32nd, 64th, 128th, …"""
LONGEST_DETAIL = 200
"""Characters of what the exchange says that go on record."""
GARBLED_PER_TICK = 20
"""A frame of an unknown symbol puts all symbols of its connection in doubt; of a flood of them only the first do."""


MakeStream = Callable[[str, deque[Arrival]], Stream]


class Feed:
    """Keeps all pairs flowing. `poll` gives what has arrived since the last call."""

    def __init__(
        self,
        continuity: Continuity,
        keep_every: int,
        copies: int,
        life_ns: Callable[[], int],
        make_stream: MakeStream,
        now: Now,
        metrics: FeedMetrics,
        on_event: Callable[[Event], None],
    ) -> None:
        """`keep_every`: keep each k-th snapshot of a symbol. `copies`: connections that receive the same pairs.

        `life_ns`: how old a connection may become, in ns.
        """
        self._keep_every = keep_every
        self._make_stream = make_stream
        self._now = now
        self._metrics = metrics
        self._on_event = on_event
        self.continuity = continuity
        self._inbox: deque[Arrival] = deque()
        self._requests = 0  # ids given to requests so far
        self._asked: dict[int, Stream] = {}  # requests not yet answered
        self._begun = False  # whether the common first second has come
        self._started_ns = 0
        self._begin_ns = 0  # when the first subscriptions go out, once known
        self._ended = False
        self._tick_ns = 0  # when the next look after connections and symbols is due
        self._polled_ns = now()  # when `poll` was last called
        self._lost_ns: dict[Link, int] = {}  # links that deliver nothing, since when
        self._legs: dict[Stream, Leg] = {}

        def make_link(label: str, names: list[bytes], twins: list[Link]) -> Link:
            tracks = continuity.tracks
            return Link(label, names, twins, tracks, self._open_leg, self._request, life_ns, metrics, on_event)

        self._roster = Roster(continuity, copies, make_link, self._legs.values)

    @property
    def connected(self) -> int:
        """Connections that stand now."""
        return sum(link.leg.opened_ns is not None for link in self._roster.links)

    @property
    def connections(self) -> int:
        """Connections there should be."""
        return len(self._roster.links)

    @property
    def pairs(self) -> int:
        """Pairs that are recorded now."""
        return len(self.continuity.tracks)

    def connection_states(self) -> list[tuple[str, int | None, int | None]]:
        """Of each connection its label, since when it stands and since when it delivers nothing (ns); any thread."""
        return [(link.label, link.leg.opened_ns, self._lost_ns.get(link)) for link in list(self._roster.links)]

    @property
    def pending(self) -> bool:
        """Whether more has arrived than `poll` took."""
        return bool(self._inbox)

    @property
    def waiting(self) -> int:
        """Arrivals that `poll` has not taken."""
        return len(self._inbox)

    def start(self) -> None:
        """Opens all connections; they subscribe together at a full second."""
        self._started_ns = self._now()
        self._begin_ns = next_full_second(self._started_ns + START_PATIENCE_NS)
        for stream in self._legs:
            stream.start()

    def add(self, wishes: Mapping[str, str]) -> None:
        """Has more symbols recorded, each for a reason, from the next full second on."""
        self._roster.add(wishes, self._now(), self._begun)

    def remove(self, wishes: Mapping[str, str]) -> None:
        """Has symbols no longer recorded, each for a reason, from now on."""
        self._roster.remove(wishes, self._now())

    def poll(self) -> list[Snapshot]:
        """Takes what has arrived, in its order, and gives the snapshots that pass; `pending` tells of more."""
        snapshots: list[Snapshot] = []
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
            self._roster.admit(now)
        if now >= self._tick_ns and not self._ended:
            self._tick_ns = now + TICK_NS
            self._tick(now)

    def complete_until(self) -> int:
        """All that was received before this time is in the inbox, or was taken from it. See `Intake`."""
        now = self._now()
        return min((stream.reading_ns or now for stream in self._legs), default=now)

    def unsubscribe(self) -> None:
        """Asks the exchange to send nothing more; what is already on the way still arrives."""
        for leg in self._legs.values():
            if leg.subscribed_ns is not None:
                self._request("UNSUBSCRIBE", leg.stream, leg.link.names)
        self._ended = True

    def unanswered(self) -> bool:
        """Whether a standing connection still owes an answer to a request."""
        standing = {leg.stream for leg in self._legs.values() if leg.opened_ns is not None}
        return any(stream in standing for stream in self._asked.values())

    def stop(self, timeout: float) -> None:
        """Closes all connections, waits for their threads, and records the gaps that are not over."""
        self._ended = True
        streams = list(self._legs)
        for stream in streams:
            stream.stop()
        ends = time.monotonic() + timeout
        for stream in streams:
            stream.join(max(0.0, ends - time.monotonic()))

    def _open_leg(self, link: Link) -> Leg:
        stream = self._make_stream(link.label, self._inbox)
        self._legs[stream] = leg = Leg(link, stream)
        if self._begin_ns:  # else `start` does it
            stream.start()
        return leg

    def _request(self, method: str, stream: Stream, names: Sequence[bytes]) -> dict[bytes, int]:
        texts = [name.decode() for name in names]
        first, last = self._requests + 1, self._requests
        for last, text in binance_spot.requests(method, texts, first):
            self._asked[last] = stream
            stream.send(text)
        self._requests = last
        return {name: first + place // binance_spot.STREAMS_PER_REQUEST for place, name in enumerate(names)}

    def _begin(self, now: int) -> None:
        self._begun = True
        down = [link for link in self._roster.links if all(twin.leg.opened_ns is None for twin in link.twins)]
        self.continuity.miss_since(self._started_ns, {name for link in down for name in link.names})
        self.continuity.begin(now)
        for leg in self._legs.values():
            if leg.opened_ns is not None:
                leg.link.subscribe(leg, now)

    def _on_opened(self, opened: Opened) -> None:
        leg = self._legs[opened.stream]
        link = leg.link
        if link.closed:
            return
        link.opened(leg, opened.at_ns)
        self._metrics.connects += 1
        self._metrics.reconnects += link in self._lost_ns
        log.info("connection %s stands", link.label)
        self._on_event(Event(opened.at_ns, "connected", connection=link.label))
        if self._begun:
            link.subscribe(leg, self._now())
        elif self.connected == self.connections:
            self._begin_ns = min(self._begin_ns, next_full_second(self._now()))

    def _on_lost(self, lost: Lost) -> None:
        leg = self._legs[lost.stream]
        link, stood = leg.link, leg.opened_ns is not None
        self._asked = {request: asked for request, asked in self._asked.items() if asked is not lost.stream}
        if lost.final:
            del self._legs[lost.stream]
            return
        if self._ended or link.closed:
            return
        self._metrics.losses += 1
        self._metrics.region_refused |= lost.status == 451
        if not stood:
            self._metrics.failed_attempts += 1
            self._metrics.last_failure = lost.reason
            if link.failed(lost.reason):
                again = f" (the {link.failures}. time in a row)" if link.failures > 1 else ""
                log.warning(
                    "connection %s: attempt failed%s: %s; it is tried again. `ingester doctor` checks the way there",
                    *(link.label, again, lost.reason),
                )
            return
        log.warning("connection %s lost: %s", link.label, lost.reason)
        self._on_event(Event(lost.at_ns, "disconnected", connection=link.label, detail=lost.reason))
        serving = leg is link.leg
        link.lost(leg, lost.at_ns, PROCESS_PAUSED if lost.paused else "")
        if serving and link.leg is leg:
            self._lost_ns.setdefault(link, lost.at_ns)

    def _take(self, frames: Frames, snapshots: list[Snapshot]) -> None:
        leg, payloads = self._legs[frames.stream], iter(frames.payloads)
        while True:
            try:
                self._take_all(payloads, leg, frames.receive_ns, snapshots)
                return
            except Exception as error:  # a bug; it costs one frame, and the others of this read go on
                log.exception("connection %s: a frame could not be taken in", leg.link.label)
                payload = frames.payloads[-1 - length_hint(payloads)]
                self.continuity.lose(payload, leg.link.names)
                self._quarantine(leg, frames.receive_ns, f"{type(error).__name__}: {error}")

    def _take_all(self, payloads: Iterator[bytes], leg: Leg, receive_ns: int, snapshots: list[Snapshot]) -> None:
        tracks, metrics, head_of = self.continuity.tracks, self._metrics, binance_spot.head
        ids = leg.ids
        for payload in payloads:
            head = head_of(payload)
            restarts = False
            if head is not None:
                name, update_id = head[1], int(head[2])
                track = tracks.get(name)
                if track is not None and update_id <= track.update_id:  # most copies end here, not decoded
                    restarts = update_id < track.update_id and track.restarted(update_id, leg, ids.get(name, -1))
                    ids[name] = update_id
                    if not restarts:
                        self._drop(track, update_id)
                        continue
            message = binance_spot.decode(payload)
            if not isinstance(message, binance_spot.Book):
                self._answer(message, leg, receive_ns, payload)
                continue
            name = message.stream.encode()
            track = tracks.get(name)
            if track is None:
                if name in leg.parted:  # was on its way when the pair went
                    continue
                self._quarantine(leg, receive_ns, f"a stream nobody asked for: {message.stream}")
                continue
            partial = message.data
            update_id = partial.update_id
            before_id = ids.get(name, -1)
            ids[name] = update_id
            if update_id <= track.update_id:
                if not restarts and (update_id == track.update_id or not track.restarted(update_id, leg, before_id)):
                    self._drop(track, update_id)
                    continue
            elif update_id >= track.ceiling and track.held(update_id):
                track.quarantine(None)
                self._quarantine(leg, receive_ns, f"update id {update_id} after {track.update_id}", track.symbol)
                continue
            if binance_spot.is_crossed(partial):
                track.quarantine(update_id)
                self._quarantine(leg, receive_ns, f"crossed: {partial.bids[0]} {partial.asks[0]}", track.symbol)
                continue
            if update_id < track.update_id:
                self.continuity.restarted(track, update_id, receive_ns)
            before_ns = track.receive_ns
            gap = track.accept(receive_ns, update_id)
            if gap is not None:
                self.continuity.record(gap, track)
            elif before_id < 0 and track.count > 1:
                track.join(before_ns)
            if (track.count - 1) % self._keep_every:
                metrics.skipped += 1
                continue
            metrics.snapshots += 1
            snapshots.append(Snapshot(track.symbol, track.receive_ns, update_id, partial.bids, partial.asks))

    def _drop_large(self, frames: Frames) -> None:
        """Quarantines what is too large for a book."""
        leg = self._legs[frames.stream]
        for payload in [each for each in frames.payloads if len(each) > LARGEST_BOOK]:
            frames.payloads.remove(payload)
            what = binance_spot.Malformed(f"a frame of {len(payload)} bytes, where a book has some thousand", payload)
            self._answer(what, leg, frames.receive_ns, payload)

    def _drop(self, track: Track, update_id: int) -> None:
        """A copy, or one that comes too late."""
        self._metrics.copies += 1
        if update_id < track.joint_id and (gap := track.late(update_id)):
            self.continuity.record(gap, track)

    def _answer(self, message: binance_spot.Message, leg: Leg, receive_ns: int, payload: bytes) -> None:
        label = leg.link.label
        if isinstance(message, binance_spot.Acknowledged):
            self._asked.pop(message.id, None)
            leg.acknowledged(message.id, receive_ns)
        elif isinstance(message, binance_spot.Refused):
            self._metrics.refused += 1
            leg.refusals += 1
            if message.id is not None:
                self._asked.pop(message.id, None)
            if leg.refusals <= REFUSALS_TOLD or leg.refusals & (leg.refusals - 1) == 0:
                detail = f"{message.code} {message.message[:LONGEST_DETAIL]}"
                log.error("connection %s: the exchange refused a request: %s", label, detail)
                self._on_event(Event(receive_ns, "refused", connection=label, detail=detail))
        elif isinstance(message, binance_spot.ShuttingDown):
            if not leg.shutting_down:
                leg.shutting_down = True
                log.warning("connection %s: the exchange announces its shutdown", label)
                self._on_event(Event(receive_ns, "exchange_shutdown", connection=label))
                leg.link.shutdown_announced(leg, receive_ns)
        elif isinstance(message, binance_spot.Malformed):
            names = leg.link.names if leg.garbled < GARBLED_PER_TICK else ()
            leg.garbled += not self.continuity.doubt(payload, names)
            self._quarantine(leg, receive_ns, message.reason)

    def _quarantine(self, leg: Leg, receive_ns: int, reason: str, symbol: str = "") -> None:
        metrics, label, reason = self._metrics, leg.link.label, reason[:LONGEST_DETAIL]
        metrics.malformed += 1
        if metrics.malformed & (metrics.malformed - 1) == 0:  # at 1, 2, 4, 8, … so that a bad day does not fill the log
            log.warning("connection %s: frame not stored (the %d.): %s %s", label, metrics.malformed, symbol, reason)
            self._on_event(Event(receive_ns, "quarantined", symbol, label, reason))

    def _tick(self, now: int) -> None:
        for link in self._roster.tick():
            self._lost_ns.pop(link, None)
        for link in self._roster.links:
            link.tick(now)
        doubtful = any(True for link in self._roster.links for _ in link.doubtful())
        self.continuity.tick(now, self._begun and now > self._begin_ns + SILENT_NS, doubtful)
        for link in [link for link in self._lost_ns if link.leg.ids]:
            after = (now - self._lost_ns.pop(link)) / SECOND
            log.warning("connection %s delivers again after %.1f s", link.label, after)
