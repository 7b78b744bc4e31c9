"""Finds out which books of a file are in the table already, from any collector.

A row of the table is the same book if it has the same pair, the same microsecond and the same numbers at each level of
the file; the table may have more levels. A row with fewer levels and the same numbers is a cut of the book. The book is
then stored with the update id of that row, so both count as copies of one book; of two copies of the collector
`import`, the deeper one replaces the other.

A row of a grid repeats the last book before it, of any age. It is known if the table has that book, at most a minute
before the newest one. As in an export, a book has the time of its first copy and the levels of its deepest copy, which
may have come after the row.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.clock import SECOND
from ingester.datasets.merging import WINDOW_NS
from ingester.grid import LOOK_BACK_NS, Floats, Nanoseconds
from ingester.questdb import DAY, QuestDB, TableReader, TableRows, last_rows, rows_by_symbol

PAIRS_AT_ONCE = 1 << 17
"""So many pairs of a row of the file and a row of the table are compared at once."""
MICROSECOND = SECOND // 1_000_000
NEW = -1
LONGEST_BACK_NS = DAY
"""So far before the first row of a grid, the book that it repeats is searched."""

Mask = npt.NDArray[np.bool_]


class KnownRows(NamedTuple):
    """What the table holds of n books."""

    known: Mask
    """(n,) whether the table holds the book."""
    elsewhere: Mask
    """(n,) whether the table holds the book, but only at another time."""
    ids: npt.NDArray[np.int64]
    """(n,) the update id of a cut of the book; NEW where the table holds no cut."""
    taken: npt.NDArray[np.int64]
    """All update ids of rows of the table at the times of the books, sorted."""


def find(
    db: QuestDB,
    symbol: str,
    times: Nanoseconds,
    values: Floats,
    every_ns: int = 0,
    own: str = "",
    exchange: str | None = None,
) -> KnownRows:
    """Looks up books, sorted by `times` (n,) in ns and cut to µs, with `values` (n, 4 x levels).

    `every_ns`: the step of the grid that the books are rows of; 0: rows as received. `own`: the collector whose rows on
    this grid are not books that others repeat. `exchange`: only rows of this exchange count. The table must have at
    least as many levels. Raises StoreError.
    """
    n = len(times)
    found = KnownRows(np.zeros(n, bool), np.zeros(n, bool), np.full(n, NEW, np.int64), np.empty(0, np.int64))
    if not n:
        return found
    start_ns, end_ns = int(times[0]), int(times[-1]) + MICROSECOND
    begin_ns = start_ns
    if every_ns:
        begin_ns, end_ns = _newest_before(db, symbol, start_ns, exchange) - LOOK_BACK_NS, end_ns + WINDOW_NS
    counts = rows_by_symbol(db, begin_ns, end_ns, exchange=exchange)
    if not counts.get(symbol):
        return found
    levels, bits = values.shape[1] // 4, _bits(values)
    depths = depths_of(values)
    taken = [found.taken]
    last: _Before | None = None
    for rows in _read(db, symbol, levels, counts, begin_ns, end_ns, exchange):
        here = slice(*np.searchsorted(times, [rows.times[0], rows.times[-1] + 1]).tolist())
        theirs = _bits(rows.values)
        _compare(found, here, times, bits, depths, rows, theirs)
        taken.append(rows.ids[np.isin(rows.times, times[here])])
        if every_ns:
            before_ns = last.ends_ns if last is not None else begin_ns
            last = _Before.of(last, rows, theirs, every_ns, own)
            # Earlier rows are checked again: a deeper copy of their book may be among these rows.
            again = slice(*np.searchsorted(times, [before_ns - WINDOW_NS, last.ends_ns + 1]).tolist())
            _repeats(found, times, bits, again, last)
    if last is not None:
        _repeats(found, times, bits, slice(int(np.searchsorted(times, last.ends_ns)), n), last)
    if (cut := np.flatnonzero((found.ids != NEW) & ~found.known)).size:
        _merged(db, symbol, levels, counts, found, times, bits, cut, exchange)
    return found._replace(taken=np.unique(np.concatenate(taken)))


def _newest_before(db: QuestDB, symbol: str, at_ns: int, exchange: str | None) -> int:
    """Returns the time of the last book before `at_ns`, at most `LONGEST_BACK_NS` earlier; else `at_ns`."""
    for back_ns in (LOOK_BACK_NS, LONGEST_BACK_NS):
        newest_ns = last_rows(db, at_ns - back_ns, at_ns, exchange).get(symbol)
        if newest_ns is not None:
            return newest_ns
    return at_ns


def depths_of(values: Floats) -> npt.NDArray[np.int64]:
    """Returns the deepest level with a number, (n,), of books (n, 4 x levels); 0 where a book has no number."""
    there: Any = ~np.isnan(values.reshape(len(values), 2, -1, 2)).all(axis=(1, 3))
    return (there * np.arange(1, there.shape[1] + 1)).max(axis=1)  # type: ignore[no-any-return]


def cut_to(values: Floats, levels: int) -> Floats:
    """Returns the first `levels` levels, (n, 4 x levels), of books with more levels."""
    side = values.shape[1] // 2
    return np.concatenate([values[:, : 2 * levels], values[:, side : side + 2 * levels]], axis=1)


def _bits(values: Floats) -> npt.NDArray[np.int64]:
    """Returns the bits of numbers, to compare them: -0.0 differs from 0.0, and all NaN are the same."""
    bits = np.where(np.isnan(values), np.nan, values).view(np.int64)
    return np.ascontiguousarray(bits)


def _read(
    db: QuestDB, symbol: str, levels: int, counts: dict[str, int], start_ns: int, end_ns: int, exchange: str | None
) -> Iterator[TableRows]:
    """Yields the rows of [start, end) slice by slice, each sorted by time."""
    reader = TableReader(db, [symbol], levels, counts, exchange=exchange)
    for part in reader.slices(start_ns, end_ns):
        rows = reader.read(part)
        if len(rows.times):
            order = np.argsort(rows.times, kind="stable")
            yield rows._replace(
                times=rows.times[order], ids=rows.ids[order], values=rows.values[order], by=rows.by[order]
            )


def _compare(
    found: KnownRows, here: slice, times: Nanoseconds, bits: Any, depths: Any, rows: TableRows, theirs: Any
) -> None:
    """Compares the books `here` with the rows of the table at the same times, and notes the result in `found`."""
    depths_there = depths_of(rows.values)
    for own, other in _pairs(times[here], rows.times):
        own += here.start
        equal = bits[own] == theirs[other]
        same = equal.all(axis=1)
        found.known[own[same]] = True
        cut = ~same & (depths_there[other] < depths[own]) & (depths_there[other] > 0)
        own, other, equal = own[cut], other[cut], equal[cut]
        below = _level_of_columns(bits.shape[1]) >= depths_there[other][:, None]
        own, other = own[(equal | below).all(axis=1)], other[(equal | below).all(axis=1)]
        found.ids[own] = rows.ids[other]


def _level_of_columns(width: int) -> npt.NDArray[np.int64]:
    """Returns the level of each column, (width,), counted from 0."""
    return np.tile(np.arange(width // 4).repeat(2), 2)


def _merged(
    db: QuestDB,
    symbol: str,
    levels: int,
    counts: dict[str, int],
    found: KnownRows,
    times: Nanoseconds,
    bits: Any,
    cut: Any,
    exchange: str | None,
) -> None:
    """Notes books `cut` of which the table has a cut, and all levels from another collector a moment later.

    An export merges these two rows: it has the time of the first copy and the levels of the deepest.
    """
    by_id = cut[np.argsort(found.ids[cut], kind="stable")]
    for rows in _read(db, symbol, levels, counts, int(times[cut[0]]), int(times[cut[-1]]) + WINDOW_NS, exchange):
        order = np.argsort(rows.ids, kind="stable")
        theirs = _bits(rows.values)
        for own, other in _pairs(found.ids[by_id], rows.ids[order]):
            own, other = by_id[own], order[other]
            later = rows.times[other] - times[own]
            same = (bits[own] == theirs[other]).all(axis=1) & (later >= 0) & (later <= WINDOW_NS)
            found.known[own[same]] = found.elsewhere[own[same]] = True


def _pairs(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Iterator[tuple[Any, Any]]:
    """Yields the indices (m,), (m,) of all pairs of equal numbers in two sorted arrays, in portions."""
    first = np.searchsorted(right, left, side="left")
    counts = np.searchsorted(right, left, side="right") - first
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(left):
        done = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        own = np.repeat(np.arange(begin, stop), counts[begin:stop])
        if len(own):
            starts = np.repeat(ends[begin:stop] - counts[begin:stop] - done, counts[begin:stop])
            yield own, first[own] + np.arange(len(own)) - starts
        begin = stop


class _Before(NamedTuple):
    """Books of the table that rows of a grid may repeat, sorted by mark, then by time."""

    marks: npt.NDArray[np.uint64]
    """(n,) a hash of the numbers of each."""
    times: Nanoseconds
    """(n,) the receive time of the first copy of each."""
    ids: npt.NDArray[np.int64]
    bits: Any
    ends_ns: int
    """The time of the last row that was read from the table."""

    @classmethod
    def of(cls, before: "_Before | None", rows: TableRows, theirs: Any, every_ns: int, own: str) -> "_Before":
        """Returns the books in `rows`, with those of the last minute in `before`."""
        by_own = rows.collectors.index(own) if own in rows.collectors else -1
        real = ~((rows.by == by_own) & (rows.times % every_ns == 0))
        times, ids, bits = rows.times[real], rows.ids[real], theirs[real]
        marks = _marks(bits)
        if before is not None:
            # A row that is checked again is at most `WINDOW_NS` older than the newest book.
            recent = before.times >= before.times.max(initial=0) - LOOK_BACK_NS - WINDOW_NS
            times = np.concatenate([before.times[recent], times])
            ids = np.concatenate([before.ids[recent], ids])
            bits = np.concatenate([before.bits[recent], bits])
            marks = np.concatenate([before.marks[recent], marks])
        times = _of_first_copies(times, ids)
        order = np.lexsort((times, marks))
        return cls(marks[order], times[order], ids[order], bits[order], int(rows.times[-1]))


def _of_first_copies(times: Nanoseconds, ids: npt.NDArray[np.int64]) -> Nanoseconds:
    """Returns the receive time (n,) of the first copy of each row, at most `WINDOW_NS` before it."""
    order = np.lexsort((times, ids))
    by_id, when = ids[order], times[order]
    copies = (by_id[1:] == by_id[:-1]) & (when[1:] - when[:-1] <= WINDOW_NS)
    if not copies.any():
        return times
    first = np.maximum.accumulate(np.where(np.concatenate([[True], ~copies]), np.arange(len(order)), 0))
    received = times.copy()
    received[order] = when[first]
    return received


def _repeats(found: KnownRows, times: Nanoseconds, bits: Any, here: slice, before: _Before) -> None:
    """Notes the rows of a grid that repeat the newest book before them, or one of the minute before that book."""
    rows = here.start + np.flatnonzero(~found.known[here])
    if not len(rows) or not len(before.times):
        return
    marks = _marks(bits[rows])
    # For each row, the last book with the same mark that is not after the row.
    keys = np.concatenate([before.marks, marks])
    when = np.concatenate([before.times, times[rows]])
    is_row = np.concatenate([np.zeros(len(before.marks), bool), np.ones(len(rows), bool)])
    order = np.lexsort((is_row, when, keys))
    place = np.where(is_row[order], -1, order)
    latest = np.maximum.accumulate(np.where(place >= 0, np.arange(len(order)), -1))
    at_row = np.flatnonzero(is_row[order])
    source = latest[at_row]
    row = order[at_row] - len(before.marks)
    row, source = row[source >= 0], order[source[source >= 0]]
    received = np.sort(before.times)
    newest = received[
        np.searchsorted(received, times[rows[row]], side="right") - 1
    ]  # it exists: at least the source is before the row
    recent = before.times[source] >= newest - LOOK_BACK_NS
    same = recent & (times[rows[row]] >= before.times[source]) & (bits[rows[row]] == before.bits[source]).all(axis=1)
    hit = rows[row[same]]
    found.known[hit] = found.elsewhere[hit] = True


def _marks(bits: Any) -> npt.NDArray[np.uint64]:
    """Returns a hash (n,) of each row of bits (n, m)."""
    marks = np.zeros(len(bits), np.uint64)
    for column in bits.T:
        marks = (marks ^ column.view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        marks ^= marks >> np.uint64(29)
    return marks
