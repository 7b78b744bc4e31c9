"""What was recorded of each pair by each collector, day by day, and the rhythm in which its rows came.

All ranges are half open, all times in ns since 1970, UTC.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.clock import SECOND
from ingester.grid import Nanoseconds
from ingester.questdb import ORDERBOOK, QuestDB, Slice, TableRows, between, list_partitions, one_of, tell_nameless

DAY = 86400 * SECOND
SHORTEST_LIMIT_NS, LIMIT_INTERVALS = SECOND, 9
"""A silence is longer than so many median intervals, and than a second: nine of 100 ms, however a median is counted."""
Progress = Callable[[float], None]
"""Is told the share that is done, up to 1."""


Key = tuple[str, str]
"""A pair and who recorded it: symbol, collector."""


class Span(NamedTuple):
    """What one collector recorded of one pair in one piece of the range."""

    symbol: str
    collector: str
    first_ns: int
    last_ns: int
    rows: int
    interval_ns: int
    """Median time between two rows, to about 6 %; 0 where there is only one."""
    longest_ns: int
    """Longest time between two rows."""

    @property
    def key(self) -> Key:
        return self.symbol, self.collector


class Recorded(NamedTuple):
    """What is known of a range."""

    spans: list[Span]
    """By pair, collector and day."""
    steps: Mapping[Key, Sequence[tuple[int, int]]]
    """The times (since, until) between two rows of a day that are longer than `SHORTEST_LIMIT_NS`, where known."""


def recorded_spans(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    piece_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    progress: Progress = lambda share: None,
) -> list[Span]:
    """What was recorded, by pair, collector and piece of `piece_ns` (a day at most; counted from 1970).

    Only days that have rows are asked for, however long the range is.
    """
    if ORDERBOOK not in tables(db):
        return []
    spans, nameless = [], 0
    wanted = None if symbols is None else set(symbols)
    for since_ns, until_ns in _pieces_with_rows(db, start_ns, end_ns, piece_ns):
        # More digits of the median than one take so much memory that 1,500 pairs kill a server.
        rows = db.sql(
            "SELECT symbol, collector, cast(min(timestamp) AS LONG), cast(max(timestamp) AS LONG), count(), "
            "cast(approx_percentile(step, 0.5) AS LONG), cast(max(step) AS LONG) "
            f"FROM (SELECT timestamp, symbol, collector, cast({STEP} AS DOUBLE) AS step "
            f"FROM {ORDERBOOK} WHERE {where(since_ns, until_ns, symbols, collectors)})"
        ).rows
        nameless += sum(row[4] for row in rows if not (row[0] and row[1]))
        own = [row for row in rows if row[0] and row[1] and (wanted is None or row[0] in wanted)]
        for symbol, collector, first, last, count, median, longest in sorted(own, key=lambda row: row[:2]):
            interval_ns, longest_ns = 1000 * (median or 0), 1000 * (longest or 0)
            spans.append(Span(symbol, collector, first * 1000, last * 1000, count, interval_ns, longest_ns))
        progress((until_ns - start_ns) / (end_ns - start_ns))
    tell_nameless(nameless)
    return spans


def _pieces_with_rows(db: QuestDB, start_ns: int, end_ns: int, piece_ns: int) -> Iterator[tuple[int, int]]:
    days = [each.start_ns for each in list_partitions(db)]
    if not days:  # the table is not kept by day, or empty
        yield from pieces(start_ns, end_ns, piece_ns)
    for day_ns in days:
        yield from pieces(max(day_ns, start_ns), min(day_ns + DAY, end_ns), piece_ns)


STEP = "(timestamp - lag(timestamp) OVER (PARTITION BY symbol, collector ORDER BY timestamp))"
"""Of a row: microseconds since the one before of its pair and collector."""


def limit_ns(series: Sequence[Span]) -> int:
    """From when on a silence of one pair and collector is a gap."""
    return max(SHORTEST_LIMIT_NS, LIMIT_INTERVALS * median_interval_ns(series))


def shortest_limits(spans: Sequence[Span]) -> dict[str, int]:
    """From when on a silence is a gap, by pair: that of the collector for which it is the shortest."""
    limits: dict[str, int] = {}
    for (symbol, _), series in by_key(spans).items():
        limit = limit_ns(series)
        limits[symbol] = min(limit, limits.get(symbol, limit))
    return limits


def median_interval_ns(series: Sequence[Span]) -> int:
    """The median interval over several spans; 0 where none has one."""
    known = sorted((span.interval_ns, span.rows) for span in series if span.interval_ns)
    half = sum(rows for _, rows in known) / 2
    for interval_ns, rows in known:
        half -= rows
        if half <= 0:
            return interval_ns
    return 0


def by_key(spans: Sequence[Span]) -> dict[Key, list[Span]]:
    """The spans of each pair and collector, in the order of time."""
    series: dict[Key, list[Span]] = defaultdict(list)
    for span in sorted(spans):
        series[span.symbol, span.collector].append(span)
    return series


def pieces(start_ns: int, end_ns: int, piece_ns: int) -> Iterator[tuple[int, int]]:
    """The range in pieces, cut at multiples of `piece_ns` since 1970."""
    while start_ns < end_ns:
        cut_ns = (start_ns // piece_ns + 1) * piece_ns
        yield start_ns, min(cut_ns, end_ns)
        start_ns = cut_ns


def where(
    start_ns: int, end_ns: int, symbols: Sequence[str] | None = None, collectors: Sequence[str] | None = None
) -> str:
    """The condition for rows of a range, of these pairs and collectors; of all pairs where these are too many."""
    conditions = [between(start_ns, end_ns)]
    for name, values in (("symbol", symbols), ("collector", collectors)):
        if values is not None:
            conditions.append(one_of(name, values))
    return " AND ".join(filter(None, conditions))


def tables(db: QuestDB) -> set[str]:
    """The names of all tables of the server."""
    return {name for (name,) in db.sql("SELECT table_name FROM tables()").rows}


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
