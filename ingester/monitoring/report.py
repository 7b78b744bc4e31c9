"""What a recorder publishes about itself once a second: a report, the same in memory, on disk and as JSON.

`state/<collector>.json` in the data folder holds the latest report for other processes. It is replaced as a whole, and
not synced: nobody needs it after a power cut. The recorder holds a lock beside it for as long as its process lives,
however that ends; so a process id that went to another process, or is another one inside a container, misleads nobody.
"""

import logging
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from ingester import private
from ingester.metrics import FeedMetrics, Gauge, RowMetrics, StoreState
from ingester.private import is_locked, take_lock
from ingester.text import inside, path_part

log = logging.getLogger(__name__)

Severity = Literal["critical", "warning"]


class Problem(msgspec.Struct, frozen=True):
    """Something that is wrong, in words, and what to do about it. `alerts.py` lists the kinds."""

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


class Lag(msgspec.Struct, frozen=True):
    """From receive to acknowledged, of the rows of the last minute; None where there were none."""

    p50_seconds: float | None
    p99_seconds: float | None


class SpoolState(msgspec.Struct, frozen=True):
    """What waits on disk for QuestDB."""

    rows: Annotated[int, Gauge("spool_waiting_rows", "Rows on disk that QuestDB has not acknowledged.")]
    bytes: Annotated[int, Gauge("spool_waiting_bytes", "Bytes of these rows.")]
    oldest_seconds: Annotated[
        float | None, Gauge("spool_oldest_age_seconds", "Age of the oldest of these; 0: none waits.", 0.0)
    ]
    size_bytes: Annotated[int, Gauge("spool_size_bytes", "Spool on disk, with what is kept after its acknowledgement.")]
    limit_bytes: Annotated[int, Gauge("spool_limit_bytes", "What the spool may take on disk.")]
    full: Annotated[bool, Gauge("spool_full", "Whether the spool takes no rows, so that they are lost.")]
    sync_failing: Annotated[bool, Gauge("spool_sync_failing", "Whether the last sync of the spool failed.")]


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

    free_bytes: Annotated[int, Gauge("disk_free_bytes", "Free on the disk of the data folder.")]
    total_bytes: Annotated[int, Gauge("disk_size_bytes", "Size of that disk.")]
    bytes_per_day: Annotated[
        float | None,
        Gauge(
            "disk_growth_bytes_per_day",
            "What a day of rows takes there at the present rate; 0: rows are stored elsewhere.",
            0.0,
        ),
    ]

    @property
    def days_left(self) -> float | None:
        """Until it is full at the present rate; None where it does not fill."""
        return self.free_bytes / self.bytes_per_day if self.bytes_per_day else None


class Report(msgspec.Struct, frozen=True):
    """One recorder at one moment. Times are UTC."""

    collector: str
    host: str
    pid: int
    version: str
    started: Annotated[datetime, Gauge("start_time_seconds", "When recording began, Unix time.")]
    at: Annotated[datetime, Gauge("look_timestamp_seconds", "When these numbers were taken, Unix time.")]
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
    rows: RowMetrics
    lag: Lag
    spool: SpoolState
    connections: list[ConnectionReport]
    feed: FeedMetrics
    gaps: Gaps
    disk: DiskReport
    storing: StoreState
    clock_offset_seconds: Annotated[
        float, Gauge("clock_offset_seconds", "By how much the wall clock is ahead of receive times.")
    ]
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


# On disk.


def state_folder(data_dir: Path) -> Path:
    """Where the reports of a data folder's recorders are."""
    return data_dir / "state"


class StateFile:
    """The writing side; belongs to one thread. Raises OSError and UnsafeFile."""

    def __init__(self, data_dir: Path, collector: str) -> None:
        self._folder = state_folder(data_dir)
        self._path = inside(self._folder, f"{path_part(collector)}.json", "collector")
        self._lock = -1

    def write(self, report: Report) -> None:
        """Replaces the report, and takes the lock where it is not held yet."""
        private.folder(self._folder)
        if self._lock < 0:
            self._claim()
        temporary = self._path.with_suffix(".new")
        with private.write_anew(temporary) as file:
            file.write(msgspec.json.encode(report) + b"\n")
        temporary.replace(self._path)

    def close(self) -> None:
        """Gives up the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _claim(self) -> None:
        descriptor = private.open_file(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
        if take_lock(descriptor):
            self._lock = descriptor
        else:  # a reader may hold it for a moment: next time
            os.close(descriptor)


class Published(NamedTuple):
    """What a recorder has published last."""

    report: Report
    alive: bool
    """Whether its process runs."""
    age_seconds: float
    """How old that is by the wall clock."""
    path: Path


def published_reports(data_dir: Path) -> list[Published]:
    """The reports of all recorders that ever ran in a data folder; of files that cannot be read, a warning."""
    found = []
    for path in sorted(state_folder(data_dir).glob("*.json")):
        try:
            age = time.time() - path.stat().st_mtime
            report = msgspec.json.decode(path.read_bytes(), type=Report)
            alive = is_locked(path.with_suffix(".lock"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # msgspec's errors are among them
            log.warning("%s cannot be read: %s", path, error)
            continue
        found.append(Published(report, alive, max(0.0, age), path))
    return found


def running_collectors(data_dir: Path) -> set[str]:
    """The names of the recorders that run in a data folder. Raises OSError where that cannot be found out now."""
    return {path.stem for path in state_folder(data_dir).glob("*.lock") if is_locked(path)}
