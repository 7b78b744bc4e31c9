"""The days of `orderbook` as QuestDB keeps them: what they weigh, and how one becomes Parquet or goes."""

import datetime
import time
from collections.abc import Callable
from typing import NamedTuple

from ingester.clock import SECOND
from ingester.errors import StoreError
from ingester.store.questdb import QuestDB
from ingester.store.schema import ORDERBOOK

DAY = 86400 * SECOND
POLL_SECONDS = 0.1

_PARTITIONS = (
    "SELECT name, numRows, diskSize, isParquet, active, readOnly "
    f"FROM table_partitions('{ORDERBOOK}') WHERE attached ORDER BY name"
)
_SUSPENDED = f"SELECT errorMessage, writerTxn FROM wal_tables() WHERE name = '{ORDERBOOK}' AND suspended"
_CANNOT_CONVERT = "PartitionEncoder.encodePartition"  # is in QuestDB's words where a conversion failed, and never rows


class Partition(NamedTuple):
    """One day (UTC) of the table."""

    day: str
    """As QuestDB calls it: 2024-08-08."""
    rows: int
    bytes: int
    """On disk; the active one's files are larger than what is in them."""
    is_parquet: bool = False
    is_active: bool = False
    """The newest, into which rows come."""
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


def start_of(day: str) -> int:
    """The first moment of 2024-08-08, in ns since 1970, UTC."""
    return (datetime.date.fromisoformat(day) - datetime.date(1970, 1, 1)).days * DAY


def partitions(db: QuestDB) -> list[Partition]:
    """All days, the oldest first; none where nothing was ever recorded, or the table is not kept by day.

    Raises StoreError.
    """
    kept = db.sql(f"SELECT partitionBy FROM tables() WHERE table_name = '{ORDERBOOK}'").rows
    return [Partition(*row) for row in db.sql(_PARTITIONS).rows] if kept == [["DAY"]] else []


class Suspension(NamedTuple):
    """Of a table that does not apply what it acknowledges."""

    reason: str
    """QuestDB's words."""
    applied: int
    """The last transaction that it has applied; the next one failed."""


def suspension(db: QuestDB) -> Suspension | None:
    """Whether the table is suspended. Raises StoreError."""
    rows = db.sql(_SUSPENDED).rows
    return Suspension(rows[0][0] or "no reason given", rows[0][1]) if rows else None


def find(db: QuestDB, day: str) -> Partition | None:
    """A day as it is now. Raises StoreError."""
    return next((each for each in partitions(db) if each.day == day), None)


def convert(db: QuestDB, day: str, stopped: Callable[[], bool]) -> bool:
    """Has a day rewritten as Parquet in place; whether that is done, for `stopped` may say not to wait for it.

    The server does it in the order of its log, all at once or not at all, also where it is killed meanwhile. Raises
    StoreError.
    """
    return _alter(
        db, f"CONVERT PARTITION TO PARQUET LIST '{day}'", day, lambda found: bool(found and found.is_parquet), stopped
    )


def drop(db: QuestDB, day: str, stopped: Callable[[], bool]) -> bool:
    """Removes a day for good; whether that is done. Raises StoreError."""
    return _alter(db, f"DROP PARTITION LIST '{day}'", day, lambda found: found is None, stopped)


def _alter(
    db: QuestDB, what: str, day: str, done: Callable[[Partition | None], bool], stopped: Callable[[], bool]
) -> bool:
    """Not by counting transactions: of a server that was killed, the last one may stay uncounted."""
    db.sql(f"ALTER TABLE {ORDERBOOK} {what}")
    while not done(find(db, day)):
        if stuck := suspension(db):
            if _CANNOT_CONVERT in stuck.reason:
                # It would be tried again and again, and no row become visible before. Rows are not skipped by this, nor
                # is anything where somebody has resumed the table meanwhile.
                db.sql(f"ALTER TABLE {ORDERBOOK} RESUME WAL FROM TXN {stuck.applied + 2}")
                raise StoreError(f"QuestDB cannot make {day} Parquet and keeps it as it was: {stuck.reason}")
            raise StoreError(f"QuestDB has suspended {ORDERBOOK} ({stuck.reason}). Ask it: SELECT * FROM wal_tables()")
        if stopped():
            return False
        time.sleep(POLL_SECONDS)
    return True
