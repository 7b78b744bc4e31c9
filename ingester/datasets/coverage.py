"""Measures how completely pairs were recorded: rows, covered time and gaps, in total and by day or hour."""

import logging
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ingester.clock import SECOND
from ingester.datasets.dataset import check_range, choose_exchange, choose_symbols, time_text
from ingester.datasets.gaps import MissingTime, collector_gaps, coverage_gaps, dropped_ranges, length_ns, without
from ingester.datasets.manifest import gap_mapping, iso
from ingester.datasets.spans import (
    STEP,
    Progress,
    Span,
    by_key,
    pieces,
    recorded,
    where,
)
from ingester.errors import OperationError
from ingester.questdb import ALWAYS_NS, DAY, ORDERBOOK, QuestDB, query
from ingester.sequence import SHORTEST_GAP_NS

log = logging.getLogger(__name__)

HOUR = 3600 * SECOND
LONGEST_EMPTY_NS = 366 * DAY
PIECES = {"day": DAY, "hour": HOUR}
MANY_DAYS = 31
"""A longer range takes minutes, so it is logged."""


class Coverage(NamedTuple):
    """The coverage of one pair in one range of time."""

    symbol: str
    start_ns: int
    end_ns: int
    rows: int
    """The number of books; a book of several collectors counts once."""
    interval_ns: int
    """About the median time between two rows of the pair in the whole range; 0 where it is unknown."""
    gaps: list[MissingTime]
    """The gaps in the order of time, cut to this range."""
    dropped_ns: int = 0
    """The part of this range that retention has dropped: neither covered nor missing."""

    @property
    def percent(self) -> float:
        """The percentage of time outside of gaps."""
        kept_ns = self.end_ns - self.start_ns - self.dropped_ns
        return 100 * (1 - self.missing_ns / kept_ns) if kept_ns else 100.0

    @property
    def missing_ns(self) -> int:
        return sum(gap.length_ns for gap in self.gaps)

    @property
    def expected_rows(self) -> int:
        """The rows that the time outside of gaps would hold at the interval of the pair."""
        present_ns = self.end_ns - self.start_ns - self.dropped_ns - self.missing_ns
        return round(present_ns / self.interval_ns) if self.interval_ns else 0

    @property
    def largest(self) -> MissingTime | None:
        return max(self.gaps, key=lambda gap: gap.length_ns, default=None)

    @property
    def reasons(self) -> dict[str, int]:
        """The missing ns by reason, the largest first."""
        lengths: Counter[str] = Counter()
        for gap in self.gaps:
            lengths[gap.reason] += gap.length_ns
        return dict(lengths.most_common())


class PairCoverage(NamedTuple):
    """The coverage of one pair: in the whole range, and in its days or hours, cut to the range."""

    whole: Coverage
    pieces: list[Coverage]


def recorded_range(
    db: QuestDB, symbols: Sequence[str] | None = None, exchange: str | None = None
) -> tuple[int, int] | None:
    """Returns the time from the first row (of these pairs) to just after the last one; None without rows."""
    ends = f"cast(min(timestamp) AS LONG), cast(max(timestamp) AS LONG) FROM {ORDERBOOK}"
    if symbols is None and exchange is None:
        named = "WHERE symbol IS NOT NULL AND collector IS NOT NULL" if _ends_are_nameless(db) else ""
        rows = db.sql(f"SELECT {ends} {named}").rows
    else:
        each = db.sql(f"SELECT symbol, {ends} WHERE {where(0, 1 << 62, symbols, None, exchange)}").rows
        wanted = None if symbols is None else set(symbols)
        rows = [own for symbol, *own in each if symbol and (wanted is None or symbol in wanted)]
    firsts, lasts = [first for first, _ in rows if first is not None], [last for _, last in rows if last is not None]
    return (min(firsts) * 1000, (max(lasts) + 1) * 1000) if firsts else None


def _ends_are_nameless(db: QuestDB) -> bool:
    """Returns whether the first or the last row lacks its pair or collector. Only such ends take time to skip."""
    ends = (f"SELECT symbol, collector FROM {ORDERBOOK} LIMIT {place}" for place in (1, -1))
    return any(not (symbol and collector) for end in ends for symbol, collector in db.sql(end).rows)


def measure_range(
    db: QuestDB,
    start_ns: int | None,
    end_ns: int | None,
    symbols: Sequence[str] | None = None,
    *,
    piece_ns: int = DAY,
    exchange: str | None = None,
    on_progress: Progress = lambda share: None,
) -> list[PairCoverage]:
    """Returns the coverage of each pair in [start, end).

    `start_ns`, `end_ns`: None for the first row and after the last. `symbols`: None for all that have rows in the
    range. `piece_ns`: one of `PIECES`. `exchange`: None for the only one of the table. Raises UnknownPair,
    SettingsError, OperationError where there are no rows, and StoreError.
    """
    if start_ns is not None or end_ns is not None:
        check_range(start_ns or 0, (start_ns or 0) + 1 if end_ns is None else end_ns)
    whole = (start_ns or 0, ALWAYS_NS if end_ns is None else end_ns)
    there = query.exchanges(db, *whole)
    chosen = choose_exchange(db, exchange, there, *whole, symbols)
    only = chosen if len(there) > 1 else None
    everything = recorded_range(db, exchange=only) if query.table_exists(db) else None
    if everything is None:
        raise OperationError(
            "Nothing was recorded yet. `ingester start` records, `ingester import` brings earlier recordings."
        )
    known = query.all_symbols(db, only)
    if symbols is not None and set(symbols) <= set(known):
        everything = recorded_range(db, symbols, only) or everything
    first_ns, last_ns = everything
    start_ns = first_ns if start_ns is None else start_ns
    end_ns = max(last_ns, start_ns + 1000) if end_ns is None else end_ns
    rows = query.rows_by_symbol(db, start_ns, end_ns, exchange=only) if start_ns < end_ns else {}
    if not rows:
        raise OperationError(
            f"There are no rows from {time_text(start_ns)} to {time_text(end_ns)}; what was recorded lies between "
            f"{time_text(first_ns)} and {time_text(last_ns)}."
        )
    days = (end_ns - start_ns) / DAY
    if days > MANY_DAYS:
        log.warning("the range is %.0f days; --from and --to make it shorter", days)
    return pair_coverages(db, start_ns, end_ns, choose_symbols(symbols, rows, known), piece_ns, on_progress, only)


def pair_coverages(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str],
    piece_ns: int = DAY,
    progress: Progress = lambda share: None,
    exchange: str | None = None,
) -> list[PairCoverage]:
    """Returns the coverage of these pairs in their order. `piece_ns`: a value of `PIECES`."""
    known = recorded(db, start_ns, end_ns, piece_ns, symbols, None, lambda share: progress(share * 0.9), exchange)
    spans = known.spans
    found = collector_gaps(db, known, start_ns, end_ns, symbols, None, exchange)
    dropped = dropped_ranges(db, start_ns, end_ns)
    gaps = coverage_gaps(found, spans, start_ns, end_ns, symbols)
    limits = known.shortest_limits()
    gaps = {symbol: without(own, dropped, limits.get(symbol, SHORTEST_GAP_NS)) for symbol, own in gaps.items()}
    rows = _books(db, spans, start_ns, end_ns, piece_ns, exchange)
    progress(1.0)
    intervals = _intervals(db, spans, start_ns, end_ns, exchange)
    answer = []
    stretches = _stretches(rows, start_ns, end_ns, piece_ns)
    for symbol in symbols:
        interval_ns = intervals.get(symbol, 0)
        parts, own = [], _Gaps(gaps[symbol])
        for since_ns, until_ns in stretches:
            count, gone_ns = rows.get((symbol, since_ns // piece_ns), 0), length_ns(dropped, since_ns, until_ns)
            if gone_ns == until_ns - since_ns and not count:
                continue
            inside = own.within(since_ns, until_ns)
            parts.append(Coverage(symbol, since_ns, until_ns, count, interval_ns, inside, gone_ns))
        total, gone_ns = sum(piece.rows for piece in parts), length_ns(dropped, start_ns, end_ns)
        whole = Coverage(symbol, start_ns, end_ns, total, interval_ns, gaps[symbol], gone_ns)
        answer.append(PairCoverage(whole, parts))
    return answer


def _median_interval_ns(series: Sequence[Span]) -> int:
    """Returns the median interval of several spans in ns; 0 where no span has one."""
    known = sorted((span.interval_ns, span.rows) for span in series if span.interval_ns)
    half = sum(rows for _, rows in known) / 2
    for interval_ns, rows in known:
        half -= rows
        if half <= 0:
            return interval_ns
    return 0


def _intervals(db: QuestDB, spans: Sequence[Span], start_ns: int, end_ns: int, exchange: str | None) -> dict[str, int]:
    """Returns the median interval of each pair, by its fastest collector; it is exact where rows are regular."""
    found = {key: _median_interval_ns(own) for key, own in by_key(spans).items()}
    found |= _exact_intervals(db, spans, start_ns, end_ns, exchange)
    intervals: dict[str, int] = {}
    for (symbol, _), interval_ns in found.items():
        if interval_ns:
            intervals[symbol] = min(interval_ns, intervals.get(symbol, interval_ns))
    return intervals


def _exact_intervals(
    db: QuestDB, spans: Sequence[Span], start_ns: int, end_ns: int, exchange: str | None
) -> dict[tuple[str, str], int]:
    """Returns the mean of the steps near the median, by pair and collector, in an hour in the middle of the rows."""
    if not spans:
        return {}
    fullest = max(spans, key=lambda span: span.rows)
    middle_ns = (fullest.first_ns + fullest.last_ns) // 2
    symbols = sorted({span.symbol for span in spans})
    since_ns, until_ns = max(start_ns, middle_ns - HOUR // 2), min(end_ns, middle_ns + HOUR // 2)
    condition = where(since_ns, until_ns, symbols, None, exchange)
    rows = db.sql(
        f"WITH steps AS (SELECT symbol, collector, cast({STEP} AS DOUBLE) AS step FROM {ORDERBOOK} WHERE {condition}), "
        "medians AS (SELECT symbol, collector, approx_percentile(step, 0.5) AS median FROM steps) "
        "SELECT steps.symbol, steps.collector, avg(step) FROM steps "
        "JOIN medians ON steps.symbol = medians.symbol AND steps.collector = medians.collector "
        "WHERE step > 0.93 * median AND step < 1.07 * median"
    ).rows
    return {
        (symbol, collector): round(mean * 1000) for symbol, collector, mean in rows if symbol and collector and mean
    }


def _books(
    db: QuestDB, spans: Sequence[Span], start_ns: int, end_ns: int, piece_ns: int, exchange: str | None
) -> Mapping[tuple[str, int], int]:
    """Returns the number of books by pair and piece, where pieces are numbered since 1970."""
    collectors: dict[tuple[str, int], set[str]] = defaultdict(set)  # by pair and hour
    for span in spans:
        for hour in range(span.first_ns // HOUR, span.last_ns // HOUR + 1):
            collectors[span.symbol, hour].add(span.collector)
    several = {symbol for (symbol, _), names in collectors.items() if len(names) > 1}
    rows: Counter[tuple[str, int]] = Counter()
    for span in spans:
        if span.symbol not in several:
            rows[span.symbol, span.first_ns // piece_ns] += span.rows
    for hour in sorted({hour for symbol, hour in collectors if symbol in several}):
        shared = sorted(symbol for symbol in several if (symbol, hour) in collectors)
        since_ns, until_ns = max(start_ns, hour * HOUR), min(end_ns, (hour + 1) * HOUR)
        condition = where(since_ns, until_ns, shared, None, exchange)
        # One hour per query, because the server holds all its ids in memory.
        counted = db.sql(f"SELECT symbol, count_distinct(last_update_id) FROM {ORDERBOOK} WHERE {condition}").rows
        for symbol, count in counted:
            if (symbol, hour) in collectors and symbol in several:
                rows[symbol, since_ns // piece_ns] += count
    return rows


def _stretches(rows: Mapping[tuple[str, int], int], start_ns: int, end_ns: int, piece_ns: int) -> list[tuple[int, int]]:
    """Returns the pieces of a range. More than a year without rows is one piece, to limit their number."""
    filled = sorted({piece * piece_ns for _, piece in rows})
    edges = [start_ns, *(edge for at_ns in filled for edge in (at_ns, at_ns + piece_ns)), end_ns]
    cuts = [edge for edge in edges if start_ns <= edge <= end_ns]
    stretches = []
    for since_ns, until_ns in pairwise(cuts):
        if until_ns - since_ns > LONGEST_EMPTY_NS:
            stretches.append((since_ns, until_ns))
        else:
            stretches += pieces(since_ns, until_ns, piece_ns)
    return stretches


class _Gaps:
    """The gaps of a pair, for cutting them to pieces."""

    def __init__(self, gaps: Sequence[MissingTime]) -> None:
        """`gaps`: in the order of time, without overlaps."""
        self._gaps = gaps
        self._begins, self._ends = [gap.since_ns for gap in gaps], [gap.until_ns for gap in gaps]

    def within(self, start_ns: int, end_ns: int) -> list[MissingTime]:
        """Returns the gaps in a range, cut to it."""
        inside = self._gaps[bisect_right(self._ends, start_ns) : bisect_left(self._begins, end_ns)]
        return [
            gap._replace(since_ns=max(gap.since_ns, start_ns), until_ns=min(gap.until_ns, end_ns)) for gap in inside
        ]


def as_mapping(coverages: Sequence[PairCoverage], start_ns: int, end_ns: int, by: str | None) -> dict[str, Any]:
    """Returns coverage for JSON, with days or hours where `by` names them. Times are ISO 8601 in UTC."""
    pairs = []
    for whole, parts in coverages:
        pair: dict[str, Any] = {"symbol": whole.symbol, "interval_ms": whole.interval_ns / 1e6, **_numbers(whole)}
        pair["gaps"] = [gap_mapping(gap) for gap in whole.gaps]
        if by:
            pair[f"{by}s"] = [
                {"from": iso(piece.start_ns), "to": iso(piece.end_ns), **_numbers(piece), "gaps": len(piece.gaps)}
                for piece in parts
            ]
        pairs.append(pair)
    return {"from": iso(start_ns), "to": iso(end_ns), "pairs": pairs}


def _numbers(coverage: Coverage) -> dict[str, Any]:
    return {
        "rows": coverage.rows,
        "expected_rows": coverage.expected_rows,
        "percent": round(coverage.percent, 4),
        "largest_gap_seconds": coverage.largest.length_ns / SECOND if coverage.largest else 0.0,
        "reasons": {reason: ns / SECOND for reason, ns in coverage.reasons.items()},
    }
