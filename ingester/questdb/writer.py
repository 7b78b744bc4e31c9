"""Sends the rows of the spool to QuestDB, in order, until each batch is acknowledged.

Rows that QuestDB refuses for good are found by bisection. They become dead letters: lines of JSON that a person can
read and send again.
"""

import base64
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from ingester import private
from ingester.clock import SECOND, backoff
from ingester.errors import SpoolError, StoreError, UnsafeFile
from ingester.events import Event
from ingester.questdb import ilp
from ingester.questdb.client import QuestDB, RowsRefused
from ingester.questdb.migrations import ExchangeHistory, name_exchanges, needs_exchange
from ingester.questdb.reconciler import StoreContext
from ingester.questdb.tables import DEFAULT_EXCHANGE
from ingester.spool import reason_of, sync_folder
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

T = TypeVar("T")

REMEMBERED_ROWS = 100_000
"""The newest refused rows that are recognised when they come again, as after a resend."""
BATCH_SECONDS = 0.5
"""Rows of this time go into one request: many small commits slow QuestDB down, and no row may wait for a second."""
BATCH_BYTES = 4 << 20
"""The largest request while catching up, about 17,000 rows of depth 5. Memory holds it two or three times."""
SUSPICIOUS_ROWS = 64
"""If this number of rows of a batch is refused and none is stored, the rows are not the cause."""


class DeadLetters:
    """Refused rows, in a file of JSON lines per day (UTC)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[bytes, None] = {}

    def path(self, at_ns: int) -> Path:
        """Returns the file of a day."""
        return self.folder / f"{datetime.fromtimestamp(at_ns // SECOND, UTC):%Y-%m-%d}.jsonl"

    def put(self, row: bytes, error: str, at_ns: int) -> bool:
        """Writes a row durably; returns False if this run has written it before. Raises SpoolError."""
        digest = hashlib.blake2b(row, digest_size=16).digest()
        if digest in self._known:
            return False
        path = self.path(at_ns)
        try:
            self._append(path, _line(row, error, at_ns))
        except (OSError, UnsafeFile) as failure:
            raise SpoolError(
                f"cannot set aside a refused row in {path}: {reason_of(failure)}. Make room, or let the "
                "recorder write there"
            ) from failure
        self._known[digest] = None
        if len(self._known) > REMEMBERED_ROWS:
            del self._known[next(iter(self._known))]
        return True

    def _append(self, path: Path, line: bytes) -> None:
        new = not path.exists()
        if not self.folder.is_dir():
            private.folder(self.folder.parent)
            private.folder(self.folder)
            sync_folder(self.folder.parent)
        with os.fdopen(private.open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
            start = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, start)  # a partial line would damage the next one
                raise
        if new:
            sync_folder(self.folder)


def _line(row: bytes, error: str, at_ns: int) -> bytes:
    tags = ilp.tags(row)
    letter = {
        "at": datetime.fromtimestamp(at_ns / SECOND, UTC).isoformat(),
        "table": tags.table,
        "symbol": tags.symbol,
        "last_update_id": tags.update_id,
        "timestamp_ns": tags.at_ns,
        "error": error,
        "row": base64.b64encode(row).decode(),
    }
    return json.dumps(letter, ensure_ascii=False).encode() + b"\n"


class Writer:
    """A thread that sends. Batches may be repeated after a failure: the tables' DEDUP keys remove the copies.

    `prepare` makes the tables ready, and raises StoreError if they cannot take rows. It is called before the first
    batch and after each failure, as the server may have come back with another disk.
    """

    def __init__(
        self,
        context: StoreContext,
        *,
        prepare: Callable[[], None],
        dead_letters: DeadLetters,
        exchange: str = DEFAULT_EXCHANGE,
        waits: Callable[[], Iterator[float]] = lambda: backoff(0.25, 10.0),
    ) -> None:
        """`exchange`: that of rows of an earlier version where no event names theirs. `waits`: the times between
        attempts to send a batch."""
        self._db = context.db
        self._spool = context.spool
        self._now = context.now
        self._metrics = context.metrics
        self._on_event = context.on_event
        self._sent_counts = context.sent_counts
        self._prepare = prepare
        self._dead_letters = dead_letters
        self._waits = waits
        self._exchange = exchange
        self._history: ExchangeHistory | None = None
        self._prepared = False
        self._draining = threading.Event()
        self._abandon = threading.Event()
        self._thread = SupervisedThread(self._run, "writer", self._draining)

    def start(self) -> None:
        """Starts sending."""
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Sends all rows that wait and ends; returns False if QuestDB did not store them within `timeout` seconds."""
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
            except Exception:  # a bug must not end the thread; rows that were not acknowledged are sent again
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
        """Sends one batch until it is acknowledged; returns False if there was none, or sending was given up."""
        records = self._insist(lambda: self._spool.peek(BATCH_BYTES))
        if not records or not self._insist(lambda: self._store([record.body for record in records])):
            return False
        metrics, now = self._metrics, self._now()
        if metrics.failing:
            metrics.failing = False
            log.info("QuestDB takes rows again after %.1f s", (now - metrics.failing_since_ns) / SECOND)
        self._spool.acknowledge(records)
        for record in records:
            metrics.rows.stored += record.rows
            metrics.lag.add_range((now - record.last_ns) / SECOND, (now - record.first_ns) / SECOND, record.rows)
        return True

    def _insist(self, step: Callable[[], T]) -> T | None:
        """Repeats a step until it succeeds, and returns its result; None if sending was given up."""
        waits = self._waits()
        while True:
            try:
                return step()
            except (StoreError, OSError) as error:
                self._failed(error)
            if self._abandon.wait(next(waits)):
                return None

    def _failed(self, error: Exception) -> None:
        self._prepared = False
        metrics = self._metrics
        metrics.failures += 1
        metrics.last_failure = str(error)
        if not metrics.failing:
            metrics.failing_since_ns = self._now()
            log.warning("rows wait: %s", error)
        metrics.failing = True

    def _store(self, bodies: list[bytes]) -> bool:
        """Stores all rows except bad ones. Raises StoreError; then all rows are sent again."""
        if not self._prepared:
            self._prepare()
            self._prepared = True
        if any(map(needs_exchange, bodies)):
            self._history = self._history or ExchangeHistory.load(self._db, self._exchange)
            bodies = name_exchanges(bodies, self._history)
        try:
            self._db.write(b"".join(bodies))
        except RowsRefused:
            self._prepare()  # if the table does not fit, this raises, and the rows are not the cause
            for row, error in _BadRowFinder(self._db).bad_rows(bodies):
                self._set_aside(row, error)
        return True

    def _set_aside(self, row: bytes, error: str) -> None:
        now = self._now()
        if self._dead_letters.put(row, error, now):
            tags = ilp.tags(row)
            name = self._dead_letters.path(now).name
            self._metrics.dead_letters += 1
            log.error("QuestDB refuses a row of %s, it is set aside in %s: %s", tags.symbol, name, error)
            self._on_event(Event(now, "dead_letter", symbol=tags.symbol or "", detail=f"{name}: {error}"))
            if tags.symbol is not None and tags.at_ns is not None:
                self._sent_counts.remove(tags.symbol, tags.at_ns)


class _BadRowFinder:
    """Stores the good rows of one batch, and collects the bad ones."""

    def __init__(self, db: QuestDB) -> None:
        self._db = db
        self._bad: list[tuple[bytes, str]] = []
        self._any_taken = False

    def bad_rows(self, bodies: list[bytes]) -> list[tuple[bytes, str]]:
        """Bisects down to single rows that are refused, and returns them with QuestDB's reason.

        Raises RowsRefused if QuestDB refuses everything, and Unreachable.
        """
        self._bisect(bodies)
        return self._bad

    def _bisect(self, pieces: list[bytes]) -> None:
        try:
            self._db.write(b"".join(pieces))
            self._any_taken = True
            return
        except RowsRefused as refused:
            reason = str(refused)
        if len(pieces) == 1:
            pieces = ilp.rows(pieces[0])
        if len(pieces) > 1:
            half = len(pieces) // 2
            self._bisect(pieces[:half])
            self._bisect(pieces[half:])
            return
        self._bad.append((pieces[0], reason))
        if len(self._bad) >= SUSPICIOUS_ROWS and not self._any_taken:
            raise RowsRefused(f"the table fits, and yet {len(self._bad)} rows one by one were refused: {reason}")
