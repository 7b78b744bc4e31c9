"""The newest rows of one pair in memory: one thread writes, any number of others read, and none waits for another.

Rows are numbered from 0 as they come; row n lies in slot n modulo the slots. The writer says which row it begins
(`_begun`) before it touches the slot, and counts it (`count`) when it is whole. A reader copies slots first and looks
at `_begun` afterwards: what may have been overwritten meanwhile is dropped from the copy, as if it had been read a
little later. So no row is ever half old and half new, and no reader holds up the writer, which is the pump.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from math import nan
from typing import NamedTuple

import numpy as np

from ingester.capture.track import RESOLUTION_NS
from ingester.grid import Floats, Nanoseconds
from ingester.snapshot import Level, Snapshot

SPARE_ROWS = 64
"""Slots beyond the rows that are kept, so that a reader who copies all of them is not overtaken at once."""


class Row(NamedTuple):
    """One moment: its time in ns since 1970 (UTC), and float64 values in the order of a data set's columns.

    Values are (4 x depth,) of one pair and (pairs, 4 x depth) of several; what a thin book lacks is NaN.
    """

    time: int
    values: Floats


class Rows(NamedTuple):
    """Rows of one pair, oldest first: receive times (n,) in ns since 1970 (UTC), and values (n, 4 x depth)."""

    times: Nanoseconds
    values: Floats


def flat(bids: Sequence[Level], asks: Sequence[Level], depth: int) -> list[float]:
    """The 4 x depth numbers of a row, as the table and data sets hold them."""
    if len(bids) == len(asks) == depth:
        return [*chain.from_iterable(bids), *chain.from_iterable(asks)]
    row = [nan] * (4 * depth)
    for place, levels in ((0, bids[:depth]), (2 * depth, asks[:depth])):
        row[place : place + 2 * len(levels)] = chain.from_iterable(levels)
    return row


def stored_ns(receive_ns: int) -> int:
    """A receive time as the table holds it, which has microseconds: live rows and data sets have the same times."""
    return receive_ns - receive_ns % RESOLUTION_NS


class Ring:
    """Keeps the last `rows` rows of a pair; its memory, 8 + 32 x depth bytes a row, is touched as they come."""

    def __init__(self, depth: int, rows: int, spare: int = SPARE_ROWS) -> None:
        self.count = 0
        """Rows that have come so far."""
        self.rows = rows
        self._begun = 0  # rows that have begun to be written
        self._depth = depth
        self._slots = rows + spare
        self._times = np.zeros(self._slots, np.int64)
        self._values = np.zeros((self._slots, 4 * depth))
        self._write_time = memoryview(self._times)  # type: ignore[arg-type]
        self._write_values = struct.Struct(f"={4 * depth}d").pack_into
        self._bytes = memoryview(self._values).cast("B")  # type: ignore[arg-type]
        self._row_bytes = 32 * depth

    def put(self, snapshot: Snapshot) -> None:
        """Takes in the next row. For one thread only."""
        _, receive_ns, _, bids, asks = snapshot
        values = flat(bids, asks, self._depth)
        number = self.count
        slot = number % self._slots
        self._begun = number + 1
        self._write_time[slot] = receive_ns - receive_ns % RESOLUTION_NS
        self._write_values(self._bytes, slot * self._row_bytes, *values)
        self.count = number + 1

    def read(self, first: int, stop: int | None = None) -> tuple[int, Rows]:
        """Copies the rows from number `first` until before `stop` (None: the newest included) that are still kept.

        Also gives the number of the first of them; where that is greater than `first`, those between are lost.
        """
        stop = self.count if stop is None else min(stop, self.count)
        first = min(max(first, self.count - self.rows), stop)
        times, values = self._copy(self._times, first, stop), self._copy(self._values, first, stop)
        lost = min(max(0, self._begun - self._slots - first), stop - first)
        return first + lost, Rows(times[lost:], values[lost:])

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
