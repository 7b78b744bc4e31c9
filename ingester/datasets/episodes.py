"""Windows of a data set on a grid that cross no gap: which there are, and in which order they come."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.errors import SettingsError
from ingester.grid import Floats


class Episode(NamedTuple):
    """Rows that follow each other without a gap; both are copies, the caller's own."""

    times: npt.NDArray[np.datetime64]
    """(length,) datetime64[ns]."""
    values: Floats
    """(length, pairs, features)."""


class Stretch(NamedTuple):
    """Rows from `first` until before `stop`, of which any that follow each other may be a window."""

    first: int
    stop: int


def stretches(grid: range, gaps: Iterable[tuple[int, int]]) -> list[Stretch]:
    """The rows of a grid (times in ns) between gaps (since, until), in order.

    A row at `since` shows the last book before the gap, one at `until` the first after it. Rows between are in the gap
    and in no stretch; where there is none between, the stretch ends all the same.
    """
    found, first = [], 0
    for stop, begin in sorted((bisect_right(grid, since), bisect_left(grid, until)) for since, until in gaps):
        if stop > first:
            found.append(Stretch(first, stop))
        first = max(first, begin)
    if len(grid) > first:
        found.append(Stretch(first, len(grid)))
    return found


class Episodes:
    """Iterates windows; each time in the same order. They are read one by one, when they are asked for."""

    def __init__(
        self,
        read: Callable[[int, int], Episode],
        between_gaps: Sequence[Stretch],
        length: int,
        stride: int,
        seed: int | None,
        whole: bool,
    ) -> None:
        """`read(first, stop)` gives rows. Raises SettingsError."""
        for name, value in (("length", length), ("stride", stride)):
            if value < 1:
                raise SettingsError(f"{name} is {value}, expected a number of rows, 1 or more")
        self._read = read
        self._length, self._stride, self._seed, self._whole = length, stride, seed, whole
        fitting = [each for each in between_gaps if each.stop - each.first >= length]
        self._firsts = np.array([each.first for each in fitting], np.int64)
        counts = [(each.stop - each.first - length) // stride + 1 for each in fitting]
        self._ends = np.cumsum(np.array(counts, np.int64))

    @property
    def most(self) -> int:
        """Windows between gaps; those in which numbers are missing all the same are left out as they are met."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __iter__(self) -> Iterator[Episode]:
        for number in self._order():
            place = int(np.searchsorted(self._ends, number, side="right"))
            before = int(self._ends[place - 1]) if place else 0
            first = int(self._firsts[place]) + (int(number) - before) * self._stride
            episode = self._read(first, first + self._length)
            if not self._lacks(episode.values):
                yield episode

    def _order(self) -> Iterable[int]:
        if self._seed is None:
            return range(self.most)
        small = np.uint32 if self.most < 2**32 else np.uint64  # of a month there may be millions
        return np.random.default_rng(self._seed).permutation(np.arange(self.most, dtype=small))

    def _lacks(self, values: Floats) -> bool:
        missing = np.isnan(values)
        return bool(missing.any() if self._whole else missing.all(axis=2).any())
