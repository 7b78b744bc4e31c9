"""Finds the gaps of each pair in a range of the table, with their reasons.

A collector was absent from a pair in the gaps that it reported (`collector_events`), while it did not have to record
the pair (`pair_added`, `pair_removed`), in pauses that are gaps by the rule (`sequence/gap_rule.py`), and before its
first and after its last row of the range. A gap of the pair is a time in which all collectors of the pair were absent.
Time that retention has dropped is no gap of the recording (`DROPPED`). All ranges are half open, all times in ns since
1970, UTC.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ingester.datasets.spans import (
    Recorded,
    Silence,
    Span,
    by_key,
    recorded,
    tables,
    where,
)
from ingester.events import PAIR_ADDED, PAIR_REMOVED
from ingester.questdb import DAY, EVENTS, ORDERBOOK, QuestDB, list_partitions, of_exchange, one_of, start_of
from ingester.sequence import SHORTEST_GAP_NS

UNEXPLAINED = "unexplained"
NOT_RECORDED = "not recorded"
NOT_WATCHED = "not watched"


class MissingTime(NamedTuple):
    """A time without rows of a pair. `collector`: the absent one; in a gap of the pair, the source of the reason."""

    symbol: str
    since_ns: int
    until_ns: int
    reason: str
    collector: str
    limit_ns: int = 0
    """A pause up to this length is no gap; 0 in a reported gap and in a gap of the pair."""

    @property
    def length_ns(self) -> int:
        return self.until_ns - self.since_ns


def pair_gaps(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    known: Recorded | None = None,
    exchange: str | None = None,
) -> dict[str, list[MissingTime]]:
    """Returns the gaps of each pair in the range, in the order of time.

    `symbols`: None for all pairs with rows. `known`: what was recorded; None: the server is queried.
    """
    if known is None:
        known = recorded(db, start_ns, end_ns, DAY, symbols, collectors, exchange=exchange)
    gaps = collector_gaps(db, known, start_ns, end_ns, symbols, collectors, exchange)
    return coverage_gaps(gaps, known.spans, start_ns, end_ns, symbols)


def data_set_gaps(
    db: QuestDB, start_ns: int, end_ns: int, symbols: Sequence[str], known: Recorded, exchange: str | None = None
) -> dict[str, list[MissingTime]]:
    """Returns the gaps of each pair for a manifest, in which time that retention has dropped is a gap of its own."""
    dropped = dropped_ranges(db, start_ns, end_ns)
    gaps = pair_gaps(db, start_ns, end_ns, symbols, known=known, exchange=exchange)
    limits = known.shortest_limits()
    return {symbol: explained(own, dropped, limits.get(symbol, SHORTEST_GAP_NS)) for symbol, own in gaps.items()}


def collector_gaps(
    db: QuestDB,
    known: Recorded,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    exchange: str | None = None,
) -> list[MissingTime]:
    """Returns all absences of all collectors: reported gaps, times not watched, silences, ends of the range."""
    return [
        *recorded_gaps(db, start_ns, end_ns, symbols, collectors, exchange),
        *_unwatched(db, start_ns, end_ns, symbols, collectors, exchange),
        *_silences(known.silences),
        *_edges(known, start_ns, end_ns),
    ]


def _unwatched(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None,
    collectors: Sequence[str] | None,
    exchange: str | None,
) -> Iterator[MissingTime]:
    if EVENTS in tables(db):
        found = changes(db, end_ns, symbols, collectors, exchange)
        for symbol, collector, since_ns, until_ns in absences(found, start_ns, end_ns):
            yield MissingTime(symbol, since_ns, until_ns, NOT_WATCHED, collector)


def recorded_gaps(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    exchange: str | None = None,
) -> list[MissingTime]:
    """Returns the gaps that collectors reported, cut to the range.

    An open gap ends with the next row of its pair and collector. A gap without a pair is a gap of each pair that its
    collector recorded in the range.
    """
    if not tables(db) >= {EVENTS, ORDERBOOK}:
        return []
    wanted = _events_of(collectors, exchange)
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
        for each in [symbol] if symbol is not None else _pairs_of(db, collector, start_ns, end_ns, symbols, exchange):
            if until_us is None:
                until_ns = _next_row(db, each, collector, since_us, end_ns, exchange)
            else:
                until_ns = until_us * 1000
            gap = MissingTime(
                each, max(since_us * 1000, start_ns), min(until_ns, end_ns), reason or UNEXPLAINED, collector
            )
            if gap.length_ns > 0:
                gaps.append(gap)
    return gaps


def _events_of(collectors: Sequence[str] | None, exchange: str | None) -> list[str]:
    """Returns the conditions for events of these collectors and an exchange; events without exchange are included."""
    wanted = [one_of("collector", collectors)] if collectors is not None else []
    return [*wanted, f"({of_exchange(exchange)} OR exchange IS NULL)"] if exchange is not None else wanted


def _pairs_of(
    db: QuestDB, collector: str, start_ns: int, end_ns: int, symbols: Sequence[str] | None, exchange: str | None
) -> list[str]:
    condition = where(start_ns, end_ns, symbols, [collector], exchange)
    found = [symbol for (symbol,) in db.sql(f"SELECT DISTINCT symbol FROM {ORDERBOOK} WHERE {condition}").rows]
    return sorted({symbol for symbol in found if symbol and (symbols is None or symbol in symbols)})


def _next_row(db: QuestDB, symbol: str, collector: str, since_us: int, end_ns: int, exchange: str | None) -> int:
    condition = where((since_us + 1) * 1000, end_ns, [symbol], [collector], exchange)
    rows = db.sql(f"SELECT cast(timestamp AS LONG) FROM {ORDERBOOK} WHERE {condition} LIMIT 1").rows
    return rows[0][0] * 1000 if rows else end_ns


def _silences(silences: Iterable[Silence]) -> Iterator[MissingTime]:
    for symbol, collector, since_ns, until_ns, limit_ns in silences:
        yield MissingTime(symbol, since_ns, until_ns, UNEXPLAINED, collector, limit_ns)


def _edges(known: Recorded, start_ns: int, end_ns: int) -> Iterator[MissingTime]:
    limits = known.edge_limits()
    for key, series in by_key(known.spans).items():
        (symbol, collector), limit_ns = key, limits[key]
        for since_ns, until_ns in ((start_ns, series[0].first_ns), (series[-1].last_ns, end_ns)):
            if until_ns - since_ns > limit_ns:
                yield MissingTime(symbol, since_ns, until_ns, NOT_RECORDED, collector, limit_ns)


def coverage_gaps(
    gaps: Iterable[MissingTime],
    spans: Sequence[Span],
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
) -> dict[str, list[MissingTime]]:
    """Combines the gaps of collectors into the gaps of each pair, in the order of time.

    The reason is that of the longest part. A pair of `symbols` without rows has one gap, the whole range.
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
    for symbol in sorted(collectors):
        result[symbol] = list(_common(absences[symbol], collectors[symbol]))
    return result


def _common(gaps: Sequence[MissingTime], collectors: int) -> Iterator[MissingTime]:
    """Yields the times in which all `collectors` are absent at once, from the gaps of one pair.

    If none of them reported a gap, such a time is a gap where it is longer than the shortest of their limits.
    """
    ends = [
        (gap.until_ns, 0, gap) for gap in gaps
    ]  # sorted before a begin at the same time, because there is a row between them
    begins = [(gap.since_ns, 1, gap) for gap in gaps]
    absent: Counter[MissingTime] = Counter()
    since_ns = previous_ns = limit_ns = 0
    parts: Counter[tuple[str, str]] = Counter()  # ns by (reason, collector) of the current common gap
    for at_ns, begins_here, gap in sorted(ends + begins):
        if parts or len({each.collector for each in absent}) == collectors:
            shortest_ns = min(each.limit_ns for each in absent)
            since_ns, limit_ns = (since_ns, min(limit_ns, shortest_ns)) if parts else (previous_ns, shortest_ns)
            parts.update(dict.fromkeys(_explanations(absent), at_ns - previous_ns))
        previous_ns = at_ns
        absent[gap] += 1 if begins_here else -1
        absent += Counter()
        if parts and len({each.collector for each in absent}) < collectors:
            reason, collector = max(parts, key=lambda part: (parts[part], part))  # a deterministic choice
            if at_ns - since_ns > limit_ns:
                yield MissingTime(gap.symbol, since_ns, at_ns, reason, collector)
            parts.clear()


def _explanations(absent: Iterable[MissingTime]) -> set[tuple[str, str]]:
    said = {(gap.reason, gap.collector) for gap in absent if gap.reason not in (UNEXPLAINED, NOT_RECORDED)}
    return said or {(gap.reason, gap.collector) for gap in absent}


def percent_covered(gaps: Iterable[MissingTime], start_ns: int, end_ns: int) -> float:
    """Returns the percentage of the range outside of gaps."""
    missing = sum(max(0, min(gap.until_ns, end_ns) - max(gap.since_ns, start_ns)) for gap in gaps)
    return 100 * (1 - missing / (end_ns - start_ns))


DROPPED = "dropped"
"""The reason of time that retention has dropped."""
Range = tuple[int, int]
"""[since, until) in ns."""


def dropped_ranges(db: QuestDB, start_ns: int, end_ns: int) -> list[Range]:
    """Returns the dropped parts of a range in the order of time, adjacent days joined. Raises StoreError."""
    if not db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{EVENTS}'").rows:
        return []
    rows = db.sql(f"SELECT DISTINCT left(detail, 10) FROM {EVENTS} WHERE kind = 'partition_dropped'").rows
    there = {each.day for each in list_partitions(db)}  # a dropped day may have been imported again
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
    gaps: Iterable[MissingTime], dropped: Sequence[Range], limit_ns: int = SHORTEST_GAP_NS
) -> list[MissingTime]:
    """Returns the gaps of a pair, in which dropped time is split off with the reason `DROPPED`.

    `limit_ns`: a longer silence of the pair is a gap.
    """
    return [part for gap in gaps for part in _split(gap, dropped, limit_ns)]


def without(
    gaps: Iterable[MissingTime], dropped: Sequence[Range], limit_ns: int = SHORTEST_GAP_NS
) -> list[MissingTime]:
    """Returns the gaps of a pair without dropped time. `limit_ns` as for `explained`."""
    return [gap for gap in explained(gaps, dropped, limit_ns) if gap.reason != DROPPED]


def length_ns(dropped: Sequence[Range], start_ns: int, end_ns: int) -> int:
    """Returns how many ns of a range were dropped."""
    return sum(max(0, min(until_ns, end_ns) - max(since_ns, start_ns)) for since_ns, until_ns in dropped)


def _split(gap: MissingTime, dropped: Sequence[Range], limit_ns: int) -> Iterator[MissingTime]:
    at_ns = gap.since_ns
    for since_ns, until_ns in (each for each in dropped if each[0] < gap.until_ns and each[1] > gap.since_ns):
        # A pause up to the limit before midnight is only the rhythm of the pair.
        if since_ns - at_ns > limit_ns:
            yield gap._replace(since_ns=at_ns, until_ns=since_ns)
        at_ns = gap.until_ns if gap.until_ns - until_ns <= limit_ns else until_ns
        yield gap._replace(since_ns=max(gap.since_ns, since_ns), until_ns=at_ns, reason=DROPPED)
    if at_ns < gap.until_ns:
        yield gap._replace(since_ns=at_ns)


class PairChange(NamedTuple):
    """A collector began (`added`) or ended to record a pair."""

    symbol: str
    collector: str
    at_ns: int
    added: bool


class Absence(NamedTuple):
    """A time in which a collector did not have to record a pair."""

    symbol: str
    collector: str
    since_ns: int
    until_ns: int


def changes(
    db: QuestDB,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    collectors: Sequence[str] | None = None,
    exchange: str | None = None,
) -> list[PairChange]:
    """Returns the changes before `end_ns` in the order of time; those before a range tell its state at the start."""
    wanted = [one_of("symbol", symbols)] if symbols is not None else []
    wanted += _events_of(collectors, exchange)
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
    """Yields the times of the range in which pairs were not recorded by choice, also before they were first added."""
    gone_ns: dict[tuple[str, str], int | None] = {}  # since when a pair is not recorded; None while it is
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
