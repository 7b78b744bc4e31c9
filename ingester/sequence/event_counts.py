"""What has happened to a recording, counted: events by kind, gaps by reason, and what of it is a day old at most."""

import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ingester.clock import SECOND
from ingester.events import REASONS, Event

DAY_NS = 86_400 * SECOND
_SLOT_NS = 60 * SECOND
"""Gaps of so long are counted together."""
RECENT_GAPS = 2000
"""So many gaps are known one by one: a moment in which all pairs have one."""


class GapSum(NamedTuple):
    """Gaps taken together: how many, and for how many seconds in all; a minute of 44 pairs is 44 minutes."""

    number: int = 0
    seconds: float = 0.0


class PastGap(NamedTuple):
    """A gap that is over, of one symbol, or of all where that is empty."""

    symbol: str
    until_ns: int
    seconds: float
    reason: str


class EventSummary(NamedTuple):
    """All counts at one moment."""

    events: dict[str, int]
    """By kind."""
    last_ns: dict[str, int]
    """When the last event of each kind was."""
    gaps: dict[str, GapSum]
    """By reason, of those that are over."""
    day: GapSum
    """Those that ended within the last 24 hours."""
    recent: list[PastGap]
    """The latest ones, in the order of their ends."""


@dataclass
class EventCounts:
    """The feed thread adds, others read; either takes microseconds."""

    _events: Counter[str] = field(default_factory=Counter)
    _last_ns: dict[str, int] = field(default_factory=dict)
    _gaps: dict[str, GapSum] = field(default_factory=lambda: dict.fromkeys(REASONS, GapSum()))
    _slots: deque[tuple[int, GapSum]] = field(default_factory=deque)  # by the minute in which gaps ended
    _recent: deque[PastGap] = field(default_factory=lambda: deque(maxlen=RECENT_GAPS))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, events: Iterable[Event]) -> None:
        """Counts events that are on record now."""
        with self._lock:
            for event in events:
                self._events[event.kind] += 1
                self._last_ns[event.kind] = event.at_ns
                if event.kind == "gap" and event.until_ns is not None:
                    self._add_gap(event, event.until_ns)

    def _add_gap(self, event: Event, until_ns: int) -> None:
        reason = next((reason for reason in REASONS if event.detail.startswith(reason)), event.detail)
        seconds = max(0.0, (until_ns - event.at_ns) / SECOND)
        self._gaps[reason] = _plus(self._gaps.get(reason, GapSum()), seconds)
        self._recent.append(PastGap(event.symbol, until_ns, seconds, event.detail))
        minute = until_ns // _SLOT_NS
        if not self._slots or self._slots[-1][0] < minute:
            self._slots.append((minute, GapSum()))
        self._slots[-1] = (self._slots[-1][0], _plus(self._slots[-1][1], seconds))

    def last_gap(self) -> str:
        """The gaps that were over last, in words: `2.5 s on ETHUSDT, BTCUSDT: restart`; empty where there was none."""
        with self._lock:
            recent = list(self._recent)
        if not recent:
            return ""
        last = recent[-1]
        alike = [gap for gap in recent if gap.reason == last.reason and abs(gap.until_ns - last.until_ns) < SECOND]
        return f"{longest_on((gap.seconds, gap.symbol) for gap in alike)}: {last.reason}"

    def gaps_text(self) -> str:
        """How many gaps are over, and the last ones; `none` where there was none."""
        with self._lock:
            number = sum(each.number for each in self._gaps.values())
        return f"{number:,}, the last {self.last_gap()}" if number else "none"

    def read(self, now: int) -> EventSummary:
        """All that is known at `now`, in ns."""
        oldest = (now - DAY_NS) // _SLOT_NS
        with self._lock:
            while self._slots and self._slots[0][0] <= oldest:
                self._slots.popleft()
            sums = [slot for _, slot in self._slots]
            day = GapSum(sum(each.number for each in sums), sum(each.seconds for each in sums))
            return EventSummary(dict(self._events), dict(self._last_ns), dict(self._gaps), day, list(self._recent))


def longest_on(gaps: Iterable[tuple[float, str]]) -> str:
    """Gaps of one moment, (seconds, symbol), in words: `2.5 s on ETHUSDT, BTCUSDT, SUIUSDT and 1 more`."""
    ordered = sorted(gaps, key=lambda gap: -gap[0])
    symbols = list(dict.fromkeys(symbol or "all pairs" for _, symbol in ordered))  # a pair may have several
    more = f" and {len(symbols) - 3} more" if len(symbols) > 3 else ""
    return f"{ordered[0][0]:.1f} s on {', '.join(symbols[:3])}{more}"


def _plus(total: GapSum, seconds: float) -> GapSum:
    return GapSum(total.number + 1, total.seconds + seconds)
