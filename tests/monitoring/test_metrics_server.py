"""metrics_server.py: a report in Prometheus's terms; what is answered, to whom, and that no client blocks it."""

import contextlib
import errno
import json
import math
import socket
import threading
import time

import pytest
import urllib3
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from reports import report

from ingester.errors import OperationError, SettingsError
from ingester.events import Event
from ingester.metrics import Histogram
from ingester.monitoring.metrics_server import (
    MOST_REQUESTS,
    MOST_THREADS,
    STALE_SECONDS,
    MonitoringServer,
    health,
    lag_buckets,
    metrics_registry,
    parse_address,
)
from ingester.monitoring.monitor import Observation
from ingester.monitoring.report import Connecting, ConnectionReport, Problem
from ingester.sequence.event_counts import EventCounts

NOW = 1_700_000_000_000_000_000


def exposed(told, ages=None, lag=None, events=()):
    event_counts = EventCounts()
    event_counts.add(events)
    observation = Observation(told, ages or {}, (lag or Histogram()).read(), event_counts.read(NOW))
    text = generate_latest(metrics_registry(lambda: observation)).decode()
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
    text = generate_latest(metrics_registry(lambda: None)).decode()
    assert "process_cpu_seconds_total" in text
    assert "ingester_" not in text


CRITICAL = Problem("rows_waiting", "critical", "rows wait", "mend it")
WARNING = Problem("gap", "warning", "a gap", "")


def observation(*problems):
    return Observation(report(problems=list(problems)), {"BTCUSDT": 0.2}, Histogram().read(), EventCounts().read(0))


@pytest.fixture
def server():
    server = MonitoringServer("127.0.0.1:0")
    server.show(lambda: observation(), lambda: 0.5)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "localhost", "host:port", "127.0.0.1:70000", "http://127.0.0.1:9464", "a:1/x"])
def test_what_is_no_address_is_refused_by_name(text):
    with pytest.raises(SettingsError, match=r"127\.0\.0\.1:9464"):
        parse_address(text)


def get(server, path, method="GET"):
    with urllib3.PoolManager(retries=False, timeout=10) as pool:
        return pool.request(method, f"{server.url}{path}")


def test_metrics_health_and_nothing_else(server):
    metrics = get(server, "/metrics")
    assert metrics.status == 200
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b'ingester_pair_last_seen_age_seconds{pair="BTCUSDT"} 0.2' in metrics.data
    assert b"process_resident_memory_bytes" in metrics.data
    answer = get(server, "/healthz")
    assert answer.status == 200
    assert json.loads(answer.data)["status"] == "ok"
    assert get(server, "/").status == 404
    assert get(server, "/metrics", "POST").status == 405


def test_openmetrics_where_it_is_asked_for(server):
    with urllib3.PoolManager(retries=False, timeout=10) as pool:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = pool.request("GET", f"{server.url}/metrics", headers=accept)
    assert answer.data.endswith(b"# EOF\n")


def test_health_is_503_where_something_critical_is_wrong_or_nobody_looks():
    assert health(observation(), 0.5)[0] == 200
    status, answer = health(observation(WARNING), 0.5)
    assert (status, answer["status"]) == (200, "warning")
    status, answer = health(observation(CRITICAL, WARNING), 0.5)
    assert (status, answer["status"]) == (503, "critical")
    assert [problem.kind for problem in answer["problems"]] == ["rows_waiting", "gap"]
    assert health(observation(), STALE_SECONDS + 1)[0] == 503
    assert health(None, 0.0)[0] == 503


def test_a_port_that_is_taken_is_told_before_anything_begins(server):
    address = server.url.removeprefix("http://")
    with pytest.raises(OperationError, match=rf"--metrics {address}.*another port"):
        MonitoringServer(address)


def test_a_host_that_is_not_here_is_told():
    with pytest.raises(OperationError, match="cannot be listened on"):
        MonitoringServer("192.0.2.1:9464")


def test_ipv6():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    server = MonitoringServer("[::1]:0")
    server.show(lambda: observation(), lambda: 0.5)
    assert get(server, "/healthz").status == 200
    server.close()


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 10)


def test_clients_that_are_slow_are_in_nobodys_way(server):
    """All the room is taken by clients that say nothing, or a byte now and then: who comes is answered at once."""
    with contextlib.ExitStack() as closing:
        slow = [closing.enter_context(connect(server)) for _ in range(3 * MOST_REQUESTS)]
        for each in slow[-MOST_REQUESTS:]:
            each.send(b"G")
        for _ in range(3):
            begun = time.monotonic()
            assert get(server, "/healthz").status == 200
            assert time.monotonic() - begun < 2
        assert slow[0].recv(1) == b""  # the oldest was hung up on
        assert threads_of(server) <= MOST_REQUESTS + 1


def threads_of(server):
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_a_request_has_a_deadline_however_it_drips(server, monkeypatch):
    monkeypatch.setattr("ingester.monitoring.metrics_server.REQUEST_SECONDS", 1.0)
    with connect(server) as dripping:
        begun = time.monotonic()
        dripping.settimeout(0.1)
        while time.monotonic() < begun + 10:
            try:
                dripping.send(b"G")
                if dripping.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.9 < time.monotonic() - begun < 8


def test_what_hangs_is_bounded(server):
    """Where the answer itself hangs, hanging up ends no thread."""
    release = threading.Event()
    server.show(lambda: release.wait(30) and observation(), lambda: 0.5)
    with contextlib.ExitStack() as closing:
        for _ in range(2 * MOST_THREADS):
            closing.enter_context(connect(server)).send(b"GET /healthz HTTP/1.0\r\n\r\n")
        with connect(server) as late:
            assert late.recv(1) == b""
        assert threads_of(server) <= MOST_THREADS
        release.set()
    deadline = time.monotonic() + 10
    while threads_of(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert get(server, "/healthz").status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("localhost:9464", 200),
        ("recorder-a:9464", 200),  # as Prometheus asks in docker/
        (socket.gethostname(), 200),
        ("metrics.example.org:9464", 200),
        ("METRICS.example.org.", 200),
        ("evil.example", 403),
        ("evil.example:9464", 403),
        ("127.0.0.1.evil.example", 403),
        ("metrics.example.org.evil.example", 403),
        ("127.0.0.1, evil.example", 403),
        ("[", 403),
    ],
)
def test_requests_for_names_that_are_not_ours_are_refused(host, status):
    server = MonitoringServer("127.0.0.1:0", ["metrics.example.org"])
    server.show(lambda: observation(), lambda: 0.5)
    try:
        with urllib3.PoolManager(retries=False, timeout=10) as pool:
            answers = [
                pool.request("GET", f"{server.url}{path}", headers={"host": host}) for path in ("/metrics", "/healthz")
            ]
        assert [answer.status for answer in answers] == [status, status]
        if status == 403:
            assert all(b"--metrics-host" in answer.data for answer in answers)
    finally:
        server.close()


def test_where_no_connection_can_be_taken_it_is_tried_again_without_hurry(server, monkeypatch):
    """As for want of descriptors: the connection stays ready to be taken."""
    tries, taken = [], socket.socket.accept

    def accept(sock):
        tries.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket.socket, "accept", accept)
    with connect(server) as waiting:
        time.sleep(1.0)
        assert 2 <= len(tries) <= 10
        monkeypatch.setattr(socket.socket, "accept", taken)
        waiting.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert waiting.recv(15) == b"HTTP/1.0 200 OK"


def test_a_bug_is_an_answer_and_one_entry_in_the_log(server, caplog, capfd):
    server.show(lambda: 1 / 0, lambda: 0.5)
    assert get(server, "/metrics").status == 500
    assert get(server, "/healthz").status == 500
    assert caplog.text.count("could not be answered") == 1
    assert "Traceback" not in capfd.readouterr().err


def test_before_recording_begins_it_says_so():
    server = MonitoringServer("127.0.0.1:0")
    answer = get(server, "/healthz")
    assert answer.status == 503
    assert json.loads(answer.data)["reason"] == "recording has not begun"
    server.close()


def test_before_the_first_book_it_is_not_healthy_and_says_why():
    waiting = Connecting("stream.example:9443", 0, 3, "stream.example:9443 refused the connection")
    seen = observation()._replace(report=report(connecting=waiting))
    status, told = health(seen, 0.5)
    assert (status, told["status"]) == (503, "connecting")
    assert told["connecting"] == (
        "connecting to stream.example:9443: 3 attempts failed, the last: stream.example:9443 refused the connection"
    )
    assert health(observation(), 0.5)[1]["connecting"] is None
