"""exposition.py: a report in Prometheus's terms."""

import math

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from reports import report

from ingester.events import Event
from ingester.metrics import Histogram
from ingester.monitoring.metrics_server import lag_buckets, registry
from ingester.monitoring.monitor import Observation
from ingester.monitoring.report import ConnectionReport, Problem
from ingester.sequence.event_counts import EventCounts

NOW = 1_700_000_000_000_000_000


def exposed(told, ages=None, lag=None, events=()):
    event_counts = EventCounts()
    event_counts.add(events)
    vitals = Observation(told, ages or {}, (lag or Histogram()).read(), event_counts.read(NOW))
    text = generate_latest(registry(lambda: vitals)).decode()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_numbers_are_those_of_the_report():
    events = [Event(NOW - 3_000_000_000, "gap", "BTCUSDT", detail="restart", until_ns=NOW)]
    down = [ConnectionReport("1a", None, 10.0), ConnectionReport("1b", 60.0, None)]
    samples = exposed(
        report(connections=down, gaps={"open_pairs": 2, "halted_pairs": 1}), {"BTCUSDT": 0.25}, events=events
    )
    assert samples["ingester_rows_received_total",] == 1000
    assert samples["ingester_connection_up", "1a"] == 0
    assert ("ingester_connection_age_seconds", "1a") not in samples
    assert samples["ingester_connection_age_seconds", "1b"] == 60
    assert samples["ingester_gaps_total", "restart"] == 1
    assert samples["ingester_gap_seconds_total", "restart"] == 3
    assert samples["ingester_gaps_total", "spool full"] == 0
    assert samples["ingester_pairs", "recording"] == 41
    assert samples["ingester_pairs", "silent"] == 2
    assert samples["ingester_pair_last_seen_age_seconds", "BTCUSDT"] == 0.25
    assert samples["ingester_recorder_info", "100", "5", "binance", "one"] == 1


def test_what_is_wrong_is_a_metric_of_its_own():
    samples = exposed(report(problems=[Problem("rows_waiting", "critical", "", "")]))
    assert samples["ingester_problem", "critical", "rows_waiting"] == 1
    assert not any(name == "ingester_problem" for name, *_ in exposed(report()))


def test_lag_buckets_count_exactly_what_lies_below_their_bound():
    lag = Histogram()
    lag.add(0.5, 3)  # on a bound: within it
    lag.add(0.500001)
    lag.add(5000.0, 2)
    buckets = dict(lag_buckets(lag.read()))
    assert buckets["0.25"] == 0
    assert buckets["0.5"] == 3
    assert buckets["0.75"] == 4
    assert buckets["1800.0"] == 4
    assert buckets["+Inf"] == 6
    samples = exposed(report(), lag=lag)
    assert samples["ingester_store_lag_seconds_count",] == 6
    assert math.isclose(samples["ingester_store_lag_seconds_sum",], 10_002.000001)


def test_before_the_first_look_there_is_only_the_process():
    text = generate_latest(registry(lambda: None)).decode()
    assert "process_cpu_seconds_total" in text
    assert "ingester_" not in text
