"""A recorder's numbers in Prometheus's terms. They come from the latest look at it, so a scrape waits for nothing."""

import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ingester.metrics import LAG_BOUNDS, Durations
from ingester.monitoring.observer import Observation


def registry(latest: Callable[[], Observation | None]) -> CollectorRegistry:
    """What a scrape asks: the recorder by its latest look, the process, and Python."""
    made = CollectorRegistry()
    made.register(MetricsCollector(latest))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


class MetricsCollector(Collector):
    """Turns the latest look into metrics when asked; nothing where there was none yet."""

    def __init__(self, latest: Callable[[], Observation | None]) -> None:
        self._latest = latest

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known without asking."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics, grouped as docs/monitoring.md lists them."""
        vitals = self._latest()
        if vitals is None:
            return
        yield from _identity(vitals)
        yield from _rows(vitals)
        yield from _spool(vitals)
        yield from _feed(vitals)
        yield from _gaps(vitals)
        yield from _surroundings(vitals)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"ingester_{name}", text, value=value)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"ingester_{name}", text)
    if value is not None:
        family.add_metric([], value)
    return family


def _by(family: Metric, values: Iterable[tuple[str, float]]) -> Metric:
    for label, value in values:
        family.add_metric([label], value)  # type: ignore[attr-defined]
    return family


def _identity(vitals: Observation) -> Iterator[Metric]:
    report = vitals.report
    build = {"version": report.version, "python": platform.python_version()}
    yield InfoMetricFamily("ingester_build", "The program.", value=build)
    recorder = {
        "collector": report.collector,
        "exchange": report.exchange,
        "depth": str(report.depth),
        "interval_ms": str(report.interval_ms),
    }
    yield InfoMetricFamily("ingester_recorder", "What is recorded.", value=recorder)
    yield _gauge("start_time_seconds", "When recording began, Unix time.", report.started.timestamp())
    yield _gauge("look_timestamp_seconds", "When these numbers were taken, Unix time.", report.at.timestamp())
    first = report.connecting is None
    yield _gauge("receiving", "Whether the first book has come since the start.", first)
    died = CounterMetricFamily("ingester_thread_deaths", "Threads that died of an error.", labels=["thread"])
    yield _by(died, report.threads.deaths.items())
    yield _gauge("threads_down", "Threads that died and do not run now.", len(report.threads.down))
    problems = GaugeMetricFamily("ingester_problem", "1 for each thing that is wrong now.", labels=["kind", "severity"])
    for problem in report.problems:
        problems.add_metric([problem.kind, problem.severity], 1)
    yield problems


def _rows(vitals: Observation) -> Iterator[Metric]:
    rows, storing = vitals.report.rows, vitals.report.storing
    yield _counter("rows_received", "Rows written to the spool.", rows.received)
    yield _counter("received_bytes", "Bytes of these rows.", rows.received_bytes)
    yield _counter("rows_stored", "Rows acknowledged by QuestDB; those sent again count again.", rows.stored)
    yield _counter("rows_lost", "Rows received and lost because the spool had no room.", rows.lost)
    yield _gauge("rows_missing", "Rows acknowledged and not visible in the table at the last look.", rows.missing)
    yield _counter("rows_resent", "Rows sent again because some were missing.", rows.resent)
    yield _counter("rows_surplus", "Rows visible beyond those sent.", rows.surplus)
    yield _counter("dead_letters", "Rows that QuestDB refused for good, set aside in files.", storing.dead_letters)
    yield HistogramMetricFamily(
        "ingester_store_lag_seconds",
        "From the receipt of a row to QuestDB's acknowledgement.",
        buckets=lag_buckets(vitals.lag),
        sum_value=vitals.lag.seconds,
    )
    yield _counter("store_failures", "Requests to QuestDB that failed; each is repeated.", storing.failures)
    yield _gauge(
        "store_failing_seconds",
        "For how long QuestDB has not taken rows; 0: it takes them.",
        storing.failing_seconds or 0,
    )
    yield _gauge("table_suspended", "Whether QuestDB acknowledges rows without showing them.", storing.suspended)
    yield _counter("server_restarts", "Times the managed QuestDB died and was started again.", storing.restarts)
    reconciled = storing.reconciled.timestamp() if storing.reconciled else None
    yield _gauge("reconciled_timestamp_seconds", "Rows received before were looked for, Unix time.", reconciled)


def lag_buckets(lag: Durations) -> list[tuple[str, float]]:
    """Upper bound and count up to it, as Prometheus wants a histogram."""
    total, buckets = 0, []
    for bound, count in zip([*map(str, LAG_BOUNDS), "+Inf"], lag.within, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _spool(vitals: Observation) -> Iterator[Metric]:
    spool = vitals.report.spool
    yield _gauge("spool_waiting_rows", "Rows on disk that QuestDB has not acknowledged.", spool.rows)
    yield _gauge("spool_waiting_bytes", "Bytes of these rows.", spool.bytes)
    yield _gauge("spool_oldest_age_seconds", "Age of the oldest of these; 0: none waits.", spool.oldest_seconds or 0)
    yield _gauge("spool_size_bytes", "Spool on disk, with what is kept after its acknowledgement.", spool.size_bytes)
    yield _gauge("spool_limit_bytes", "What the spool may take on disk.", spool.limit_bytes)
    yield _gauge("spool_full", "Whether the spool takes no rows, so that they are lost.", spool.full)
    yield _gauge("spool_sync_failing", "Whether the last sync of the spool failed.", spool.sync_failing)


def _feed(vitals: Observation) -> Iterator[Metric]:
    feed, places = vitals.report.feed, vitals.report.connections
    yield _counter("copies", "Snapshots that had come over another connection.", feed.copies)
    yield _counter("snapshots_skipped", "Snapshots left out by --interval.", feed.skipped)
    yield _counter("frames_quarantined", "Frames that are no sound order book; not stored.", feed.quarantined)
    yield _counter("requests_refused", "Error answers of the exchange.", feed.refused_requests)
    yield _counter("connects", "Websocket connections made.", feed.connects)
    yield _counter("reconnects", "Connections that stand again after a loss.", feed.reconnects)
    yield _counter("failed_attempts", "Attempts to connect that made no connection.", feed.failed_attempts)
    yield _counter("connection_losses", "Connections lost, failed attempts included.", feed.losses)
    yield _counter("rotations", "Connections replaced by younger ones without a gap.", feed.rotations)
    up = GaugeMetricFamily("ingester_connection_up", "Whether a connection stands.", labels=["connection"])
    yield _by(up, ((each.label, each.age_seconds is not None) for each in places))
    age = GaugeMetricFamily(
        "ingester_connection_age_seconds", "Age of a connection that stands.", labels=["connection"]
    )
    yield _by(age, ((each.label, each.age_seconds) for each in places if each.age_seconds is not None))


def _gaps(vitals: Observation) -> Iterator[Metric]:
    report, event_counts = vitals.report, vitals.event_counts
    gaps = report.gaps
    count = CounterMetricFamily("ingester_gaps", "Gaps that are over, over all pairs.", labels=["reason"])
    yield _by(count, ((reason, each.number) for reason, each in event_counts.gaps.items()))
    seconds = CounterMetricFamily("ingester_gap_seconds", "Their lengths, summed over pairs.", labels=["reason"])
    yield _by(seconds, ((reason, each.seconds) for reason, each in event_counts.gaps.items()))
    events = CounterMetricFamily("ingester_events", "Events put on record in collector_events.", labels=["kind"])
    yield _by(events, event_counts.events.items())
    states = GaugeMetricFamily("ingester_pairs", "Pairs, by whether they bring books now.", labels=["state"])
    recording = report.pairs - gaps.open_pairs - gaps.halted_pairs
    yield _by(states, [("recording", recording), ("silent", gaps.open_pairs), ("halted", gaps.halted_pairs)])
    ages = GaugeMetricFamily("ingester_pair_last_seen_age_seconds", "Since a pair's last book.", labels=["pair"])
    yield _by(ages, vitals.ages.items())


def _surroundings(vitals: Observation) -> Iterator[Metric]:
    report = vitals.report
    yield _gauge("disk_free_bytes", "Free on the disk of the data folder.", report.disk.free_bytes)
    yield _gauge("disk_size_bytes", "Size of that disk.", report.disk.total_bytes)
    yield _gauge(
        "disk_growth_bytes_per_day",
        "What a day of rows takes there at the present rate; 0: rows are stored elsewhere.",
        report.disk.bytes_per_day or 0,
    )
    yield _gauge(
        "clock_offset_seconds", "By how much the wall clock is ahead of receive times.", report.clock_offset_seconds
    )
