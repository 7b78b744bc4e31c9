"""`ingester coverage` as a user meets it."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from recorder import url_of

from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.datasets import spans as recorded_spans
from ingester.datasets.coverage import pair_coverages
from ingester.datasets.dataset import parse_time
from ingester.events import Event
from ingester.questdb import DAY, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.partitions import list_partitions
from ingester.questdb.server import ManagedServer

START, END = "2017-05-01 22:30", "2017-05-02 02:00"
START_NS, END_NS = parse_time(START), parse_time(END)
HOUR = 3600 * SECOND


@pytest.fixture(scope="module")
def recorded(questdb):
    """COVAUSDT with a reported gap of half an hour around midnight, COVBUSDT whole, by two collectors."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    gap = (parse_time("2017-05-01 23:45"), parse_time("2017-05-02 00:15"))

    def rows(symbol, late_ns=0, without=(0, 0)):
        times = range(START_NS, END_NS + 1, 2 * SECOND)
        kept = [at for at in times if not without[0] < at < without[1]]
        return [OrderBook(symbol, at + late_ns, at // SECOND, [(1.0, 1.0)], [(2.0, 1.0)]) for at in kept]

    one, two = (
        RowEncoder(depth=5, exchange="binance", collector="cov-1"),
        RowEncoder(depth=5, exchange="binance", collector="cov-2"),
    )
    db.write(one.snapshots(rows("COVAUSDT", without=gap)))
    db.write(one.snapshots(rows("COVBUSDT", without=gap)))
    db.write(two.snapshots(rows("COVBUSDT", late_ns=3_000_000)))
    db.write(one.events([Event(gap[0], "gap", s, "", "connection lost", gap[1]) for s in ("COVAUSDT", "COVBUSDT")]))
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"SELECT wait_wal_table('{table}')")
    return questdb


@pytest.fixture
def run(recorded):
    def run(*options):
        return CliRunner().invoke(cli, ["coverage", *options], env={"INGESTER_QUESTDB": url_of(recorded.endpoint)})

    return run


RANGE = ("--from", START, "--to", END, "--pairs", "COVAUSDT,COVBUSDT")


def test_each_pair_has_a_line_with_its_gaps_and_worst_day(run):
    answer = run(*RANGE)
    assert answer.exit_code == 0, answer.output
    head, first, second, end = answer.output.splitlines()
    assert head.split()[:4] == ["pair", "rows", "expected", "covered"]
    assert first.split() == [
        *("COVAUSDT", "5,401", "5,400", "85.714", "%", "1", "30.0", "min", "30.0", "min"),
        *("2017-05-01", "83.333", "%", "connection", "lost"),
    ]
    assert second.split() == ["COVBUSDT", "6,300", "6,300", "100.000", "%", "0"]
    assert "2 pairs from 2017-05-01 22:30 to 2017-05-02 02:00" in end


def test_by_day_and_by_hour_give_the_long_form(run):
    by_day = run(*RANGE, "--by", "day").output.splitlines()
    assert [line.split()[:3] for line in by_day[1:5]] == [
        ["COVAUSDT", "2017-05-01", "2,251"],
        ["COVAUSDT", "2017-05-02", "3,150"],
        ["COVBUSDT", "2017-05-01", "2,700"],
        ["COVBUSDT", "2017-05-02", "3,600"],
    ]
    by_hour = run(*RANGE, "--by", "hour").output.splitlines()
    assert [line.split()[2:6] for line in by_hour[1:5]] == [
        ["22:30", "900", "900", "100.000"],
        ["23:00", "1,351", "1,350", "75.000"],
        ["00:00", "1,350", "1,350", "75.000"],
        ["01:00", "1,800", "1,800", "100.000"],
    ]
    assert "15.0 min" in by_hour[2]


def test_json_holds_every_gap_and_the_pieces(run):
    answer = json.loads(run(*RANGE, "--json", "--by", "hour").stdout)
    assert (answer["from"], answer["to"]) == ("2017-05-01T22:30Z", "2017-05-02T02:00Z")
    first, second = answer["pairs"]
    assert (first["symbol"], first["rows"], first["interval_ms"]) == ("COVAUSDT", 5401, pytest.approx(2000, rel=0.01))
    assert first["percent"] == pytest.approx(100 * 6 / 7, abs=1e-3)
    assert first["gaps"] == [
        {"from": "2017-05-01T23:45Z", "to": "2017-05-02T00:15Z", "seconds": 1800.0, "reason": "connection lost"}
    ]
    assert first["reasons"] == {"connection lost": 1800.0}
    assert [hour["percent"] for hour in first["hours"]] == [100, 75, 75, 100]
    assert second["gaps"] == []
    assert sum(hour["rows"] for hour in second["hours"]) == second["rows"] == 6300


def test_without_a_range_the_pairs_whole_recording_is_meant(run):
    answer = json.loads(run("--pairs", "COVAUSDT", "--json").stdout)
    assert (answer["from"], answer["to"]) == ("2017-05-01T22:30Z", "2017-05-02T02:00:00.000001Z")
    later = json.loads(run("--from", "2017-05-02 01:00", "--pairs", "COVAUSDT", "--json").stdout)
    assert (later["from"], later["to"]) == ("2017-05-02T01:00Z", "2017-05-02T02:00:00.000001Z")
    earlier = json.loads(run("--to", "2017-05-01 23:00", "--coins", "COVA", "--json").stdout)
    assert (earlier["from"], earlier["to"]) == ("2017-05-01T22:30Z", "2017-05-01T23:00Z")


def test_time_before_the_first_row_is_not_recorded_and_a_long_range_is_pointed_out(run):
    answer = run("--from", "2017-03-22 22:30", "--to", END, "--pairs", "COVBUSDT")
    assert answer.exit_code == 0
    assert "the range is 40 days" in answer.stderr
    assert "not recorded" in answer.stdout
    assert "2017-03-22 0.000 %" in answer.stdout


def test_the_plot_is_written_beside_the_table(run, tmp_path):
    path = tmp_path / "coverage.png"
    answer = run(*RANGE, "--plot", str(path))
    assert answer.exit_code == 0, answer.output
    assert str(path) in answer.output
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in tmp_path.iterdir()] == ["coverage.png"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--from", END, "--to", END), 2, "empty"),
        (("--from", END, "--to", START), 2, "lies after"),
        (("--from", START, "--to", "2999-01-01"), 2, "future"),
        (("--from", "2999-01-01"), 2, "future"),
        (("--from", "yesterday"), 2, "yesterday"),
        (("--pairs", "COVAUSDD"), 2, "COVAUSDT"),
        (("--from", "2016-01-01", "--to", "2016-01-02"), 1, "There are no rows from 2016-01-01 00:00"),
        (("--from", "2017-05-02 01:00", "--to", "2017-05-02 01:00:01", "--pairs", "COVAUSDT,NOPE"), 2, "NOPE"),
        ((*RANGE, "--plot", "/nowhere/at/all/c.png"), 1, "/nowhere/at/all"),
        ((*RANGE, "--plot", "coverage.xls"), 2, ".png"),
        (("--by", "year"), 2, "year"),
    ],
)
def test_bad_input_is_one_sentence(run, options, code, message):
    answer = run(*options)
    assert answer.exit_code == code, answer.output
    assert message in answer.output
    assert "Traceback" not in answer.output


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path):
    answer = CliRunner().invoke(cli, ["coverage", "--plot", str(tmp_path / "c.png"), "--questdb", "http://127.0.0.1:1"])
    assert answer.exit_code == 1
    assert "http://127.0.0.1:1 does not answer" in answer.output
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    answer = run(*RANGE, "--plot", str(tmp_path / "c.png"))
    assert answer.exit_code == 1
    assert "ingester[plot]" in answer.output


@pytest.mark.slow
def test_a_server_without_rows_says_what_to_do(tmp_path):
    server = ManagedServer(tmp_path, heap="256m")
    url = url_of(server.ensure())
    try:
        answer = CliRunner().invoke(cli, ["coverage", "--questdb", url])
        assert answer.exit_code == 1
        assert "Nothing was recorded yet" in answer.output
        schema.ensure(QuestDB(server.ensure()), 5)
        assert "Nothing was recorded yet" in CliRunner().invoke(cli, ["coverage", "--questdb", url]).output
    finally:
        server.stop()


def test_only_days_with_rows_are_asked_for_however_long_the_range(recorded):
    db = QuestDB(recorded.endpoint)
    asked = []
    sql = db.sql
    db.sql = lambda statement: asked.append(statement) or sql(statement)
    centuries = (parse_time("1970-01-01"), parse_time("2261-01-01"))
    spans = recorded_spans.recorded(db, *centuries, DAY, ["COVAUSDT"]).spans
    assert sum(span.rows for span in spans) > 5000
    assert len(asked) <= 5 + len(list_partitions(db))
    asked.clear()
    (whole,) = pair_coverages(db, *centuries, ["COVAUSDT"])
    assert len(asked) <= 20 + 2 * len(list_partitions(db))
    assert sum(piece.rows for piece in whole.pieces) == whole.whole.rows
    assert sum(piece.missing_ns for piece in whole.pieces) == whole.whole.missing_ns
    assert len(whole.pieces) < 10  # years without rows are one piece each


@pytest.mark.slow
def test_rows_of_impossible_times_cost_nothing_and_can_be_removed_as_the_documents_say(tmp_path):
    server = ManagedServer(tmp_path, heap="384m")
    try:
        db = QuestDB(server.ensure())
        schema.ensure(db, 5)
        start = parse_time("2020-01-01 12:00")
        times = [SECOND, *range(start, start + 60 * SECOND, SECOND), parse_time("2261-01-01")]
        encoder = RowEncoder(depth=5, exchange="binance", collector="cov")
        db.write(encoder.snapshots([OrderBook("COVXUSDT", at, 1, [(1.0, 1.0)], [(2.0, 1.0)]) for at in times]))
        db.sql("SELECT wait_wal_table('orderbook')")
        options = ("--data-dir", str(tmp_path))
        began = time.monotonic()
        answer = CliRunner().invoke(cli, ["coverage", *options])
        assert answer.exit_code == 0, answer.output
        assert time.monotonic() - began < 30
        assert "106286 days" in answer.output
        text = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
        statements = re.findall(r'ingester sql "(ALTER TABLE orderbook DROP PARTITION [^"]+)"', text)
        assert len(statements) == 2
        for statement in statements:
            assert CliRunner().invoke(cli, ["sql", statement, *options]).exit_code == 0
        db.sql("SELECT wait_wal_table('orderbook')")
        answer = CliRunner().invoke(cli, ["coverage", *options])
        assert "60 rows, 100.000 % of the time covered" in answer.output
    finally:
        server.stop()
