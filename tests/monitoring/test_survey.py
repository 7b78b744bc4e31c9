"""survey.py, with a real QuestDB: recorders that are known by their rows and events, and a server that is away."""

import os
import time

import psutil
import pytest
import urllib3
from reports import report

from ingester.book import OrderBook
from ingester.events import Event
from ingester.monitoring.overview import STALE_SECONDS
from ingester.monitoring.state_file import StateFile, state_folder
from ingester.monitoring.survey import FORGET, survey_recorders
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.endpoint import Endpoint
from ingester.questdb.server import ManagedServer

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
    overview = survey_recorders(tmp_path, db, None)
    far = of(overview, "far-alive", "far-silent", "far-mute", "far-stopped")
    assert {name: each.state for name, each in far.items()} == {
        "far-alive": "elsewhere",
        "far-silent": "silent",
        "far-mute": "silent",
        "far-stopped": "stopped",
    }
    assert "import" not in {each.collector for each in overview.recorders}
    assert far["far-alive"].rows_per_second == pytest.approx(10.0)
    assert far["far-alive"].seen_seconds < 60
    assert 290 < far["far-silent"].seen_seconds < 400
    assert far["far-mute"].seen_seconds is None
    texts = [problem.text for problem in overview.problems if problem.kind == "recorder_silent"]
    assert any("far-silent" in text for text in texts)
    assert any("far-mute" in text and "an hour" in text for text in texts)
    assert not any("far-stopped" in text or "far-alive" in text for text in texts)


def test_gaps_of_the_last_day_are_those_that_ended_in_it(db, tmp_path):
    day = of(survey_recorders(tmp_path, db, None), "far-alive")["far-alive"].day
    assert day.gaps == 2
    assert day.reasons == {"connection lost": 1, "restart": 1}
    assert day.longest_seconds == pytest.approx(47 * 3600)
    assert day.seconds == pytest.approx(47 * 3600 + 10)


def test_server_and_tables(db, tmp_path):
    server = survey_recorders(tmp_path, db, None).server
    assert server.state == "answers"
    assert server.version.startswith("QuestDB 9.")
    assert [table.name for table in server.tables] == ["orderbook", "collector_events"]
    book = server.tables[0]
    assert not book.suspended
    assert book.rows == db.sql("SELECT count() FROM orderbook").rows[0][0]
    assert book.partitions >= 1
    assert book.size_bytes > 0


def test_a_password_that_is_refused(db, tmp_path):
    overview = survey_recorders(tmp_path, QuestDB(Endpoint(db.endpoint.http_url)), None)
    assert overview.server.state == "refuses the password"
    assert "server_refuses" in {problem.kind for problem in overview.problems}
    overview = survey_recorders(tmp_path, QuestDB(Endpoint(db.endpoint.http_url)), None, guessed=True)
    assert overview.server.state == "not asked"
    assert "server_refuses" not in {problem.kind for problem in overview.problems}
    assert overview.recorders == []


def test_a_server_that_is_not_there_or_hangs_costs_seconds(questdb, db, tmp_path):
    gone = survey_recorders(tmp_path, QuestDB(Endpoint("http://127.0.0.1:9")), None)
    assert gone.server.state == "does not answer"
    process = psutil.Process(questdb.status().pid)
    process.suspend()
    try:
        hanging = survey_recorders(tmp_path, QuestDB(questdb.endpoint, urllib3.Timeout(connect=0.3, read=0.3)), None)
    finally:
        process.resume()
    assert hanging.server.state == "does not answer"
    assert not hanging.ok


def test_without_a_server_a_folder_is_told_by_its_reports(tmp_path):
    file = StateFile(tmp_path, "one")
    file.write(report(pid=1, gaps={"day": 3, "day_seconds": 4.5}))
    overview = survey_recorders(tmp_path, None, ManagedServer(tmp_path))
    (recorder,) = overview.recorders
    assert recorder.state == "recording"
    assert (recorder.day.gaps, recorder.day.seconds, recorder.day.longest_seconds) == (3, 4.5, None)
    assert overview.server.state == "none"
    assert overview.disk.bytes_per_day == pytest.approx(440 * 86_400 * 220.8)
    file.close()
    overview = survey_recorders(tmp_path, None, ManagedServer(tmp_path))
    assert overview.recorders[0].state == "dead"
    assert overview.disk.bytes_per_day is None  # nothing fills it now


def test_a_recorder_that_lives_and_does_not_tell_of_itself_hangs(tmp_path):
    file = StateFile(tmp_path, "one")
    file.write(report())
    late = time.time() - STALE_SECONDS - 5
    os.utime(state_folder(tmp_path) / "one.json", (late, late))
    overview = survey_recorders(tmp_path, None, ManagedServer(tmp_path))
    file.close()
    assert overview.recorders[0].state == "hanging"
    assert overview.problems[0].kind == "recorder_hanging"


def test_a_recorder_that_was_stopped_a_week_ago_is_forgotten(tmp_path):
    StateFile(tmp_path, "one").write(report(stopped=True))
    assert len(survey_recorders(tmp_path, None, ManagedServer(tmp_path)).recorders) == 1
    long_ago = time.time() - FORGET.total_seconds() - 60
    os.utime(state_folder(tmp_path) / "one.json", (long_ago, long_ago))
    assert survey_recorders(tmp_path, None, ManagedServer(tmp_path)).recorders == []


def test_looking_leaves_no_trace(tmp_path):
    overview = survey_recorders(tmp_path, None, ManagedServer(tmp_path))
    assert [problem.kind for problem in overview.problems] == ["no_recorder"]
    assert list(tmp_path.iterdir()) == []
