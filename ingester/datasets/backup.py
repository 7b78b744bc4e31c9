"""Raw backups: while a recorder runs, the rows of each interval of time are written to files, one for each pair.

One thread exports them from the table as soon as the table shows all rows of an interval; no other thread waits for it.
Intervals are written in order, and none is left out: while QuestDB is away or the disk is full, they wait.
"""

import contextlib
import logging
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ingester.clock import SECOND, Now
from ingester.config import Settings
from ingester.datasets import dataset
from ingester.datasets.dataset import Progress, Request
from ingester.datasets.export import check_room, write_file
from ingester.datasets.slices import ScratchFile, collect
from ingester.errors import OperationError, SettingsError, StoreError
from ingester.exchange import stored_name
from ingester.private import take_lock
from ingester.questdb import MINUTE, ORDERBOOK, SLACK_NS, QuestDB, rows_by_symbol
from ingester.spool import Spool, sync_folder
from ingester.text import counted, path_part
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

DAY = 24 * 60 * MINUTE
LOOK_SECONDS = 1.0
"""The pause between two checks whether the rows of an interval are in the table."""
STOP_SECONDS = 10.0
"""How long `stop` waits for QuestDB, before the first interval and after each one that is written."""

_STATE = f"SELECT suspended, writerTxn, sequencerTxn FROM wal_tables() WHERE name = '{ORDERBOOK}'"


class Interval(NamedTuple):
    """A part [start, end) of a run, in ns. The first interval has number 1."""

    number: int
    start_ns: int
    end_ns: int


def interval_ends(start_ns: int, every_minutes: float) -> Iterator[int]:
    """Yields the ends of a run's intervals, in ns: 11:00, 11:30, … for a start at 10:49 and 30 minutes.

    The ends are multiples of `every_minutes` since midnight, in UTC; the last interval of a day ends at midnight.
    """
    every_ns = round(every_minutes * MINUTE)
    end = start_ns
    while True:
        midnight = end // DAY * DAY
        end = min(midnight + ((end - midnight) // every_ns + 1) * every_ns, midnight + DAY)
        yield end


@contextlib.contextmanager
def run_folder(root: Path, started_ns: int) -> Iterator[Path]:
    """Makes and locks the folder for the raw backups of a run, and yields it. At the end an empty folder is removed.

    Raises OperationError where another recorder uses the folder, or it cannot be made.
    """
    folder = root / dataset.RAW / dataset.raw_folder_name(_minute(started_ns))
    ours = [folder, *(each for each in folder.parents if not each.exists())]
    held = _claim(folder)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # stops at the first folder that is not empty
            for each in ours:
                each.rmdir()
        os.close(held)


def _claim(folder: Path) -> int:
    """Makes and locks a folder. The lock ends when the returned descriptor is closed or this process ends."""
    descriptor = -1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        locked = take_lock(descriptor)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise OperationError(
            f"{folder} cannot be used for raw backups ({error.strerror}). Choose another --backup-root."
        ) from error
    if not locked:
        os.close(descriptor)
        raise OperationError(
            f"{folder} is in use by another recorder, started in the same minute. "
            "Start this one in the next minute, or give it another --backup-root."
        )
    return descriptor


class Backup:
    """A thread that writes the intervals of a run. No error in it ends the recording."""

    def __init__(
        self,
        db: QuestDB,
        spool: Spool,
        settings: Settings,
        *,
        started_ns: int,
        now: Now,
        folder: Path,
        every_minutes: float,
        format: str,
    ) -> None:
        """`started_ns`: the start of the run, by `now`, the clock of receive times. `folder`: that of `run_folder`."""
        self._db = db
        self._spool = spool
        self._settings = settings
        self._started_ns = started_ns
        self._now = now
        self._folder = folder
        self._every_minutes = every_minutes
        self._format = format
        self._next_number = _last_number(folder) + 1
        self._next_ns = started_ns  # the start of the current interval
        self._ended = False  # whether the last interval is over
        self._over: deque[Interval] = deque()  # intervals that are over and not written yet
        self._written_ns = started_ns  # all rows before this time are backed up
        self._writing = False
        self._mark: int | None = (
            None  # the transaction that the table must have applied before the oldest interval is read
        )
        self._until_ns = 0  # the end of the recording
        self._patience = float("inf")  # the end of the wait for QuestDB, on the monotonic clock
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "backup", self._stopping)

    def start(self) -> None:
        """Starts the thread."""
        log.info("raw backups go to %s", self._folder)
        self._thread.start()

    def stop(self) -> None:
        """Writes the rest, after all rows were sent. Logs what could not be written, and the export that gives it."""
        self._until_ns = self._now()
        self._patience = time.monotonic() + STOP_SECONDS
        self._stopping.set()
        while self._thread.is_alive() and (self._writing or time.monotonic() < self._patience):
            self._thread.join(0.1)
        if self._written_ns < self._until_ns:
            since, until = map(dataset.time_text, _seconds(self._written_ns, self._until_ns))
            log.error(
                "not in the raw backup is what was received from %s to %s. The table gives it, once it is there: "
                "ingester export --from '%s' --to '%s' --levels %d --format %s",
                *(since, until, since, until, self._settings.depth, self._format),
            )

    def _run(self) -> None:
        while True:
            while self._over and self._backed_up(self._over[0]):
                self._written_ns = self._over.popleft().end_ns
            if self._ended:
                return
            self._over.append(self._next_interval())

    def _next_interval(self) -> Interval:
        """Waits until the next interval is over and returns it. The last one ends with the recording."""
        number, start = self._next_number, self._next_ns
        end = next(interval_ends(start, self._every_minutes))
        while (left := end - self._now()) > 0 and not self._stopping.wait(left / SECOND):
            pass
        if self._stopping.is_set() and end >= self._until_ns:
            end, self._ended = self._until_ns, True
        self._next_number, self._next_ns = number + 1, end
        return Interval(number, start, end)

    def _backed_up(self, interval: Interval) -> bool:
        """Waits for the rows of the interval and writes them. Returns False where it must be tried again."""
        self._mark = None
        warned = False
        while True:
            try:
                if self._is_visible(interval.end_ns):
                    self._write(interval)
                    return True
            except StoreError as error:
                if not warned:
                    log.warning("raw backup %d waits for QuestDB: %s", interval.number, error)
                warned = True
            except (OperationError, OSError) as error:
                log.error("raw backup %d is not written, the next one tries again: %s", interval.number, error)
                return False
            except Exception:  # a bug must not end the thread
                log.exception("raw backup %d is not written, the next one tries again", interval.number)
                return False
            if not self._rest():
                return False

    def _rest(self) -> bool:
        """Waits a moment. Returns False where `stop` no longer waits."""
        if self._stopping.wait(LOOK_SECONDS):
            time.sleep(0.1)
        return time.monotonic() < self._patience

    def _is_visible(self, end_ns: int) -> bool:
        """Returns whether the table shows all rows that were received before `end_ns`. Raises StoreError."""
        if not self._is_sent(end_ns):
            self._mark = None
            return False
        rows = self._db.sql(_STATE).rows
        if not rows:
            return False
        suspended, applied, acknowledged = rows[0]
        if self._mark is None or acknowledged < self._mark:  # a lower number is that of another table
            self._mark = acknowledged
        return not suspended and applied >= self._mark

    def _is_sent(self, end_ns: int) -> bool:
        """Returns whether QuestDB has acknowledged all rows that were received before `end_ns`."""
        waiting, oldest = self._spool.rows_waiting, self._spool.oldest_ns
        if self._stopping.is_set() and not waiting:
            return True
        if oldest is None and waiting:
            return False  # they are being acknowledged just now
        return (self._now() if oldest is None else oldest) >= end_ns + SLACK_NS

    def _write(self, interval: Interval) -> None:
        """Writes a file for each pair with rows. Raises StoreError, OperationError and OSError."""
        self._writing = True
        cut = self._folder / ".cut"
        try:
            shutil.rmtree(cut, ignore_errors=True)
            cut.mkdir(parents=True)
            files = [
                self._publish(scratch, interval.number) for scratch in self._collect(interval, cut) if scratch.rows
            ]
            sync_folder(self._folder)
        finally:
            shutil.rmtree(cut, ignore_errors=True)
            self._patience = max(self._patience, time.monotonic() + STOP_SECONDS)
            self._writing = False
        until = dataset.time_text(interval.end_ns)
        log.info(
            "raw backup %d: %d rows of %s, until %s", interval.number, sum(files), counted(len(files), "pair"), until
        )

    def _collect(self, interval: Interval, cut: Path) -> list[ScratchFile]:
        chosen, (_, start_ns, end_ns) = self._settings, interval
        exchange = stored_name(chosen.exchange.name)
        symbols = tuple(
            rows_by_symbol(self._db, start_ns, end_ns, chosen.collector, exchange)
        )  # pairs may be added and removed during a run
        if not symbols:
            return []
        request = Request(start_ns, end_ns, symbols, chosen.depth, self._format, interval_ns=self._interval_ns)
        counts = rows_by_symbol(self._db, start_ns, end_ns, exchange=exchange)
        check_room(cut, request, counts)
        found = collect(self._db, request, cut, counts, Progress(), collector=chosen.collector, exchange=exchange)
        return list(found.values())

    def _publish(self, scratch: ScratchFile, number: int) -> int:
        """Writes the file of a pair, renames it when it is complete, and returns its rows."""
        since = _minute(self._started_ns)
        raw = dataset.raw_file_name(scratch.symbol, self._interval_ns, since, number, self._format)
        try:
            name = path_part(raw, "pair")
        except SettingsError as error:  # the files of other pairs are written all the same
            log.error("%s The table holds its rows.", error)
            return 0
        new = self._folder / f".{name}.new"
        try:
            write_file(scratch, new, self._format)
            new.replace(self._folder / name)
        finally:
            new.unlink(missing_ok=True)
        scratch.remove()
        return scratch.rows

    @property
    def _interval_ns(self) -> int:
        return self._settings.interval_ms * dataset.MILLISECOND


def _minute(ns: int) -> int:
    return ns // MINUTE * MINUTE


def _seconds(start_ns: int, end_ns: int) -> tuple[int, int]:
    """Returns the range, widened to whole seconds."""
    return start_ns // SECOND * SECOND, -(-end_ns // SECOND) * SECOND


def _last_number(folder: Path) -> int:
    """Returns the highest number of an interval in a folder, else 0: an earlier run of the same minute may be there."""
    found = (re.search(r"_\((\d+)\)\.\w+$", path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in found if match), default=0)
