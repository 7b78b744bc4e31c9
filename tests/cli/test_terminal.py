"""`ingester start` without a terminal: started by nohup, its terminal closed, its output full or not there at all."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from recorder import at
from waiting import eventually

from ingester.monitoring.report import published_reports
from ingester.questdb.client import QuestDB
from ingester.simulator import Simulator

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "ingester", "start", "--pairs", "BTCUSDT"]


@pytest.fixture(scope="module")
def simulator():
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        yield simulator


def ignoring(*numbers):
    def ignore():
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in numbers else signal.SIG_DFL)

    return ignore


def records(questdb, collector):
    """Whether rows of this recorder are in the table."""
    db = QuestDB(questdb.endpoint)
    tables = db.sql("SELECT table_name FROM tables() WHERE table_name = 'orderbook'").rows
    return tables and db.sql(f"SELECT count() FROM orderbook WHERE collector = '{collector}'").rows[0][0]


def report_of(questdb, collector):
    return next(each.report for each in published_reports(questdb.data_dir) if each.report.collector == collector)


def test_signals_that_were_ignored_stay_ignored(simulator, questdb):
    """As nohup has it for SIGHUP, and a shell for SIGINT of what runs in the background."""
    options = ["--collector", "nohup", *map(str, at(simulator, questdb))]
    process = subprocess.Popen(
        COMMAND + options,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=ignoring(signal.SIGINT, signal.SIGHUP),
    )
    try:
        eventually(lambda: records(questdb, "nohup"), 60)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)


def test_a_closed_terminal_is_an_end_in_order(simulator, questdb):
    options = ["--collector", "terminal", *map(str, at(simulator, questdb))]
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        ignoring()()
        os.execv(sys.executable, COMMAND + options)
    deadline, code = time.monotonic() + 60, None
    try:
        while not records(questdb, "terminal"):
            assert time.monotonic() < deadline
            while select.select([terminal], [], [], 0.1)[0]:
                os.read(terminal, 1 << 16)
        os.close(terminal)
        code = eventually(lambda: wait_for(child), 30)
    finally:
        if code is None:
            os.kill(child, signal.SIGKILL)
    assert code == (0,)
    assert report_of(questdb, "terminal").stopped


def wait_for(child):
    """The exit code in a tuple; empty while it runs."""
    ended, status = os.waitpid(child, os.WNOHANG)
    return (os.waitstatus_to_exitcode(status),) if ended else ()


@pytest.mark.parametrize(
    "redirection",
    ["2>&-", "<&- >&- 2>&-", ">/dev/full 2>&1"],
)
def test_it_records_whatever_becomes_of_its_output(simulator, questdb, redirection):
    name = "output-" + "".join(each if each.isalnum() else "-" for each in redirection)
    options = ["--collector", name, "--for", "2s", *map(str, at(simulator, questdb))]
    script = f'exec "$@" {redirection}'
    done = subprocess.run(["sh", "-c", script, "sh", *COMMAND, *options], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert records(questdb, name)
    assert report_of(questdb, name).stopped


def test_what_cannot_be_printed_is_said_in_a_sentence_and_is_a_failure():
    """Of a command that only prints."""
    script = 'exec "$@" >/dev/full'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "ingester", "config"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: What was to be printed could not be written: No space left on device.\n"
