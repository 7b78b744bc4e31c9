"""Brings earlier recordings into the table, as rows of the collector `import`. Doing it again changes nothing.

Receive times are cut to the table's microseconds.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ingester.datasets.recordings import Recording, UnreadableRecording, read
from ingester.snapshot import level_columns
from ingester.store import schema
from ingester.store.questdb import QuestDB
from ingester.store.rows import new_sender
from ingester.store.schema import ORDERBOOK

COLLECTOR = "import"
BATCH_ROWS = 20_000
DEPTHS = (5, 10, 20)


class Imported(NamedTuple):
    """What one file brought. `failure` says why it is not in the table, or not wholly."""

    path: Path
    symbol: str = ""
    rows: int = 0
    first_ns: int = 0
    last_ns: int = 0
    failure: str = ""


class Importer:
    """Writes recordings into one server's table. Not for use by two threads at a time."""

    def __init__(self, db: QuestDB) -> None:
        self._db = db
        self._depth = 0  # levels that the table is known to take
        self._sender = new_sender()
        self._buffer = self._sender.new_buffer()

    def take(self, path: Path) -> Imported:
        """Stores the rows of one file; the answer tells of a file that cannot be read.

        Raises StoreError where the rows cannot be stored.
        """
        try:
            recording = read(path)
            ids = row_ids(recording)
        except UnreadableRecording as error:
            return Imported(path, failure=str(error))
        if not len(ids):
            return Imported(path, recording.symbol)
        self._ensure_levels(recording.levels)
        for body in self._bodies(recording, ids):
            self._db.write(body)
        return Imported(path, recording.symbol, len(ids), int(recording.times[0]), int(recording.times[-1]))

    def check(self, imported: Sequence[Imported], progress: Callable[[], None] = lambda: None) -> list[Imported]:
        """The same, after the rows have become visible, with a failure where some of a file have not."""
        if any(file.rows for file in imported):
            self._db.sql(f"SELECT wait_wal_table('{ORDERBOOK}')")
        checked = []
        for file in imported:
            checked.append(file._replace(failure=self._missing(file)) if file.rows else file)
            progress()
        return checked

    def _missing(self, file: Imported) -> str:
        first_us, last_us = file.first_ns // 1000, file.last_ns // 1000
        ((visible,),) = self._db.sql(
            f"SELECT count() FROM {ORDERBOOK} WHERE symbol = '{file.symbol}' AND collector = '{COLLECTOR}' "
            f"AND timestamp >= {first_us} AND timestamp <= {last_us}"
        ).rows
        if visible >= file.rows:
            return ""
        return f"only {visible:,} of its {file.rows:,} rows are visible; ask the server: SELECT * FROM wal_tables()"

    def _ensure_levels(self, levels: int) -> None:
        if levels > self._depth:
            self._depth = min(depth for depth in DEPTHS if depth >= levels)
            schema.ensure(self._db, self._depth)

    def _bodies(self, recording: Recording, ids: Any) -> Iterator[bytes]:
        import pandas as pd

        for begin in range(0, len(ids), BATCH_ROWS):
            rows = slice(begin, begin + BATCH_ROWS)
            frame = pd.DataFrame(recording.values[rows], columns=level_columns(recording.levels))
            frame["last_update_id"] = ids[rows]
            frame["timestamp"] = recording.times[rows].view("datetime64[ns]")
            for name, value in (("symbol", recording.symbol), ("collector", COLLECTOR)):
                frame[name] = pd.Categorical([value] * len(frame))
            self._buffer.clear()  # type: ignore[no-untyped-call]
            self._buffer.dataframe(frame, table_name=ORDERBOOK, symbols=["symbol", "collector"], at="timestamp")
            yield bytes(self._buffer)


def row_ids(recording: Recording) -> Any:
    """`last_update_id` (n,) of rows that have none: the receive time in µs, then three digits taken from the book.

    So the same row gets the same id in whatever file it comes, two rows of one time are kept apart, ids rise with time
    (which the views rely on), and no two rows are ever taken for copies of one book, as those of collectors are.
    Raises UnreadableRecording where a thousand rows or more share a microsecond.
    """
    ids = recording.times // 1000 * 1000
    _, counts = np.unique(ids, return_counts=True)
    if counts.max(initial=0) >= 1000:
        raise UnreadableRecording(f"{counts.max():,} rows have the same time")
    digits = (_digest(recording) % 1000).astype(np.int64)
    while True:
        taken = np.ones(len(ids), bool)
        taken[np.unique(ids + digits, return_index=True)[1]] = False
        if not taken.any():
            return ids + digits
        digits[taken] = (digits[taken] + 1) % 1000


def _digest(recording: Recording) -> Any:
    """A number (n,) for each book; levels without numbers make no difference."""
    digest = np.zeros(len(recording.times), np.uint64)
    side = recording.levels * 2
    for place, column in enumerate(recording.values.T):
        # A value's own factor, the same however many levels the file has.
        factor = np.uint64(((place % side) * 2 + place // side) * 0x9E3779B97F4A7C16 + 1 & 0xFFFFFFFFFFFFFFFF)
        mixed = np.ascontiguousarray(column).view(np.uint64) * factor
        digest += np.where(np.isnan(column), np.uint64(0), mixed ^ (mixed >> np.uint64(29)))
    return digest ^ (digest >> np.uint64(32))
