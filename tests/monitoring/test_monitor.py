"""pulse.py: what is published and told at the begin and the end, and that nothing it meets ends it."""

import threading
from datetime import timedelta

import pytest
from reports import AT, report

from ingester.metrics import Histogram
from ingester.monitoring.monitor import Monitor
from ingester.monitoring.monitor import Observation
from ingester.monitoring.report import StateFile, read_all, state_folder
from ingester.sequence.event_counts import EventCounts


class Scripted:
    """An observer that gives reports one after the other, then the last one again; an exception is raised."""

    def __init__(self, *looks):
        self.looks = list(looks)
        self.looked = threading.Semaphore(0)

    def look(self):
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        self.looked.release()
        if isinstance(look, Exception):
            raise look
        return Observation(look, {}, Histogram().read(), EventCounts().read(0))

    def wait(self, times):
        for _ in range(times):
            assert self.looked.acquire(timeout=30)


def run(tmp_path, observer, times=2, failure=""):
    """The messages of a pulse that looked so many times and then ended."""
    told = []
    pulse = Monitor(observer, tmp_path, "one", lambda notice, report: told.append(notice))
    pulse.start()
    observer.wait(times)
    pulse.stop(failure)
    return told


def test_start_and_stop_are_told_and_published(tmp_path):
    told = run(tmp_path, Scripted(report()))
    assert [notice.kind for notice in told] == ["started", "stopped"]
    assert "in order" in told[1].text
    (published,) = read_all(tmp_path)
    assert published.report.stopped
    assert not published.alive


def test_one_that_failed_does_not_count_as_stopped(tmp_path):
    told = run(tmp_path, Scripted(report()), failure="HTTP 451")
    assert "by an error: HTTP 451" in told[-1].text
    assert not read_all(tmp_path)[0].report.stopped


@pytest.mark.parametrize(("ago", "stopped", "announced"), [(60, False, False), (60, True, True), (3600, False, True)])
def test_a_start_is_told_unless_it_is_one_of_many_in_a_row(tmp_path, ago, stopped, announced):
    StateFile(tmp_path, "one").write(report(started=AT - timedelta(seconds=3600 + ago), stopped=stopped))
    told = run(tmp_path, Scripted(report()))
    assert ("started" in [notice.kind for notice in told]) == announced
    if announced:
        assert ("did not end in order" in told[0].text) == (not stopped)


def test_a_look_that_fails_is_logged_once_and_the_next_one_comes(tmp_path, caplog):
    broken = OSError("no such disk")
    run(tmp_path, Scripted(broken, broken, report()), times=3)
    assert caplog.text.count("no such disk") == 1
    assert read_all(tmp_path)[0].report.stopped


def test_where_nothing_can_be_published_it_goes_on(tmp_path, caplog):
    state_folder(tmp_path).write_text("a file where the folder should be")
    told = run(tmp_path, Scripted(report()))
    assert [notice.kind for notice in told] == ["started", "stopped"]
    assert caplog.text.count("cannot be published") == 1
