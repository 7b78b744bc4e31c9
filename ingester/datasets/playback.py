"""What was recorded as one stream of snapshots in the order of time, all pairs together: for those who play it.

Read piece by piece, so that memory does not grow with the range.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.book import Level, OrderBook
from ingester.datasets.merging import WINDOW_NS, Books, Merger, Recorders, by_pair
from ingester.datasets.opened import DataSet
from ingester.datasets.slices import read_ahead
from ingester.grid import Floats, Nanoseconds
from ingester.questdb import QuestDB, TableReader, depth, tell_nameless

PIECE_ROWS = 100_000
"""Rows of all pairs, about, that are read at once from a data set."""
ROWS_AT_ONCE = 1_000
"""Rows that become snapshots at once."""


class _Piece(NamedTuple):
    """Rows of one pair, in the order of time."""

    symbol: str
    times: Nanoseconds
    ids: npt.NDArray[np.int64]
    values: Floats


def table_snapshots(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str],
    counts: Mapping[str, int],
    exchange: str | None = None,
) -> Iterator[OrderBook]:
    """The books of a range of the table; those that several collectors recorded come once, as in an export.

    `counts`: rows of all symbols in the range. `exchange`: only books of this one. Raises StoreError.
    """
    levels = depth(db)
    reader = TableReader(db, symbols, levels, dict(counts), exchange=exchange)
    # Before: what is a copy of a book before the range, or newer than one in it; after: copies with more levels.
    slices = reader.slices(start_ns - WINDOW_NS, end_ns + WINDOW_NS)
    recorders, width = Recorders(), 4 * levels
    mergers = {symbol: Merger(width, reader.several) for symbol in symbols}
    waiting = dict.fromkeys(symbols, Books.none(width))  # until the books of all pairs are settled
    nothing = Books.none(width), np.empty(0, np.int64)
    began_ns = start_ns
    with read_ahead(reader, slices) as parts:
        for part, rows in parts:
            found = by_pair(rows, recorders)
            until_ns = min(part.end_ns, end_ns)
            for symbol, merger in mergers.items():
                books, settled_ns = merger.take(*found.get(symbol, nothing), part.end_ns)
                waiting[symbol] = waiting[symbol].followed_by(books)
                until_ns = min(until_ns, settled_ns)
            if part.end_ns >= end_ns + WINDOW_NS:
                for symbol, merger in mergers.items():
                    waiting[symbol] = waiting[symbol].followed_by(merger.rest())
                until_ns = end_ns
            pieces = []
            for symbol, books in waiting.items():
                first, stop = np.searchsorted(books.times, [began_ns, until_ns])
                if first < stop:
                    pieces.append(_Piece(symbol, *books.chosen(slice(first, stop))))
                waiting[symbol] = books.chosen(slice(stop, None))
            began_ns = max(began_ns, until_ns)
            yield from _snapshots(pieces)
            if began_ns >= end_ns:
                break
    tell_nameless(reader.nameless)


def dataset_snapshots(data: DataSet) -> Iterator[OrderBook]:
    """The rows of a data set's pairs, but those without any number where it is on a grid: there was nothing then.

    Update ids, which a data set does not have, are the rows' times in µs; rows of one µs count on from there.
    Raises UnreadableDataSet.
    """
    rows = {pair: data.rows(pair) for pair in data.pairs}
    firsts = {pair: each.place(data.start_ns) for pair, each in rows.items()}
    ends = {pair: each.place(data.end_ns) for pair, each in rows.items()}
    last = dict.fromkeys(rows, -1)
    share = max(1, PIECE_ROWS // len(rows))
    while any(firsts[pair] < ends[pair] for pair in rows):
        # Until then no pair has more rows than its share: those of the busiest one decide.
        places = {pair: first + share for pair, first in firsts.items() if first + share < ends[pair]}
        until = min((int(rows[pair].times(place, place + 1)[0]) for pair, place in places.items()), default=data.end_ns)
        pieces = []
        for pair, each in rows.items():
            first, stop = firsts[pair], min(each.place(until + 1), ends[pair])
            if first < stop:
                firsts[pair] = stop
                times, values = each.times(first, stop).copy(), each.read(first, stop)
                if data.every_ns is not None and (empty := np.isnan(values).all(axis=1)).any():
                    times, values = times[~empty], values[~empty]
                if len(times):
                    ids = rising_ids(times, last[pair])
                    last[pair] = int(ids[-1])
                    pieces.append(_Piece(pair, times, ids, values))
        yield from _snapshots(pieces)


def rising_ids(times: Nanoseconds, last: int) -> npt.NDArray[np.int64]:
    """Ids (n,) of rows by their times in ns, n > 0: µs, or one more than the one before, the first after `last`."""
    places = np.arange(len(times))
    least = times // 1000 - places
    least[0] = max(least[0], last + 1)
    ids: npt.NDArray[np.int64] = np.maximum.accumulate(least) + places
    return ids


def _snapshots(pieces: Sequence[_Piece]) -> Iterator[OrderBook]:
    """Merges the rows of pairs by time."""
    if not pieces:
        return
    symbols = [piece.symbol for piece in pieces]
    codes = np.repeat(np.arange(len(pieces)), [len(piece.times) for piece in pieces])
    times, ids, values = (np.concatenate([piece[field] for piece in pieces]) for field in (1, 2, 3))
    order = np.lexsort((ids, times))
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = order[start : start + ROWS_AT_ONCE]
        books, bids, asks = values[rows], *_levels(values[rows])
        facts = zip(codes[rows].tolist(), times[rows].tolist(), ids[rows].tolist(), books.tolist(), strict=True)
        for (code, at, number, book), bid, ask in zip(facts, bids, asks, strict=True):
            half = len(book) // 2
            yield OrderBook(symbols[code], at, number, _side(book[:half], bid), _side(book[half:], ask))


def _levels(values: Floats) -> tuple[list[int], list[int]]:
    """How many levels each side of each book has: those before the first one without price or quantity."""
    there = ~np.isnan(values.reshape(len(values), 2, -1, 2)).any(axis=3)
    bids, asks = there.cumprod(axis=2).sum(axis=2).T.tolist()
    return bids, asks


def _side(numbers: list[float], levels: int) -> list[Level]:
    return list(zip(numbers[: 2 * levels : 2], numbers[1 : 2 * levels : 2], strict=True))
