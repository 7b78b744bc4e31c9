"""One running recorder: wires feed, spool and writer, and brings them to an orderly end."""

import gc
import logging
import threading
import time
from collections import deque
from pathlib import Path

from ingester.capture.feed import Feed
from ingester.capture.stream import Arrival, AttemptLimit, Stream
from ingester.clock import SECOND, Clock
from ingester.events import Event
from ingester.exchange import binance
from ingester.metrics import Metrics
from ingester.settings import Settings
from ingester.snapshot import Snapshot
from ingester.store.questdb import QuestDB
from ingester.store.rows import RowEncoder
from ingester.store.spool import Spool
from ingester.store.writer import Writer

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.1
"""After something arrived, the pump waits this long for more: waking up costs more than decoding a frame."""
MOST_PORTIONS = 1000
GOODBYE_SECONDS = 2.0
"""How long to wait for the exchange to confirm an unsubscription."""
DRAIN_SECONDS = 10.0
"""How long the end waits for QuestDB; what it has not taken by then waits in the spool for the next start."""


class Collector:
    """Records until `stop`. All state of the feed belongs to the pump thread."""

    def __init__(self, settings: Settings, db: QuestDB, data_dir: Path) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.clock = Clock()
        self.started_ns = self.clock.now()
        self.spool = Spool(data_dir / "spool" / settings.collector)
        self._encoder = RowEncoder(settings.depth, settings.collector)
        self._writer = Writer(db, self.spool, self.clock.now, self.metrics.store)
        self._limit = AttemptLimit(time.monotonic)
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._events: deque[Event] = deque()  # other threads add to it, only the pump takes
        self._full_since_ns: int | None = None  # since when the spool refuses rows
        self._silent_since_ns: int | None = None  # when an earlier run received its last, until this one's first
        self.feed = Feed(
            settings.symbols,
            settings.depth,
            settings.interval_ms // binance.INTERVAL_MS,
            settings.connections,
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
        self._silent_since_ns = recovery.last_ns
        if recovery.rows_waiting:
            log.info("%d rows of an earlier run wait in the spool; they are sent first", recovery.rows_waiting)
        if recovery.cut:
            log.warning("%d bytes of the spool were unreadable and are set aside", recovery.cut_bytes)
        # What exists now stays; of what follows nearly everything dies at once, so that looking often is in vain.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        chosen = self.settings
        what = f"{len(chosen.symbols)} pairs, depth {chosen.depth}, {chosen.interval_ms} ms, {chosen.exchange.name}"
        self._events.append(Event(self.started_ns, "started", detail=what))
        self._writer.start()
        self._pump.start()
        self.feed.start()

    def server_restarted(self) -> None:
        """Puts on record that the managed server died and was started again."""
        self.metrics.server_restarts += 1
        self._events.append(Event(self.clock.now(), "server_restarted"))

    def summary(self) -> str:
        """What was recorded, in one line."""
        feed, store = self.metrics.feed, self.metrics.store
        lasted = (self.clock.now() - self.started_ns) / SECOND
        waiting = self.spool.rows_waiting
        return (
            f"recorded {len(self.settings.symbols)} pairs for {lasted:.0f} s: {store.stored:,} rows stored, "
            f"{waiting:,} in the spool, {feed.reconnects} reconnects, last gap: {feed.last_gap or 'none'}"
        )

    def stop(self) -> bool:
        """Unsubscribes, takes what is on the way, stores all; False where some waits in the spool instead."""
        self._stopping.set()
        self._arrived.set()
        self._pump.join()
        complete = self._writer.drain(DRAIN_SECONDS)
        self.spool.close()
        return complete

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
        self._events.append(Event(self.clock.now(), "stopped", detail=f"{self.metrics.feed.snapshots} rows received"))
        self._step()
        while self.feed.pending:
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
            if self._silent_since_ns is not None:
                since, until = self._silent_since_ns, snapshots[0].receive_ns
                self._events.append(Event(since, "gap", detail="restart", until_ns=until))
                self._silent_since_ns = None
            self._store(snapshots)
        if self._events:
            events = [self._events.popleft() for _ in range(len(self._events))]
            now = self.clock.now()
            if not self.spool.append(self._encoder.events(events), 0, now, now):
                self._events.extendleft(reversed(events))  # for when there is room

    def _store(self, snapshots: list[Snapshot]) -> None:
        body, rows = self._encoder.snapshots(snapshots), len(snapshots)
        first, last = snapshots[0].receive_ns, snapshots[-1].receive_ns
        metrics = self.metrics.store
        if self.spool.append(body, rows, first, last):
            metrics.received += rows
            metrics.received_bytes += len(body)
            if self._full_since_ns is not None:
                self._events.append(Event(self._full_since_ns, "gap", detail="spool full", until_ns=first))
                self._full_since_ns = None
        else:
            metrics.refused += rows
            self._full_since_ns = self._full_since_ns or first
