"""Brings what waits in the spool to QuestDB, in order, again and again until each batch is acknowledged."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

from ingester.clock import SECOND, Now, backoff
from ingester.errors import StoreError
from ingester.metrics import StoreMetrics
from ingester.store.questdb import QuestDB
from ingester.store.spool import Spool

log = logging.getLogger(__name__)

BATCH_SECONDS = 0.5
"""Rows of so long go in one request: many small commits slow QuestDB down, and no row may wait longer than a second."""
BATCH_BYTES = 16 << 20
"""Largest request while catching up; about 40,000 rows of depth 5."""


class Writer:
    """One thread that sends. Batches repeated after a failure are absorbed by the tables' DEDUP keys."""

    def __init__(
        self,
        db: QuestDB,
        spool: Spool,
        now: Now,
        metrics: StoreMetrics,
        waits: Callable[[], Iterator[float]] = lambda: backoff(0.25, 10.0),
    ) -> None:
        self._db = db
        self._spool = spool
        self._now = now
        self._metrics = metrics
        self._waits = waits
        self._draining = threading.Event()
        self._abandon = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Starts sending."""
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Sends all that waits and ends; False where QuestDB did not take it within `timeout` seconds."""
        self._draining.set()
        self._thread.join(timeout)
        complete = not self._thread.is_alive()
        self._abandon.set()
        return complete

    def _run(self) -> None:
        due = time.monotonic()
        while not self._abandon.is_set():
            try:
                sent = self._send()
            except Exception:  # a bug must not end the thread: what was not acknowledged is sent again
                log.exception("rows could not be sent")
                self._abandon.wait(BATCH_SECONDS)
                continue
            if not sent:
                if self._draining.is_set():
                    return
            elif self._spool.bytes_waiting > BATCH_BYTES:
                continue  # catching up: no rest between full batches
            due = max(due + BATCH_SECONDS, time.monotonic())
            self._draining.wait(due - time.monotonic())

    def _send(self) -> bool:
        """Sends one batch until it is acknowledged; False where there was none, or sending was given up."""
        records = self._spool.peek(BATCH_BYTES)
        if not records:
            return False
        body = b"".join(record.body for record in records)
        waits = self._waits()
        metrics = self._metrics
        while True:
            try:
                self._db.write(body)
                break
            except StoreError as error:
                metrics.failures += 1
                metrics.last_failure = str(error)
                if not metrics.failing:
                    log.warning("rows wait, QuestDB does not take them: %s", error)
                metrics.failing = True
            if self._abandon.wait(next(waits)):
                return False
        if metrics.failing:
            metrics.failing = False
            log.info("QuestDB takes rows again")
        now = self._now()
        self._spool.acknowledge(records)
        for record in records:
            metrics.stored += record.rows
            metrics.lag.add_range((now - record.last_ns) / SECOND, (now - record.first_ns) / SECOND, record.rows)
        return True
