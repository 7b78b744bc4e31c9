"""What the exchange had, what the spool took, what the table holds and which gaps are on record, book by book."""

import datetime
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import NamedTuple

from ingester.questdb import ilp
from ingester.questdb.schema import ORDERBOOK
from ingester.simulator import synthetic_pair
from ingester.simulator.books import update_id
from ingester.spool import segment

Book = tuple[str, int]
"""Symbol and update id."""


class Gap(NamedTuple):
    """A recorded gap of one symbol, in microseconds since 1970; infinite where its end is not on record."""

    symbol: str
    since: int
    until: float
    reason: str

    @property
    def seconds(self):
        return (self.until - self.since) / 1e6


@dataclass(frozen=True)
class Evidence:
    """One recording, by symbol: `sent` and `due` are update ids, `stored` (receive time in us, update id) by time.

    `sent`: sound frames handed to the operating system before the goodbye. `due`: what the exchange had from the first
    to the last of them, whether it was sent or not.
    """

    due: dict[str, list[int]]
    sent: dict[str, list[int]]
    spooled: dict[str, Counter]
    stored: dict[str, list[tuple[int, int]]]
    gaps: list[Gap]
    seed: int = 0
    events: list[dict] = field(default_factory=list)

    @cached_property
    def ids(self):
        return {symbol: Counter(number for _, number in rows) for symbol, rows in self.stored.items()}

    @property
    def rows_sent(self):
        return sum(map(len, self.sent.values()))

    @property
    def rows_stored(self):
        return sum(map(len, self.stored.values()))

    @cached_property
    def late(self):
        """Books sent after a newer one of the same symbol: by rule they are not stored."""
        late = set()
        for symbol, numbers in self.sent.items():
            newest = -1
            for number in numbers:
                if number < newest:
                    late.add((symbol, number))
                newest = max(newest, number)
        return late

    @cached_property
    def missing(self):
        """Due and not in the table."""
        return {(s, n) for s, numbers in self.due.items() for n in numbers if n not in self.ids.get(s, ())} - self.late

    @cached_property
    def unrecorded(self):
        """Missing although no gap on record tells of it."""
        return {book for book in self.missing if not self._in_gap(book)}

    @property
    def in_gaps(self):
        """Missing within recorded gaps."""
        return self.missing - self.unrecorded

    @property
    def lost(self):
        """Sent and outside of recorded gaps, or taken by the spool, and not in the table."""
        sent = {symbol: set(numbers) for symbol, numbers in self.sent.items()}
        unstored = {(s, n) for s, numbers in self.spooled.items() for n in numbers if n not in self.ids.get(s, ())}
        return {(s, n) for s, n in self.unrecorded if n in sent[s]} | unstored

    @property
    def duplicated(self):
        """In the table more than once."""
        return {(s, n) for s, numbers in self.ids.items() for n, count in numbers.items() if count > 1}

    @property
    def foreign(self):
        """In the table, but nothing that the spool took or the exchange ever had."""
        return {
            (s, n)
            for s, numbers in self.ids.items()
            for n in numbers
            if n not in self.spooled.get(s, ()) or update_id(self.seed, s, tick(self.seed, s, n)) != n
        }

    @property
    def longest_gap(self):
        """Seconds; 0 where there is no gap."""
        return max((gap.seconds for gap in self.gaps if gap.until < inf), default=0.0)

    def reasons(self, symbol=None):
        """The first words of the gaps' reasons."""
        return {gap.reason for gap in self.gaps if symbol in (None, gap.symbol)}

    def of_kind(self, kind, symbol=None):
        return [each for each in self.events if each["kind"] == kind and symbol in (None, each["symbol"])]

    @cached_property
    def _by_id(self):
        return {symbol: sorted((n, at) for at, n in rows) for symbol, rows in self.stored.items()}

    @cached_property
    def _gaps_of(self):
        gaps = {}
        for gap in self.gaps:
            gaps.setdefault(gap.symbol, []).append(gap)
        return gaps

    def _in_gap(self, book):
        """Whether a gap lies between the stored neighbours of a missing book."""
        symbol, number = book
        rows = self._by_id.get(symbol, [])
        place = bisect_left(rows, (number,))
        before = rows[place - 1][1] if place else -inf
        after = rows[place][1] if place < len(rows) else inf
        return any(gap.since < after and gap.until > before for gap in self._gaps_of.get(symbol, ()))


def tick(seed, symbol, number):
    """In which tenth of a second since 1970 (at speed 1) the simulator makes the book of this update id."""
    return number // synthetic_pair(seed, symbol).stride


def due_of(sent, seed):
    """All update ids that the simulator had from the first to the last one it sent."""
    return {
        symbol: [
            update_id(seed, symbol, each)
            for each in range(tick(seed, symbol, min(numbers)), tick(seed, symbol, max(numbers)) + 1)
        ]
        for symbol, numbers in sent.items()
        if numbers
    }


def spooled_in(folder):
    """How often each book is in the segment files of a spool."""
    found = {}
    for each in segment.find(folder):
        segment.scan(each)
        for _, record in segment.walk(segment.start_of(each), each.end):
            for row in ilp.rows(record.body):
                tags = ilp.tags(row)
                if tags.table == ORDERBOOK:
                    found.setdefault(tags.symbol, Counter())[tags.update_id] += 1
    return found


def microseconds(text):
    """A time as QuestDB writes it, in us since 1970; None for NULL."""
    return text and round(datetime.datetime.fromisoformat(text).timestamp() * 1e6)


def stored_in(db, collector):
    """The rows of a collector by symbol, in the order of time."""
    db.sql("SELECT wait_wal_table('orderbook')")
    statement = f"""SELECT symbol, cast(timestamp AS long), last_update_id
        FROM orderbook WHERE collector = '{collector}' ORDER BY timestamp"""
    stored = {}
    for symbol, at, number in db.sql(statement).rows:
        stored.setdefault(symbol, []).append((at, number))
    return stored


def events_in(db, collector):
    """The events of a collector in the order of time."""
    db.sql("SELECT wait_wal_table('collector_events')")
    result = db.sql(f"SELECT * FROM collector_events WHERE collector = '{collector}' ORDER BY timestamp")
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def gaps_among(events, stored):
    """The recorded gaps; one that is still open ends with the next row."""
    gaps = []
    for event in events:
        if event["kind"] == "gap" and event["symbol"]:
            symbol, since = event["symbol"], microseconds(event["timestamp"])
            until = microseconds(event["until"])
            if until is None:
                until = next((at for at, _ in stored.get(symbol, ()) if at > since), inf)
            gaps.append(Gap(symbol, since, until, event["detail"]))
    return gaps


def gather(db, collector, sent, spool, seed=0):
    """The evidence of a recording that has ended."""
    stored, events = stored_in(db, collector), events_in(db, collector)
    return Evidence(due_of(sent, seed), sent, spooled_in(spool), stored, gaps_among(events, stored), seed, events)
