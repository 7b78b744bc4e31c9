"""Counters and the lag histogram of one recorder. Each field is written by one thread only, so none needs a lock.

A counter is declared once, here: with its name, its type, and for Prometheus its metric's name and help. The threads of
a recorder write these structs, its report on disk and in JSON contains copies of them, and the metrics port shows every
field that is annotated with `Counter` or `Gauge`.
"""

import math
import threading
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

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


class Counter(NamedTuple):
    """Has a field shown to Prometheus as `ingester_NAME_total`."""

    name: str
    help: str


class Gauge(NamedTuple):
    """Has a field shown to Prometheus as `ingester_NAME`; times are shown as Unix time."""

    name: str
    help: str
    none: float | None = None
    """What is shown for None; by default nothing is shown then."""


class FeedMetrics(msgspec.Struct, kw_only=True):
    """Counts of connections and frames since the start. Written by the feed thread."""

    snapshots: int = 0
    """Books accepted: these go to the spool."""
    connects: Annotated[int, Counter("connects", "Websocket connections made.")] = 0
    reconnects: Annotated[int, Counter("reconnects", "Connections that stand again after a loss.")] = 0
    losses: Annotated[int, Counter("connection_losses", "Connections lost, failed attempts included.")] = 0
    rotations: Annotated[int, Counter("rotations", "Connections replaced by younger ones without a gap.")] = 0
    malformed: Annotated[int, Counter("frames_quarantined", "Frames that are no sound order book; not stored.")] = (
        msgspec.field(default=0, name="quarantined")
    )
    refused: Annotated[int, Counter("requests_refused", "Error answers of the exchange.")] = msgspec.field(
        default=0, name="refused_requests"
    )
    copies: Annotated[int, Counter("copies", "Snapshots that had come over another connection.")] = 0
    skipped: Annotated[int, Counter("snapshots_skipped", "Snapshots left out by --interval.")] = 0
    failed_attempts: Annotated[int, Counter("failed_attempts", "Attempts to connect that made no connection.")] = 0
    last_failure: str = ""
    """Why the last of these attempts failed."""
    region_refused: bool = False
    """Whether a connection was refused with HTTP 451."""


class RowMetrics(msgspec.Struct, kw_only=True):
    """Counts of rows since the start. Written by the feed thread (received, lost), the writer (stored) and the
    reconciler (missing, resent, surplus)."""

    received: Annotated[int, Counter("rows_received", "Rows written to the spool.")] = 0
    received_bytes: Annotated[int, Counter("received_bytes", "Bytes of these rows.")] = 0
    per_second: float = 0.0
    """Rows received per second over the last ten seconds; known in a report only."""
    stored: Annotated[int, Counter("rows_stored", "Rows acknowledged by QuestDB; those sent again count again.")] = 0
    lost: Annotated[int, Counter("rows_lost", "Rows received and lost because the spool had no room.")] = 0
    missing: Annotated[
        int, Gauge("rows_missing", "Rows acknowledged and not visible in the table at the last look.")
    ] = 0
    resent: Annotated[int, Counter("rows_resent", "Rows sent again because some were missing.")] = 0
    surplus: Annotated[int, Counter("rows_surplus", "Rows visible beyond those sent.")] = 0


class StoreState(msgspec.Struct, kw_only=True):
    """How a recorder gets on with its QuestDB. Written by the writer, `suspended` and `damage` by the reconciler."""

    failing_seconds: Annotated[
        float | None, Gauge("store_failing_seconds", "For how long QuestDB has not taken rows; 0: it takes them.", 0.0)
    ] = None
    """Known in a report only."""
    last_failure: str = ""
    failures: Annotated[int, Counter("store_failures", "Requests to QuestDB that failed; each is repeated.")] = 0
    suspended: Annotated[bool, Gauge("table_suspended", "Whether QuestDB acknowledges rows without showing them.")] = (
        False
    )
    dead_letters: Annotated[int, Counter("dead_letters", "Rows that QuestDB refused for good, set aside in files.")] = 0
    last_dead_letter: datetime | None = None
    """Known in a report only."""
    restarts: Annotated[int, Counter("server_restarts", "Times the managed QuestDB died and was started again.")] = 0
    reconciled: Annotated[
        datetime | None, Gauge("reconciled_timestamp_seconds", "Rows received before were looked for, Unix time.")
    ] = None
    """Known in a report only."""
    damage: str = ""
    """What of the table cannot be read, in words."""


class StoreMetrics(StoreState, kw_only=True):
    """Everything that is counted between the feed and QuestDB."""

    rows: RowMetrics = msgspec.field(default_factory=RowMetrics)
    failing: bool = False
    """Whether rows wait because QuestDB does not take them."""
    failing_since_ns: int = 0
    """Since when that is, or was the last time; 0 for never."""
    lag: Histogram = msgspec.field(default_factory=Histogram)
    """From receive to acknowledged, per row."""
    reconciled_ns: int = 0
    """Rows received before were looked for in the table."""


class Metrics(msgspec.Struct, kw_only=True):
    """Everything one recorder counts."""

    feed: FeedMetrics = msgspec.field(default_factory=FeedMetrics)
    store: StoreMetrics = msgspec.field(default_factory=StoreMetrics)
