"""One running recorder: wires feed, spool and writer, and brings them to an orderly end."""

import gc
import logging
import random
import threading
import time
from collections import deque
from pathlib import Path

from ingester.capture.continuity import Continuity
from ingester.capture.feed import Feed
from ingester.capture.stream import Arrival, AttemptLimit, Stream
from ingester.capture.track import Gap
from ingester.clock import SECOND, Clock
from ingester.errors import ExchangeError
from ingester.events import SPOOL_DAMAGED, SPOOL_FULL, Event
from ingester.exchange import binance
from ingester.exchange.pairs import fetch_listings
from ingester.metrics import Metrics
from ingester.settings import Settings
from ingester.snapshot import Snapshot
from ingester.store import schema
from ingester.store.audit import Auditor
from ingester.store.dead_letters import DeadLetters
from ingester.store.endpoint import Endpoint
from ingester.store.questdb import QuestDB
from ingester.store.rows import RowEncoder
from ingester.store.segment import Hole
from ingester.store.spool import Spool
from ingester.store.tally import Tally
from ingester.store.writer import Writer

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.05
"""After something arrived, the pump waits this long for more: waking up costs more than decoding a frame.

What came in meanwhile is what a kill -9 loses.
"""
MOST_PORTIONS = 1000
GOODBYE_SECONDS = 2.0
"""How long to wait for the exchange to confirm an unsubscription."""
DRAIN_SECONDS = 10.0
"""How long the end waits for QuestDB; what it has not taken by then waits in the spool for the next start."""

COLLECT_NS = 30 * SECOND
"""Failed requests leave cycles that hold what was to be sent; collections by the count of objects come too seldom."""
AUDIT_SECONDS = 10.0
"""How long the end waits for QuestDB to show everything that was sent."""


def spool_folder(data_dir: Path, collector: str) -> Path:
    """Where the rows of a recorder wait."""
    return data_dir / "spool" / collector


class Collector:
    """Records until `stop`. All state of the feed belongs to the pump thread."""

    def __init__(self, settings: Settings, db: QuestDB, data_dir: Path) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._db = db
        self.clock = Clock()
        self.started_ns = self.clock.now()
        self.spool = Spool(spool_folder(data_dir, settings.collector), audited=True)
        self._events: deque[Event] = deque()  # other threads add to it, only the pump takes
        self._encoder = RowEncoder(settings.depth, settings.collector)
        self._tally = Tally()
        self._writer = Writer(
            db,
            self.spool,
            self.clock.now,
            self.metrics.store,
            lambda: schema.ensure(db, settings.depth),
            DeadLetters(data_dir / "dead-letter" / settings.collector),
            self._events.append,
            tally=self._tally,
        )
        self._auditor = Auditor(
            db, self.spool, settings.collector, self._tally, self.clock.now, self.metrics.store, self._events.append
        )
        self._limit = AttemptLimit(time.monotonic)
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._refused: dict[str, int] = {}  # symbols whose rows the spool refuses, since when
        self._collect_ns = 0  # when garbage is to be collected
        self._tick_ns = 0  # when the next look at clock and spool is due
        self._continuity = Continuity(
            settings.symbols, settings.depth, self.metrics.feed, self._events.append, self._ask
        )
        self.feed = Feed(
            self._continuity,
            settings.interval_ms // binance.INTERVAL_MS,
            settings.connections,
            lambda: int(settings.rotate_seconds * random.uniform(0.9, 1.0) * SECOND),  # not all at once
            self._make_stream,
            self.clock.now,
            self.metrics.feed,
            self._events.append,
        )
        self._pump = threading.Thread(target=self._run, name="pump", daemon=True)

    def start(self) -> None:
        """Starts recording, and sends first what an earlier run left in the spool.

        Raises SpoolError where another recorder of this name uses the data folder.
        """
        recovery = self.spool.open()
        if recovery.last_ns is not None:
            self._continuity.resume(recovery.last_ns)
        if recovery.rows_waiting:
            log.info("%d rows of an earlier run wait in the spool; they are sent first", recovery.rows_waiting)
        if recovery.cut:
            log.warning("%d bytes of the spool were unreadable and are set aside", recovery.cut_bytes)
        for hole in recovery.holes:
            self._record_hole(hole)
        # What exists now stays; of what follows nearly everything dies at once, so that looking often is in vain.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        chosen = self.settings
        what = f"{len(chosen.symbols)} pairs, depth {chosen.depth}, {chosen.interval_ms} ms, {chosen.exchange.name}"
        self._events.append(Event(self.started_ns, "started", detail=what))
        self._writer.start()
        self._auditor.start()
        self.feed.start()
        self._pump.start()

    def server_restarted(self, endpoint: Endpoint) -> None:
        """Puts on record that the managed server died and was started again, perhaps at another port."""
        self._db.endpoint = endpoint
        self.metrics.server_restarts += 1
        self._events.append(Event(self.clock.now(), "server_restarted"))

    def note(self, event: Event) -> None:
        """Puts something on record that happened beside the recording."""
        self._events.append(event)

    def summary(self) -> str:
        """What was recorded, in one line."""
        feed, store = self.metrics.feed, self.metrics.store
        lasted = (self.clock.now() - self.started_ns) / SECOND
        waiting = self.spool.rows_waiting
        return (
            f"recorded {len(self.settings.symbols)} pairs for {lasted:.0f} s: {store.stored:,} rows stored, "
            f"{waiting:,} in the spool, {feed.rotations} connections replaced, {feed.reconnects} lost and back, "
            f"{feed.gaps} gaps{': the last ' + feed.last_gap if feed.gaps else ''}"
        )

    def stop(self) -> bool:
        """Unsubscribes, takes what is on the way, stores all; False where some was not seen in the table.

        That is in the spool, for the next start to send or to look for.
        """
        self._stopping.set()
        self._arrived.set()
        self._pump.join()
        drained = self._writer.drain(DRAIN_SECONDS)
        seen = self._auditor.stop(AUDIT_SECONDS if drained else 0.0)
        self._record_events()
        self.spool.close()
        return drained and seen

    def _make_stream(self, name: str, inbox: deque[Arrival]) -> Stream:
        url = binance.combined_url(self.settings.exchange.stream_url)
        return Stream(name, url, inbox, self._arrived.set, self.clock.now, self._limit)

    def _run(self) -> None:
        arrived, stopping = self._arrived, self._stopping
        while not stopping.is_set():
            if arrived.wait(0.1):
                stopping.wait(LINGER_SECONDS)
                arrived.clear()
            self._step()
        self.feed.unsubscribe()
        patience = time.monotonic() + GOODBYE_SECONDS
        while self.feed.unanswered() and time.monotonic() < patience:
            arrived.wait(0.02)
            arrived.clear()
            self._step()
        self.feed.stop(GOODBYE_SECONDS)
        self._step()
        while self.feed.pending:
            self._step()
        now = self.clock.now()
        self._continuity.close(now)
        self._events.append(Event(now, "stopped", detail=f"{self.metrics.feed.snapshots} rows received"))
        self._step()

    def _step(self) -> None:
        """Takes in what has arrived, in small portions; comes back in between, however much there is."""
        for _ in range(MOST_PORTIONS):
            self._take_portion()
            if not self.feed.pending:
                return

    def _take_portion(self) -> None:
        try:
            self._take_in(self.feed.poll())
        except Exception:  # a bug must not end the recording: say it and go on with the next arrival
            log.exception("what arrived could not be taken in")

    def _take_in(self, snapshots: list[Snapshot]) -> None:
        if snapshots:
            self._store(snapshots)
        self._tick()
        self._record_events()

    def _record_events(self) -> None:
        if self._events:
            events = [self._events.popleft() for _ in range(len(self._events))]
            now = self.clock.now()
            if not self.spool.append(self._encoder.events(events), 0, now, now):
                self._events.extendleft(reversed(events))  # for when there is room

    def _tick(self) -> None:
        """What time demands, once a second."""
        now = self.clock.now()
        if now < self._tick_ns:
            return
        self._tick_ns = now + SECOND
        if now >= self._collect_ns:
            self._collect_ns = now + COLLECT_NS
            gc.collect()
        for hole in self.spool.take_holes():
            self._record_hole(hole)
        if step := self.clock.follow():
            log.warning("the wall clock was set by %+.3f s; receive times follow it slowly", step / SECOND)
            self._events.append(Event(now, "clock_step", detail=f"{step / SECOND:+.3f} s"))

    def _record_hole(self, hole: Hole) -> None:
        """Rows of any symbols were in the spool and cannot be read back."""
        detail = f"{SPOOL_DAMAGED}: {hole.rows} rows" if hole.rows else SPOOL_DAMAGED
        self._events.append(Event(hole.since_ns, "gap", detail=detail, until_ns=hole.until_ns))

    def _ask(self) -> None:
        """Asks the exchange which symbols trade, in a thread of its own: nothing here waits for an answer."""

        def run() -> None:
            try:
                listed = fetch_listings(self.settings.exchange)
                self._continuity.answer({symbol: listing.status for symbol, listing in listed.items()})
            except ExchangeError as error:
                log.warning("the exchange cannot be asked about silent pairs: %s", error)

        threading.Thread(target=run, name="ask", daemon=True).start()

    def _store(self, snapshots: list[Snapshot]) -> None:
        body, rows = self._encoder.snapshots(snapshots), len(snapshots)
        first, last = snapshots[0].receive_ns, snapshots[-1].receive_ns
        metrics = self.metrics.store
        if self.spool.append(body, rows, first, last):
            self._tally.add(snapshots)
            metrics.received += rows
            metrics.received_bytes += len(body)
            if self._refused:
                for snapshot in snapshots:
                    since = self._refused.pop(snapshot.symbol, None)
                    if since is not None:
                        gap = Gap(snapshot.symbol, since, snapshot.receive_ns, SPOOL_FULL)
                        self._events.append(gap.event())
        else:
            metrics.refused += rows
            for snapshot in snapshots:
                self._refused.setdefault(snapshot.symbol, snapshot.receive_ns)
