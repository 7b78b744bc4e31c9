"""Looks at a running recorder once a second, publishes what it sees, and reports what is wrong."""

import copy
import logging
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from ingester import __version__
from ingester.clock import SECOND
from ingester.metrics import Durations, Histogram, StoreState
from ingester.monitoring.alerts import RECENT_SECONDS, AlertLimits, AlertTracker, Notice, problems_of
from ingester.monitoring.report import (
    Connecting,
    ConnectionReport,
    DiskReport,
    Gaps,
    Lag,
    RecentGaps,
    Report,
    SpoolState,
    StateFile,
    Threads,
    published_reports,
)
from ingester.questdb import Policy
from ingester.record import RecorderService
from ingester.sequence import TRADING, EventSummary
from ingester.text import counted, duration_text
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

Result = TypeVar("Result")

RATE_SECONDS, LAG_SECONDS = 10.0, 60.0
"""Over so long the rate of rows, and the lag, are taken."""
NAMED_PAIRS = 10
LONGEST_ERROR = 200
_KEEP_ALL = Policy()
NATIVE_SHARE = 1.2
"""What a row takes on the server's disk, by the size of its columns: 220 bytes measured at depth 5, of 184."""


class Observation(NamedTuple):
    """A report, and numbers that only the metrics port shows."""

    report: Report
    ages: dict[str, float]
    """Seconds since the last book of each pair that ever brought one."""
    lag: Durations
    event_counts: EventSummary


class _Sample(NamedTuple):
    at: float
    received: int
    lag: Durations


def row_bytes(depth: int) -> float:
    """About what a row of this depth takes on QuestDB's disk: time, pair, collector, id and the levels."""
    return NATIVE_SHARE * (24 + 32 * depth)


class Observer:
    """Looks at one recorder again and again; belongs to one thread. Rates are taken from look to look."""

    def __init__(
        self,
        recorder: RecorderService,
        *,
        data_dir: Path,
        questdb: str,
        managed: bool,
        limits: AlertLimits,
        policy: Policy = _KEEP_ALL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`questdb`: the server's address, without user and password. `managed`: it is the one of this data folder."""
        self._recorder = recorder
        self.collector = recorder.settings.collector
        self.data_dir = data_dir
        self._managed = managed
        self._questdb = questdb
        self._limits = limits
        self._policy = policy
        self._monotonic = monotonic
        self._samples: deque[_Sample] = deque()
        earlier = self.earlier_report()
        self._stopped_before = earlier.at if earlier is not None and earlier.stopped else None

    def earlier_report(self) -> Report | None:
        """The report of the run before this one, as long as this one has published none."""
        reports = (each.report for each in published_reports(self.data_dir))
        return next((report for report in reports if report.collector == self.collector), None)

    def look(self) -> Observation:
        """How the recorder is now."""
        recorder = self._recorder
        now, settings, metrics = recorder.clock.now(), recorder.settings, recorder.metrics
        lag, event_counts = metrics.store.lag.read(), recorder.event_counts.read(now)
        rows = copy.copy(metrics.store.rows)
        rows.per_second, recent_lag = self._rates(rows.received, lag)
        ages, gaps = self._pairs(now, event_counts)
        report = Report(
            collector=settings.collector,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started=_time(recorder.started_ns),
            at=_time(now),
            stopped=False,
            exchange=settings.exchange.name,
            depth=settings.depth,
            interval_ms=settings.interval_ms,
            pairs=len(recorder.feed.monitor.detectors),
            questdb=self._questdb,
            managed=self._managed,
            rows=rows,
            lag=Lag(_finite(Histogram.quantile_of(recent_lag, 0.5)), _finite(Histogram.quantile_of(recent_lag, 0.99))),
            spool=self._spool(now),
            connections=[
                ConnectionReport(label, _seconds(now, opened), _seconds(now, lost))
                for label, opened, lost in recorder.feed.connection_states()
            ],
            feed=copy.copy(metrics.feed),
            gaps=gaps,
            disk=self._disk(rows.per_second),
            storing=self._storing(now, event_counts),
            clock_offset_seconds=recorder.clock.step() / SECOND,
            connecting=connecting(recorder),
            threads=_threads(recorder),
            stopped_before=self._stopped_before,
            parquet_after_seconds=_in_seconds(self._policy.parquet_after_ns),
            drop_after_seconds=_in_seconds(self._policy.drop_after_ns),
        )
        report = msgspec.structs.replace(report, problems=problems_of(report, self._limits))
        return Observation(report, ages, lag, event_counts)

    def _rates(self, received: int, lag: Durations) -> tuple[float, list[int]]:
        now, samples = self._monotonic(), self._samples
        while len(samples) > 1 and samples[1].at <= now - LAG_SECONDS:
            samples.popleft()
        samples.append(_Sample(now, received, lag))
        before = next((sample for sample in reversed(samples) if sample.at <= now - RATE_SECONDS), samples[0])
        per_second = (received - before.received) / (now - before.at) if now > before.at else 0.0
        return per_second, list(lag.since(samples[0].lag).counts)

    def _pairs(self, now: int, event_counts: EventSummary) -> tuple[dict[str, float], Gaps]:
        ages: dict[str, float] = {}
        halted, lasting = 0, []
        for detector in list(self._recorder.feed.monitor.detectors.values()):
            if detector.count:
                ages[detector.symbol] = max(0.0, (now - detector.receive_ns) / SECOND)
            if detector.status != TRADING:
                halted += 1
            elif detector.has_open_gap:
                lasting.append((now - detector.receive_ns, detector.symbol))
        lasting.sort(reverse=True)
        gaps = Gaps(
            total=sum(each.number for each in event_counts.gaps.values()),
            day=event_counts.day.number,
            day_seconds=event_counts.day.seconds,
            last=self._recorder.event_counts.last_gap(),
            recent=recent_gaps(event_counts, now),
            open_pairs=len(lasting),
            open_named=[symbol for _, symbol in lasting[:NAMED_PAIRS]],
            open_seconds=max(0.0, lasting[0][0] / SECOND) if lasting else 0.0,
            halted_pairs=halted,
        )
        return ages, gaps

    def _spool(self, now: int) -> SpoolState:
        spool = self._recorder.spool
        oldest = spool.oldest_ns
        return SpoolState(
            rows=spool.rows_waiting,
            bytes=spool.bytes_waiting,
            oldest_seconds=_seconds(now, oldest),
            size_bytes=spool.size,
            limit_bytes=spool.limit_bytes,
            full=spool.full_since is not None,
            sync_failing=spool.sync_failing,
        )

    def _disk(self, per_second: float) -> DiskReport:
        state = os.statvfs(self.data_dir)
        grows = per_second * 86_400 * row_bytes(self._recorder.settings.depth) if self._managed else None
        return DiskReport(state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize, grows)

    def _storing(self, now: int, event_counts: EventSummary) -> StoreState:
        store = self._recorder.metrics.store
        state = StoreState(**{name: getattr(store, name) for name in StoreState.__struct_fields__})
        last = event_counts.last_ns.get("dead_letter")
        state.failing_seconds = _seconds(now, store.failing_since_ns) if store.failing else None
        state.last_dead_letter = _time(last) if last else None
        state.reconciled = _time(store.reconciled_ns) if store.reconciled_ns else None
        return state


def connecting(recorder: RecorderService) -> Connecting | None:
    """What keeps the first book from coming; None once it has come."""
    feed = recorder.metrics.feed
    if feed.snapshots:
        return None
    url = urlsplit(recorder.settings.exchange.stream_url)
    host = url.netloc.rpartition("@")[2]
    return Connecting(host, recorder.feed.connected, feed.failed_attempts, feed.last_failure)


def _threads(recorder: RecorderService) -> Threads:
    deaths = recorder.deaths()
    last = datetime.fromtimestamp(deaths.at, UTC) if deaths.total else None
    return Threads(deaths.counts, sorted(deaths.down), deaths.last, deaths.error[:LONGEST_ERROR], last)


def recent_gaps(event_counts: EventSummary, now: int) -> list[RecentGaps]:
    """Gaps that ended within the last minutes, those of a reason together."""
    since = now - int(RECENT_SECONDS * SECOND)
    recent = [gap for gap in event_counts.recent if gap.until_ns > since]
    found = []
    for reason in dict.fromkeys(gap.reason for gap in recent):
        alike = [gap for gap in recent if gap.reason == reason]
        longest, last = max(gap.seconds for gap in alike), max(gap.until_ns for gap in alike)
        found.append(RecentGaps(reason, len({gap.symbol for gap in alike}), longest, _time(last)))
    return found


def _seconds(now: int, since: int | None) -> float | None:
    return None if since is None else max(0.0, (now - since) / SECOND)


def _time(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / SECOND, UTC)


def _finite(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _in_seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / SECOND


LOOK_SECONDS = 1.0
AGAIN_SECONDS = 300.0
"""A recorder that was started again within so long is not announced: what restarts it may do so again and again."""


class Tell(Protocol):
    """Sends a message to whoever is alerted; returns at once."""

    def __call__(self, notice: Notice, report: Report) -> None: ...


class Monitor:
    """Observes a recorder once a second, writes its report to disk, and sends alerts.

    It only reads, in a thread of its own, so that it never holds up recording. A failure is logged once.
    """

    def __init__(self, observer: Observer, *, tell: Tell | None = None) -> None:
        self._observer = observer
        self._tell = tell
        self._file = StateFile(observer.data_dir, observer.collector)
        self._alerts = AlertTracker()
        self._latest: Observation | None = None
        self._looked_at = time.monotonic()
        self._failed: set[str] = set()  # what was logged already
        self._failure = ""
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "pulse", self._stopping)

    def latest(self) -> Observation | None:
        """The latest observation; None before the first."""
        return self._latest

    def age(self) -> float:
        """Seconds since the latest observation, or since the start."""
        return time.monotonic() - self._looked_at

    def start(self) -> None:
        """Starts observing."""
        self._thread.start()

    def stop(self, failure: str = "", timeout: float = 5.0) -> None:
        """Observes a last time, as the recorder has ended, and publishes that; `failure`: the error that ended it."""
        self._failure = failure
        self._stopping.set()
        if self._thread.ident is not None:  # else recording never began
            self._thread.join(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.stop("" if error is None else str(error) or repr(error))

    def _run(self) -> None:
        before = self._guard("the earlier report cannot be read", self._observer.earlier_report)
        self._look()
        if self._latest is not None and not _is_again(before, self._latest.report):
            self._announce("started", before)
        while not self._stopping.wait(LOOK_SECONDS):
            self._look()
        self._look(stopped=not self._failure)
        self._announce("stopped", None)
        self._file.close()

    def _look(self, stopped: bool = False) -> None:
        seen = self._guard("the recorder cannot be looked at", self._observer.look) or (
            self._latest if stopped else None
        )
        if seen is None:
            return
        if stopped:
            seen = seen._replace(report=msgspec.structs.replace(seen.report, stopped=True, problems=[]))
        self._latest, self._looked_at = seen, time.monotonic()
        self._guard("the state of the recorder cannot be published", lambda: self._file.write(seen.report))
        if self._tell is not None and not stopped:
            for notice in self._alerts.news(seen.report.problems, time.monotonic()):
                self._tell(notice, seen.report)

    def _announce(self, kind: str, before: Report | None) -> None:
        if self._tell is None or self._latest is None:
            return
        report = self._latest.report
        text = f"recording of {counted(report.pairs, 'pair')} from {report.exchange} {kind}"
        if kind == "stopped":
            text += f" after {duration_text((report.at - report.started).total_seconds())}, "
            text += f"by an error: {self._failure}" if self._failure else "in order"
        elif before is not None and not before.stopped:
            text += f"; the run before was last heard of at {before.at:%Y-%m-%d %H:%M:%S} UTC, and did not end in order"
        self._tell(Notice(kind, "information", "information", text), report)

    def _guard(self, what: str, do: Callable[[], Result]) -> Result | None:
        """Does something that must not end the thread; its failure is logged once until it works again."""
        try:
            result = do()
        except Exception as error:
            if what not in self._failed:
                log.warning("%s: %s: %s", what, type(error).__name__, error)
            self._failed.add(what)
            return None
        if what in self._failed:
            self._failed.discard(what)
            log.info("this works again: %s", what.replace("cannot be", "can be"))
        return result


def _is_again(before: Report | None, now: Report) -> bool:
    """Whether a recorder was started again shortly after its last start, without having been stopped in order."""
    return before is not None and not before.stopped and (now.started - before.started).total_seconds() < AGAIN_SECONDS
