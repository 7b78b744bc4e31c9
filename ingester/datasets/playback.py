"""Reads the table or a data set as one stream of snapshots of all pairs, in the order of time, for the simulator.

Rows are read piece by piece, so memory does not grow with the range.
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
"""About so many rows of all pairs are read at once from a data set."""
ROWS_AT_ONCE = 1_000
"""So many rows are turned into snapshots at once."""


class _Piece(NamedTuple):
    """Rows of one pair in the order of time: times (n,) in ns, ids (n,), values (n, 4 x levels)."""

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
    """Yields the books of [start, end) in the table. A book of several collectors comes once, as in an export.

    `counts`: rows of each symbol in the range. `exchange`: only books of this exchange. Raises StoreError.
    """
    levels = depth(db)
    reader = TableReader(db, symbols, levels, dict(counts), exchange=exchange)
    # Rows before the range show which rows in it are copies or late; rows after it may be copies with more levels.
    slices = reader.slices(start_ns - WINDOW_NS, end_ns + WINDOW_NS)
    recorders, width = Recorders(), 4 * levels
    mergers = {symbol: Merger(width, reader.several) for symbol in symbols}
    waiting = dict.fromkeys(symbols, Books.none(width))  # books that wait until all pairs are settled
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
    """Yields the rows of a data set. Rows of a grid without any number are left out: there was no book then.

    A data set has no update ids. They are made from the times in µs; rows of the same µs get the next numbers.
    Raises UnreadableDataSet.
    """
    rows = {pair: data.rows(pair) for pair in data.pairs}
    firsts = {pair: each.place(data.start_ns) for pair, each in rows.items()}
    ends = {pair: each.place(data.end_ns) for pair, each in rows.items()}
    last = dict.fromkeys(rows, -1)
    share = max(1, PIECE_ROWS // len(rows))
    while any(firsts[pair] < ends[pair] for pair in rows):
        # The busiest pair decides how far this piece goes: no pair has more than `share` rows until then.
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
    """Returns rising ids (n,) for times (n,) in ns, n > 0: the time in µs, or the id before plus one if that is more.

    `last`: the id before the first row.
    """
    places = np.arange(len(times))
    least = times // 1000 - places
    least[0] = max(least[0], last + 1)
    ids: npt.NDArray[np.int64] = np.maximum.accumulate(least) + places
    return ids


def _snapshots(pieces: Sequence[_Piece]) -> Iterator[OrderBook]:
    """Yields the rows of several pairs in the order of time and id."""
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
    """Returns the number of bids and asks of each book: the levels before the first without price or quantity."""
    there = ~np.isnan(values.reshape(len(values), 2, -1, 2)).any(axis=3)
    bids, asks = there.cumprod(axis=2).sum(axis=2).T.tolist()
    return bids, asks


def _side(numbers: list[float], levels: int) -> list[Level]:
    return list(zip(numbers[: 2 * levels : 2], numbers[1 : 2 * levels : 2], strict=True))
