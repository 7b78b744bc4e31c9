"""Holds in a real server: seen by all, waited for, gone with their holder."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from recorder import url_of

from ingester.clock import SECOND
from ingester.questdb import leases
from ingester.questdb.client import QuestDB
from ingester.questdb.leases import EXPORT, IMPORT, RETENTION, changing, holding

HOUR = 3600 * SECOND
START = 1_500_000_000 * SECOND


@pytest.fixture
def db(questdb):
    return QuestDB(questdb.endpoint)


def held(db, purpose=None):
    """What is held of the range of these tests."""
    return [each for each in leases.holds(db) if each.overlaps(START, START + HOUR) and purpose in (None, each.purpose)]


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_retention_sees_who_reads_a_moment_of_its_day_and_nobody_else(db):
    with holding(db, EXPORT, START, START + 1):
        with changing(db, START - HOUR, START + HOUR) as others:
            assert [each.purpose for each in others] == [EXPORT]
        for start, end in ((START - HOUR, START), (START + 1000, START + HOUR)):
            with changing(db, start, end) as others:
                assert others == []
    eventually(lambda: held(db) == [])


def test_readers_do_not_wait_for_each_other(db):
    with holding(db, EXPORT, START, START + HOUR), holding(db, IMPORT, 0, leases.ALWAYS_NS):
        assert {each.purpose for each in held(db)} == {EXPORT, IMPORT}


def test_of_two_retentions_the_second_leaves_the_day(db):
    with changing(db, START, START + HOUR) as first, changing(db, START, START + HOUR) as second:
        assert first == []
        assert [each.purpose for each in second] == [RETENTION]


def test_an_export_waits_until_retention_has_left_its_days(db):
    begun = threading.Event()

    def export():
        with holding(db, EXPORT, START, START + HOUR):
            begun.set()

    thread = threading.Thread(target=export)
    with changing(db, START, START + HOUR):
        thread.start()
        eventually(lambda: held(db, EXPORT))
        assert not begun.wait(3 * leases.LOOK_SECONDS)
    assert begun.wait(20)
    thread.join()


def test_a_hold_is_renewed_while_its_holder_lives_and_gone_soon_after_it_was_killed(db, questdb):
    program = (
        "import sys, threading\n"
        "from ingester.questdb import leases\n"
        "from ingester.questdb.endpoint import Endpoint\n"
        "from ingester.questdb.client import QuestDB\n"
        "leases.LEASE_SECONDS, leases.RENEW_SECONDS = 2, 0.1\n"
        "db = QuestDB(Endpoint.parse(sys.stdin.readline().strip()))\n"
        f"with leases.holding(db, 'export', {START}, {START + HOUR}):\n"
        "    print('held', flush=True)\n"
        "    threading.Event().wait()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        child.stdin.write(url_of(questdb.endpoint) + "\n")
        child.stdin.close()
        assert child.stdout.readline() == "held\n"
        end = time.monotonic() + 2.5  # longer than it would last unrenewed
        while time.monotonic() < end:
            assert held(db)
            time.sleep(0.1)
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        eventually(lambda: not held(db))
    finally:
        child.kill()
        child.wait(10)
        child.stdout.close()


def test_a_server_that_takes_no_hold_is_told_and_the_export_goes_on(db, monkeypatch, caplog):
    monkeypatch.setattr(leases, "statement", lambda table: "CREATE TABLE not allowed")
    with holding(db, EXPORT, START, START + HOUR):
        assert "retention does not know of this export" in caplog.text
    assert held(db) == []


def test_an_export_does_not_wait_for_a_retention_that_was_killed(db, questdb):
    day = START + 100 * HOUR, START + 124 * HOUR
    program = (
        "import os, signal, sys\n"
        "from ingester.questdb import leases\n"
        "from ingester.questdb.endpoint import Endpoint\n"
        "from ingester.questdb.client import QuestDB\n"
        f"with leases.changing(QuestDB(Endpoint.parse(sys.argv[1])), {day[0]}, {day[1]}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, url_of(questdb.endpoint)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert any(each.purpose == RETENTION and each.overlaps(*day) for each in leases.holds(db))
    begun = time.monotonic()
    with holding(db, EXPORT, *day):
        assert time.monotonic() - begun < 20
