"""What a recorder publishes about itself once a second: frozen values, the same in memory, on disk and as JSON."""

from datetime import datetime
from typing import Literal

import msgspec

Severity = Literal["critical", "warning"]


class Problem(msgspec.Struct, frozen=True):
    """Something that is wrong, in words, and how to mend it. `alarms.py` lists the kinds."""

    kind: str
    severity: Severity
    """`critical`: books are being lost, are not stored, or soon will be."""
    text: str
    mend: str
    mark: str = ""
    """Another one says that it happened again."""


class ConnectionReport(msgspec.Struct, frozen=True):
    """One place for a websocket connection."""

    label: str
    age_seconds: float | None
    """None where it does not stand."""
    silent_seconds: float | None
    """How long it has delivered nothing since it was lost; None where it delivers."""


class Connecting(msgspec.Struct, frozen=True):
    """What keeps the first book from coming."""

    host: str
    """Host and port of the exchange's streams."""
    standing: int
    """Connections that stand."""
    failed: int
    """Attempts that made no connection."""
    last_failure: str


class Threads(msgspec.Struct, frozen=True):
    """Threads of the process that died by an error. They are restarted where that can be done."""

    deaths: dict[str, int] = {}
    """How often, by name."""
    down: list[str] = []
    """Those that do not run now."""
    last: str = ""
    """Which one died last."""
    last_error: str = ""
    last_at: datetime | None = None


class RowsReport(msgspec.Struct, frozen=True):
    """Counts since the start."""

    received: int
    received_bytes: int
    """As they are written to the spool."""
    per_second: float
    """Over the last ten seconds."""
    stored: int
    """Acknowledged by QuestDB; rows sent again count again."""
    lost: int
    """The spool had no room."""
    missing: int
    """Acknowledged, and not visible in the table at the last look."""
    resent: int
    surplus: int


class Lag(msgspec.Struct, frozen=True):
    """From receive to acknowledged, of the rows of the last minute; None where there were none."""

    p50_seconds: float | None
    p99_seconds: float | None


class SpoolState(msgspec.Struct, frozen=True):
    """What waits on disk for QuestDB."""

    rows: int
    bytes: int
    oldest_seconds: float | None
    size_bytes: int
    """On disk, with what is kept for a while after it was acknowledged."""
    limit_bytes: int
    full: bool
    sync_failing: bool


class FeedReport(msgspec.Struct, frozen=True):
    """Counts of connections and frames since the start."""

    connects: int
    reconnects: int
    losses: int
    rotations: int
    quarantined: int
    refused_requests: int
    copies: int
    skipped: int
    failed_attempts: int = 0


class RecentGaps(msgspec.Struct, frozen=True):
    """Gaps of one reason that ended within the last minutes."""

    reason: str
    pairs: int
    longest_seconds: float
    last_end: datetime


class Gaps(msgspec.Struct, frozen=True):
    """Times without books. Seconds are summed over pairs."""

    total: int
    day: int
    """Those of this run that ended in the last 24 hours."""
    day_seconds: float
    last: str
    recent: list[RecentGaps] = []
    open_pairs: int = 0
    """Pairs that trade and have a gap now."""
    open_named: list[str] = []
    """Some of them."""
    open_seconds: float = 0.0
    """The longest of these, so far."""
    halted_pairs: int = 0
    """Pairs of which the exchange says that they do not trade."""


class DiskReport(msgspec.Struct, frozen=True):
    """The disk under the data folder."""

    free_bytes: int
    total_bytes: int
    bytes_per_day: float | None
    """What the rows of a day take at the present rate; None where they are stored elsewhere."""

    @property
    def days_left(self) -> float | None:
        """Until it is full at the present rate; None where it does not fill."""
        return self.free_bytes / self.bytes_per_day if self.bytes_per_day else None


class Storing(msgspec.Struct, frozen=True):
    """How the recorder gets on with its QuestDB."""

    failing_seconds: float | None
    """For how long QuestDB has not taken rows; None where it takes them."""
    last_failure: str
    failures: int
    suspended: bool
    dead_letters: int
    last_dead_letter: datetime | None
    restarts: int
    """How often the managed server died and was started again."""
    reconciled: datetime | None
    """Rows received before were looked for in the table."""
    damage: str = ""
    """What of the table cannot be read, in words."""


class Report(msgspec.Struct, frozen=True):
    """One recorder at one moment. Times are UTC."""

    collector: str
    host: str
    pid: int
    version: str
    started: datetime
    at: datetime
    stopped: bool
    """Whether it has ended in order."""
    exchange: str
    depth: int
    interval_ms: int
    pairs: int
    questdb: str
    """Address without user and password."""
    managed: bool
    """Whether that is the server of this data folder."""
    rows: RowsReport
    lag: Lag
    spool: SpoolState
    connections: list[ConnectionReport]
    feed: FeedReport
    gaps: Gaps
    disk: DiskReport
    storing: Storing
    clock_offset_seconds: float
    """By how much the wall clock is ahead of receive times."""
    problems: list[Problem] = []
    connecting: Connecting | None = None
    """None from the first book on."""
    threads: Threads = Threads()
    stopped_before: datetime | None = None
    """When the run before was stopped in order; None where it was not, or there was none."""
    parquet_after_seconds: float | None = None
    """After how long days become Parquet; None: never."""
    drop_after_seconds: float | None = None
    """After how long days are dropped; None: never."""
