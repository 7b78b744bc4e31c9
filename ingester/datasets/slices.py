"""Reads a range of the table in slices of all pairs, and splits the rows by pair into scratch files."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ingester import grid as grids
from ingester.datasets.dataset import Progress, Request
from ingester.datasets.merging import WINDOW_NS, Books, Merger, Recorders, by_pair
from ingester.datasets.spans import SpanCounter
from ingester.errors import OperationError, SettingsError
from ingester.grid import Floats, Nanoseconds
from ingester.questdb import QuestDB, Slice, TableReader, TableRows, last_rows, tell_nameless
from ingester.text import inside, path_part

AHEAD = 2
"""So many slices are read ahead while others are split. More would only take memory."""
_LONG_AGO_NS = -(1 << 62)


class ScratchFile:
    """The rows of one pair in two plain files: times (int64, ns) and values (float64, row by row)."""

    def __init__(self, folder: Path, symbol: str, width: int) -> None:
        """`width`: the number of values of a row."""
        self.symbol = symbol
        self._width = width
        self._times_path = _scratch_path(folder, symbol, "times")
        self._values_path = _scratch_path(folder, symbol, "values")
        self.rows = 0

    def append(self, times: Nanoseconds, values: Floats) -> None:
        """Appends times (n,) and values (n, width)."""
        if len(times):
            with self._times_path.open("ab") as file:
                file.write(np.ascontiguousarray(times).data)
            with self._values_path.open("ab") as file:
                file.write(np.ascontiguousarray(values).data)
            self.rows += len(times)

    def cut(self, rows: int) -> None:
        """Keeps only the first `rows`, which an interrupted export had noted."""
        self.rows = rows
        for path, size in ((self._times_path, 8 * rows), (self._values_path, 8 * self._width * rows)):
            if rows:
                with path.open("r+b") as file:
                    file.truncate(size)
            else:
                path.unlink(missing_ok=True)

    def arrays(self) -> tuple[Nanoseconds, Floats]:
        """Returns times (n,) and values (n, width), both mapped."""
        if not self.rows:
            return np.empty(0, np.int64), np.empty((0, self._width))
        times = np.memmap(self._times_path, np.int64, "r", shape=(self.rows,))
        values = np.memmap(self._values_path, np.float64, "r", shape=(self.rows, self._width))
        return np.asarray(times), np.asarray(values)

    def last(self) -> tuple[int, Floats] | None:
        """Returns the time and the values (1, width) of the last row; None without rows."""
        if not self.rows:
            return None
        times, values = self.arrays()
        return int(times[-1]), values[-1:].copy()

    def remove(self) -> None:
        """Removes both files."""
        self._times_path.unlink(missing_ok=True)
        self._values_path.unlink(missing_ok=True)


def _scratch_path(folder: Path, symbol: str, suffix: str) -> Path:
    """Returns the path of a scratch file. A symbol that cannot be the name of a file is replaced by its digest."""
    try:
        return inside(folder, f"{path_part(symbol)}.{suffix}")
    except SettingsError:
        return folder / f"{hashlib.sha256(symbol.encode('utf-8', 'surrogatepass')).hexdigest()}.{suffix}"


class Split(NamedTuple):
    """The progress of splitting rows into scratch files."""

    until_ns: int
    """All slices before this time were split."""
    rows: dict[str, int]
    """The number of rows in the scratch file of each pair."""
    behind: dict[str, int]
    """The time for each pair whose scratch file ends earlier, because books may still get more levels."""


def collect(
    db: QuestDB,
    request: Request,
    folder: Path,
    counts: Mapping[str, int],
    progress: Progress,
    done: Split | None = None,
    note: Callable[[Split], None] = lambda split: None,
    collector: str | None = None,
    counter: SpanCounter | None = None,
    exchange: str | None = None,
) -> dict[str, ScratchFile]:
    """Reads the rows of a request and splits them by pair into scratch files in `folder`, which it returns by symbol.

    `done`: the last progress of an interrupted call. `note` is called with the progress after each slice. `collector`:
    only rows of this collector, which hold no copies. `counter` gets all rows. `exchange`: only rows of this exchange.
    Raises OperationError where days were dropped meanwhile, and StoreError.
    """
    done = done or Split(request.start_ns, {}, {})
    reader = TableReader(db, request.symbols, request.levels, dict(counts), collector=collector, exchange=exchange)
    copies_ns = WINDOW_NS if collector is None else 0
    begin_ns = _begin(db, request, min([done.until_ns, *done.behind.values()]), copies_ns, exchange)
    slices = list(_cut(reader.slices(begin_ns, request.end_ns + copies_ns), done.until_ns, request.end_ns))
    pairs = {
        symbol: _PairRows(request, ScratchFile(folder, symbol, request.width), reader) for symbol in request.symbols
    }
    for symbol, pair in pairs.items():
        pair.resume(done.rows.get(symbol, 0), done.behind.get(symbol, done.until_ns))

    def split(until_ns: int) -> Split:
        behind = {symbol: pair.until_ns for symbol, pair in pairs.items() if pair.until_ns < until_ns}
        return Split(until_ns, {symbol: pair.scratch.rows for symbol, pair in pairs.items()}, behind)

    recorders = Recorders()

    def take(part: Slice, rows: TableRows) -> None:
        found = by_pair(rows, recorders)
        for symbol, pair in pairs.items():
            pair.take(part.end_ns, *found.get(symbol, nothing))

    nothing = Books.none(request.width), np.empty(0, np.int64)
    with read_ahead(reader, [part for part in slices if part.end_ns <= request.end_ns]) as parts:
        for part, rows in parts:
            take(part, rows)
            if part.start_ns >= done.until_ns:
                progress.rows_read += len(rows.times)
                if counter is not None:
                    counter.take(rows)
                note(split(part.end_ns))
    wanted = sum(counts.get(symbol, 0) for symbol in request.symbols)
    tell_nameless(reader.nameless)
    read = progress.rows_read + reader.nameless
    if done.until_ns == request.start_ns and collector is None and read < wanted:
        raise OperationError(
            f"The range had {wanted:,} rows of these pairs, and {progress.rows_read:,} were left when they were read: "
            "somebody has dropped days meanwhile. `ingester retention` shows which are left."
        )
    if split(request.end_ns).behind:  # rows after the range may be copies with more levels
        for part in slices:
            if part.start_ns >= request.end_ns:
                take(part, reader.read(part))
        for pair in pairs.values():
            pair.end()
        note(split(request.end_ns))
    return {symbol: pair.scratch for symbol, pair in pairs.items()}


def _begin(db: QuestDB, request: Request, from_ns: int, copies_ns: int, exchange: str | None) -> int:
    """Returns the time from which rows are read for a range from `from_ns`: for copies, and for the first grid rows."""
    if request.every_ns is None:
        return from_ns - copies_ns
    earliest_ns = from_ns - max(copies_ns, grids.LOOK_BACK_NS, request.max_age_ns)
    if request.max_age_ns <= grids.LOOK_BACK_NS:
        return earliest_ns
    # Reads only so far back that each pair has a row.
    last = last_rows(db, earliest_ns, from_ns, exchange)
    newest_ns = min((last[symbol] for symbol in request.symbols if symbol in last), default=from_ns)
    return max(earliest_ns, newest_ns - 2 * WINDOW_NS)


def _cut(slices: Sequence[Slice], *cuts: int) -> Iterator[Slice]:
    """Yields the slices, divided at the cuts (times in ns)."""
    for part in slices:
        ends = [part.start_ns, *sorted({cut for cut in cuts if part.start_ns < cut < part.end_ns}), part.end_ns]
        yield from (Slice(*each) for each in pairwise(ends))


class _PairRows:
    """Writes the rows of one pair from slices to its scratch file: merged, and resampled for a grid."""

    def __init__(self, request: Request, scratch: ScratchFile, reader: TableReader) -> None:
        self.scratch = scratch
        self.until_ns = request.start_ns
        """All rows before this time are in the scratch file."""
        self._request = request
        self._merger = Merger(request.width, reader.several)
        self._sampler = grids.Sampler(request.width, request.max_age_ns, request.fill)

    def resume(self, rows: int, until_ns: int) -> None:
        """Continues after the first `rows` of the scratch file, which are all rows before `until_ns`."""
        self.until_ns = until_ns
        self.scratch.cut(rows)
        last = self.scratch.last()
        if last is not None and self._request.fill == "forward":  # older than all rows that are read
            self._sampler.take(np.array([_LONG_AGO_NS]), last[1], np.empty(0, np.int64))

    def take(self, until_ns: int, books: Books, recorders: Any) -> None:
        """Takes the pair's rows of the next slice, which ends at `until_ns`."""
        self._put(*self._merger.take(books, recorders, until_ns))

    def end(self) -> None:
        """Writes the rest after the last slice."""
        self._put(self._merger.rest(), self._request.end_ns)

    def _put(self, books: Books, until_ns: int) -> None:
        """Appends the books before `until_ns`, but those that the scratch file already has."""
        request = self._request
        times, values = books.times, books.values
        start, self.until_ns = self.until_ns, max(self.until_ns, min(until_ns, request.end_ns))
        if request.every_ns is None:
            first, stop = np.searchsorted(times, [start, self.until_ns])
            self.scratch.append(times[first:stop], values[first:stop])
            return
        first = request.start_ns + -(-(start - request.start_ns) // request.every_ns) * request.every_ns
        grid_times = grids.grid(first, max(first, self.until_ns), request.every_ns)
        self.scratch.append(grid_times, self._sampler.take(times, values, grid_times))


@contextmanager
def read_ahead(reader: TableReader, slices: Sequence[Slice]) -> Iterator[Iterator[tuple[Slice, TableRows]]]:
    """Yields an iterator of the slices in order with their rows; `AHEAD` slices are read while the caller works."""
    with ThreadPoolExecutor(AHEAD, "export") as pool:
        ahead = deque((part, pool.submit(reader.read, part)) for part in slices[:AHEAD])

        def parts() -> Iterator[tuple[Slice, TableRows]]:
            for part in slices[AHEAD:]:
                ahead.append((part, pool.submit(reader.read, part)))
                first, rows = ahead.popleft()
                yield first, rows.result()
            while ahead:
                first, rows = ahead.popleft()
                yield first, rows.result()

        try:
            yield parts()
        finally:
            for _, rows in ahead:
                rows.cancel()
