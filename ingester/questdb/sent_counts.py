"""How many rows of each symbol went into the spool, by minute of receive time: what the table is held against."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from ingester.book import OrderBook
from ingester.clock import SECOND

MINUTE = 60 * SECOND
KEPT = 16
"""So many minutes can be looked at again: as long as the spool retains what was acknowledged, and one more."""

_symbol, _receive_ns = itemgetter(0), itemgetter(1)


@dataclass(eq=False, slots=True)
class SentSpan:
    """Rows received from `start_ns` until before `end_ns`, and what is known of them in the table."""

    start_ns: int
    end_ns: int
    rows: Counter[str] = field(default_factory=Counter)
    """By symbol, where known: the rows of an earlier run are all under one empty name."""
    aside: Counter[str] = field(default_factory=Counter)
    """Of these, what went to the dead letters. Another thread counts them."""
    settled: int = -1
    """Rows there were when nothing more could be found out about them; -1 before."""
    visible: int = 0
    """Of the rows, seen in the table at the last look."""
    missing: int = 0
    """Not seen then."""
    resends: int = 0
    """How often rows missing here were sent again, since all was there."""
    given_up: bool = False
    """Whether it is on record that the missing rows stay missing."""

    def expected(self) -> Counter[str]:
        """Rows that the table should hold, by symbol."""
        expected = Counter(dict(self.rows))  # a dict is copied in one step
        expected.subtract(dict(self.aside))
        return expected

    @property
    def is_settled(self) -> bool:
        """Whether it was looked for as it is now."""
        return self.settled == self.expected().total()


class SentCounts:
    """Counts of this run. The feed thread adds, the writer removes, all else belongs to the reconciler; nobody
    waits."""

    def __init__(self) -> None:
        self._minutes: dict[int, SentSpan] = {}
        self._earlier: SentSpan | None = None
        self.first_ns = 0
        """The earliest receive time of this run; 0 before."""
        self.forgotten_sent = 0
        self.forgotten_visible = 0
        """Rows of this run in minutes no longer kept, and how many of them were seen."""

    def add(self, snapshots: Sequence[OrderBook]) -> None:
        """Counts rows that the spool took; costs 0.1 µs a row where they were received in one minute."""
        times = list(map(_receive_ns, snapshots))
        first = min(times)
        if not self.first_ns or first < self.first_ns:
            self.first_ns = first
        minute = first // MINUTE
        if max(times) // MINUTE == minute:
            self._rows(minute).update(map(_symbol, snapshots))
        else:
            for snapshot in snapshots:
                self._rows(snapshot.receive_ns // MINUTE)[snapshot.symbol] += 1

    def _rows(self, minute: int) -> Counter[str]:
        span = self._minutes.get(minute)
        if span is None:
            span = self._minutes[minute] = SentSpan(minute * MINUTE, (minute + 1) * MINUTE)
        return span.rows

    def remove(self, symbol: str, receive_ns: int) -> None:
        """Takes back a row that went to the dead letters."""
        for span in self.spans():
            if span.start_ns <= receive_ns < span.end_ns:
                span.aside["" if span is self._earlier else symbol] += 1
                return

    def expect_earlier(self, rows: int, first_ns: int, last_ns: int) -> None:
        """Adds the rows that an earlier run has sent, received between these times, as one span without symbols."""
        self._earlier = SentSpan(first_ns, last_ns + 1, Counter({"": rows}))

    def spans(self) -> list[SentSpan]:
        """All that is kept, in the order of time; rows of an earlier run first."""
        minutes = sorted(self._minutes.copy().values(), key=lambda span: span.start_ns)
        return [self._earlier, *minutes] if self._earlier else minutes

    def sent(self) -> tuple[int, int]:
        """Rows of this run that the table should hold, and how many of them were seen there."""
        own = self._minutes.copy().values()
        sent = self.forgotten_sent + sum(span.expected().total() for span in own)
        return sent, self.forgotten_visible + sum(span.visible for span in own)

    def trim(self) -> None:
        """Forgets what is older than KEPT minutes; what is not settled goes into the span after it instead."""
        if self._earlier and self._earlier.is_settled and len(self._minutes) > KEPT:
            self._earlier = None
        while len(self._minutes) > KEPT:
            key, following = sorted(self._minutes)[:2]
            oldest, after = self._minutes[key], self._minutes[following]
            if oldest.is_settled:
                self.forgotten_sent += oldest.expected().total()
                self.forgotten_visible += oldest.visible
            else:
                after.rows.update(oldest.rows)
                after.aside.update(oldest.aside)
                after.start_ns, after.settled = oldest.start_ns, -1
                after.resends = max(after.resends, oldest.resends)
            del self._minutes[key]
