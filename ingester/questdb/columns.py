"""Adds columns to `orderbook`, for a deeper recorder and by migrations, so that every day stays readable.

QuestDB 9.3.4 cannot read a Parquet day that is older than one of the table's columns: a query of that column ends the
server, and a late row suspends the table. So Parquet days are made native first, then the columns are added, then these
days become Parquet again. All days can be read even if that is interrupted. Events in `collector_events` say which of
them were Parquet, so the next call continues.

Such days of an earlier version are rewritten, one at a time. So are days that an earlier version made Parquet after the
columns were added: an export without a row filter ends the server there. Nothing in such a day shows that. It is
rewritten if its first row lacks a number in one of these columns, and no event says that its file holds them all.
"""

import contextlib
import logging
import os
import random
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ingester.book import level_columns
from ingester.config import default_collector
from ingester.errors import LevelsRefused, MigrationRefused, QueryError, StoreError
from ingester.questdb import migrations, partitions
from ingester.questdb.client import QuestDB
from ingester.questdb.leases import ALWAYS_NS, IMPORT, RETENTION, HeldRange, Lease, holds, is_kept, is_over
from ingester.questdb.partitions import Partition
from ingester.questdb.query import quoted
from ingester.questdb.retention import SPARE_BYTES, WRITTEN_SHARE
from ingester.questdb.tables import EVENTS, ORDERBOOK
from ingester.text import counted

log = logging.getLogger(__name__)

VALUE_BYTES = 8
"""The size of a number in a native day."""
TURN_SECONDS = 0.2
"""The time between two attempts to lock the days, before it is randomised."""
_NATIVE, _PARQUET, _GONE = "partition_native", "partition_converted", "partition_dropped"


class _Work(NamedTuple):
    native: list[Partition]
    """Parquet days that have to be made native first."""
    parquet: list[Partition]
    """Days that have to be Parquet at the end."""


def ensure(db: QuestDB, missing: Mapping[str, str]) -> None:
    """Adds columns (name to type), and rewrites days that an earlier version or an interrupted call has left.

    Raises LevelsRefused if columns cannot be added now; then nothing was changed. Raises StoreError.
    """
    names = partitions.column_names(db)
    work = _work(db, names, bool(missing))
    if missing and not work.native:
        _add(db, missing)
        missing = {}  # retention may have made a day Parquet meanwhile
        names = partitions.column_names(db)
        work = _work(db, names, False)
    if not work.parquet:
        return
    try:
        _refuse(db, work, names, len(missing))
        with _alone(db, work.parquet, min(day.start_ns for day in work.parquet), work.parquet[-1].end_ns):
            work = _work(db, partitions.column_names(db), bool(missing))
            _carry_out(db, work, (lambda: _add(db, missing)) if missing else None)
    except LevelsRefused as error:
        if missing:
            raise
        log.warning("days of %s stay as they are for now: %s", ORDERBOOK, error)


def migrate(db: QuestDB) -> None:
    """Applies the migrations that the tables still need. Takes a few milliseconds where they need none.

    Raises MigrationRefused while somebody writes rows of an earlier version, LevelsRefused where Parquet days cannot be
    rewritten now; then nothing was changed. Raises StoreError.
    """
    if not (todo := migrations.pending(db)):
        return
    migrations.refuse_while_recorded(db)
    names = partitions.column_names(db)
    work = _work(db, names, True)
    _refuse(db, work, names, len(todo))
    # The rows of every day are changed: retention must not make one of them Parquet meanwhile.
    with _alone(db, work.parquet, 0, ALWAYS_NS, importing=True):
        if todo := migrations.pending(db):  # else another recorder has applied them
            _carry_out(db, _work(db, partitions.column_names(db), True), lambda: migrations.apply(db, todo))


def days_to_rewrite(db: QuestDB, missing: int) -> list[Partition]:
    """Returns the days that have to be rewritten for so many new columns, or none where columns were added before.

    Raises LevelsRefused where columns cannot be added now.
    """
    names = partitions.column_names(db)
    work = _work(db, names, missing > 0)
    if missing and work.native:
        _refuse(db, work, names, missing)
        _refuse_while_read(_others(holds(db) if is_kept(db) else []), work.parquet)
    return work.parquet


def _work(db: QuestDB, names: Sequence[str], missing: bool) -> _Work:
    """`missing`: whether columns are to be added."""
    days = partitions.list_partitions(db)
    parquet, noted = [each for each in days if each.is_parquet], _noted(db)
    old = parquet if missing else [each for each in parquet if _is_outdated(db, each, names, noted)]
    unfinished = [each for each in days if not (each.is_parquet or each.is_active) and _kind(noted, each) == _NATIVE]
    return _Work(old, sorted([*old, *unfinished]))


def _noted(db: QuestDB) -> dict[str, tuple[str, str]]:
    """Returns the kind and detail of the last event about each day."""
    kinds = quoted([_NATIVE, _PARQUET, _GONE])
    rows = db.sql(f"SELECT kind, detail FROM {EVENTS} WHERE kind IN ({kinds}) ORDER BY timestamp").rows
    return {detail[:10]: (kind, detail) for kind, detail in rows if detail}


def _kind(noted: Mapping[str, tuple[str, str]], day: Partition) -> str:
    return noted.get(day.day, ("", ""))[0]


def _is_outdated(db: QuestDB, day: Partition, names: Sequence[str], noted: Mapping[str, tuple[str, str]]) -> bool:
    """Returns whether a Parquet day lacks columns, or may hold them in a form that ends the server."""
    later = set(partitions.added_later(names))
    if not later:
        return False
    kind, detail = noted.get(day.day, ("", ""))
    held = re.search(r", (\d+) columns$", detail)
    if kind == _PARQUET and held and int(held[1]) == len(names):
        return False
    listed = ", ".join(f'"{name}"' for name in names)
    try:
        rows = db.sql(f"SELECT {listed} FROM {ORDERBOOK} WHERE timestamp IN '{day.day}' LIMIT 1").rows
    except QueryError as error:
        return partitions.TOO_OLD in str(error)
    levels = later.intersection(level_columns(20))  # the other columns may well be NULL
    return any(value is None for row in rows for name, value in zip(names, row, strict=True) if name in levels)


def _refuse(db: QuestDB, work: _Work, names: Sequence[str], missing: int) -> None:
    """Raises LevelsRefused if the table or the disk does not allow that number of new columns."""
    stuck = partitions.suspension(db)
    if stuck and missing:
        raise LevelsRefused(
            f"QuestDB has suspended {ORDERBOOK} ({stuck.reason}), so it cannot get more columns now. Resolve the "
            f'reason (a full disk, most often), then: ingester sql "ALTER TABLE {ORDERBOOK} RESUME WAL"'
        )
    free = free_bytes(db)
    if free is None or not work.native:
        return
    sizes = [day.rows * VALUE_BYTES * len(names) for day in work.native]
    # Then one day at a time gets the new columns, and lies beside its Parquet file for a moment.
    again = max(
        size * WRITTEN_SHARE + day.rows * VALUE_BYTES * missing for size, day in zip(sizes, work.native, strict=True)
    )
    needed = (sum(sizes) if missing else max(sizes)) + round(again) + SPARE_BYTES
    if free < needed:
        why = "as the table gets more columns" if missing else "to be rewritten one by one"
        raise LevelsRefused(
            f"{counted(len(work.native), 'Parquet day')} of {ORDERBOOK} must be native for a while, {why}. That needs "
            f"{needed / 1e9:.1f} GB on the server's disk, and {free / 1e9:.1f} GB are free. Make room, drop old days "
            "(ingester retention --drop-after), or record into another --data-dir."
        )


def free_bytes(db: QuestDB) -> int | None:
    """Returns the free bytes on the disk of a managed server; None for another server."""
    folder = db.endpoint.folder
    return shutil.disk_usage(folder).free if folder is not None else None


def _others(held: Sequence[HeldRange]) -> list[HeldRange]:
    """Returns the leases without those of ended processes and of an import by this process, which adds the columns."""
    own = f"{socket.gethostname()} {os.getpid()} "
    return [hold for hold in held if not is_over(hold) and not (hold.purpose == IMPORT and hold.holder.startswith(own))]


def _refuse_while_read(others: Sequence[HeldRange], days: Sequence[Partition]) -> None:
    for hold in others:
        for day in days:
            if hold.purpose != RETENTION and hold.overlaps(day.start_ns, day.end_ns):
                raise LevelsRefused(
                    f"{day.day} is Parquet and in use by {hold.purpose} ({hold.holder}), so {ORDERBOOK} cannot get "
                    "more columns now. Wait until that has ended and try again."
                )


@contextlib.contextmanager
def _alone(
    db: QuestDB, days: Sequence[Partition], start_ns: int, end_ns: int, importing: bool = False
) -> Iterator[None]:
    """Holds a lease on a range of time while the block runs, after retention has finished its work there.

    Raises LevelsRefused if somebody reads one of these days, and with `importing` MigrationRefused if somebody imports
    into the range.
    """
    while True:
        lease = Lease(db, RETENTION, start_ns, end_ns)
        try:
            if not lease.begin():
                raise StoreError(f"QuestDB does not show who reads days of {ORDERBOOK}: SELECT * FROM wal_tables()")
            others = _others(lease.others())
            _refuse_while_read(others, days)
            if importing and (imports := [each.holder for each in others if each.purpose == IMPORT]):
                raise MigrationRefused(
                    f"The tables at {db.endpoint.http_url} are of an earlier version, and an import is writing into "
                    f"them ({imports[0]}). Wait until it has ended."
                )
            if not any(each.purpose == RETENTION for each in others):
                yield
                return
            log.info("waiting for another process that works on days of %s: %s", ORDERBOOK, others[0].holder)
        finally:
            lease.end()
        time.sleep(TURN_SECONDS * random.uniform(0.5, 5.0))  # so that one of two processes comes first


def _carry_out(db: QuestDB, work: _Work, change: Callable[[], None] | None) -> None:
    """Changes the table while its Parquet days are native, and makes them Parquet again.

    Without a change each day is rewritten by itself, so that the disk needs room for one.
    """
    for day in work.native:
        _note(db, _NATIVE, f"{day.day}: {day.rows} rows, as the table gets more columns")
    if work.native and partitions.suspension(db):
        _resume(db, work.native)
    if change is not None:
        _make_native(db, work.native)
        change()
    for number, day in enumerate(work.parquet, 1):
        if change is None and day in work.native:
            _make_native(db, [day])
        begun, now = time.monotonic(), partitions.find(db, day.day)
        if now is None or now.is_active:  # the newest day stays native
            continue
        partitions.convert(db, day.day, lambda: False)
        after = partitions.find(db, day.day)
        if after is not None:
            names = partitions.column_names(db)
            _note(db, _PARQUET, partitions.converted(day, after, time.monotonic() - begun, len(names)))
        log.info("%s is Parquet again (%d of %d)", day.day, number, len(work.parquet))
    db.sql(f"SELECT wait_wal_table('{EVENTS}')")  # the next call reads these events


def _make_native(db: QuestDB, days: Sequence[Partition]) -> None:
    for number, day in enumerate(days, 1):
        log.info("%s is made native (%d of %d), to get all columns", day.day, number, len(days))
        partitions.make_native(db, day.day, lambda: False)


def _add(db: QuestDB, missing: Mapping[str, str]) -> None:
    for name, type_ in missing.items():
        db.sql(f"ALTER TABLE {ORDERBOOK} ADD COLUMN IF NOT EXISTS {name} {type_}")
    if missing:
        partitions.settle(db)  # views see only what is applied


def _note(db: QuestDB, kind: str, detail: str) -> None:
    who = quoted([default_collector()])
    db.sql(
        f"INSERT INTO {EVENTS} (timestamp, collector, kind, detail) VALUES (now(), {who}, '{kind}', {quoted([detail])})"
    )


def _resume(db: QuestDB, days: Sequence[Partition]) -> None:
    """Resumes a table that was suspended by late rows for such a day, which QuestDB can only skip.

    If it is suspended for another reason, such as a full disk, nothing is skipped. Raises StoreError then.
    """
    free = free_bytes(db)
    ((last,),) = db.sql(f"SELECT sequencerTxn FROM wal_tables() WHERE name = '{ORDERBOOK}'").rows
    listed = ", ".join(f"'{day.day}'" for day in days)
    db.sql(f"ALTER TABLE {ORDERBOOK} CONVERT PARTITION TO NATIVE LIST {listed}")
    db.sql(f"ALTER TABLE {ORDERBOOK} RESUME WAL")
    skipped, tried = 0, -1
    while True:
        partitions.settle(db)
        stuck = partitions.suspension(db)
        if stuck is None:
            break
        if stuck.applied >= last or (free is not None and free < SPARE_BYTES):
            raise StoreError(f"QuestDB has suspended {ORDERBOOK} ({stuck.reason}). Ask it: SELECT * FROM wal_tables()")
        if stuck.applied != tried:  # perhaps only the reason was gone meanwhile
            tried = stuck.applied
            db.sql(f"ALTER TABLE {ORDERBOOK} RESUME WAL")
            continue
        db.sql(f"ALTER TABLE {ORDERBOOK} RESUME WAL FROM TXN {stuck.applied + 2}")
        skipped += 1
    if skipped:
        text = (
            f"{skipped} portions of rows came for days that were Parquet before the table got more columns, and were "
            "skipped, as QuestDB cannot take them. A recorder sends its own again; repeat an import"
        )
        log.error("%s", text)
        _note(db, "rows_missing", text)
