"""The feed thread: one thread that owns the feed, takes in what has arrived and hands it on to a sink.

A grid row at time t can be made when everything received up to t is in: that time is the watermark. A connection's
thread publishes since when it has been reading (`WebSocketThread.reading_ns`), stamps after the read, and clears it
after the frames are in the inbox. The feed thread takes the time, looks at all connections, and empties the inbox. Then
everything that was stamped before that time, or before the start of a read that was in progress, is in:
`Sink.watermark`.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from functools import partial
from typing import Protocol

from ingester.book import OrderBook
from ingester.clock import SECOND, Clock
from ingester.config import Settings
from ingester.connection import AttemptLimit, ConnectionPool, FeedConfig, FeedContext, WebSocketThread
from ingester.events import Event
from ingester.feed.feed import Feed
from ingester.metrics import FeedMetrics
from ingester.sequence import SequenceMonitor, StatusInquiry
from ingester.text import counted
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.1
"""So often the feed thread looks after the clock where nothing arrives."""
MOST_PORTIONS = 1000
LOOK_SECONDS, MOST_LOOKS = 0.0002, 20
"""In a burst, the feed thread looks so often, so many times at most, whether more arrives in the inbox."""
STEP_SECONDS = 0.2
"""After so long the feed thread looks whether it is to stop, however much is left."""
GOODBYE_SECONDS, CLOSE_SECONDS = 1.0, 0.4
"""How long to wait for the exchange to confirm an unsubscription, and for the connections to close."""
END_SECONDS = 1.6
"""Within so long all that has arrived is taken in at the end. Only a flood takes longer; then the rest is a gap."""


class Sink(Protocol):
    """Where the feed thread brings things; all calls come from its thread."""

    def take(self, snapshots: list[OrderBook]) -> None:
        """Snapshots that passed, in the order of arrival; never none."""

    def note(self, events: list[Event]) -> bool:
        """What has happened; False where there is no room for it now, so that it comes again."""

    def changed(self, added: Collection[str], removed: Collection[str]) -> None:
        """Symbols come and go from now on."""

    def watermark(self, until_ns: int) -> None:
        """All that was received before `until_ns` has been taken."""

    def tick(self, now: int) -> None:
        """About once a second."""


class FeedLoop:
    """Feed, continuity and feed thread of one recording. All state of the feed belongs to the feed thread."""

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        clock: Clock,
        metrics: FeedMetrics,
        limit: AttemptLimit,
        batch_delay_seconds: float,
    ) -> None:
        """`batch_delay_seconds`: after something arrived, the feed thread waits so long for more;
        waking up costs more than decoding a frame."""
        self.settings = settings
        self._sink = sink
        self._clock = clock
        self._metrics = metrics
        self._batch_delay = batch_delay_seconds
        self._events: deque[Event] = deque()  # other threads add to it, only the feed thread takes
        self._changes: deque[tuple[Mapping[str, str], Mapping[str, str]]] = deque()  # other threads add to it
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._tick_ns = 0  # when the next look at the clock is due
        context = FeedContext(clock.now, self._events.append, metrics)
        config = FeedConfig(
            venue=settings.exchange,
            connections_per_pair=settings.connections,
            keep_every=settings.interval_ms // settings.streams.interval_ms,
            life_ns=lambda: int(settings.rotate_seconds * random.uniform(0.9, 1.0) * SECOND),  # not all at once
        )
        make_stream = partial(
            WebSocketThread, venue=settings.exchange, arrived=self._arrived.set, now=clock.now, limit=limit
        )
        self.monitor = SequenceMonitor(
            settings.symbols, settings.streams, note=self._events.append, inquiry=StatusInquiry(settings.exchange)
        )
        self.feed = Feed(
            monitor=self.monitor,
            pool=ConnectionPool(settings.exchange, make_stream),
            config=config,
            context=context,
        )
        self._thread = SupervisedThread(self._run, "feed", self._stopping)

    def start(self, at_ns: int) -> None:
        """Starts recording, which begins at `at_ns` by the events."""
        chosen = self.settings
        pairs = counted(len(chosen.symbols), "pair")
        what = f"{pairs}, depth {chosen.depth}, {chosen.interval_ms} ms, {chosen.exchange.name}"
        self.note(Event(at_ns, "started", detail=what))
        self.feed.start(at_ns)
        self._thread.start()

    def stop(self) -> None:
        """Unsubscribes, takes what is on the way, and ends."""
        self._stopping.set()
        self._arrived.set()
        self._thread.join()

    def note(self, event: Event) -> None:
        """Something happened. May be called from any thread."""
        self._events.append(event)

    def change(self, added: Mapping[str, str], removed: Mapping[str, str]) -> None:
        """Has symbols recorded from the next full second on, others no longer, each for a reason. From any thread."""
        self._changes.append((added, removed))

    def wake(self) -> None:
        """Has the feed thread look at once how far it is. May be called from any thread."""
        self._arrived.set()

    def record_events(self) -> None:
        """Hands on what has happened. For the feed thread, and for the end after it."""
        if self._events:
            events = [self._events.popleft() for _ in range(len(self._events))]
            if not self._sink.note(events):
                self._events.extendleft(reversed(events))  # for when there is room

    def _run(self) -> None:
        arrived, stopping = self._arrived, self._stopping
        while not stopping.is_set():
            if arrived.wait(IDLE_SECONDS):
                if self._batch_delay:
                    stopping.wait(self._batch_delay)
                arrived.clear()
            self._step()
        ended_ns = self._clock.now()  # what does not come after this was not asked for
        self.feed.unsubscribe()
        begun = time.monotonic()
        patience = begun + GOODBYE_SECONDS
        while self.feed.unanswered() and time.monotonic() < patience:
            arrived.wait(0.02)
            arrived.clear()
            self._step()
        self.feed.stop(CLOSE_SECONDS)
        self._step()
        while self.feed.pending and time.monotonic() < begun + END_SECONDS:
            self._step()
        at_ns = ended_ns
        if self.feed.pending:
            log.warning("%d reads that arrived before the end could not be taken in any more", self.feed.waiting)
            self.monitor.miss_all()
            at_ns = self._clock.now()
        self.monitor.close(at_ns)
        now = self._clock.now()
        self.note(Event(now, "stopped", detail=f"{self._metrics.snapshots} rows received"))
        if not self.feed.pending:  # else a book of what is left would come after its gap
            self._step()
        self.record_events()

    def _step(self) -> None:
        """Takes in what has arrived, in small portions; comes back in between, however much there is."""
        until_ns, ends = self.feed.watermark(), time.monotonic() + STEP_SECONDS
        for number in range(MOST_PORTIONS):
            if number == 1 and not self._batch_delay:
                self._let_streams_read()
            self._take_portion()
            if not self.feed.pending:
                self._sink.watermark(until_ns)
                return
            if time.monotonic() > ends:
                self._arrived.set()
                return

    def _let_streams_read(self) -> None:
        """In a burst, all that is in the sockets is stamped first: decoding would hold up the stamps of the rest."""
        for _ in range(MOST_LOOKS):
            waiting = self.feed.waiting
            time.sleep(LOOK_SECONDS)
            if self.feed.waiting == waiting:
                return

    def _take_portion(self) -> None:
        try:
            self._follow_changes()
            self._hand_on(self.feed.poll())
            self._tick()
            self.record_events()
        except Exception:  # a bug must not end the recording: say it and go on with the next arrival
            log.exception("what arrived could not be taken in")

    def _hand_on(self, snapshots: list[OrderBook]) -> None:
        if not snapshots:
            return
        try:
            self._sink.take(snapshots)
        except Exception:
            log.exception("%d books could not be handed on", len(snapshots))
            self.monitor.not_taken_in(snapshots)

    def _follow_changes(self) -> None:
        while self._changes:
            added, removed = self._changes.popleft()
            self.feed.remove(removed)
            self._sink.changed(added.keys(), removed.keys())
            self.feed.add(added)

    def _tick(self) -> None:
        """What time demands, once a second."""
        now = self._clock.now()
        if now < self._tick_ns:
            return
        self._tick_ns = now + SECOND
        self._sink.tick(now)
        step = self._clock.follow()
        if leapt := self._clock.leapt_ns:
            log.warning("the wall clock is %.3f s ahead; receive times follow it at once", leapt / SECOND)
            self.note(Event(now, "clock_step", detail=f"{leapt / SECOND:+.3f} s, followed at once"))
            self.monitor.clock_set(now + leapt)
        elif step:
            log.warning("the wall clock was set by %+.3f s; receive times follow it slowly", step / SECOND)
            self.note(Event(now, "clock_step", detail=f"{step / SECOND:+.3f} s"))
