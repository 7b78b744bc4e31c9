"""A recorder that is watched: metrics, health, status and webhook of a run that is disturbed, killed and stopped."""

import json
import re
import time
from pathlib import Path

import psutil
import pytest
import urllib3
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from receiver import Receiver
from recorder import Recorder, url_of

from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.server import ManagedServer
from ingester.simulator import Simulator

ROOT = Path(__file__).parents[2]
PAIRS = ["BTCUSDT", "ETHUSDT"]


class Watched:
    """A running recorder, and the ways to look at it."""

    def __init__(self, recorder, simulator, receiver, options, data_dir):
        self.recorder, self.simulator, self.receiver = recorder, simulator, receiver
        self.options, self.data_dir = options, data_dir
        self.url = recorder.wait_for("metrics at").split("metrics at ")[1].strip().removesuffix("/metrics")
        self._pool = urllib3.PoolManager(retries=False, timeout=10)

    def text(self):
        return self._pool.request("GET", f"{self.url}/metrics").data.decode()

    def value(self, name):
        families = text_string_to_metric_families(self.text())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def health(self):
        answer = self._pool.request("GET", f"{self.url}/healthz")
        return answer.status, json.loads(answer.data)

    def wait(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while not (seen := condition()):
            assert time.monotonic() < deadline, f"it never came to that:\n{self.recorder.output}"
            time.sleep(0.1)
        return seen

    def status(self, *more):
        answer = CliRunner().invoke(cli, ["status", *self.options[-4:], *more])
        return answer.exit_code, json.loads(answer.stdout) if "--json" in more else answer.stdout


@pytest.fixture(scope="module")
def watched(questdb, tmp_path_factory):
    """Two pairs with a metrics endpoint and a webhook, alone in the table; ended by the last test."""
    db = QuestDB(questdb.endpoint)
    for table in ("orderbook", "collector_events"):
        db.sql(f"DROP TABLE IF EXISTS {table}")
    data_dir, receiver = tmp_path_factory.mktemp("watched"), Receiver()
    with Simulator(pairs=PAIRS) as simulator:
        options = [
            *("--pairs", ",".join(PAIRS), "--collector", "watched", "--metrics", "127.0.0.1:0"),
            *("--alarm-gap", "6s", "--alarm-wait", "5s"),  # longer than a busy machine makes them
            *("--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url),
            *("--questdb", url_of(questdb.endpoint), "--data-dir", str(data_dir)),
        ]
        environment = {"INGESTER_START_ALARM_WEBHOOK": receiver.url}
        with Recorder(*options, environment=environment) as recorder:
            watched = Watched(recorder, simulator, receiver, options, data_dir)
            watched.environment = environment
            watched.wait(lambda: watched.value("ingester_rows_stored_total") > 20)
            yield watched
    receiver.stop()


def kinds(told):
    return {problem["kind"] for problem in told["problems"]}


def test_a_run_counts_and_is_healthy(watched):
    status, told = watched.wait(lambda: (seen := watched.health())[0] == 200 and seen)
    assert (status, told["status"], told["problems"]) == (200, "ok", [])
    assert watched.value("ingester_rows_received_total") >= watched.value("ingester_rows_stored_total") > 20
    assert watched.value("ingester_store_lag_seconds_count") > 20
    assert watched.value("ingester_connection_up") == 2
    for pair in PAIRS:
        assert f'ingester_pair_last_seen_age_seconds{{pair="{pair}"}}' in watched.text()
    _, message = watched.receiver.received.get(timeout=30)
    assert message["kind"] == "started"
    # Not "from binance": another address than the exchange's own is called by its host.
    assert re.fullmatch(r"ingester watched: recording of 2 pairs from 127\.0\.0\.1:\d+ started", message["text"])


def test_status_of_a_run_is_exit_0_with_everything_in_it(watched):
    code, told = watched.wait(lambda: (seen := watched.status("--json"))[0] == 0 and seen)
    assert (code, told["ok"], told["problems"]) == (0, True, [])
    (recorder,) = told["recorders"]
    assert (recorder["collector"], recorder["state"]) == ("watched", "recording")
    assert recorder["report"]["pid"] == watched.recorder.process.pid
    assert recorder["report"]["pairs"] == 2
    assert recorder["rows_per_second"] > 1
    assert 0 < recorder["report"]["lag"]["p99_seconds"] < 60
    assert [each["label"] for each in recorder["report"]["connections"]] == ["1a", "1b"]
    assert told["server"]["state"] == "answers"
    assert told["disk"]["free_bytes"] > 0
    code, text = watched.wait(lambda: (seen := watched.status())[0] == 0 and seen)
    assert text.startswith("all is well")
    for word in ("watched", "recording", "rows", "lag", "spool", "connected", "gaps", "server", "table", "disk"):
        assert word in text


def test_the_password_and_the_webhook_are_nowhere(watched, questdb):
    _, told = watched.status("--json")
    shown = json.dumps(told) + watched.text() + watched.recorder.output
    shown += "".join(path.read_text() for path in (watched.data_dir / "state").iterdir())
    assert "recording" in shown
    assert "hush" not in shown
    assert questdb.endpoint.password not in shown


def test_losses_are_counted(watched):
    watched.simulator.fault("drop")
    watched.wait(lambda: watched.value("ingester_reconnects_total") == 2)
    assert watched.value("ingester_connection_losses_total") >= 2
    watched.wait(lambda: watched.value("ingester_gaps_total") >= 2)
    assert 'ingester_gaps_total{reason="connection lost"}' in watched.text()


def test_a_pair_that_falls_silent_is_wrong_everywhere_at_once(watched):
    watched.simulator.fault("silence", symbol="ETHUSDT")
    status, told = watched.wait(lambda: (seen := watched.health()) and "gap_open" in kinds(seen[1]) and seen)
    assert (status, told["status"]) == (200, "warning")
    code, told = watched.status("--json")
    assert code == 1
    (problem,) = [problem for problem in told["problems"] if problem["kind"] == "gap_open"]
    assert "ETHUSDT" in problem["text"]
    assert 'ingester_problem{kind="gap_open",severity="warning"} 1.0' in watched.text()
    assert 'ingester_pairs{state="silent"} 1.0' in watched.text()
    while (message := watched.receiver.received.get(timeout=30)[1])["kind"] != "gap_open":
        pass
    assert (message["state"], message["severity"]) == ("raised", "warning")
    watched.simulator.fault("clear")
    watched.wait(lambda: 'ingester_pairs{state="silent"} 0.0' in watched.text())


def test_rows_that_wait_make_it_unhealthy_until_they_are_stored(watched, questdb):
    process = psutil.Process(questdb.status().pid)
    process.suspend()
    try:
        status, told = watched.wait(lambda: (seen := watched.health())[0] == 503 and seen)
    finally:
        process.resume()
    assert (status, told["status"]) == (503, "critical")
    assert "rows_waiting" in kinds(told)
    watched.wait(lambda: "rows_waiting" not in kinds(watched.health()[1]))
    while watched.receiver.received.get(timeout=30)[1]["kind"] != "rows_waiting":
        pass


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_every_metric_is_explained_and_none_else(watched):
    """docs/monitoring.md lists them with type and help, in the order in which they come."""
    pattern = r"# HELP (ingester_\S+) (.*)\n# TYPE \S+ (\S+)"
    rows = [f"| `{name}` | {kind} | {text} |" for name, text, kind in re.findall(pattern, watched.text())]
    told = [line for line in (ROOT / "docs/monitoring.md").read_text().splitlines() if line.startswith("| `ingester_")]
    assert told == rows


def test_metrics_that_rules_and_dashboard_name_are_there(watched):
    """Samples of a real run: a name that is misspelt, or no longer there, would never alert."""
    there = {sample.name for family in families(watched.text()).values() for sample in family.samples}
    rules = (ROOT / "docker/prometheus/alerts.yml").read_text()
    dashboard = (ROOT / "docker/grafana/dashboards/ingester.json").read_text()
    for text in (rules, dashboard):
        named = set(re.findall(r"\b(?:ingester|process)_\w+", text))
        assert len(named) > 10
        assert named <= there


def test_a_port_that_is_taken_ends_a_start_before_it_records(watched, tmp_path):
    taken = watched.url.removeprefix("http://")
    options = [*watched.options[:-1], str(tmp_path), "--metrics", taken]
    with Recorder(*options) as second:
        second.process.wait(60)
        code, output = second.stop()
    assert code == 1
    assert f"--metrics {taken} cannot be listened on" in output
    assert "Traceback" not in output
    assert not (tmp_path / "spool").exists()


def test_killed_then_stopped(watched):
    """The last test: it ends the recorder."""
    watched.recorder.kill()
    code, told = watched.status("--json")
    assert code == 1
    assert told["recorders"][0]["state"] == "dead"
    assert "recorder_dead" in kinds(told)
    code, text = watched.status()
    assert code == 1
    assert "ended without a goodbye" in text
    assert "ingester start --collector watched" in text
    with Recorder(*watched.options, "--for", "3s", environment=watched.environment) as again:
        again.process.wait(60)
        assert again.stop()[0] == 0
    code, told = watched.status("--json")
    assert code == 1
    assert told["recorders"][0]["state"] == "stopped"
    assert kinds(told) == {"no_recorder"}
    while (message := watched.receiver.received.get(timeout=30)[1])["kind"] != "stopped":
        assert message["kind"] != "started"  # whatever starts it again and again is not to ring each time
    assert "in order" in message["text"]


def test_status_where_nothing_ever_was(tmp_path):
    answer = CliRunner().invoke(cli, ["status", "--data-dir", str(tmp_path / "nowhere")])
    assert answer.exit_code == 1
    assert "no recorder has ever run here" in answer.stdout
    assert not (tmp_path / "nowhere").exists()
    assert CliRunner().invoke(cli, ["status", "--nonsense"]).exit_code == 2


@pytest.mark.slow
def test_what_becomes_of_old_days_is_in_the_status(tmp_path):
    """On a server of its own: it would convert and drop what other tests have stored."""
    server = ManagedServer(tmp_path, heap="384m")
    endpoint = server.ensure()
    db = QuestDB(endpoint)
    try:
        with Simulator(pairs=PAIRS) as simulator:
            options = [
                *("--pairs", ",".join(PAIRS), "--collector", "old-days", "--data-dir", str(tmp_path)),
                *("--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url),
                *("--parquet-after", "3d", "--drop-after", "9999d"),
            ]
            schema.ensure(db, 5)
            books = [OrderBook("BTCUSDT", 1_600_041_600 * SECOND + n * SECOND, n, [(1.0, 1.0)], []) for n in range(9)]
            books.append(books[0]._replace(receive_ns=time.time_ns()))  # the newest day stays as it is
            db.write(RowEncoder(depth=5, exchange="binance", collector="earlier").snapshots(books))
            db.sql("SELECT wait_wal_table('orderbook')")
            words = ["retention", "--data-dir", str(tmp_path), "--parquet-after", "3d", "--apply"]
            assert "is Parquet" in CliRunner().invoke(cli, words).output
            with Recorder(*options) as recorder:
                deadline = time.monotonic() + 60
                while "(1 Parquet)" not in (text := run_status(tmp_path)) or "old days" not in text:
                    assert time.monotonic() < deadline, recorder.output + text
                    time.sleep(0.2)
                assert "Parquet after 3.0 d, dropped after 9999.0 d" in text
    finally:
        server.stop()


def run_status(data_dir):
    return CliRunner().invoke(cli, ["status", "--data-dir", str(data_dir)]).stdout
