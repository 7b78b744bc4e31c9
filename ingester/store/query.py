"""Bulk reads of `orderbook`: time slices as Arrow tables, through QuestDB's parquet export."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ingester.clock import SECOND
from ingester.snapshot import level_columns
from ingester.store.questdb import QuestDB
from ingester.store.schema import ORDERBOOK

SLICE_ROWS = 120_000
"""Rows of a slice: about 21 MB on the wire at depth 5. Larger ones are not faster, and take memory."""
SELECTIVE = 0.5
"""A smaller share of the rows than this is asked for by symbol; else whole slices are faster, and sorted out here."""
HOUR = 3600 * SECOND


class Slice(NamedTuple):
    """A part of a range, in ns: [start, end)."""

    start_ns: int
    end_ns: int


class Rows(NamedTuple):
    """Rows of a slice, sorted by symbol, then by receive time."""

    symbols: list[str]
    bounds: list[int]
    """The rows of `symbols[i]` are those from `bounds[i]` until before `bounds[i + 1]`."""
    times: npt.NDArray[np.int64]
    """(n,) receive times in ns."""
    ids: npt.NDArray[np.int64]
    """(n,) update ids."""
    values: npt.NDArray[np.float64]
    """(n, 4 x levels)."""


def depth(db: QuestDB) -> int:
    """Levels a side that the table has; 0 where there is no table."""
    names = {row[0] for row in db.sql(f"SELECT \"column\" FROM table_columns('{ORDERBOOK}')").rows}
    return sum(f"bid_{level}" in names for level in range(1, 21))


def all_symbols(db: QuestDB) -> list[str]:
    """Every symbol that has a row."""
    if not table_exists(db):
        return []
    return sorted(row[0] for row in db.sql(f"SELECT DISTINCT symbol FROM {ORDERBOOK}").rows if row[0])


def table_exists(db: QuestDB) -> bool:
    """Whether anything was ever recorded."""
    return bool(db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{ORDERBOOK}'").rows)


def between(start_ns: int, end_ns: int) -> str:
    """The condition that a row lies in a range; times in the table are microseconds."""
    return f"timestamp >= {-(-start_ns // 1000)} AND timestamp < {-(-end_ns // 1000)}"


def quoted(names: Sequence[str]) -> str:
    """Names as SQL strings, with commas between."""
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)


def rows_by_symbol(db: QuestDB, start_ns: int, end_ns: int, collector: str | None = None) -> dict[str, int]:
    """Rows of each symbol in a range; with `collector`, only what it has recorded."""
    where = between(start_ns, end_ns) + (f" AND collector IN ({quoted([collector])})" if collector else "")
    rows = db.sql(f"SELECT symbol, count() FROM {ORDERBOOK} WHERE {where}").rows
    return {symbol: count for symbol, count in rows if symbol}


def collectors(db: QuestDB, start_ns: int, end_ns: int) -> list[str]:
    """Who recorded in a range."""
    where = between(start_ns, end_ns)
    return sorted(row[0] for row in db.sql(f"SELECT DISTINCT collector FROM {ORDERBOOK} WHERE {where}").rows)


class Reader:
    """Reads a range slice by slice. May be used by several threads."""

    def __init__(
        self, db: QuestDB, symbols: Sequence[str], levels: int, counts: dict[str, int], collector: str | None = None
    ) -> None:
        """`counts`: rows of all symbols in the range, which decides how to ask for those of `symbols`.

        With `collector`, only what it has recorded.
        """
        self._db = db
        self._symbols = sorted(symbols)
        self._names = level_columns(levels)
        wanted = sum(counts.get(symbol, 0) for symbol in symbols)
        self._chosen = ""
        if wanted < SELECTIVE * sum(counts.values()):
            self._chosen = f" AND symbol IN ({quoted(self._symbols)})"
        if collector is not None:
            self._chosen += f" AND collector = {quoted([collector])}"
        # A projection over partitions in Parquet needs a row filter (a bug of QuestDB 9.3.4): one that is always true.
        self._filter = self._chosen or " AND last_update_id IS NOT NULL"
        all_columns = levels == depth(db) and not self._chosen
        self._what = "*" if all_columns else ", ".join(["timestamp", "symbol", "last_update_id", *self._names])
        if all_columns:
            self._filter = ""

    def slices(self, start_ns: int, end_ns: int) -> list[Slice]:
        """The range cut so that each slice has about `SLICE_ROWS` rows."""
        where = between(start_ns, end_ns) + self._chosen
        hours = self._db.sql(
            f"SELECT timestamp_floor('1h', timestamp)::long, count() FROM {ORDERBOOK} WHERE {where} "
            "GROUP BY timestamp_floor('1h', timestamp) ORDER BY 1"
        ).rows
        cuts = [start_ns]
        rows_since = 0
        for hour_us, rows in hours:
            hour_ns = hour_us * 1000
            if rows_since + rows > SLICE_ROWS:
                cuts.append(hour_ns)
                pieces = -(-rows // SLICE_ROWS)
                cuts += [hour_ns + HOUR * piece // pieces for piece in range(1, pieces)]
                rows_since = rows // pieces
            else:
                rows_since += rows
        cuts = sorted({cut for cut in cuts if start_ns <= cut < end_ns})
        return [Slice(*ends) for ends in zip(cuts, [*cuts[1:], end_ns], strict=True)]

    def read(self, part: Slice) -> Rows:
        """The rows of a slice. Raises StoreError."""
        where = between(*part) + self._filter
        data = self._db.parquet(f"SELECT {self._what} FROM {ORDERBOOK} WHERE {where}")
        # Not by `read_dictionary`: QuestDB's dictionaries hold every unused symbol as an empty string, and pyarrow
        # counts these as one.
        columns = ["timestamp", "symbol", "last_update_id", *self._names]
        return self._sorted(pq.read_table(pa.BufferReader(data), columns=columns))

    def _sorted(self, table: pa.Table) -> Rows:
        encoded = table.column("symbol").dictionary_encode().unify_dictionaries().combine_chunks()
        present = encoded.dictionary.to_pylist()
        wanted = {symbol: place for place, symbol in enumerate(self._symbols)}
        places = np.array([wanted.get(symbol, -1) for symbol in present] or [-1], np.int16)
        codes = places[encoded.indices.to_numpy(zero_copy_only=False)] if len(encoded) else np.empty(0, np.int16)
        order = np.argsort(codes, kind="stable")
        skipped = int(np.searchsorted(codes[order], 0)) if len(codes) else 0
        order = order[skipped:]
        codes = codes[order]
        values = np.empty((len(self._names), len(order)))  # turned round only where pieces are small enough for a cache
        for place, name in enumerate(self._names):
            np.take(_numpy(table.column(name)), order, out=values[place], mode="clip")
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        return Rows(
            [self._symbols[code] for code in codes[first]],
            [*first.tolist(), len(order)],
            _numpy(table.column("timestamp").cast(pa.timestamp("us")).cast(pa.int64()))[order] * 1000,
            _numpy(table.column("last_update_id"))[order],
            values.T,
        )


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = column.to_numpy()
    return array
