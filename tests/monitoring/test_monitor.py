"""monitor.py: what an observer sees, what is published and reported, and that no failure ends it."""

import threading
from datetime import timedelta

import pytest
from reports import AT, report

from ingester.clock import SECOND
from ingester.events import Event
from ingester.metrics import Histogram
from ingester.monitoring.monitor import Monitor, Observation, recent_gaps, row_bytes
from ingester.monitoring.report import StateFile, published_reports, state_folder
from ingester.sequence.event_counts import EventCounts

NOW = 1_700_000_000 * SECOND


def test_gaps_of_one_reason_are_told_together_and_old_ones_not_at_all():
    event_counts = EventCounts()
    for symbol, seconds, ago, reason in (
        ("BTCUSDT", 60, 10, "restart"),
        ("ETHUSDT", 90, 12, "restart"),
        ("ETHUSDT", 2, 5, "connection lost"),
        ("XRPUSDT", 900, 301, "restart"),
    ):
        until = NOW - ago * SECOND
        event_counts.add([Event(until - seconds * SECOND, "gap", symbol, detail=reason, until_ns=until)])
    restart, lost = recent_gaps(event_counts.read(NOW), NOW)
    assert (restart.reason, restart.pairs, restart.longest_seconds) == ("restart", 2, 90.0)
    assert restart.last_end.timestamp() == (NOW - 10 * SECOND) / SECOND
    assert (lost.reason, lost.pairs) == ("connection lost", 1)


def test_a_row_of_depth_5_takes_what_was_measured():
    assert row_bytes(5) == pytest.approx(220, abs=2)


class Scripted:
    """An observer that gives reports one after the other, then the last one again; an exception is raised."""

    def __init__(self, data_dir, *looks):
        self.data_dir, self.collector = data_dir, "one"
        self.looks = list(looks)
        self.looked = threading.Semaphore(0)

    def look(self):
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        self.looked.release()
        if isinstance(look, Exception):
            raise look
        return Observation(look, {}, Histogram().read(), EventCounts().read(0))

    def earlier_report(self):
        return next((each.report for each in published_reports(self.data_dir)), None)

    def wait(self, times):
        for _ in range(times):
            assert self.looked.acquire(timeout=30)


def run(observer, times=2, failure=""):
    """The messages of a pulse that looked so many times and then ended."""
    told = []
    pulse = Monitor(observer, tell=lambda notice, report: told.append(notice))
    pulse.start()
    observer.wait(times)
    pulse.stop(failure)
    return told


def test_start_and_stop_are_told_and_published(tmp_path):
    told = run(Scripted(tmp_path, report()))
    assert [notice.kind for notice in told] == ["started", "stopped"]
    assert "in order" in told[1].text
    (published,) = published_reports(tmp_path)
    assert published.report.stopped
    assert not published.alive


def test_one_that_failed_does_not_count_as_stopped(tmp_path):
    told = run(Scripted(tmp_path, report()), failure="HTTP 451")
    assert "by an error: HTTP 451" in told[-1].text
    assert not published_reports(tmp_path)[0].report.stopped


@pytest.mark.parametrize(("ago", "stopped", "announced"), [(60, False, False), (60, True, True), (3600, False, True)])
def test_a_start_is_told_unless_it_is_one_of_many_in_a_row(tmp_path, ago, stopped, announced):
    StateFile(tmp_path, "one").write(report(started=AT - timedelta(seconds=3600 + ago), stopped=stopped))
    told = run(Scripted(tmp_path, report()))
    assert ("started" in [notice.kind for notice in told]) == announced
    if announced:
        assert ("did not end in order" in told[0].text) == (not stopped)


def test_a_look_that_fails_is_logged_once_and_the_next_one_comes(tmp_path, caplog):
    broken = OSError("no such disk")
    run(Scripted(tmp_path, broken, broken, report()), times=3)
    assert caplog.text.count("no such disk") == 1
    assert published_reports(tmp_path)[0].report.stopped


def test_where_nothing_can_be_published_it_goes_on(tmp_path, caplog):
    state_folder(tmp_path).write_text("a file where the folder should be")
    told = run(Scripted(tmp_path, report()))
    assert [notice.kind for notice in told] == ["started", "stopped"]
    assert caplog.text.count("cannot be published") == 1
