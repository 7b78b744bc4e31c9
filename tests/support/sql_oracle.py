"""Hand-made rows, and what each view and query of `sql/` has to answer on them, worked out in Python."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from ingester.book import Level

NOON = datetime(2021, 3, 4, 12, tzinfo=UTC)
A, B = "SQLAUSDT", "SQLBUSDT"
BEST = [(100.0, 2.0), (99.5, 1.0), (99.0, 4.0), (98.0, 3.0), (97.0, 5.0)]
OFFER = [(100.5, 6.0), (101.0, 2.0), (102.0, 2.0), (103.0, 1.0), (104.0, 1.0)]


class Row(NamedTuple):
    """A row as the table holds it."""

    at: datetime
    symbol: str
    collector: str
    update_id: int
    bids: list[Level]
    asks: list[Level]

    @property
    def mid(self):
        return (self.bids[0][0] + self.asks[0][0]) / 2 if self.bids and self.asks else None

    @property
    def spread(self):
        return self.asks[0][0] - self.bids[0][0] if self.bids and self.asks else None


def at(seconds):
    return NOON + timedelta(seconds=seconds)


def moved(levels, by):
    return [(price + by, quantity) for price, quantity in levels]


ROWS = sorted(
    [
        Row(at(0.0), A, "one", 10, BEST, OFFER),
        Row(at(0.003), A, "two", 10, BEST, OFFER),
        Row(at(0.1), A, "one", 12, moved(BEST, 1), moved(OFFER, 1.25)),
        # an older book that only the slower collector has: left out, for a newer one has passed
        Row(at(0.103), A, "two", 11, moved(BEST, -1), OFFER),
        # one book in two seconds: the first receive time counts
        Row(at(0.998), A, "one", 13, moved(BEST, 2), moved(OFFER, 2)),
        Row(at(1.001), A, "two", 13, moved(BEST, 2), moved(OFFER, 2)),
        # thin, and thinner: two levels against one, and no ask at all
        Row(at(1.1), A, "one", 14, BEST[:2], OFFER[:1]),
        Row(at(1.2), A, "one", 15, BEST, []),
        # silence until here, noticed by the collectors; then two minutes, after which the ids begin again
        Row(at(4.75), A, "two", 16, BEST, moved(OFFER, 0.5)),
        Row(at(120), A, "one", 10, moved(BEST, 3), moved(OFFER, 3)),
        Row(at(0.05), B, "one", 900, moved(BEST, 50), moved(OFFER, 50)),
        Row(at(1.15), B, "one", 905, moved(BEST, 51), moved(OFFER, 51)),
        Row(at(86400.5), B, "two", 999, moved(BEST, 52), moved(OFFER, 52)),
    ]
)
DURING = "2021-03-04;2d"
EVENTS = {
    "one": [
        (at(-30), "started", "", "", "1 pair", None),
        (at(1.2), "gap", "", "one-1", "connection lost", at(4.5)),
        (at(4.4), "connected", "", "one-1", "", None),
    ],
    "two": [(at(1.3), "gap", A, "two-1", "silent", at(4.75)), (at(200), "gap", B, "two-1", "silent", at(201))],
}


INSTRUMENTS = [
    ("2021-03-01T00:00:00.000000Z", "binance", A, "ONE", "USDT", "TRADING", 0.01, 0.001),
    ("2021-03-04T09:00:00.000000Z", "binance", A, "ONE", "USDT", "TRADING", 0.1, 0.001),
    ("2021-03-02T00:00:00.000000Z", "binance-futures", A, "ONE", "USDT", "TRADING", 0.5, 1.0),
]


def level_columns(row):
    """The levels of one row by column name; NULL where the book has none."""
    sides = (("bid", "bidv", row.bids), ("ask", "askv", row.asks))
    return {
        f"{name}_{level + 1}": levels[level][part] if level < len(levels) else None
        for price, quantity, levels in sides
        for level in range(5)
        for part, name in enumerate((price, quantity))
    }


def merged():
    """ROWS without copies (another row of the pair and update id in the minute before) and without what is too old."""
    last, newest = {}, {}
    kept = []
    for row in ROWS:
        before = last.get((row.symbol, row.update_id))
        newest_id, at = newest.get(row.symbol, (0, row.at))
        is_late = row.update_id < newest_id and row.at - at <= timedelta(minutes=1)
        if (before is None or row.at - before > timedelta(minutes=1)) and not is_late:
            kept.append(row)
            newest[row.symbol] = row.update_id, row.at
        last[row.symbol, row.update_id] = row.at
    return kept


def by_pair_and(key, rows):
    groups = {}
    for row in rows:
        groups.setdefault((key(row), row.symbol), []).append(row)
    return groups


def bars(rows):
    expected = []
    for (second, symbol), books in sorted(by_pair_and(lambda row: row.at.replace(microsecond=0), rows).items()):
        mids = [book.mid for book in sorted(books, key=lambda book: book.update_id) if book.mid is not None]
        expected.append(
            {
                "timestamp": second,
                "symbol": symbol,
                "open": mids[0],
                "high": max(mids),
                "low": min(mids),
                "close": mids[-1],
                "spread": fmean(book.spread for book in books if book.spread is not None),
                "rows": len(books),
            }
        )
    return expected


def silences(longer_than=1.0):
    """Pauses that are longer than ten mean intervals of whoever brought the row before: see sequence/gap_rule.py."""
    expected = []
    for symbol in (A, B):
        times = {}  # by collector
        for before, after in pairwise(row for row in ROWS if row.symbol == symbol):
            times.setdefault(before.collector, []).append(before.at)
            own = times[before.collector][-51:]
            intervals = [min((until - since).total_seconds(), 60) for since, until in pairwise(own)]
            limit = max(1, 10 * fmean(intervals)) if intervals else 60
            seconds = (after.at - before.at).total_seconds()
            if seconds > max(limit, longer_than):
                expected.append({"timestamp": before.at, "symbol": symbol, "until": after.at, "seconds": seconds})
    return expected


def identity(row):
    return {"timestamp": row.at, "symbol": row.symbol, "collector": row.collector, "last_update_id": row.update_id}


def per_row(numbers):
    return [identity(row) | numbers(row) for row in ROWS]


def microprice(row):
    if not row.bids or not row.asks:
        return None
    (bid, bid_quantity), (ask, ask_quantity) = row.bids[0], row.asks[0]
    return (bid * ask_quantity + ask * bid_quantity) / (bid_quantity + ask_quantity)


def imbalance(row, levels):
    if not row.bids or not row.asks:
        return None
    bids, asks = (sum(quantity for _, quantity in side[:levels]) for side in (row.bids, row.asks))
    return (bids - asks) / (bids + asks)


def expected_mid():
    return per_row(lambda row: {"mid": row.mid})


def expected_spread():
    return per_row(
        lambda row: {"spread": row.spread, "spread_bps": row.spread / row.mid * 1e4 if row.spread is not None else None}
    )


def expected_microprice():
    return per_row(lambda row: {"microprice": microprice(row), "mid": row.mid})


def expected_imbalance():
    return per_row(lambda row: {"imbalance_1": imbalance(row, 1), "imbalance_5": imbalance(row, 5)})


def expected_books():
    return [identity(row) | level_columns(row) for row in merged()]


def expected_latest_books():
    newest = {row.symbol: row for row in ROWS}
    return [identity(row) | level_columns(row) for row in newest.values()]


def expected_rows_per_day():
    days = {}
    for row in ROWS:
        midnight = row.at.replace(hour=0, minute=0, second=0, microsecond=0)
        days.setdefault((midnight, row.symbol, row.collector), []).append(row.at)
    return [
        {
            "timestamp": midnight,
            "symbol": symbol,
            "collector": collector,
            "rows": len(times),
            "first_row": min(times),
            "last_row": max(times),
        }
        for (midnight, symbol, collector), times in days.items()
    ]


def expected_bars_1s():
    return bars(merged())


def expected_gaps():
    return silences()


def expected_reported_gaps():
    return [
        {
            "timestamp": begin,
            "symbol": symbol or None,
            "until": until,
            "seconds": (until - begin).total_seconds(),
            "collector": collector,
            "connection": connection,
            "detail": detail,
        }
        for collector, events in EVENTS.items()
        for begin, kind, symbol, connection, detail, until in events
        if kind == "gap"
    ]


def expected_largest_gaps():
    return sorted(silences(), key=lambda gap: (-gap["seconds"], gap["timestamp"]))


def expected_gaps_explained():
    rows = []
    for gap in (gap for gap in silences() if gap["symbol"] == A):
        beside = [
            {"event_time": begin, "kind": kind, "collector": collector, "connection": connection or None}
            for collector, events in EVENTS.items()
            for begin, kind, symbol, connection, _, until in events
            if symbol in ("", A) and begin <= gap["until"] and (until or begin) >= gap["timestamp"]
        ]
        facts = {name: gap[name] for name in ("timestamp", "until", "seconds")}
        beside.sort(key=lambda event: event["event_time"])
        rows += [facts | event for event in beside or [{"event_time": None, "kind": None}]]
    return rows


def expected_book_at():
    row = next(row for row in reversed(ROWS) if row.symbol == A and row.at <= at(4.75))
    return [identity(row) | level_columns(row)]


def expected_spread_by_hour():
    rows = [row for row in ROWS if row.symbol == A]
    bps = [row.spread / row.mid * 1e4 for row in rows if row.spread is not None]
    return [{"timestamp": NOON, "mean_bps": fmean(bps), "widest_bps": max(bps), "rows": len(rows)}]


def expected_pairs_side_by_side():
    expected = []
    for row in (row for row in ROWS if row.symbol == A):
        others = [other for other in ROWS if other.symbol == B and other.at <= row.at]
        other = others[-1] if others else None
        expected.append(
            {
                "timestamp": row.at,
                "mid": row.mid,
                "other_mid": other.mid if other else None,
                "other_time": other.at if other else None,
            }
        )
    return expected


def expected_volatility():
    closes = [(bar["timestamp"], bar["close"]) for bar in bars(merged()) if bar["symbol"] == A]
    steps = {}
    for i, (second, close) in enumerate(closes):
        squares = steps.setdefault(second.replace(second=0), [])
        squares.append(math.log(close / closes[i - 1][1]) ** 2 if i else None)
    return [
        {"timestamp": minute, "symbol": A, "volatility": math.sqrt(sum(filter(None, squares))), "seconds": len(squares)}
        for minute, squares in steps.items()
    ]


def expected_resampled():
    last = {row.at.replace(microsecond=0): row for row in ROWS if row.symbol == A}
    counts = Counter(row.at.replace(microsecond=0) for row in ROWS if row.symbol == A)
    expected, row = [], None
    for second in (at(i) for i in range(121)):
        row = last.get(second, row)
        ask = row.asks[0][0] if row.asks else None
        expected.append({"timestamp": second, "bid": row.bids[0][0], "ask": ask, "rows": counts[second]})
    return expected


def expected_quantity_by_level():
    rows = [row for row in ROWS if row.symbol == A]
    expected = []
    for level in range(5):
        bids = [row.bids[level] for row in rows if level < len(row.bids)]
        asks = [row.asks[level] for row in rows if level < len(row.asks)]
        both = [(row.bids[level], row.asks[level]) for row in rows if level < min(len(row.bids), len(row.asks))]
        expected.append(
            {
                "level": level + 1,
                "bid_quantity": fmean(quantity for _, quantity in bids),
                "ask_quantity": fmean(quantity for _, quantity in asks),
                "distance": fmean(ask - bid for (bid, _), (ask, _) in both),
            }
        )
    return expected


def expected_fastest_collector():
    ahead = [0.003, 0.003, -119.997]  # ids 10, 13, and the second 10 against the first copy of "two"
    return [{"symbol": A, "books": 3, "first_won": 2, "first_ahead_ms": fmean(ahead) * 1000}]


# How the example queries are pointed at the hand-made rows.


def expected_spot_and_futures():
    return [
        {
            "timestamp": row.at,
            "futures_mid": row.mid + 1000 if row.mid is not None else None,
            "spot_mid": row.mid,
            "basis_bps": 10000 * 1000 / row.mid if row.mid is not None else None,
        }
        for row in ROWS
        if row.symbol == A
    ]


def expected_tick_sizes():
    return [
        {
            "timestamp": datetime.fromisoformat(at),
            "symbol": symbol,
            "status": status,
            "tick_size": tick,
            "step_size": step,
        }
        for at, exchange, symbol, _, _, status, tick, step in INSTRUMENTS
        if exchange == "binance"
    ]
