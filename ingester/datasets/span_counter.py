"""Notes what was recorded from rows that pass by, so that the server need not go through them once more.

Gives the same spans as `recorded_spans`, and the long times between two rows.
"""

from collections import Counter, defaultdict

import numpy as np
import numpy.typing as npt

from ingester.clock import SECOND
from ingester.datasets.spans import DAY, LIMIT_INTERVALS, SHORTEST_LIMIT_NS, Key, Recorded, Span, by_key, limit_ns
from ingester.grid import Nanoseconds
from ingester.questdb import Slice, TableRows

MICROSECOND = SECOND // 1_000_000
FINENESS = 5
"""Intervals are counted in 2^5 buckets an octave, so a median is right to about 2 %."""
BUCKETS = 37 << FINENESS
"""Up to 2^37 µs, longer than a day."""
MOST_STEPS = 10_000
"""Long times between rows that are kept of a pair and collector; of one that has more, none."""
NEVER_NS = 1 << 62


class SpanCounter:
    """Takes slices in the order of time, each of one day (UTC). Memory: 5 kB for each pair and collector."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._steps: dict[Key, list[tuple[int, int]]] = defaultdict(list)
        self._kept_above: Counter[Key] = Counter()  # of the steps, in ns; more than any limit where not all were kept
        self._begin(-1)

    def _begin(self, day: int) -> None:
        self._day = day
        self._places: dict[Key, int] = {}
        self._first, self._last, self._rows, self._longest = np.zeros((4, 0), np.int64)
        self._counts = np.zeros((0, BUCKETS), np.uint32)

    def take(self, part: Slice, rows: TableRows) -> None:
        """The rows of the next slice."""
        if part.start_ns // DAY != self._day:
            self._close()
            self._begin(part.start_ns // DAY)
        if not len(rows.times):
            return
        collectors = len(rows.collectors)
        groups = np.repeat(np.arange(len(rows.symbols)) * collectors, np.diff(rows.bounds)) + rows.by
        times = rows.times
        if collectors > 1:
            order = np.argsort(groups, kind="stable")
            groups, times = groups[order], times[order]
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        lengths = np.diff(starts, append=len(times))
        found = [divmod(group, collectors) for group in groups[starts].tolist()]
        keys = [(rows.symbols[symbol], rows.collectors[collector]) for symbol, collector in found]
        places = self._placed(keys)
        known = self._rows[places] > 0
        steps = np.diff(times, prepend=0)
        steps[starts] = np.where(known, times[starts] - self._last[places], 0)
        row_places = np.repeat(places, lengths)
        self._count(row_places, steps, starts[~known])
        self._first[places] = np.where(known, self._first[places], times[starts])
        self._last[places] = times[starts + lengths - 1]
        self._rows[places] += lengths
        self._longest[places] = np.maximum(self._longest[places], np.maximum.reduceat(steps, starts))
        long = np.flatnonzero(steps > SHORTEST_LIMIT_NS)
        if len(long):
            self._keep(dict(zip(places.tolist(), keys, strict=True)), row_places[long], times[long], steps[long])

    def recorded(self) -> Recorded:
        """What all slices held."""
        self._close()
        self._begin(-1)
        steps = {
            key: self._steps[key]
            for key, series in by_key(self._spans).items()
            if limit_ns(series) >= self._kept_above[key]
        }
        return Recorded(self._spans, steps)

    def _placed(self, keys: list[Key]) -> Nanoseconds:
        """Where each is counted."""
        places = np.array([self._places.setdefault(key, len(self._places)) for key in keys])
        more = len(self._places) - len(self._rows)
        if more > 0:
            new = np.zeros(more, np.int64)
            self._first, self._last, self._rows, self._longest = (
                np.concatenate([each, new]) for each in (self._first, self._last, self._rows, self._longest)
            )
            self._counts = np.concatenate([self._counts, np.zeros((more, BUCKETS), np.uint32)])
        return places

    def _count(self, places: Nanoseconds, steps: Nanoseconds, without: Nanoseconds) -> None:
        """Counts the steps by their length; those at `without` are none."""
        exponents = (steps / MICROSECOND).view(np.int64) >> (52 - FINENESS)
        buckets = (exponents - (1023 << FINENESS)).clip(0, BUCKETS - 1)
        flat = self._counts.reshape(-1)
        np.add.at(flat, np.delete(places * BUCKETS + buckets, without), np.uint32(1))

    def _keep(self, keys: dict[int, Key], places: Nanoseconds, times: Nanoseconds, steps: Nanoseconds) -> None:
        """Keeps the steps that may be gaps; what is below half the limit by today's rows will hardly be one."""
        own, which = np.unique(places, return_inverse=True)
        least = np.maximum(SHORTEST_LIMIT_NS, LIMIT_INTERVALS // 2 * _medians_ns(self._counts[own]))
        for place, least_ns in zip(own.tolist(), least.tolist(), strict=True):
            self._kept_above[keys[place]] = max(self._kept_above[keys[place]], least_ns)
        for at in np.flatnonzero(steps > least[which]):
            key = keys[int(places[at])]
            self._steps[key].append((int(times[at] - steps[at]), int(times[at])))
            if len(self._steps[key]) > MOST_STEPS:
                self._kept_above[key] = NEVER_NS
                self._steps[key] = []

    def _close(self) -> None:
        medians = _medians_ns(self._counts)
        for key, place in sorted(self._places.items()):
            each = (self._first, self._last, self._rows, medians, self._longest)
            self._spans.append(Span(*key, *(int(of[place]) for of in each)))


def _medians_ns(counts: npt.NDArray[np.uint32]) -> Nanoseconds:
    """The medians (n,) of the steps that were counted in each row (n, BUCKETS); 0 of none."""
    sums = np.cumsum(counts, axis=1, dtype=np.int64)
    totals = sums[:, -1:]
    buckets = (sums < (totals + 1) // 2).sum(axis=1)
    parts = 1 + ((buckets & ((1 << FINENESS) - 1)) + 0.5) / (1 << FINENESS)
    medians: Nanoseconds = np.rint(np.ldexp(parts, buckets >> FINENESS)).astype(np.int64) * MICROSECOND
    return np.where(totals[:, 0] > 0, medians, 0)
