"""What is appended is on disk soon, and nobody waits for it."""

import errno
import logging
import os
import threading
import time

from spools import append


def test_what_is_appended_is_synced_within_100_ms(tmp_path, opened):
    synced = threading.Event()

    def sync(descriptor):
        os.fdatasync(descriptor)
        assert os.readlink(f"/proc/self/fd/{descriptor}").endswith(".seg")
        synced.set()

    spool = opened(tmp_path, sync=sync)
    took = []
    for number in range(1, 6):
        started = time.monotonic()
        append(spool, number)
        assert synced.wait(5)
        took.append(time.monotonic() - started)
        synced.clear()
    assert sorted(took)[2] < 0.1, took  # the median: a busy disk may be late now and then
    while spool.synced_ns < 59:
        time.sleep(0.001)


def test_appending_does_not_wait_for_a_slow_sync(tmp_path, opened):
    entered, release = threading.Event(), threading.Event()

    def sync(descriptor):
        entered.set()
        release.wait(10)

    spool = opened(tmp_path, sync=sync)
    append(spool, 1)
    assert entered.wait(5)
    started = time.monotonic()
    for number in range(2, 200):  # over several segments
        assert append(spool, number)
    assert time.monotonic() - started < 1
    assert spool.synced_ns == 0
    release.set()
    spool.close()
    assert spool.synced_ns == 1999


def test_a_failing_sync_is_said_once_and_remembered_until_it_works_again(tmp_path, opened, caplog):
    caplog.set_level(logging.INFO)
    failing, calls = True, threading.Semaphore(0)

    def sync(descriptor):
        calls.release()
        if failing:
            raise OSError(errno.EIO, "Input/output error")

    spool = opened(tmp_path, sync=sync, sync_seconds=0.001)
    append(spool, 1)
    for _ in range(3):
        assert calls.acquire(timeout=5)
    assert spool.sync_failing
    assert spool.synced_ns == 0
    assert caplog.text.count("cannot sync") == 1
    failing = False
    for _ in range(2):
        assert append(spool, 2)
        assert calls.acquire(timeout=5)
    spool.close()
    assert not spool.sync_failing
    assert spool.synced_ns == 29
