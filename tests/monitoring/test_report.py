"""statefile.py: who is alive, and what a reader may find."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import reports
from reports import report

from ingester.monitoring.report import StateFile, published_reports, running_collectors, state_folder

HOLDER = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[2])
import reports
from reports import report
from ingester.monitoring.report import StateFile
StateFile(pathlib.Path(sys.argv[1]), "one").write(report())
print("written", flush=True)
time.sleep(60)
"""


def test_a_report_comes_back_as_it_was_written(tmp_path):
    file = StateFile(tmp_path, "one")
    file.write(report(pairs=2))
    file.write(report(pairs=3))
    (published,) = published_reports(tmp_path)
    assert published.report == report(pairs=3)
    assert published.alive
    assert published.age_seconds < 30
    file.close()
    assert not published_reports(tmp_path)[0].alive
    assert sorted(path.name for path in state_folder(tmp_path).iterdir()) == ["one.json", "one.lock"]


def test_after_a_kill_the_report_is_there_and_the_recorder_is_known_to_be_gone(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path), os.path.dirname(reports.__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        assert published_reports(tmp_path)[0].alive
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    (published,) = published_reports(tmp_path)
    assert not published.alive
    assert not published.report.stopped


def test_looking_does_not_keep_a_recorder_from_its_lock(tmp_path):
    """A reader holds the lock for a moment; the recorder takes it at its next write then."""
    import fcntl

    state_folder(tmp_path).mkdir()
    with (state_folder(tmp_path) / "one.lock").open("w") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        file = StateFile(tmp_path, "one")
        file.write(report())
    file.write(report())
    assert published_reports(tmp_path)[0].alive
    file.close()


def test_what_cannot_be_read_is_passed_over_with_a_warning(tmp_path, caplog):
    StateFile(tmp_path, "one").write(report())
    (state_folder(tmp_path) / "two.json").write_text('{"collector": "two"')
    assert [each.report.collector for each in published_reports(tmp_path)] == ["one"]
    assert "two.json" in caplog.text
    assert published_reports(tmp_path / "nowhere") == []


def test_a_recorder_whose_lock_cannot_be_looked_at_now_is_not_called_gone(tmp_path, monkeypatch, caplog):
    file, opens = StateFile(tmp_path, "one"), os.open
    file.write(report())

    def refused(path, *arguments, **options):
        if str(path).endswith(".lock"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opens(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refused)
    assert published_reports(tmp_path) == []
    assert "Too many open files" in caplog.text
    with pytest.raises(OSError, match="Too many open files"):
        running_collectors(tmp_path)
    monkeypatch.undo()
    assert running_collectors(tmp_path) == {"one"}
    file.close()
