"""overview.py: what is wrong with everything taken together."""

from datetime import timedelta

import pytest
from reports import AT, GIB, report

from ingester.monitoring.alerts import AlertLimits
from ingester.monitoring.overview import BEHIND, RecorderOverview, Server, Table, problems_of_all
from ingester.monitoring.report import Connecting, ConnectionReport, DiskReport, Problem

ANSWERS = Server("answers", "http://127.0.0.1:9000", True, "QuestDB 9.3.4", tables=[Table("orderbook", False, 1, "")])
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
    (problem,) = problems(server=Server("none"), disk=None)
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
    (problem,) = problems(recorder(), server=Server(state, "http://127.0.0.1:9000", managed=True))
    assert (problem.kind, problem.severity) == ("server_away", "critical")
    assert "ingester server start" in problem.mend


def test_a_server_that_was_stopped_with_its_recorder_is_not_wrong_too():
    assert [each.kind for each in problems(recorder("stopped"), server=Server("stopped", managed=True))] == [
        "no_recorder"
    ]


def test_a_password_that_is_refused_is_a_warning():
    (problem,) = problems(recorder(), server=Server("refuses the password", "http://db:9000"))
    assert (problem.kind, problem.severity) == ("server_refuses", "warning")
    assert "--questdb" in problem.mend


def test_tables():
    suspended = Server("answers", tables=[Table("orderbook", True, 3, "DISK FULL no space")])
    (problem,) = problems(recorder(), server=suspended)
    assert problem.kind == "table_suspended"
    assert "DISK FULL no space" in problem.text
    assert "RESUME WAL" in problem.mend
    (problem,) = problems(recorder(), server=Server("answers", tables=[Table("orderbook", False, BEHIND + 1, "")]))
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
