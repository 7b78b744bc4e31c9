"""What was recorded of each pair by each collector, day by day, and the rhythm in which its rows came.

All ranges are half open, all times in ns since 1970, UTC.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ingester.clock import SECOND
from ingester.questdb import ORDERBOOK, QuestDB, between, list_partitions, one_of, tell_nameless

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
