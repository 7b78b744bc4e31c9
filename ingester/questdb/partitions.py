"""Lists the days of `orderbook` with rows and size, makes them Parquet or native, and drops them."""

import datetime
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ingester.book import level_columns
from ingester.clock import SECOND
from ingester.errors import StoreError
from ingester.questdb.client import QuestDB
from ingester.questdb.tables import ORDERBOOK

DAY = 86400 * SECOND
POLL_SECONDS = 0.1

_PARTITIONS = (
    "SELECT name, numRows, diskSize, isParquet, active, readOnly "
    f"FROM table_partitions('{ORDERBOOK}') WHERE attached ORDER BY name"
)
TOO_OLD = "parquet column count is less"
"""QuestDB's error contains this if a Parquet day is older than a column of the query."""
_FIRST_COLUMNS = (
    ("timestamp", "exchange", "symbol", "collector", "last_update_id", "event_time"),
    ("timestamp", "symbol", "collector", "last_update_id"),
)
"""The columns before the levels: in a table that this version has created, and in one of an earlier version."""
_CANNOT_CONVERT = (
    "PartitionEncoder.encodePartition"  # QuestDB's error contains this if a conversion failed, and only then
)


class Partition(NamedTuple):
    """One day (UTC) of the table."""

    day: str
    """QuestDB's name of it: 2024-08-08."""
    rows: int
    bytes: int
    """On disk; the files of the active day are larger than their content."""
    is_parquet: bool = False
    is_active: bool = False
    """Whether it is the newest day, which gets the new rows."""
    is_read_only: bool = False

    @property
    def start_ns(self) -> int:
        return start_of(self.day)

    @property
    def end_ns(self) -> int:
        return self.start_ns + DAY

    @property
    def bytes_per_row(self) -> float:
        return self.bytes / max(1, self.rows)


def converted(before: Partition, after: Partition, seconds: float, columns: int) -> str:
    """Returns the detail of the event about a day that was made Parquet; `columns`: the number in its file."""
    return (
        f"{before.day}: {before.rows} rows, {before.bytes} bytes, as Parquet {after.bytes} bytes, {seconds:.1f} s, "
        f"{columns} columns"
    )


def start_of(day: str) -> int:
    """Returns the start of a day such as 2024-08-08, in ns since 1970, UTC."""
    return (datetime.date.fromisoformat(day) - datetime.date(1970, 1, 1)).days * DAY


def list_partitions(db: QuestDB) -> list[Partition]:
    """Returns all days, the oldest first; none if there is no table, or it is not partitioned by day.

    Raises StoreError.
    """
    kept = db.sql(f"SELECT partitionBy FROM tables() WHERE table_name = '{ORDERBOOK}'").rows
    return [Partition(*row) for row in db.sql(_PARTITIONS).rows] if kept == [["DAY"]] else []


class TableSuspension(NamedTuple):
    """A table acknowledges rows and does not apply them."""

    reason: str
    """QuestDB's error message."""
    applied: int
    """The last transaction that was applied; the next one failed."""


def suspension(db: QuestDB, table: str = ORDERBOOK) -> TableSuspension | None:
    """Returns why the table is suspended; None if it is not. Raises StoreError."""
    rows = db.sql(f"SELECT errorMessage, writerTxn FROM wal_tables() WHERE name = '{table}' AND suspended").rows
    return TableSuspension(rows[0][0] or "no reason given", rows[0][1]) if rows else None


def settle(db: QuestDB, table: str = ORDERBOOK) -> None:
    """Waits until the table has applied all that it has acknowledged so far, or is suspended. Raises StoreError."""
    rows = db.sql(f"SELECT sequencerTxn FROM wal_tables() WHERE name = '{table}'").rows
    applied = f"SELECT name FROM wal_tables() WHERE name = '{table}' AND (suspended OR writerTxn >= {rows[0][0]})"
    while not db.sql(applied).rows:
        time.sleep(POLL_SECONDS)


def wait_until(db: QuestDB, table: str, condition: str) -> None:
    """Waits until a SELECT returns a row.

    `settle` does not suffice after a server was killed: its last transaction may not be counted, though it is not
    applied yet. Raises StoreError, also if the table is suspended.
    """
    while not db.sql(condition).rows:
        if stuck := suspension(db, table):
            raise StoreError(f"QuestDB has suspended {table} ({stuck.reason}). Ask it: SELECT * FROM wal_tables()")
        time.sleep(POLL_SECONDS)


def find(db: QuestDB, day: str) -> Partition | None:
    """Returns the present state of a day; None if there is no such day. Raises StoreError."""
    return next((each for each in list_partitions(db) if each.day == day), None)


def convert(db: QuestDB, day: str, stopped: Callable[[], bool]) -> bool:
    """Converts a day to Parquet in place; returns False if `stopped` ended the wait for it.

    The server converts it in the order of its log, and completely or not at all, even if it is killed meanwhile.
    Raises StoreError.
    """
    _store_every_column(db, day)
    return _alter(
        db, f"CONVERT PARTITION TO PARQUET LIST '{day}'", day, lambda found: bool(found and found.is_parquet), stopped
    )


def make_native(db: QuestDB, day: str, stopped: Callable[[], bool]) -> bool:
    """Converts a Parquet day to QuestDB's native form; returns False if `stopped` ended the wait. Raises StoreError."""
    return _alter(
        db, f"CONVERT PARTITION TO NATIVE LIST '{day}'", day, lambda found: not (found and found.is_parquet), stopped
    )


def column_names(db: QuestDB) -> list[str]:
    """Returns the names of the table's columns in order. Raises StoreError."""
    return [name for (name,) in db.sql(f"SELECT \"column\" FROM table_columns('{ORDERBOOK}')").rows]


def added_later(names: Sequence[str]) -> list[str]:
    """Returns those of a table's columns that it may not have had from the beginning: they follow the first ones."""
    for head in _FIRST_COLUMNS:
        for depth in (20, 10, 5):
            first = [*head, *level_columns(depth)]
            if list(names[: len(first)]) == first:
                return list(names[len(first) :])
    return [name for name in names if name not in _FIRST_COLUMNS[1]]


def _store_every_column(db: QuestDB, day: str) -> None:
    """Makes the files of a native day hold NULL for rows that are older than a column, instead of nothing.

    Without these NULLs, QuestDB 9.3.4 dies when the day is Parquet and an export has no row filter. It suffices to
    update the first row with its own values: the server then writes the column from this row on.
    """
    settle(db)  # also columns that are being added now
    later = added_later(column_names(db))
    if not later:
        return
    listed = ", ".join(f'"{name}"' for name in later)
    rows = db.sql(f"SELECT timestamp, {listed} FROM {ORDERBOOK} WHERE timestamp IN '{day}' LIMIT 1").rows
    for first, *values in rows:
        # A value in the first row shows that the column has been there for all of the day.
        unsure = [name for name, value in zip(later, values, strict=True) if not isinstance(value, float | str)]
        if unsure:
            same = ", ".join(f'"{name}" = "{name}"' for name in unsure)
            db.sql(f"UPDATE {ORDERBOOK} SET {same} WHERE timestamp = '{first}'")


def drop(db: QuestDB, day: str, stopped: Callable[[], bool]) -> bool:
    """Drops a day; returns False if `stopped` ended the wait for it. Raises StoreError."""
    return _alter(db, f"DROP PARTITION LIST '{day}'", day, lambda found: found is None, stopped)


def _alter(
    db: QuestDB, what: str, day: str, done: Callable[[Partition | None], bool], stopped: Callable[[], bool]
) -> bool:
    """Alters a day and waits until `done`; returns False if `stopped`. Raises StoreError.

    It does not count transactions: after a server was killed, the last one may not be counted.
    """
    db.sql(f"ALTER TABLE {ORDERBOOK} {what}")
    while not done(find(db, day)):
        if stuck := suspension(db):
            if _CANNOT_CONVERT in stuck.reason:
                # QuestDB would try it again and again, and no row would become visible meanwhile. This skips the
                # conversion only: no rows, and nothing if somebody has resumed the table meanwhile.
                db.sql(f"ALTER TABLE {ORDERBOOK} RESUME WAL FROM TXN {stuck.applied + 2}")
                raise StoreError(f"QuestDB cannot make {day} Parquet and keeps it as it was: {stuck.reason}")
            raise StoreError(f"QuestDB has suspended {ORDERBOOK} ({stuck.reason}). Ask it: SELECT * FROM wal_tables()")
        if stopped():
            return False
        time.sleep(POLL_SECONDS)
    return True
