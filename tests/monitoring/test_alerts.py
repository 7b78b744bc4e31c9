"""alarms.py: what is wrong, and when that is told."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from reports import AT, GIB, report

from ingester.monitoring import alerts
from ingester.monitoring.alerts import (
    CALM_SECONDS,
    REMIND_SECONDS,
    SETTLE_SECONDS,
    TELL_SECONDS,
    AlertLimits,
    AlertTracker,
    problems_of,
)
from ingester.monitoring.report import Connecting, ConnectionReport, Problem, RecentGaps, Threads

LIMITS = AlertLimits()
UP = ConnectionReport("1a", 3600.0, None)


def recent(seconds):
    return [RecentGaps("restart", 44, seconds, AT - timedelta(seconds=5))]


WRONG = [
    (
        "nothing_received",
        "critical",
        {"connections": [ConnectionReport("1a", None, 61.0), ConnectionReport("1b", None, 90.0)]},
    ),
    (
        "nothing_received",
        "critical",
        {"connections": [ConnectionReport("1a", None, None)]},
    ),  # never stood since the start
    ("connection_lost", "warning", {"connections": [UP, ConnectionReport("1b", None, 61.0)]}),
    ("connection_lost", "warning", {"connections": [UP, ConnectionReport("1b", 70.0, 61.0)]}),  # stands, and is mute
    ("gap_open", "warning", {"gaps": {"open_pairs": 1, "open_named": ["BTCUSDT"], "open_seconds": 31.0}}),
    ("gap_open", "critical", {"gaps": {"open_pairs": 40, "halted_pairs": 4, "open_seconds": 31.0}}),
    ("gap", "warning", {"gaps": {"recent": recent(31.0)}}),
    ("rows_waiting", "critical", {"storing": {"failing_seconds": 61.0, "last_failure": "refused"}}),
    ("rows_waiting", "critical", {"spool": {"oldest_seconds": 61.0}}),
    ("rows_lost", "critical", {"spool": {"full": True}}),
    ("rows_missing", "warning", {"rows": {"missing": 3}}),
    ("table_suspended", "critical", {"storing": {"suspended": True}}),
    ("table_damaged", "critical", {"storing": {"damage": "bid_1.d in orderbook~6 hold less than they should"}}),
    ("dead_letter", "warning", {"storing": {"dead_letters": 2, "last_dead_letter": AT - timedelta(hours=23)}}),
    ("disk_full", "warning", {"disk": {"free_bytes": 4 * GIB, "bytes_per_day": None}}),
    ("disk_full", "warning", {"disk": {"free_bytes": 20 * GIB, "bytes_per_day": 8 * GIB}}),
    ("disk_full", "critical", {"disk": {"free_bytes": GIB // 2}}),
    ("spool_full", "warning", {"spool": {"bytes": 5 * GIB}}),
    ("disk_failing", "critical", {"spool": {"sync_failing": True}}),
    ("thread_died", "warning", {"threads": Threads({"writer": 2}, [], "writer", "ValueError: x", AT)}),
    ("thread_died", "critical", {"threads": Threads({"simulator": 1}, ["simulator"], "simulator", "x", AT)}),
    ("clock", "warning", {"clock_offset_seconds": -1.5}),
]


@pytest.mark.parametrize(("kind", "severity", "changes"), WRONG)
def test_each_thing_that_is_wrong_is_named_with_a_way_to_mend_it(kind, severity, changes):
    (problem,) = problems_of(report(**changes), LIMITS)
    assert (problem.kind, problem.severity) == (kind, severity)
    assert len(problem.text) > 20
    assert len(problem.mend) > 20


def test_the_documentation_has_each_kind():
    text = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    first = text.split("`ingester status` looks from outside")[0]
    kinds = re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE)
    assert set(kinds) == {kind for kind, _, _ in WRONG}
    assert set(kinds) == set(re.findall(r"^\| (\w+) \| (?:critical|warning)", alerts.__doc__, re.MULTILINE))


RIGHT = [
    {},
    {"gaps": {"recent": recent(31.0)}, "stopped_before": AT - timedelta(hours=2)},  # somebody stopped it
    {"threads": Threads({"writer": 1}, [], "writer", "x", AT - timedelta(hours=1, seconds=1))},
    {"connections": [UP, ConnectionReport("1b", None, 59.0)]},
    {"started": AT - timedelta(seconds=30), "connections": [ConnectionReport("1a", None, None)]},
    {"gaps": {"open_pairs": 1, "open_seconds": 29.0}},
    {"gaps": {"halted_pairs": 44}},
    {"gaps": {"halted_pairs": 44}, "connections": [UP, ConnectionReport("1b", 70.0, 61.0)]},
    {"gaps": {"recent": recent(29.0)}},
    {"storing": {"failing_seconds": 59.0}},
    {"storing": {"dead_letters": 2, "last_dead_letter": AT - timedelta(hours=25)}},
    {"disk": {"free_bytes": 6 * GIB, "bytes_per_day": None}},
    {"clock_offset_seconds": 0.9},
]


@pytest.mark.parametrize("changes", RIGHT)
def test_what_may_happen_is_not_wrong(changes):
    assert problems_of(report(**changes), LIMITS) == []


def test_limits_move_the_line_and_the_critical_comes_first():
    changes = {"spool": {"oldest_seconds": 30.0}, "gaps": {"open_pairs": 1, "open_seconds": 5.0}}
    assert problems_of(report(**changes), LIMITS) == []
    kinds = [problem.kind for problem in problems_of(report(**changes), AlertLimits(wait=20.0, gap=4.0))]
    assert kinds == ["rows_waiting", "gap_open"]


WAITING = Problem("rows_waiting", "critical", "rows wait", "mend it")


class Told:
    """A bulletin that is asked every second; what it told, as (second, state, times)."""

    def __init__(self):
        self.bulletin = AlertTracker()
        self.now = 0
        self.told = []

    def for_seconds(self, seconds, *problems):
        for _ in range(int(seconds)):
            news = self.bulletin.news(problems, float(self.now))
            self.told += [(self.now, notice.state, notice.times) for notice in news]
            self.now += 1
        return self


def test_what_begins_is_told_at_once_and_its_end_after_a_minute_of_calm():
    told = Told().for_seconds(10).for_seconds(100, WAITING).for_seconds(400)
    assert told.told == [(10, "raised", 1), (109 + CALM_SECONDS + 1, "recovered", 1)]


def test_a_short_pause_is_no_end():
    told = Told().for_seconds(100, WAITING).for_seconds(CALM_SECONDS - 1).for_seconds(100, WAITING)
    assert told.told == [(0, "raised", 1)]


def test_what_comes_and_goes_is_told_once_in_five_minutes_with_a_count():
    told = Told()
    for _ in range(5):
        told.for_seconds(10, WAITING).for_seconds(90)
    raised = [each for each in told.told if each[1] != "recovered"]
    assert raised[0] == (0, "raised", 1)
    assert [second for second, _, _ in raised[1:]] == [TELL_SECONDS]
    assert raised[1][2] == 3  # at 100, 200 and 300


def test_what_was_counted_and_is_over_when_it_may_be_told_is_told_as_over():
    told = Told().for_seconds(10, WAITING).for_seconds(90).for_seconds(10, WAITING).for_seconds(400)
    assert told.told == [(0, "raised", 1), (70, "recovered", 1), (TELL_SECONDS, "recovered", 1)]


def test_what_lasts_is_brought_to_mind_every_six_hours():
    told = Told().for_seconds(2 * REMIND_SECONDS + 10, WAITING)
    assert told.told == [(0, "raised", 1), (REMIND_SECONDS, "lasts", 1), (2 * REMIND_SECONDS, "lasts", 1)]


def gap(mark):
    return Problem("gap", "warning", "a gap is over", "", mark)


def test_an_incident_settles_before_it_is_told_and_has_no_end():
    """The gaps of many pairs end one after the other; then all are told together."""
    told = Told()
    for second in range(8):
        told.for_seconds(1, gap(str(second)))
    told.for_seconds(300, gap("7")).for_seconds(600)
    assert told.told == [(SETTLE_SECONDS, "raised", 1)]


def test_an_incident_that_happens_again_is_told_again_after_five_minutes():
    told = Told().for_seconds(100, gap("1")).for_seconds(100, gap("2")).for_seconds(300, gap("3"))
    assert told.told == [(SETTLE_SECONDS, "raised", 1), (SETTLE_SECONDS + TELL_SECONDS, "raised", 2)]


def test_kinds_do_not_wait_for_each_other():
    told = Told().for_seconds(5, WAITING).for_seconds(5, WAITING, Problem("disk_full", "warning", "", ""))
    assert told.told == [(0, "raised", 1), (5, "raised", 1)]


def test_a_bulletin_forgets():
    told = Told().for_seconds(10, WAITING).for_seconds(1000)
    assert told.bulletin == AlertTracker()


def test_where_nothing_ever_stood_it_is_said_to_whom_how_often_why_and_what_to_try():
    waiting = Connecting("stream.example:9443", 0, 4, "the name stream.example cannot be resolved: no answer")
    down = [ConnectionReport("1a", None, None)]
    (problem,) = problems_of(report(connections=down, connecting=waiting), LIMITS)
    assert problem.kind == "nothing_received"
    for words in ("connecting to stream.example:9443", "4 attempts failed", "cannot be resolved"):
        assert words in problem.text
    assert "DNS" in problem.mend
    assert "ingester doctor --exchange binance" in problem.mend


def test_the_gap_of_a_restart_that_nobody_meant_is_an_alarm():
    (problem,) = problems_of(report(gaps={"recent": recent(31.0)}), LIMITS)
    assert problem.kind == "gap"
    meant = report(gaps={"recent": [*recent(31.0), RecentGaps("connection lost", 1, 40.0, AT)]}, stopped_before=AT)
    (problem,) = problems_of(meant, LIMITS)
    assert "connection lost" in problem.text
    assert "restart" not in problem.text
