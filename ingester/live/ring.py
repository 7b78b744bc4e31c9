"""The newest rows of one pair in memory: one thread writes, any number of others read, and no thread waits for another.

Rows are numbered from 0 as they come; row n lies in slot n modulo the slots. The writer says which row it begins
(`_begun`) before it touches the slot, and counts it (`count`) when it is whole. A reader copies slots first and looks
at `_begun` afterwards: what may have been overwritten meanwhile is dropped from the copy, as if it had been read a
little later. So no row is ever half old and half new, and no reader holds up the writer, which is the feed thread.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from math import nan
from typing import NamedTuple

import numpy as np

from ingester.book import Level, OrderBook
from ingester.grid import Floats, Nanoseconds
from ingester.sequence import RESOLUTION_NS

SPARE_ROWS = 64
"""Slots beyond the rows that are kept, so that a reader who copies all of them is not overtaken at once."""


class Row(NamedTuple):
    """One moment: its time in ns since 1970 (UTC), and float64 values in the order of a data set's columns.

    Values are (4 x depth,) of one pair and (pairs, 4 x depth) of several; what a thin book lacks is NaN.
    """

    time: int
    values: Floats


class RingRows(NamedTuple):
    """Rows of one pair, oldest first: receive times (n,) in ns since 1970 (UTC), and values (n, 4 x depth)."""

    times: Nanoseconds
    values: Floats


def flat(bids: Sequence[Level], asks: Sequence[Level], depth: int) -> list[float]:
    """The 4 x depth numbers of a row, as the table and data sets hold them."""
    row: list[float] = []
    if len(bids) == len(asks) == depth:
        for level in bids:
            row += level
        for level in asks:
            row += level
        return row
    for levels in (bids[:depth], asks[:depth]):
        row += chain.from_iterable(levels)
        row += [nan] * (2 * (depth - len(levels)))
    return row


class Ring:
    """Keeps the last `rows` rows of a pair; its memory, 8 + 32 x depth bytes a row, is touched as they come."""

    __slots__ = ("_begun", "_bytes", "_depth", "_slots", "_times", "_values", "_write", "count", "rows")

    count: int
    """Rows that have come so far."""

    def __init__(self, depth: int, rows: int, spare: int = SPARE_ROWS) -> None:
        self.count = self._begun = 0
        self.rows = rows
        self._depth = depth
        self._slots = rows + spare
        # Time and values of a row lie together: with many pairs, what a row costs is how much memory it touches.
        written = np.zeros(self._slots, [("time", "=i8"), ("values", "=f8", (4 * depth,))])
        self._times, self._values = written["time"], written["values"]
        self._bytes = memoryview(written.view(np.uint8))  # type: ignore[arg-type]
        self._write = struct.Struct(f"=q{4 * depth}d")

    def put(self, snapshot: OrderBook) -> None:
        """Takes in the next row, with its time as the table has it. For one thread only."""
        _, receive_ns, _, bids, asks, _ = snapshot
        values = flat(bids, asks, self._depth)
        number = self.count
        write = self._write
        self._begun = number + 1
        at = number % self._slots * write.size
        write.pack_into(self._bytes, at, receive_ns - receive_ns % RESOLUTION_NS, *values)
        self.count = number + 1

    def read(self, first: int, stop: int | None = None) -> tuple[int, RingRows]:
        """Copies the rows from number `first` until before `stop` (None: the newest included) that are still kept.

        Also gives the number of the first of them; where that is greater than `first`, those between are lost.
        """
        stop = self.count if stop is None else min(stop, self.count)
        first = min(max(first, self.count - self.rows), stop)
        times, values = self._copy(self._times, first, stop), self._copy(self._values, first, stop)
        lost = min(max(0, self._begun - self._slots - first), stop - first)
        return first + lost, RingRows(times[lost:], values[lost:])

    def oldest(self) -> int:
        """Number of the oldest row that is kept."""
        return max(0, self.count - self.rows)

    def number_at(self, at_ns: int, first: int = 0) -> int:
        """The number of the first row, of those kept from `first` on, that was received at `at_ns` or later."""
        stop = self.count
        first = min(max(first, stop - self.rows), stop)
        times = self._copy(self._times, first, stop)
        lost = min(max(0, self._begun - self._slots - first), stop - first)
        return first + lost + int(np.searchsorted(times[lost:], at_ns))

    def _copy(self, of: np.ndarray, first: int, stop: int) -> np.ndarray:
        start, end = first % self._slots, first % self._slots + stop - first
        if end <= self._slots:
            return of[start:end].copy()
        return np.concatenate([of[start:], of[: end - self._slots]])
