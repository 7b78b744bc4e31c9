"""Reads `orderbook` in bulk: slices of time of all pairs as arrays, by QuestDB's Parquet export."""

import functools
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingester.book import level_columns
from ingester.clock import SECOND
from ingester.errors import QueryError, StoreError
from ingester.questdb.client import QuestDB
from ingester.questdb.partitions import TOO_OLD, added_later, column_names, list_partitions
from ingester.questdb.query import between, collectors, depth, of_exchange, one_of, quoted
from ingester.questdb.tables import ORDERBOOK

SLICE_ROWS = 120_000
"""Rows of a slice: about 21 MB on the wire at depth 5. Larger ones are not faster, and take memory."""
SELECTIVE = 0.5
"""A smaller share of the rows is selected by symbol in SQL; a larger one is read faster in whole slices."""
HOUR, DAY = 3600 * SECOND, 86400 * SECOND
KEYS = ["timestamp", "symbol", "last_update_id"]
"""The columns that are read besides those of the levels."""


class Slice(NamedTuple):
    """A part of a range, in ns: [start, end), of one day (UTC)."""

    start_ns: int
    end_ns: int


class TableRows(NamedTuple):
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
    collectors: list[str]
    by: npt.NDArray[np.int32]
    """(n,) the collector of each row, as an index of `collectors`."""


class TableReader:
    """Reads a range slice by slice. Several threads may use it."""

    def __init__(
        self,
        db: QuestDB,
        symbols: Sequence[str],
        levels: int,
        counts: dict[str, int],
        *,
        collector: str | None = None,
        exchange: str | None = None,
    ) -> None:
        """`counts`: rows of all symbols in the range; they decide how the rows of `symbols` are selected.

        With `collector`, only what it has recorded; with `exchange`, only rows of this one.
        """
        self._collector = collector  # the only one that there is in the range
        self._db = db
        self._symbols = sorted(symbols)
        self._names = level_columns(levels)
        self.nameless = 0
        """Rows that were left out, as they lack symbol, collector or update id."""
        self._counting = threading.Lock()
        self._rooms = threading.local()  # each thread reads into its own
        wanted = sum(counts.get(symbol, 0) for symbol in symbols)
        self._chosen = ""
        if wanted < SELECTIVE * sum(counts.values()):
            named = one_of("symbol", self._symbols)
            self._chosen = f" AND {named}" if named else ""
        if collector is not None:
            self._chosen += f" AND collector = {quoted([collector])}"
        if exchange is not None:
            self._chosen += f" AND {of_exchange(exchange)}"
        self._exchange = exchange
        # Bugs of QuestDB 9.3.4: over Parquet days a projection without a row filter is refused, and any query without
        # one may end the server where a column is younger than a row. So there is a filter that is always true.
        self._filter = self._chosen or " AND timestamp IS NOT NULL"
        all_columns = levels == depth(db) and not self._chosen and not _needs_filter(db)
        self._what = "*" if all_columns else ", ".join([*KEYS, "collector", *self._names])
        if all_columns:
            self._filter = ""

    @property
    def several(self) -> bool:
        """Whether more than one recorder may have stored rows in the range that was cut into slices."""
        return self._collector is None

    def slices(self, start_ns: int, end_ns: int) -> list[Slice]:
        """Returns the range as slices of about `SLICE_ROWS` rows, each of one day."""
        there = (
            [self._collector]
            if self._collector
            else collectors(self._db, start_ns, end_ns, nameless=True, exchange=self._exchange)
        )
        # A column of the same texts takes long to unpack.
        self._collector = there[0] if len(there) == 1 and there[0] else None
        where = between(start_ns, end_ns) + self._chosen
        hours = self._db.sql(
            f"SELECT timestamp_floor('1h', timestamp)::long, count() FROM {ORDERBOOK} WHERE {where} "
            "GROUP BY timestamp_floor('1h', timestamp) ORDER BY 1"
        ).rows
        cuts = [start_ns]
        rows_since = 0
        for hour_us, rows in hours:
            hour_ns = hour_us * 1000
            if hour_ns // DAY > cuts[-1] // DAY:
                cuts.append(hour_ns // DAY * DAY)
                rows_since = 0
            if rows_since + rows > SLICE_ROWS:
                cuts.append(hour_ns)
                pieces = -(-rows // SLICE_ROWS)
                first_ns, stop_ns = max(hour_ns, start_ns), min(hour_ns + HOUR, end_ns)
                cuts += [first_ns + (stop_ns - first_ns) * piece // pieces for piece in range(1, pieces)]
                rows_since = rows // pieces
            else:
                rows_since += rows
        cuts = sorted({cut for cut in cuts if start_ns <= cut < end_ns})
        return [Slice(*ends) for ends in zip(cuts, [*cuts[1:], end_ns], strict=True)]

    def read(self, part: Slice) -> TableRows:
        """Returns the rows of a slice. Raises StoreError."""
        where = between(*part) + self._filter
        room: bytearray = self._rooms.__dict__.setdefault("room", bytearray())
        try:
            with self._db.parquet(f"SELECT {self._what} FROM {ORDERBOOK} WHERE {where}", room) as data:
                table = self._table(data)
        except QueryError as error:
            if TOO_OLD not in str(error):
                raise
            day = time.strftime("%Y-%m-%d", time.gmtime(part.start_ns // SECOND))
            raise StoreError(
                f"{day} was made Parquet before {ORDERBOOK} got more levels, and QuestDB cannot read these there. "
                "`ingester start` rewrites such days, before it stores the first row."
            ) from error
        return self._sorted(table)

    def _table(self, data: memoryview) -> pa.Table:
        """Returns a copy of the wanted columns of a Parquet file; on return nothing refers to `data`.

        Not by `read_table` or with threads, which let go of it only a moment later. Not by `read_dictionary`: QuestDB's
        dictionaries hold every unused symbol as an empty string, and pyarrow counts these as one.
        """
        columns = [*KEYS, *self._names] if self._collector else [*KEYS, "collector", *self._names]
        table = pq.ParquetFile(pa.BufferReader(data)).read(columns=columns, use_threads=False)
        return self._named(table, [name for name in columns if name not in self._names])

    def _named(self, table: pa.Table, keys: Sequence[str]) -> pa.Table:
        """Returns the rows with symbol, update id and collector; rows that somebody inserted by hand may lack them."""
        lacking = [name for name in keys if table.column(name).null_count]
        if not lacking:
            return table
        named = table.filter(functools.reduce(pc.and_, (pc.is_valid(table.column(name)) for name in lacking)))
        with self._counting:
            self.nameless += len(table) - len(named)
        return named

    def _sorted(self, table: pa.Table) -> TableRows:
        present, indices = _encoded(table.column("symbol"))
        wanted = {symbol: place for place, symbol in enumerate(self._symbols)}
        codes = np.array([wanted.get(symbol, -1) for symbol in present], np.int16)[indices]
        order = np.argsort(codes, kind="stable")
        skipped = int(np.searchsorted(codes[order], 0)) if len(codes) else 0
        order = order[skipped:]
        codes = codes[order]
        values = np.empty((len(self._names), len(order)))  # turned round only where pieces are small enough for a cache
        for place, name in enumerate(self._names):
            np.take(_numpy(table.column(name)), order, out=values[place], mode="clip")
        first = np.flatnonzero(np.diff(codes, prepend=-1))
        if self._collector:
            recorders, by = [self._collector], np.zeros(len(order), np.int32)
        else:
            recorders, by = _encoded(table.column("collector"))
            by = by[order]
        return TableRows(
            [self._symbols[code] for code in codes[first]],
            [*first.tolist(), len(order)],
            _numpy(table.column("timestamp").cast(pa.timestamp("us")).cast(pa.int64()))[order] * 1000,
            _numpy(table.column("last_update_id"))[order],
            values.T,
            recorders,
            by,
        )


def _needs_filter(db: QuestDB) -> bool:
    """Returns whether the table has Parquet days, and columns that were added later."""
    return bool(added_later(column_names(db))) and any(day.is_parquet for day in list_partitions(db))


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Returns the different texts of a column, and the index of the text of each row (n,)."""
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = column.to_numpy()
    return array
