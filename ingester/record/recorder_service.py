"""One running recorder: wires feed, spool and writer, and brings them to an orderly end."""

import gc
import logging
import threading
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from ingester import private, threads
from ingester.book import OrderBook
from ingester.clock import SECOND, Clock, check_clock
from ingester.config import Settings
from ingester.connection import AttemptLimit
from ingester.events import PAIR_ADDED, PAIR_REMOVED, SPOOL_DAMAGED, SPOOL_FULL, Event
from ingester.exchange import stored_name
from ingester.feed import LONGEST_DETAIL, FeedLoop
from ingester.live import LiveBuffer
from ingester.metrics import Metrics
from ingester.questdb import (
    DeadLetters,
    Endpoint,
    QuestDB,
    Reconciler,
    RowEncoder,
    SentCounts,
    StoreContext,
    Writer,
    schema,
)
from ingester.record.instruments import InstrumentWatcher
from ingester.record.pairs_file import LastRecorded
from ingester.record.practice import refuse_mixing
from ingester.sequence import EventCounts, Gap
from ingester.spool import LostRange, Spool
from ingester.text import counted, inside

log = logging.getLogger(__name__)

BATCH_DELAY_SECONDS = 0.05
"""After something arrived, the feed thread waits this long for more: waking up costs more than decoding a frame.

What came in meanwhile is what a kill -9 loses.
"""
DRAIN_SECONDS = 10.0
"""How long the end waits for QuestDB; what it has not taken by then waits in the spool for the next start."""

COLLECT_NS = 30 * SECOND
"""Failed requests leave reference cycles that hold the rows; the collector's own rhythm would free them too seldom."""
BEHIND_SECONDS = 10.0
"""How far behind the earlier run's newest row the clock may be at a start: it catches up in half an hour."""
AUDIT_SECONDS = 10.0
"""How long the end waits for QuestDB to show everything that was sent."""


def spool_folder(data_dir: Path, collector: str) -> Path:
    """The folder of a recorder's spool."""
    return inside(data_dir / "spool", collector, "collector")


def make_ready(db: QuestDB, settings: Settings, data_dir: Path) -> None:
    """Makes the tables ready for rows. Raises StoreError; within seconds where QuestDB hangs."""
    db.ping()
    refuse_mixing(db, settings.exchange.name, data_dir)
    schema.ensure(db, settings.depth)


class RecorderService:
    """Records until `stop`. Also the sink of its feed thread: see `FeedLoop`."""

    def __init__(self, settings: Settings, db: QuestDB, *, data_dir: Path, live: LiveBuffer | None = None) -> None:
        """`live`: what live readers of this process read, if there are any."""
        self.settings = settings
        self.metrics = Metrics()
        self.event_counts = EventCounts()
        self._db = db
        self._exchange = stored_name(settings.exchange.name)
        self._data_dir = data_dir
        self.clock = Clock()
        self.started_ns = self.clock.now()
        self.spool = Spool(spool_folder(data_dir, settings.collector), keep_until_verified=True)
        self.live = live or LiveBuffer([], depth=settings.depth)
        self._intake = FeedLoop(
            settings, self, self.clock, self.metrics.feed, AttemptLimit(settings.exchange.limits), BATCH_DELAY_SECONDS
        )
        self.feed = self._intake.feed
        self._encoder = RowEncoder(depth=settings.depth, exchange=self._exchange, collector=settings.collector)
        self._sent_counts = SentCounts()
        store = StoreContext(
            db=db,
            spool=self.spool,
            now=self.clock.now,
            metrics=self.metrics.store,
            on_event=self._intake.note,
            sent_counts=self._sent_counts,
        )
        self._writer = Writer(
            store,
            prepare=partial(make_ready, db, settings, data_dir),
            dead_letters=DeadLetters(inside(data_dir / "dead-letter", settings.collector, "collector")),
            exchange=self._exchange,
        )
        self._reconciler = Reconciler(store, collector=settings.collector, exchange=self._exchange)
        self._instruments = InstrumentWatcher(db, settings.exchange, self.clock.now)
        self._wanted = set(settings.symbols)
        self._changing = threading.Lock()
        self._last_watched = LastRecorded(self.spool.folder)
        self._refused: dict[str, int] = {}  # symbols whose rows the spool refuses, since when
        self._deaths_before, self._deaths_told = threads.deaths(), 0
        self._collect_ns = 0  # when garbage is to be collected

    def start(self) -> None:
        """Starts recording, and sends first what an earlier run left in the spool.

        Raises SpoolError where another recorder of this name uses the data folder, UnsafeFile where another user may
        change it, and ClockWrong where the machine's clock cannot be right.
        """
        check_clock(self.clock.now())
        private.data_folder(self._data_dir)
        private.folder(self.spool.folder.parent)
        before = self._last_watched.read()
        recovery = self.spool.open()
        if recovery.last_ns is not None and self._begin_after(recovery.last_ns):
            self._intake.monitor.resume(recovery.last_ns, before)
        self._note_wanted()
        for symbol in sorted(self._wanted.symmetric_difference(before or self._wanted)):
            kind = PAIR_ADDED if symbol in self._wanted else PAIR_REMOVED
            self._intake.note(Event(self.started_ns, kind, symbol, detail="found at the start"))
        if recovery.rows_waiting:
            log.info("%d rows of an earlier run wait in the spool; they are sent first", recovery.rows_waiting)
        if recovery.cut:
            log.warning("%d bytes of the spool were unreadable and are set aside", recovery.cut_bytes)
        for lost in recovery.lost_ranges:
            self._record_lost(lost)
        # What exists now stays; of what follows nearly everything dies at once, so that looking often is in vain.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        self._writer.start()
        self._reconciler.start()
        self._instruments.start()
        self.live.open()
        self._intake.start(self.started_ns)

    def _begin_after(self, last_ns: int) -> bool:
        """Has receive times begin after those of the earlier run; False where the clock is too far behind for that."""
        behind = (last_ns - self.clock.now()) / SECOND
        if behind < 0:
            return True
        text = f"the clock is {behind:.1f} s behind the newest row in the spool"
        if behind <= BEHIND_SECONDS:
            log.warning("%s: times continue after that row, and converge to the clock again", text)
            self.clock.advance(round(behind * SECOND) + SECOND // 1000)
            self.started_ns = self.clock.now()
            return True
        log.error("%s: new rows get times before older ones. Set the clock right, and start the recorder again", text)
        self._intake.note(Event(self.started_ns, "clock_step", detail=text))
        return False

    def change(self, added: Mapping[str, str], removed: Mapping[str, str]) -> None:
        """Adds symbols from the next full second on and removes others, each with its reason. From any thread."""
        with self._changing:
            self._wanted = (self._wanted - removed.keys()) | added.keys()
            self._intake.change(added, removed)
            self._note_wanted()

    @property
    def wanted(self) -> frozenset[str]:
        """The pairs that it is to record now."""
        with self._changing:
            return frozenset(self._wanted)

    def record(self, event: Event) -> None:
        """Puts on record what happened elsewhere. From any thread."""
        self._intake.note(event)

    def server_restarted(self, endpoint: Endpoint) -> None:
        """Puts on record that the managed server died and was started again, perhaps at another port."""
        self._db.endpoint = endpoint
        self.metrics.store.restarts += 1
        self._intake.note(Event(self.clock.now(), "server_restarted"))

    def deaths(self) -> threads.Deaths:
        """Which threads of this process have died since it was made."""
        return threads.deaths().since(self._deaths_before)

    def summary(self) -> str:
        """What was recorded, in one line."""
        feed, store = self.metrics.feed, self.metrics.store
        lasted = (self.clock.now() - self.started_ns) / SECOND
        waiting = self.spool.rows_waiting
        return (
            f"recorded {counted(self.feed.pairs, 'pair')} for {lasted:.0f} s: {store.rows.stored:,} rows stored, "
            f"{waiting:,} in the spool, {feed.rotations} connections replaced, {feed.reconnects} lost and back, "
            f"gaps: {self.event_counts.gaps_text()}"
        )

    def stop(self) -> bool:
        """Unsubscribes, takes what is on the way, stores all; False where some was not seen in the table.

        That is in the spool, for the next start to send or to look for.
        """
        self._instruments.stop()
        self._intake.stop()
        self._record_instruments()
        self.live.close()
        drained = self._writer.drain(DRAIN_SECONDS)
        seen = self._reconciler.stop(AUDIT_SECONDS if drained else 0.0)
        self._intake.record_events()
        self.spool.close()
        return drained and seen

    def take(self, snapshots: list[OrderBook]) -> None:
        """Writes books to the spool first, then to the live buffer."""
        body, rows = self._encoder.snapshots(snapshots), len(snapshots)
        first, last = snapshots[0].receive_ns, snapshots[-1].receive_ns
        counts = self.metrics.store.rows
        if self.spool.append(body, rows, first, last):
            self._sent_counts.add(snapshots)
            counts.received += rows
            counts.received_bytes += len(body)
            if self._refused:
                for snapshot in snapshots:
                    since = self._refused.pop(snapshot.symbol, None)
                    if since is not None:
                        gap = Gap(snapshot.symbol, since, snapshot.receive_ns, SPOOL_FULL)
                        self._intake.note(gap.event())
        else:
            counts.lost += rows
            for snapshot in snapshots:
                self._refused.setdefault(snapshot.symbol, snapshot.receive_ns)
        if self.live.pairs:
            self.live.take(snapshots)

    def note(self, events: list[Event]) -> bool:
        """Writes events to the spool, then to the live buffer; returns False where the spool is full."""
        now = self.clock.now()
        if not self.spool.append(self._encoder.events(events), 0, now, now):
            return False
        self.event_counts.add(events)
        self.live.note(events)
        return True

    def changed(self, added: Collection[str], removed: Collection[str]) -> None:
        """Symbols were added and removed: for a removed one whose rows the spool refused, the gap ends now."""
        for symbol in set(removed) & self._refused.keys():
            gap = Gap(symbol, self._refused.pop(symbol), self.clock.now(), SPOOL_FULL)
            self._intake.note(gap.event())
        self.live.changed(added, removed)

    def watermark(self, until_ns: int) -> None:
        """Passes the watermark on to the live buffer, whose grids wait for it."""
        self.live.watermark(until_ns)

    def tick(self, now: int) -> None:
        """Does what is due; called once a second."""
        if now >= self._collect_ns:
            self._collect_ns = now + COLLECT_NS
            gc.collect()
        self._record_instruments()
        for lost in self.spool.take_lost_ranges():
            self._record_lost(lost)
        if (deaths := self.deaths()).total != self._deaths_told:
            self._deaths_told = deaths.total
            self._intake.note(Event(now, "thread_died", detail=f"{deaths.last}: {deaths.error[:LONGEST_DETAIL]}"))

    def _record_instruments(self) -> None:
        """Writes listings that changed to the spool."""
        while found := self._instruments.take():
            if not self.spool.append(self._encoder.instruments(*found), 0, found[0], found[0]):
                self._instruments.give_back(found)
                return

    def _record_lost(self, lost: LostRange) -> None:
        """Rows of any symbols were in the spool and cannot be read back."""
        detail = f"{SPOOL_DAMAGED}: {lost.rows} rows" if lost.rows else SPOOL_DAMAGED
        self._intake.note(Event(lost.since_ns, "gap", detail=detail, until_ns=lost.until_ns))

    def _note_wanted(self) -> None:
        try:
            self._last_watched.write(sorted(self._wanted))
        except OSError as error:
            log.warning("which pairs are watched cannot be noted for the next start: %s", error)
