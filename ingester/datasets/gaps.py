"""When a pair was not recorded, and why: what the collectors reported, and the silences that nobody reported.

A collector was absent from a pair in the gaps that it reported (`collector_events`), while it was not to record the
pair (`unwatched.py`), while two of its rows lie further apart than the pair's rhythm allows, and before its first and
after its last row of the range. A gap of the pair is the
time in which every collector that recorded it was absent. All ranges are half open, all times in ns since 1970, UTC.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ingester.clock import SECOND
from ingester.datasets.spans import (
    DAY,
    SHORTEST_LIMIT_NS,
    STEP,
    Key,
    Progress,
    Recorded,
    Span,
    by_key,
    limit_ns,
    recorded_spans,
    shortest_limits,
    tables,
    where,
)
from ingester.events import PAIR_ADDED, PAIR_REMOVED
from ingester.questdb import EVENTS, ORDERBOOK, QuestDB, batches, list_partitions, one_of, start_of

UNEXPLAINED = "unexplained"
NOT_RECORDED = "not recorded"
NOT_WATCHED = "not watched"


class MissingTime(NamedTuple):
    """A time without rows of a pair. `collector` is whose gap it is, or whose report gives a pair's gap its reason."""

    symbol: str
    since_ns: int
    until_ns: int
    reason: str
    collector: str

    @property
    def length_ns(self) -> int:
        return self.until_ns - self.since_ns


def pair_gaps(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    recorded: Recorded | None = None,
) -> dict[str, list[MissingTime]]:
    """The gaps of each pair in the range, in the order of time; of all its pairs where no `symbols` are given.

    `recorded`: what is known of the range already; else the server looks through it.
    """
    if recorded is None:
        recorded = Recorded(recorded_spans(db, start_ns, end_ns, DAY, symbols, collectors), {})
    gaps = collector_gaps(db, recorded, start_ns, end_ns, symbols, collectors)
    return coverage_gaps(gaps, recorded.spans, start_ns, end_ns, symbols)


def data_set_gaps(
    db: QuestDB, start_ns: int, end_ns: int, symbols: Sequence[str], recorded: Recorded
) -> dict[str, list[MissingTime]]:
    """The gaps of each pair as a manifest names them: what retention has dropped is a gap of its own."""
    dropped = dropped_ranges(db, start_ns, end_ns)
    gaps = pair_gaps(db, start_ns, end_ns, symbols, recorded=recorded)
    limits = shortest_limits(recorded.spans)
    return {symbol: explained(own, dropped, limits.get(symbol, SHORTEST_LIMIT_NS)) for symbol, own in gaps.items()}


def collector_gaps(
    db: QuestDB,
    recorded: Recorded,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    progress: Progress = lambda share: None,
) -> list[MissingTime]:
    """Every absence of every collector: the reported gaps, unwatched times, silences, and what is before and after."""
    return [
        *recorded_gaps(db, start_ns, end_ns, symbols, collectors),
        *_unwatched(db, start_ns, end_ns, symbols, collectors),
        *silences(db, recorded, start_ns, end_ns, progress),
        *_edges(recorded.spans, start_ns, end_ns),
    ]


def _unwatched(
    db: QuestDB, start_ns: int, end_ns: int, symbols: Sequence[str] | None, collectors: Sequence[str] | None
) -> Iterator[MissingTime]:
    if EVENTS in tables(db):
        found = changes(db, end_ns, symbols, collectors)
        for symbol, collector, since_ns, until_ns in absences(found, start_ns, end_ns):
            yield MissingTime(symbol, since_ns, until_ns, NOT_WATCHED, collector)


def recorded_gaps(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
) -> list[MissingTime]:
    """The gaps that collectors reported, cut to the range.

    One that is still open ends with the next row of its pair and collector. One without a pair is a gap of each pair
    that its collector recorded in the range.
    """
    if not tables(db) >= {EVENTS, ORDERBOOK}:
        return []
    wanted = [one_of("collector", collectors)] if collectors is not None else []
    if symbols is not None and (named := one_of("symbol", symbols)):
        wanted.append(f"(symbol IS NULL OR {named})")
    own = None if symbols is None else set(symbols)
    events = db.sql(
        "SELECT symbol, cast(timestamp AS LONG), cast(until AS LONG), detail, collector "
        f"FROM {EVENTS} WHERE kind = 'gap' AND collector IS NOT NULL AND timestamp < {end_ns // 1000} "
        f"AND (until IS NULL OR until > {start_ns // 1000}){''.join(f' AND {each}' for each in wanted if each)}"
    ).rows
    gaps = []
    for symbol, since_us, until_us, reason, collector in events:
        if symbol is not None and own is not None and symbol not in own:
            continue
        for each in [symbol] if symbol is not None else _pairs_of(db, collector, start_ns, end_ns, symbols):
            until_ns = _next_row(db, each, collector, since_us, end_ns) if until_us is None else until_us * 1000
            gap = MissingTime(
                each, max(since_us * 1000, start_ns), min(until_ns, end_ns), reason or UNEXPLAINED, collector
            )
            if gap.length_ns > 0:
                gaps.append(gap)
    return gaps


def _pairs_of(db: QuestDB, collector: str, start_ns: int, end_ns: int, symbols: Sequence[str] | None) -> list[str]:
    condition = where(start_ns, end_ns, symbols, [collector])
    found = [symbol for (symbol,) in db.sql(f"SELECT DISTINCT symbol FROM {ORDERBOOK} WHERE {condition}").rows]
    return sorted({symbol for symbol in found if symbol and (symbols is None or symbol in symbols)})


def _next_row(db: QuestDB, symbol: str, collector: str, since_us: int, end_ns: int) -> int:
    condition = where((since_us + 1) * 1000, end_ns, [symbol], [collector])
    rows = db.sql(f"SELECT cast(timestamp AS LONG) FROM {ORDERBOOK} WHERE {condition} LIMIT 1").rows
    return rows[0][0] * 1000 if rows else end_ns


def silences(
    db: QuestDB, recorded: Recorded, start_ns: int, end_ns: int, progress: Progress = lambda share: None
) -> list[MissingTime]:
    """Times between two rows of a pair and collector that are longer than its rhythm allows."""
    gaps = []
    limits = {}
    for (symbol, collector), series in by_key(recorded.spans).items():
        limits[symbol, collector] = limit = limit_ns(series)
        steps = [*_between(series), *recorded.steps.get((symbol, collector), ())]
        gaps += [MissingTime(symbol, *step, UNEXPLAINED, collector) for step in steps if step[1] - step[0] > limit]
    by_day = defaultdict(list)
    for span in recorded.spans:
        by_day[span.first_ns // DAY].append(span)
    for day, here in sorted(by_day.items()):
        since_ns, until_ns = max(day * DAY, start_ns), min((day + 1) * DAY, end_ns)
        silent = {span.key for span in here if span.longest_ns > limits[span.key]} - recorded.steps.keys()
        if silent:
            gaps += _silences_between_rows(db, since_ns, until_ns, {key: limits[key] for key in silent})
        progress((until_ns - start_ns) / (end_ns - start_ns))
    return gaps


def _between(series: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """From the last row of each span to the first of the next."""
    return ((before.last_ns, after.first_ns) for before, after in pairwise(series))


def _silences_between_rows(db: QuestDB, start_ns: int, end_ns: int, limits: dict[Key, int]) -> Iterator[MissingTime]:
    lowest: dict[str, int] = {}
    for (symbol, _), limit in limits.items():
        lowest[symbol] = min(limit, lowest.get(symbol, limit))
    for symbols in batches(sorted(lowest)):
        alike: dict[int, list[str]] = defaultdict(list)  # pairs by the power of two below their limit
        for symbol in symbols:
            alike[1 << (lowest[symbol] // SECOND).bit_length() - 1].append(symbol)
        long = " OR ".join(f"(step > {seconds}000000 AND {one_of('symbol', own)})" for seconds, own in alike.items())
        rows = db.sql(
            "SELECT symbol, collector, cast(timestamp AS LONG), cast(step AS LONG) "
            f"FROM (SELECT timestamp, symbol, collector, {STEP} AS step "
            f"FROM {ORDERBOOK} WHERE {where(start_ns, end_ns, symbols)}) WHERE step > 1000000 AND ({long})"
        ).rows
        for symbol, collector, until_us, step_us in rows:
            if step_us * 1000 > limits.get((symbol, collector), DAY):
                yield MissingTime(symbol, (until_us - step_us) * 1000, until_us * 1000, UNEXPLAINED, collector)


def _edges(spans: Sequence[Span], start_ns: int, end_ns: int) -> Iterator[MissingTime]:
    for (symbol, collector), series in by_key(spans).items():
        limit, first_ns, last_ns = limit_ns(series), series[0].first_ns, series[-1].last_ns
        if first_ns - start_ns > limit:
            yield MissingTime(symbol, start_ns, first_ns, NOT_RECORDED, collector)
        if end_ns - last_ns > limit:
            yield MissingTime(symbol, last_ns, end_ns, NOT_RECORDED, collector)


def coverage_gaps(
    gaps: Iterable[MissingTime],
    spans: Sequence[Span],
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
) -> dict[str, list[MissingTime]]:
    """The gaps of each pair, whoever recorded it, from those of each of its collectors, in the order of time.

    The reason is that of the longest part. A pair of `symbols` without rows has one gap, the range.
    """
    gaps = list(gaps)
    series = by_key(spans)
    absences: dict[str, list[MissingTime]] = defaultdict(list)
    for gap in gaps:
        if (gap.symbol, gap.collector) in series:
            absences[gap.symbol].append(gap)
    never = {gap.symbol for gap in gaps if gap[1:4] == (start_ns, end_ns, NOT_WATCHED)}
    result = {}
    for symbol in symbols or ():
        result[symbol] = [MissingTime(symbol, start_ns, end_ns, NOT_WATCHED if symbol in never else NOT_RECORDED, "")]
    collectors = Counter(symbol for symbol, _ in series)
    for symbol, limit in sorted(shortest_limits(spans).items()):
        result[symbol] = [
            gap
            for gap in _common(absences[symbol], collectors[symbol])
            if gap.reason not in (UNEXPLAINED, NOT_RECORDED) or gap.length_ns > limit
        ]
    return result


def _common(gaps: Sequence[MissingTime], collectors: int) -> Iterator[MissingTime]:
    """The times in which as many collectors are absent at once; of gaps of one pair."""
    ends = [(gap.until_ns, 0, gap) for gap in gaps]  # before a begin at the same time: a row lies between them
    begins = [(gap.since_ns, 1, gap) for gap in gaps]
    absent: Counter[MissingTime] = Counter()
    since_ns = previous_ns = 0
    parts: Counter[tuple[str, str]] = Counter()  # ns by (reason, collector) of the present common gap
    for at_ns, begins_here, gap in sorted(ends + begins):
        if parts or len({each.collector for each in absent}) == collectors:
            if not parts:
                since_ns = previous_ns
            parts.update(dict.fromkeys(_explanations(absent), at_ns - previous_ns))
        previous_ns = at_ns
        absent[gap] += 1 if begins_here else -1
        absent += Counter()
        if parts and len({each.collector for each in absent}) < collectors:
            reason, collector = max(parts, key=lambda part: (parts[part], part))  # the same one at every run
            if at_ns > since_ns:
                yield MissingTime(gap.symbol, since_ns, at_ns, reason, collector)
            parts.clear()


def _explanations(absent: Iterable[MissingTime]) -> set[tuple[str, str]]:
    said = {(gap.reason, gap.collector) for gap in absent if gap.reason not in (UNEXPLAINED, NOT_RECORDED)}
    return said or {(gap.reason, gap.collector) for gap in absent}


def percent_covered(gaps: Iterable[MissingTime], start_ns: int, end_ns: int) -> float:
    """The share of the range outside of a pair's gaps, in percent."""
    missing = sum(max(0, min(gap.until_ns, end_ns) - max(gap.since_ns, start_ns)) for gap in gaps)
    return 100 * (1 - missing / (end_ns - start_ns))


DROPPED = "dropped"
"""The reason given for this time, where one is."""
Range = tuple[int, int]
"""[since, until) in ns."""


def dropped_ranges(db: QuestDB, start_ns: int, end_ns: int) -> list[Range]:
    """What was dropped of a range, in the order of time, neighbouring days as one. Raises StoreError."""
    if not db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{EVENTS}'").rows:
        return []
    rows = db.sql(f"SELECT DISTINCT left(detail, 10) FROM {EVENTS} WHERE kind = 'partition_dropped'").rows
    there = {each.day for each in list_partitions(db)}  # one that was imported again, say
    gone = {day for (day,) in rows if re.fullmatch(r"\d{4}-\d\d-\d\d", day or "")} - there
    days = sorted(map(start_of, gone))
    ranges: list[Range] = []
    for since_ns, until_ns in ((max(day, start_ns), min(day + DAY, end_ns)) for day in days):
        if since_ns >= until_ns:
            continue
        if ranges and ranges[-1][1] == since_ns:
            since_ns, _ = ranges.pop()
        ranges.append((since_ns, until_ns))
    return ranges


def explained(
    gaps: Iterable[MissingTime], dropped: Sequence[Range], limit_ns: int = SHORTEST_LIMIT_NS
) -> list[MissingTime]:
    """The gaps of a pair with what was dropped of them apart, for that reason.

    `limit_ns`: from when on a silence of the pair is a gap.
    """
    return [part for gap in gaps for part in _split(gap, dropped, limit_ns)]


def without(
    gaps: Iterable[MissingTime], dropped: Sequence[Range], limit_ns: int = SHORTEST_LIMIT_NS
) -> list[MissingTime]:
    """The gaps without what was dropped of them."""
    return [gap for gap in explained(gaps, dropped, limit_ns) if gap.reason != DROPPED]


def length_ns(dropped: Sequence[Range], start_ns: int, end_ns: int) -> int:
    """How much of a range was dropped."""
    return sum(max(0, min(until_ns, end_ns) - max(since_ns, start_ns)) for since_ns, until_ns in dropped)


def _split(gap: MissingTime, dropped: Sequence[Range], limit_ns: int) -> Iterator[MissingTime]:
    at_ns = gap.since_ns
    for since_ns, until_ns in (each for each in dropped if each[0] < gap.until_ns and each[1] > gap.since_ns):
        # A moment between the last row before and midnight is only the rhythm of the pair.
        if since_ns - at_ns > limit_ns:
            yield gap._replace(since_ns=at_ns, until_ns=since_ns)
        at_ns = gap.until_ns if gap.until_ns - until_ns <= limit_ns else until_ns
        yield gap._replace(since_ns=max(gap.since_ns, since_ns), until_ns=at_ns, reason=DROPPED)
    if at_ns < gap.until_ns:
        yield gap._replace(since_ns=at_ns)


class PairChange(NamedTuple):
    """A pair came to a collector, or went. In the order of time."""

    symbol: str
    collector: str
    at_ns: int
    added: bool


class Absence(NamedTuple):
    """A time in which a collector was not asked for a pair."""

    symbol: str
    collector: str
    since_ns: int
    until_ns: int


def changes(
    db: QuestDB, end_ns: int, symbols: Sequence[str] | None = None, collectors: Sequence[str] | None = None
) -> list[PairChange]:
    """All there were before the end of a range: what came before the range tells how it begins."""
    wanted = [one_of("symbol", symbols)] if symbols is not None else []
    if collectors is not None:
        wanted.append(one_of("collector", collectors))
    own = None if symbols is None else set(symbols)
    rows = db.sql(
        f"SELECT symbol, collector, cast(timestamp AS LONG), kind FROM {EVENTS} "
        f"WHERE kind IN ('{PAIR_ADDED}', '{PAIR_REMOVED}') AND timestamp < {end_ns // 1000}"
        f"{''.join(f' AND {condition}' for condition in wanted if condition)} ORDER BY timestamp"
    ).rows
    return [
        PairChange(symbol, collector, at_us * 1000, kind == PAIR_ADDED)
        for symbol, collector, at_us, kind in rows
        if own is None or symbol in own
    ]


def absences(changes: Iterable[PairChange], start_ns: int, end_ns: int) -> Iterator[Absence]:
    """The times of the range in which pairs were not asked for; a pair that came was not before, by nobody else."""
    gone_ns: dict[tuple[str, str], int | None] = {}  # since when a pair is gone; None while it is there
    for symbol, collector, at_ns, added in changes:
        since_ns = gone_ns.get((symbol, collector), start_ns if added else None)
        if added:
            if since_ns is not None and max(since_ns, start_ns) < at_ns:
                yield Absence(symbol, collector, max(since_ns, start_ns), min(at_ns, end_ns))
            gone_ns[symbol, collector] = None
        elif since_ns is None:
            gone_ns[symbol, collector] = at_ns
    for (symbol, collector), since_ns in gone_ns.items():
        if since_ns is not None and since_ns < end_ns:
            yield Absence(symbol, collector, max(since_ns, start_ns), end_ns)
