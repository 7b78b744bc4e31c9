"""Finds the spans that each collector recorded of each pair, and the pauses between rows that are gaps by the rule.

`SpanCounter` finds them in the rows that an export reads anyway; `recorded` queries the server. Both give the same
result. The rule is in `sequence/gap_rule.py`. All ranges are half open, all times in ns since 1970, UTC.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ingester.clock import SECOND
from ingester.grid import Nanoseconds
from ingester.questdb import (
    DAY,
    ORDERBOOK,
    QuestDB,
    TableRows,
    batches,
    between,
    list_partitions,
    of_exchange,
    one_of,
    tell_nameless,
)
from ingester.sequence import (
    GAP_INTERVALS,
    LONGEST_INTERVAL_NS,
    RHYTHM_INTERVALS,
    SHORTEST_GAP_NS,
    UNKNOWN_LIMIT_NS,
    gap_limit_ns,
)

LOOK_BACK_NS = 2 * 3600 * SECOND
"""Rows from so long before a day decide on its first pauses. Where these are fewer intervals than the rule uses, the
intervals are so long that each counts as `LONGEST_INTERVAL_NS`."""
Progress = Callable[[float], None]
"""Called with the share that is done, up to 1."""


Key = tuple[str, str]
"""Symbol and collector."""


class Span(NamedTuple):
    """The rows of one collector and pair in the range, or in a piece of it."""

    symbol: str
    collector: str
    first_ns: int
    last_ns: int
    rows: int
    interval_ns: int = 0
    """The median time between two rows, to about 6 %; 0 with one row only, and from `SpanCounter`."""
    longest_ns: int = 0
    """The longest time between two rows of the piece; 0 from `SpanCounter`."""

    @property
    def key(self) -> Key:
        return self.symbol, self.collector


class Silence(NamedTuple):
    """A pause between two rows of a pair and collector that is a gap by the rule."""

    symbol: str
    collector: str
    since_ns: int
    until_ns: int
    limit_ns: int
    """The longest pause that was no gap at that time."""


class Recorded(NamedTuple):
    """The spans and silences of a range."""

    spans: list[Span]
    """By pair and collector, from `recorded` also by piece."""
    silences: list[Silence]

    def edge_limits(self) -> dict[Key, int]:
        """Returns how long each pair and collector may be without a row at both ends of the range, in ns.

        The limit comes from the mean of all its intervals but the silences.
        """
        quiet: dict[Key, list[int]] = defaultdict(list)
        for silence in self.silences:
            quiet[silence.symbol, silence.collector].append(silence.until_ns - silence.since_ns)
        limits = {}
        for key, series in by_key(self.spans).items():
            intervals = sum(span.rows for span in series) - 1 - len(quiet[key])
            total_ns = series[-1].last_ns - series[0].first_ns - sum(quiet[key])
            limits[key] = gap_limit_ns(intervals, min(total_ns, intervals * LONGEST_INTERVAL_NS))
        return limits

    def shortest_limits(self) -> dict[str, int]:
        """Returns the shortest of the `edge_limits` of each pair."""
        limits: dict[str, int] = {}
        for (symbol, _), limit_ns in self.edge_limits().items():
            limits[symbol] = min(limit_ns, limits.get(symbol, limit_ns))
        return limits


def recorded(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    piece_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    progress: Progress = lambda share: None,
    exchange: str | None = None,
) -> Recorded:
    """Returns spans and silences by pair, collector and piece of `piece_ns` (at most a day; counted from 1970).

    Only days with rows are queried, so the range may be long.
    """
    found = _spans(db, start_ns, end_ns, piece_ns, symbols, collectors, exchange, lambda share: progress(share * 0.6))
    spans = list(found)
    silences = _silences(db, spans, start_ns, end_ns, exchange, lambda share: progress(0.6 + share * 0.4))
    return Recorded(spans, list(silences))


def _spans(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    piece_ns: int,
    symbols: Sequence[str] | None,
    collectors: Sequence[str] | None,
    exchange: str | None,
    progress: Progress,
) -> Iterator[Span]:
    if ORDERBOOK not in tables(db):
        return
    nameless = 0
    wanted = None if symbols is None else set(symbols)
    for since_ns, until_ns in _pieces_with_rows(db, start_ns, end_ns, piece_ns):
        # A median of more than one digit takes so much memory that 1,500 pairs kill a server.
        rows = db.sql(
            "SELECT symbol, collector, cast(min(timestamp) AS LONG), cast(max(timestamp) AS LONG), count(), "
            "cast(approx_percentile(step, 0.5) AS LONG), cast(max(step) AS LONG) "
            f"FROM (SELECT timestamp, symbol, collector, cast({STEP} AS DOUBLE) AS step "
            f"FROM {ORDERBOOK} WHERE {where(since_ns, until_ns, symbols, collectors, exchange)})"
        ).rows
        nameless += sum(row[4] for row in rows if not (row[0] and row[1]))
        own = [row for row in rows if row[0] and row[1] and (wanted is None or row[0] in wanted)]
        for symbol, collector, first, last, count, median, longest in sorted(own, key=lambda row: row[:2]):
            interval_ns, longest_ns = 1000 * (median or 0), 1000 * (longest or 0)
            yield Span(symbol, collector, first * 1000, last * 1000, count, interval_ns, longest_ns)
        progress((until_ns - start_ns) / (end_ns - start_ns))
    tell_nameless(nameless)


def _pieces_with_rows(db: QuestDB, start_ns: int, end_ns: int, piece_ns: int) -> Iterator[tuple[int, int]]:
    days = [each.start_ns for each in list_partitions(db)]
    if not days:  # the table has no daily partitions, or is empty
        yield from pieces(start_ns, end_ns, piece_ns)
    for day_ns in days:
        yield from pieces(max(day_ns, start_ns), min(day_ns + DAY, end_ns), piece_ns)


STEP = "(timestamp - lag(timestamp) OVER (PARTITION BY symbol, collector ORDER BY timestamp))"
"""SQL for the microseconds since the row before of the same pair and collector."""


def _silences(
    db: QuestDB, spans: Sequence[Span], start_ns: int, end_ns: int, exchange: str | None, progress: Progress
) -> Iterator[Silence]:
    paused: dict[int, set[Key]] = defaultdict(set)  # by day, the pairs and collectors with a pause that may be a gap
    for key, series in by_key(spans).items():
        for span in series:
            if span.longest_ns > SHORTEST_GAP_NS:
                paused[span.first_ns // DAY].add(key)
        for before, after in pairwise(series):
            pause_ns = after.first_ns - before.last_ns
            if pause_ns >= LOOK_BACK_NS:  # longer than any limit, and than the look-back below
                yield Silence(*key, before.last_ns, after.first_ns, GAP_INTERVALS * LONGEST_INTERVAL_NS)
            elif pause_ns > SHORTEST_GAP_NS:
                paused[after.first_ns // DAY].add(key)
    for day, keys in sorted(paused.items()):
        since_ns, until_ns = max(day * DAY, start_ns), min((day + 1) * DAY, end_ns)
        begin_ns = max(start_ns, since_ns - LOOK_BACK_NS)
        yield from _silences_of_day(db, begin_ns, since_ns, until_ns, keys, exchange)
        progress((until_ns - start_ns) / (end_ns - start_ns))


def _silences_of_day(
    db: QuestDB, begin_ns: int, since_ns: int, until_ns: int, keys: set[Key], exchange: str | None
) -> Iterator[Silence]:
    """Yields the pauses that end in [since, until) and are gaps by the rhythm of the rows since `begin_ns`."""
    before = f"OVER (PARTITION BY symbol, collector ORDER BY timestamp ROWS BETWEEN {RHYTHM_INTERVALS} PRECEDING AND 1 "
    before += "PRECEDING)"
    longest_us = LONGEST_INTERVAL_NS // 1000
    for symbols in batches(sorted({symbol for symbol, _ in keys})):
        rows = db.sql(
            "SELECT symbol, collector, cast(timestamp AS LONG), step, known, total FROM ("
            f"SELECT timestamp, symbol, collector, step, count(step) {before} AS known, "
            f"sum(CASE WHEN step > {longest_us} THEN {longest_us} ELSE step END) {before} AS total "
            f"FROM (SELECT timestamp, symbol, collector, cast({STEP} AS LONG) AS step "
            f"FROM {ORDERBOOK} WHERE {where(begin_ns, until_ns, symbols, None, exchange)})) "
            f"WHERE timestamp >= {-(-since_ns // 1000)} AND step > {SHORTEST_GAP_NS // 1000} "
            f"AND (known = 0 AND step > {UNKNOWN_LIMIT_NS // 1000} OR step * known > {GAP_INTERVALS} * total)"
        ).rows
        for symbol, collector, until_us, step_us, known, total_us in rows:
            if (symbol, collector) in keys:
                limit_ns = gap_limit_ns(known, 1000 * int(total_us or 0))
                yield Silence(symbol, collector, (until_us - step_us) * 1000, until_us * 1000, limit_ns)


class SpanCounter:
    """Finds spans and silences in slices in the order of time, with half a kB for each pair and collector."""

    def __init__(self) -> None:
        self._places: dict[Key, int] = {}
        self._first, self._last, self._rows = np.zeros((3, 0), np.int64)
        self._intervals = np.zeros((0, RHYTHM_INTERVALS), np.int64)  # the last intervals of each, capped as in the rule
        self._silences: list[Silence] = []

    def take(self, rows: TableRows) -> None:
        """Counts the rows of the next slice."""
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
        before = self._rows[places]
        steps = np.diff(times, prepend=0)
        steps[starts] = np.where(before > 0, times[starts] - self._last[places], 0)
        self._find_silences(keys, places, times, steps, starts, lengths)
        self._first[places] = np.where(before > 0, self._first[places], times[starts])
        self._last[places] = times[starts + lengths - 1]
        self._rows[places] += lengths

    def recorded(self) -> Recorded:
        """Returns the spans and silences of all slices."""
        spans = [
            Span(*key, int(self._first[place]), int(self._last[place]), int(self._rows[place]))
            for key, place in sorted(self._places.items())
        ]
        return Recorded(spans, self._silences)

    def _placed(self, keys: list[Key]) -> Nanoseconds:
        """Returns the index of each key, and makes room for new keys."""
        places = np.array([self._places.setdefault(key, len(self._places)) for key in keys])
        more = len(self._places) - len(self._rows)
        if more > 0:
            self._first, self._last, self._rows = (
                np.pad(each, (0, more)) for each in (self._first, self._last, self._rows)
            )
            self._intervals = np.pad(self._intervals, ((0, more), (0, 0)))
        return places

    def _find_silences(
        self,
        keys: list[Key],
        places: Nanoseconds,
        times: Nanoseconds,
        steps: Nanoseconds,
        starts: Nanoseconds,
        lengths: Nanoseconds,
    ) -> None:
        """Compares `steps` (n,), the time since the row before, with the intervals before each of them."""
        # One array of intervals: for each pair the ones from before, then those of this slice.
        most, group = RHYTHM_INTERVALS, np.repeat(np.arange(len(starts)), lengths)
        begins = starts + most * np.arange(len(starts))
        window = np.arange(most)
        line = np.empty(len(steps) + most * len(starts), np.int64)
        line[begins[:, None] + window] = self._intervals[places]
        at = np.arange(len(steps)) + most * (group + 1)
        line[at] = np.minimum(steps, LONGEST_INTERVAL_NS)
        self._intervals[places] = line[(begins + lengths)[:, None] + window]
        long = np.flatnonzero(steps > SHORTEST_GAP_NS)
        if not len(long):
            return
        sums = np.concatenate([[0], np.cumsum(line)])
        totals = sums[at[long]] - sums[at[long] - most]
        own = group[long]
        known = np.clip(self._rows[places[own]] + long - starts[own] - 1, 0, most)
        limits = np.maximum(SHORTEST_GAP_NS, GAP_INTERVALS * totals // np.maximum(known, 1))
        limits[known == 0] = UNKNOWN_LIMIT_NS
        for place in np.flatnonzero(steps[long] > limits):
            row = long[place]
            symbol, collector = keys[own[place]]
            since_ns, until_ns = int(times[row] - steps[row]), int(times[row])
            self._silences.append(Silence(symbol, collector, since_ns, until_ns, int(limits[place])))


def by_key(spans: Sequence[Span]) -> dict[Key, list[Span]]:
    """Returns the spans of each pair and collector, in the order of time."""
    series: dict[Key, list[Span]] = defaultdict(list)
    for span in sorted(spans):
        series[span.symbol, span.collector].append(span)
    return series


def pieces(start_ns: int, end_ns: int, piece_ns: int) -> Iterator[tuple[int, int]]:
    """Yields the pieces of a range, cut at multiples of `piece_ns` since 1970."""
    while start_ns < end_ns:
        cut_ns = (start_ns // piece_ns + 1) * piece_ns
        yield start_ns, min(cut_ns, end_ns)
        start_ns = cut_ns


def where(
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    exchange: str | None = None,
) -> str:
    """Returns the condition for rows of a range, pairs, collectors and an exchange; many pairs are not filtered."""
    conditions = [between(start_ns, end_ns), of_exchange(exchange)]
    for name, values in (("symbol", symbols), ("collector", collectors)):
        if values is not None:
            conditions.append(one_of(name, values))
    return " AND ".join(filter(None, conditions))


def tables(db: QuestDB) -> set[str]:
    """Returns the names of all tables of the server."""
    return {name for (name,) in db.sql("SELECT table_name FROM tables()").rows}
