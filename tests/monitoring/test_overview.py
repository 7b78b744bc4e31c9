"""overview.py: what is wrong of a whole, and how it is gathered from reports and a real QuestDB."""

import os
import time
from datetime import timedelta

import psutil
import pytest
import urllib3
from reports import AT, GIB, report

from ingester.book import OrderBook
from ingester.events import Event
from ingester.monitoring.alerts import AlertLimits
from ingester.monitoring.overview import (
    BEHIND,
    FORGET,
    STALE_SECONDS,
    RecorderOverview,
    ServerOverview,
    TableOverview,
    build_overview,
    problems_of_all,
)
from ingester.monitoring.report import Connecting, ConnectionReport, DiskReport, Problem, StateFile, state_folder
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.endpoint import Endpoint
from ingester.questdb.server import ManagedServer

ANSWERS = ServerOverview(
    "answers", "http://127.0.0.1:9000", True, "QuestDB 9.3.4", tables=[TableOverview("orderbook", False, 1, "")]
)
ROOMY = DiskReport(100 * GIB, 200 * GIB, 8 * GIB)


def recorder(state="recording", name="one", seen=0.5, **changes):
    told = None if state in ("elsewhere", "silent") else report(collector=name, **changes)
    return RecorderOverview(name, state, seen, report=told, file=f"/data/state/{name}.json")


def problems(*recorders, server=ANSWERS, disk=ROOMY):
    return problems_of_all(recorders, server, disk, AlertLimits(), "/data")


def test_all_is_well():
    assert problems(recorder()) == []
    assert problems(recorder("elsewhere")) == []
    assert problems(recorder(), recorder("stopped", "two"), recorder("elsewhere", "three")) == []


@pytest.mark.parametrize(
    ("state", "kind", "mend"),
    [
        ("dead", "recorder_dead", "rm '/data/state/one.json'"),
        ("hanging", "recorder_hanging", "log"),
        ("silent", "recorder_silent", "ingester status on the machine"),
        ("stopped", "no_recorder", "ingester start --collector one"),
    ],
)
def test_a_recorder_that_does_not_record_is_wrong_and_critical(state, kind, mend):
    (problem,) = problems(recorder(state, seen=100.0))
    assert (problem.kind, problem.severity) == (kind, "critical")
    assert mend in problem.mend


def test_where_nothing_ever_ran_the_way_to_begin_is_told():
    (problem,) = problems(server=ServerOverview("none"), disk=None)
    assert "no recorder has ever run here, in /data" in problem.text
    assert "ingester start" in problem.mend


def test_what_a_recorder_says_of_itself_is_taken_over_with_its_name_where_there_are_several():
    said = Problem("gap", "warning", "a gap is over", "look")
    assert problems(recorder(problems=[said])) == [said]
    (problem,) = problems(recorder(problems=[said]), recorder("elsewhere", "two"))
    assert problem.text == "one: a gap is over"
    assert problems(recorder("stopped", problems=[said]), recorder("elsewhere", "two")) == []


@pytest.mark.parametrize("state", ["dead", "stopped", "does not answer"])
def test_a_server_that_is_away_while_a_recorder_runs_is_wrong(state):
    (problem,) = problems(recorder(), server=ServerOverview(state, "http://127.0.0.1:9000", managed=True))
    assert (problem.kind, problem.severity) == ("server_away", "critical")
    assert "ingester server start" in problem.mend


def test_a_server_that_was_stopped_with_its_recorder_is_not_wrong_too():
    assert [each.kind for each in problems(recorder("stopped"), server=ServerOverview("stopped", managed=True))] == [
        "no_recorder"
    ]


def test_a_password_that_is_refused_is_a_warning():
    (problem,) = problems(recorder(), server=ServerOverview("refuses the password", "http://db:9000"))
    assert (problem.kind, problem.severity) == ("server_refuses", "warning")
    assert "--questdb" in problem.mend


def test_tables():
    suspended = ServerOverview("answers", tables=[TableOverview("orderbook", True, 3, "DISK FULL no space")])
    (problem,) = problems(recorder(), server=suspended)
    assert problem.kind == "table_suspended"
    assert "DISK FULL no space" in problem.text
    assert "RESUME WAL" in problem.mend
    (problem,) = problems(
        recorder(), server=ServerOverview("answers", tables=[TableOverview("orderbook", False, BEHIND + 1, "")])
    )
    assert problem.kind == "table_behind"


def test_a_disk_that_fills_is_told_once():
    low = DiskReport(3 * GIB, 200 * GIB, None)
    (problem,) = problems(recorder(), disk=low)
    assert problem.kind == "disk_full"
    own = Problem("disk_full", "warning", "said by the recorder", "make room")
    assert [each.kind for each in problems(recorder(problems=[own]), disk=low)] == ["disk_full"]


def test_the_critical_comes_first():
    said = [Problem("gap", "warning", "a gap is over", "look")]
    kinds = [each.kind for each in problems(recorder(problems=said), recorder("dead", "two", at=AT - timedelta(1)))]
    assert kinds == ["recorder_dead", "gap"]


def test_before_the_first_book_nothing_is_well_and_it_is_said_once():
    waiting = Connecting("stream.example:9443", 0, 3, "stream.example:9443 refused the connection")
    down = [ConnectionReport("1a", None, None), ConnectionReport("1b", None, None)]
    new = {"started": AT - timedelta(seconds=8), "connections": down, "connecting": waiting}
    (problem,) = problems(recorder("connecting", **new))
    assert (problem.kind, problem.severity) == ("connecting", "warning")
    assert "connecting to stream.example:9443: 3 attempts failed" in problem.text
    assert "started 8.0 s ago" in problem.text
    assert "is the address right?" in problem.mend
    said = Problem("nothing_received", "critical", "no connection", "look")
    assert problems(recorder("connecting", problems=[said], **new)) == [said]


SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def db(questdb):
    """Recorders elsewhere: one brings rows, one has fallen silent, one was stopped; and an import, which is none."""
    db = QuestDB(questdb.endpoint)
    schema.ensure_tables(db, 5)
    now = time.time_ns()

    def write(collector, rows, events):
        encoder = RowEncoder(depth=5, exchange="binance", collector=collector)
        books = [OrderBook("BTCUSDT", at, at, [(1.0, 1.0)], [(2.0, 1.0)]) for at in rows]
        db.write(encoder.snapshots(books) + encoder.events(events))

    started = Event(now - 3600 * SECOND, "started")
    lost = Event(now - 600 * SECOND, "gap", "BTCUSDT", detail="connection lost", until_ns=now - 590 * SECOND)
    long = Event(now - 48 * 3600 * SECOND, "gap", "ETHUSDT", detail="restart", until_ns=now - 3600 * SECOND)
    old = Event(now - 72 * 3600 * SECOND, "gap", "ETHUSDT", detail="restart", until_ns=now - 71 * 3600 * SECOND)
    lasting = Event(now - 5 * SECOND, "gap", "XRPUSDT", detail="exchange silent")
    write("far-alive", [now + i for i in range(0, 600_000, 1000)], [started, lost, long, old, lasting])
    write("far-silent", [now - 300 * SECOND], [started])
    write("far-mute", [], [started])
    write("far-stopped", [now - 200 * SECOND], [started, Event(now - 199 * SECOND, "stopped")])
    write("import", [now - 100 * SECOND], [])
    for table in ("orderbook", "collector_events"):
        db.sql(f"SELECT wait_wal_table('{table}')")
    return db


def of(overview, *names):
    return {each.collector: each for each in overview.recorders if each.collector in names}


def test_recorders_elsewhere_are_known_by_their_rows_and_events(db, tmp_path):
    overview = build_overview(tmp_path, db, None)
    far = of(overview, "far-alive", "far-silent", "far-mute", "far-stopped")
    assert {name: each.state for name, each in far.items()} == {
        "far-alive": "elsewhere",
        "far-silent": "silent",
        "far-mute": "silent",
        "far-stopped": "stopped",
    }
    assert "import" not in {each.collector for each in overview.recorders}
    assert {each.exchange for each in far.values()} == {"binance"}
    assert far["far-alive"].rows_per_second == pytest.approx(10.0)
    assert far["far-alive"].seen_seconds < 60
    assert 290 < far["far-silent"].seen_seconds < 400
    assert far["far-mute"].seen_seconds is None
    texts = [problem.text for problem in overview.problems if problem.kind == "recorder_silent"]
    assert any("far-silent" in text for text in texts)
    assert any("far-mute" in text and "an hour" in text for text in texts)
    assert not any("far-stopped" in text or "far-alive" in text for text in texts)


def test_gaps_of_the_last_day_are_those_that_ended_in_it(db, tmp_path):
    day = of(build_overview(tmp_path, db, None), "far-alive")["far-alive"].day
    assert day.gaps == 2
    assert day.reasons == {"connection lost": 1, "restart": 1}
    assert day.longest_seconds == pytest.approx(47 * 3600)
    assert day.seconds == pytest.approx(47 * 3600 + 10)


def test_server_and_tables(db, tmp_path):
    server = build_overview(tmp_path, db, None).server
    assert server.state == "answers"
    assert server.version.startswith("QuestDB 9.")
    assert [table.name for table in server.tables] == ["orderbook", "collector_events"]
    book = server.tables[0]
    assert not book.suspended
    assert book.rows == db.sql("SELECT count() FROM orderbook").rows[0][0]
    assert book.partitions >= 1
    assert book.size_bytes > 0


def test_a_password_that_is_refused(db, tmp_path):
    overview = build_overview(tmp_path, QuestDB(Endpoint(db.endpoint.http_url)), None)
    assert overview.server.state == "refuses the password"
    assert "server_refuses" in {problem.kind for problem in overview.problems}
    overview = build_overview(tmp_path, QuestDB(Endpoint(db.endpoint.http_url)), None, guessed=True)
    assert overview.server.state == "not asked"
    assert "server_refuses" not in {problem.kind for problem in overview.problems}
    assert overview.recorders == []


def test_a_server_that_is_not_there_or_hangs_costs_seconds(questdb, db, tmp_path):
    gone = build_overview(tmp_path, QuestDB(Endpoint("http://127.0.0.1:9")), None)
    assert gone.server.state == "does not answer"
    process = psutil.Process(questdb.status().pid)
    process.suspend()
    try:
        hanging = build_overview(tmp_path, QuestDB(questdb.endpoint, urllib3.Timeout(connect=0.3, read=0.3)), None)
    finally:
        process.resume()
    assert hanging.server.state == "does not answer"
    assert not hanging.ok


def test_without_a_server_a_folder_is_told_by_its_reports(tmp_path):
    file = StateFile(tmp_path, "one")
    file.write(report(pid=1, gaps={"day": 3, "day_seconds": 4.5}))
    overview = build_overview(tmp_path, None, ManagedServer(tmp_path))
    (recorder,) = overview.recorders
    assert recorder.state == "recording"
    assert (recorder.day.gaps, recorder.day.seconds, recorder.day.longest_seconds) == (3, 4.5, None)
    assert overview.server.state == "none"
    assert overview.disk.bytes_per_day == pytest.approx(440 * 86_400 * 220.8)
    file.close()
    overview = build_overview(tmp_path, None, ManagedServer(tmp_path))
    assert overview.recorders[0].state == "dead"
    assert overview.disk.bytes_per_day is None  # nothing fills it now


def test_a_recorder_that_lives_and_does_not_tell_of_itself_hangs(tmp_path):
    file = StateFile(tmp_path, "one")
    file.write(report())
    late = time.time() - STALE_SECONDS - 5
    os.utime(state_folder(tmp_path) / "one.json", (late, late))
    overview = build_overview(tmp_path, None, ManagedServer(tmp_path))
    file.close()
    assert overview.recorders[0].state == "hanging"
    assert overview.problems[0].kind == "recorder_hanging"


def test_a_recorder_that_was_stopped_a_week_ago_is_forgotten(tmp_path):
    StateFile(tmp_path, "one").write(report(stopped=True))
    assert len(build_overview(tmp_path, None, ManagedServer(tmp_path)).recorders) == 1
    long_ago = time.time() - FORGET.total_seconds() - 60
    os.utime(state_folder(tmp_path) / "one.json", (long_ago, long_ago))
    assert build_overview(tmp_path, None, ManagedServer(tmp_path)).recorders == []


def test_looking_leaves_no_trace(tmp_path):
    overview = build_overview(tmp_path, None, ManagedServer(tmp_path))
    assert [problem.kind for problem in overview.problems] == ["no_recorder"]
    assert list(tmp_path.iterdir()) == []
