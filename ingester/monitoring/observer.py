"""Reads a running recorder: what it counts and holds, at one moment, without any thread of it waiting."""

import math
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from ingester import __version__
from ingester.clock import SECOND
from ingester.metrics import Durations, Histogram
from ingester.monitoring.alerts import RECENT_SECONDS, AlertLimits, problems_of
from ingester.monitoring.report import (
    Connecting,
    ConnectionReport,
    DiskReport,
    FeedReport,
    Gaps,
    Lag,
    RecentGaps,
    Report,
    RowsReport,
    SpoolState,
    Storing,
    Threads,
)
from ingester.monitoring.state_file import read_all
from ingester.questdb import Policy
from ingester.record import RecorderService
from ingester.sequence import TRADING, EventSummary

RATE_SECONDS, LAG_SECONDS = 10.0, 60.0
"""Over so long the rate of rows, and the lag, are taken."""
NAMED_PAIRS = 10
LONGEST_ERROR = 200
_KEEP_ALL = Policy()
NATIVE_SHARE = 1.2
"""What a row takes on the server's disk, by the size of its columns: 220 bytes measured at depth 5, of 184."""


class Observation(NamedTuple):
    """A report, and what beyond it only the metrics tell."""

    report: Report
    ages: dict[str, float]
    """Seconds since the last book of each pair that ever brought one."""
    lag: Durations
    event_counts: EventSummary


class _Beat(NamedTuple):
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
        collector: RecorderService,
        data_dir: Path,
        managed: bool,
        questdb: str,
        limits: AlertLimits,
        policy: Policy = _KEEP_ALL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._collector = collector
        self._data_dir = data_dir
        self._managed = managed
        self._questdb = questdb
        self._limits = limits
        self._policy = policy
        self._monotonic = monotonic
        self._beats: deque[_Beat] = deque()
        earlier = (each.report for each in read_all(data_dir) if each.report.collector == collector.settings.collector)
        self._stopped_before = next((report.at for report in earlier if report.stopped), None)

    def look(self) -> Observation:
        """How the recorder is now."""
        collector = self._collector
        now, settings = collector.clock.now(), collector.settings
        metrics, feed = collector.metrics, collector.metrics.feed
        lag, event_counts = metrics.store.lag.read(), collector.event_counts.read(now)
        per_second, recent_lag = self._rates(metrics.store.received, lag)
        ages, gaps = self._pairs(now, event_counts)
        report = Report(
            collector=settings.collector,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            started=_time(collector.started_ns),
            at=_time(now),
            stopped=False,
            exchange=settings.exchange.name,
            depth=settings.depth,
            interval_ms=settings.interval_ms,
            pairs=len(collector.feed.monitor.detectors),
            questdb=self._questdb,
            managed=self._managed,
            rows=RowsReport(
                metrics.store.received,
                metrics.store.received_bytes,
                per_second,
                metrics.store.stored,
                metrics.store.refused,
                metrics.store.rows_missing,
                metrics.store.rows_resent,
                metrics.store.rows_surplus,
            ),
            lag=Lag(_finite(Histogram.quantile_of(recent_lag, 0.5)), _finite(Histogram.quantile_of(recent_lag, 0.99))),
            spool=self._spool(now),
            connections=[
                ConnectionReport(label, _seconds(now, opened), _seconds(now, lost))
                for label, opened, lost in collector.feed.connection_states()
            ],
            feed=FeedReport(
                feed.connects,
                feed.reconnects,
                feed.losses,
                feed.rotations,
                feed.malformed,
                feed.refused,
                feed.copies,
                feed.skipped,
                feed.failed_attempts,
            ),
            gaps=gaps,
            disk=self._disk(per_second),
            storing=self._storing(now, event_counts),
            clock_offset_seconds=collector.clock.step() / SECOND,
            connecting=connecting(collector),
            threads=_threads(collector),
            stopped_before=self._stopped_before,
            parquet_after_seconds=_in_seconds(self._policy.parquet_after_ns),
            drop_after_seconds=_in_seconds(self._policy.drop_after_ns),
        )
        report = msgspec.structs.replace(report, problems=problems_of(report, self._limits))
        return Observation(report, ages, lag, event_counts)

    def _rates(self, received: int, lag: Durations) -> tuple[float, list[int]]:
        now, beats = self._monotonic(), self._beats
        while len(beats) > 1 and beats[1].at <= now - LAG_SECONDS:
            beats.popleft()
        beats.append(_Beat(now, received, lag))
        before = next((beat for beat in reversed(beats) if beat.at <= now - RATE_SECONDS), beats[0])
        per_second = (received - before.received) / (now - before.at) if now > before.at else 0.0
        return per_second, list(lag.since(beats[0].lag).counts)

    def _pairs(self, now: int, event_counts: EventSummary) -> tuple[dict[str, float], Gaps]:
        ages: dict[str, float] = {}
        halted, lasting = 0, []
        for detector in list(self._collector.feed.monitor.detectors.values()):
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
            last=self._collector.event_counts.last_gap(),
            recent=recent_gaps(event_counts, now),
            open_pairs=len(lasting),
            open_named=[symbol for _, symbol in lasting[:NAMED_PAIRS]],
            open_seconds=max(0.0, lasting[0][0] / SECOND) if lasting else 0.0,
            halted_pairs=halted,
        )
        return ages, gaps

    def _spool(self, now: int) -> SpoolState:
        spool = self._collector.spool
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
        state = os.statvfs(self._data_dir)
        grows = per_second * 86_400 * row_bytes(self._collector.settings.depth) if self._managed else None
        return DiskReport(state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize, grows)

    def _storing(self, now: int, event_counts: EventSummary) -> Storing:
        store = self._collector.metrics.store
        last = event_counts.last_ns.get("dead_letter")
        return Storing(
            failing_seconds=_seconds(now, store.failing_since_ns) if store.failing else None,
            last_failure=store.last_failure,
            failures=store.failures,
            suspended=store.suspended,
            dead_letters=store.dead_letters,
            last_dead_letter=_time(last) if last else None,
            restarts=self._collector.metrics.server_restarts,
            reconciled=_time(store.reconciled_ns) if store.reconciled_ns else None,
            damage=store.damage,
        )


def connecting(collector: RecorderService) -> Connecting | None:
    """What keeps the first book from coming; None once it has come."""
    feed = collector.metrics.feed
    if feed.snapshots:
        return None
    url = urlsplit(collector.settings.exchange.stream_url)
    host = url.netloc.rpartition("@")[2]
    return Connecting(host, collector.feed.connected, feed.failed_attempts, feed.last_failure)


def _threads(collector: RecorderService) -> Threads:
    deaths = collector.deaths()
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
