"""Finds files of `orderbook` that a crash has damaged: they are too short for the rows that they should hold.

QuestDB notices a damaged file only when it reads it. Then it truncates its answer; if the day is Parquet, the server
dies. So the sizes of the managed server's files are checked, and the server is only asked for the list of its days.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from ingester.errors import QueryError, StoreError
from ingester.metrics import StoreMetrics
from ingester.questdb import partitions
from ingester.questdb.client import QuestDB
from ingester.questdb.tables import ORDERBOOK

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
"""The time between two inspections by a recorder."""
NAMED_FILES = 3
"""A message names at most this number of damaged files."""
_OF_THE_TABLE = (
    "_meta",
    "_txn",
    "_cv",
    "exchange.o",
    "exchange.k",
    "symbol.o",
    "symbol.k",
    "collector.o",
    "collector.k",
    "txn_seq/_txnlog",
    "txn_seq/_meta",
)
_SYMBOLS = ("exchange", "symbol", "collector")
_MAGIC = b"PAR1"


class Inspection:
    """Inspects the files once a minute, for a thread that must not end."""

    def __init__(self, db: QuestDB, metrics: StoreMetrics) -> None:
        self._db = db
        self._metrics = metrics
        self._due = 0.0

    def look(self) -> None:
        """Inspects the files, if it is time for that, and sets the result in the metrics. Raises nothing."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + INTERVAL_SECONDS
        try:
            found = find_damage(self._db)
        except StoreError:
            return  # a server that is down is reported elsewhere
        except Exception:  # a bug must not end the thread
            log.exception("the table's files could not be looked at")
            return
        if found and found != self._metrics.damage:
            log.error("QuestDB cannot read all of %s: %s", ORDERBOOK, found)
        self._metrics.damage = found


def find_damage(db: QuestDB) -> str:
    """Returns a text about the damaged part of the table; empty if no damage is known. Raises StoreError."""
    try:
        found = db.sql(f"SELECT directoryName FROM tables() WHERE table_name = '{ORDERBOOK}'").rows
        if not found:
            return _vanished(db)
        if db.endpoint.folder is None:
            db.sql(f"SELECT * FROM {ORDERBOOK} LIMIT -1")  # a truncated answer is an error
            return ""
        folder = _tables(db.endpoint.folder) / found[0][0]
        # Checked twice, as a day may have been rewritten or dropped during the first check.
        files = {name for name in _OF_THE_TABLE if _size(folder / name) == 0} or (
            _damaged(db, folder) and _damaged(db, folder)
        )
    except OSError as error:  # this is no sign of damage
        log.warning("the files of the table %s cannot be looked at now: %s", ORDERBOOK, error)
        return ""
    except QueryError as error:
        return str(error).splitlines()[0].removeprefix("QuestDB refused the statement: ")
    named = sorted(files)
    more = f" and {len(named) - NAMED_FILES} more" if len(named) > NAMED_FILES else ""
    return f"{', '.join(named[:NAMED_FILES])}{more} in {folder} hold less than they should" if named else ""


def _tables(data_dir: Path) -> Path:
    return data_dir / "questdb" / "root" / "db"


def _vanished(db: QuestDB) -> str:
    """Returns a text about a table with a damaged `_meta` file, which QuestDB does not list; empty if there is none."""
    folder = db.endpoint.folder
    if folder is None:
        return ""
    for path in sorted(_tables(folder).glob(f"{ORDERBOOK}~*/_meta")):
        if path.stat().st_size == 0:
            return f"damaged is {path}"
    return ""


def _damaged(db: QuestDB, folder: Path) -> set[str]:
    """Returns the damaged files of days, and the days whose folder is missing."""
    names = partitions.column_names(db)
    later = set(partitions.added_later(names))
    columns = [name for name in names if name not in later]  # columns that were added later may have no file
    found = set()
    for day in partitions.list_partitions(db):
        # A day that is being rewritten has two folders for a moment; one of them is complete.
        folders = [folder / day.day, *folder.glob(f"{day.day}.*")]
        lacking = [_lacking(each, day, columns) for each in folders if each.is_dir()]
        if not lacking:
            found.add(day.day)
        elif all(lacking):
            found.add(f"{day.day}/{lacking[-1]}")
    return found


def _lacking(folder: Path, day: partitions.Partition, columns: Sequence[str]) -> str:
    """Returns the name of a file that is too short; empty if all are complete."""
    if day.is_parquet:
        return "" if _is_whole(folder / "data.parquet") else "data.parquet"
    sizes: dict[str, int] = {}
    for path in folder.iterdir():
        column, _, version = path.name.partition(".d")
        if not version or version[1:].isdigit():  # an UPDATE writes another version of a column
            sizes[column] = max(sizes.get(column, 0), _size(path) or 0)
    short = (name for name in columns if sizes.get(name, 0) < day.rows * (4 if name in _SYMBOLS else 8))
    return next((f"{name}.d" for name in short), "")


def _size(path: Path) -> int | None:
    """Returns the size of a file; None if there is none. Raises OSError if that cannot be seen now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _is_whole(path: Path) -> bool:
    """Returns whether a Parquet file has its beginning and its end. Raises OSError if it cannot be read now."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(4)
            file.seek(max(0, size - 4))
            return head == file.read(4) == _MAGIC
    except FileNotFoundError:
        return False
