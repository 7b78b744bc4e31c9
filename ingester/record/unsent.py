"""Spools whose recorder does not run: the rows that wait in them, how these are sent, and the reserves given back."""

import logging
import re
import shlex
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ingester.clock import SECOND
from ingester.errors import SpoolError
from ingester.metrics import StoreMetrics
from ingester.questdb import DeadLetters, QuestDB, Reconciler, StoreContext, Writer, schema
from ingester.spool import Spool, count_waiting, free_reserve
from ingester.text import inside

log = logging.getLogger(__name__)

GIVE_UP_SECONDS = 30.0
"""Sending ends where QuestDB takes nothing for so long."""
AUDIT_SECONDS = 10.0
DEPTHS = (5, 10, 20)


class Leftover(NamedTuple):
    """Rows that nobody sends: their recorder, whose name they have, does not run."""

    collector: str
    rows: int
    oldest_ns: int
    newest_ns: int

    @property
    def text(self) -> str:
        """What waits, for people."""
        since, until = (f"{datetime.fromtimestamp(ns // SECOND, UTC):%Y-%m-%d %H:%M}" for ns in self[2:])
        return (
            f"{self.rows:,} rows of the recorder {self.collector}, received from {since} to {until} UTC, wait in its "
            "spool, and it does not run"
        )

    def mend(self, data_dir: Path) -> str:
        """How to have them sent."""
        return f"ingester spool send --collector {self.collector} --data-dir {shlex.quote(str(data_dir))} sends them"


class Sent(NamedTuple):
    """What sending came to; `complete`: every row was seen in the table."""

    rows: int
    waiting: int
    complete: bool
    failure: str


def spools(data_dir: Path) -> Path:
    """The folder that holds a folder for each recorder's spool."""
    return data_dir / "spool"


def leftovers(data_dir: Path, running: Collection[str], unreadable: list[str] | None = None) -> list[Leftover]:
    """What waits in spools of recorders other than the `running` ones. Reads heads of records only, changes nothing.

    A spool that cannot be read now may hold rows too: a line about it is added to `unreadable`, or is logged.
    """
    found, refused = [], []
    try:
        folders = _folders(data_dir, running)
    except OSError as error:  # another user's folder
        folders, refused = [], [f"{spools(data_dir)} cannot be read: {error.strerror or error}"]
    for folder in folders:
        try:
            waiting = _waiting(folder)
        except OSError as error:
            refused.append(f"{folder} cannot be read: {error.strerror or error}")
            continue
        if waiting is not None:
            found.append(waiting)
    if unreadable is not None:
        unreadable += refused
    else:
        for line in refused:
            log.warning("%s", line)
    return found


def give_back_reserves(data_dir: Path, running: Collection[str]) -> None:
    """Frees what recorders that were killed have reserved on the disk; they take it again when they start."""
    try:
        folders = _folders(data_dir, running)
    except OSError as error:
        log.warning("%s cannot be read: %s", spools(data_dir), error.strerror or error)
        return
    for folder in folders:
        free_reserve(folder)


def send(
    db: QuestDB,
    data_dir: Path,
    collector: str,
    now: Callable[[], int],
    wait: Callable[[float], bool],
    show: Callable[[int], None],
) -> Sent:
    """Sends what waits under the name of a recorder, and looks for it in the table, as that recorder would.

    `wait` sleeps, and is true where sending is to end early; `show` is told from time to time how many rows wait.
    Raises SpoolError where the recorder runs, or never was.
    """
    folder = inside(spools(data_dir), collector, "recorder's name")
    if not folder.is_dir():
        raise SpoolError(
            f"There is no spool of a recorder {collector!r} in {data_dir}. `ingester spool list` names them."
        )
    spool, metrics = Spool(folder, keep_until_verified=True), StoreMetrics()
    spool.open()
    try:
        depth = _depth(spool)

        def prepare() -> None:
            db.ping()
            schema.ensure_tables(db, depth)

        letters = DeadLetters(inside(data_dir / "dead-letter", collector))
        store = StoreContext(db=db, spool=spool, now=now, metrics=metrics, on_event=lambda event: None)
        writer = Writer(store, prepare=prepare, dead_letters=letters)
        reconciler = Reconciler(store, collector=collector, exchange=None)
        writer.start()
        reconciler.start()
        progress = time.monotonic()
        stored = 0
        while spool.bytes_waiting and time.monotonic() < progress + GIVE_UP_SECONDS:
            show(spool.rows_waiting)
            if wait(0.2):
                break
            if metrics.rows.stored > stored:
                stored, progress = metrics.rows.stored, time.monotonic()
        drained = writer.drain(1.0 if metrics.failing else AUDIT_SECONDS)
        seen = reconciler.stop(AUDIT_SECONDS if drained else 0.0)
        waiting = spool.rows_waiting
    finally:
        spool.close()
    return Sent(metrics.rows.stored, waiting, drained and seen and not waiting, metrics.last_failure)


def _folders(data_dir: Path, running: Collection[str]) -> list[Path]:
    try:
        return [each for each in sorted(spools(data_dir).iterdir()) if each.is_dir() and each.name not in running]
    except FileNotFoundError:
        return []


def _waiting(folder: Path) -> Leftover | None:
    waiting = count_waiting(folder)
    return Leftover(folder.name, *waiting) if waiting.rows else None


def _depth(spool: Spool) -> int:
    """The depth of the rows that wait, by the columns of the first ones."""
    bodies = b"".join(record.body for record in spool.peek(1 << 16))
    deepest = max((int(level) for level in re.findall(rb"[ ,](?:bid|ask)_(\d{1,2})=", bodies)), default=0)
    return next((depth for depth in DEPTHS if depth >= deepest), DEPTHS[-1])
