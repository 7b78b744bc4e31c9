"""Counters and the lag histogram of one recorder. Each field is written by one thread only, so none needs a lock."""

import math
import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LAG_BOUNDS = (0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds up to which the buckets of the published histogram reach; one more is without end."""


class Durations(NamedTuple):
    """A histogram at one moment."""

    counts: Sequence[int]
    """By bucket of 10 % growth, for `quantile`."""
    within: Sequence[int]
    """By bucket of `LAG_BOUNDS`, not summed up."""
    seconds: float
    """The sum of all."""

    def since(self, before: "Durations") -> "Durations":
        """What was added after an earlier moment."""
        return Durations(
            [now - then for now, then in zip(self.counts, before.counts, strict=True)],
            [now - then for now, then in zip(self.within, before.within, strict=True)],
            self.seconds - before.seconds,
        )


class Histogram:
    """Durations in buckets that grow by 10 %: any quantile to within 5 %, at a fixed size, for as long as it runs.

    One thread adds; `read` gives other threads a whole state.
    """

    _SMALLEST = 1e-5
    _GROWTH = math.log(1.1)

    def __init__(self) -> None:
        self._counts = [0] * 200  # up to 1,700 s; longer ones count as that
        self._within = [0] * (len(LAG_BOUNDS) + 1)
        self._seconds = 0.0
        self._lock = threading.Lock()
        self.total = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Counts `count` observations of the same duration."""
        with self._lock:
            self._counts[self._bucket(seconds)] += count
            self._within[bisect_left(LAG_BOUNDS, seconds)] += count
            self._seconds += max(0.0, seconds) * count
            self.total += count

    def read(self) -> Durations:
        """All counts as they are now."""
        with self._lock:
            return Durations(self._counts.copy(), self._within.copy(), self._seconds)

    def add_range(self, shortest: float, longest: float, count: int) -> None:
        """Counts `count` observations spread evenly between two durations."""
        parts = min(count, 10)
        for part in range(parts):
            share = count // parts + (part < count % parts)
            self.add(shortest + (longest - shortest) * (part + 0.5) / parts, share)

    def quantile(self, q: float) -> float:
        """The duration that a share `q` (0 to 1) of all observations does not exceed; NaN before the first."""
        return self.quantile_of(self._counts, q)

    @classmethod
    def quantile_of(cls, counts: Sequence[int], q: float) -> float:
        """As `quantile`, of the counts of `Durations`."""
        rank, seen = q * sum(counts), 0
        for bucket, count in enumerate(counts):
            seen += count
            if seen >= rank and count:
                return float(cls._SMALLEST * math.exp(cls._GROWTH * (bucket + 0.5)))
        return math.nan

    def _bucket(self, seconds: float) -> int:
        if seconds <= self._SMALLEST:
            return 0
        return min(len(self._counts) - 1, int(math.log(seconds / self._SMALLEST) / self._GROWTH))


@dataclass
class FeedMetrics:
    """Written by the feed thread thread."""

    snapshots: int = 0
    """Accepted: these go to the spool."""
    copies: int = 0
    """Snapshots already had, by update id."""
    skipped: int = 0
    """Left out by down-sampling (`--interval`)."""
    malformed: int = 0
    """Frames that are not what the exchange should send, crossed books among them; not stored."""
    refused: int = 0
    """Error answers of the exchange."""
    connects: int = 0
    reconnects: int = 0
    """Connections that stand again after a loss."""
    losses: int = 0
    """Connections lost, failed attempts included."""
    failed_attempts: int = 0
    """Attempts that made no connection."""
    last_failure: str = ""
    """Why the last of them did not."""
    rotations: int = 0
    """Connections replaced by younger ones, make before break."""
    region_refused: bool = False
    """Whether a connection was refused with HTTP 451."""


@dataclass
class StoreMetrics:
    """Written by the writer; `received` to `refused` by the feed thread, the rest from `suspended` by the
    reconciler."""

    received: int = 0
    """Rows handed over by the feed thread."""
    received_bytes: int = 0
    refused: int = 0
    """Rows lost because the spool was full."""
    stored: int = 0
    """Rows that QuestDB has acknowledged."""
    failures: int = 0
    """Requests to QuestDB that failed, each repeated until it succeeds."""
    last_failure: str = ""
    failing: bool = False
    """Whether rows wait because QuestDB does not take them."""
    failing_since_ns: int = 0
    """Since when that is, or was the last time; 0 for never."""
    failing_seconds: float = 0.0
    """How long the last such time took."""
    dead_letters: int = 0
    """Rows that QuestDB refused for good, each set aside in a file."""
    lag: Histogram = field(default_factory=Histogram)
    """From receive to acknowledged, per row."""
    suspended: bool = False
    damage: str = ""
    """What of the table cannot be read, in words."""
    """Whether QuestDB acknowledges rows and does not apply them."""
    rows_missing: int = 0
    """Rows acknowledged and not visible when they were last looked for; those sent again are looked for again."""
    rows_surplus: int = 0
    """Rows visible beyond those that were sent: not one, ever."""
    rows_resent: int = 0
    """Rows sent again because some of them, or before them, were missing; `stored` counts them each time."""
    reconciled_ns: int = 0
    """Rows received before were looked for, symbol by symbol."""


@dataclass
class Metrics:
    """Everything one recorder counts."""

    feed: FeedMetrics = field(default_factory=FeedMetrics)
    store: StoreMetrics = field(default_factory=StoreMetrics)
    server_restarts: int = 0
