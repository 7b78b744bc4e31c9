"""The spool on real files: order and crashes."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spools import SMALL, append, numbers, segment_files, take_all

from ingester.errors import SpoolError
from ingester.store.spool import Spool


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 3000)),
            st.tuples(st.just("take"), st.integers(1, 5000)),
            st.tuples(st.just("peek"), st.integers(0, 5000)),
            st.tuples(st.just("resend"), st.integers(0, 600)),
            st.tuples(st.just("reopen"), st.just(0)),
        ),
        max_size=60,
    )
)
def test_it_is_a_queue_whatever_happens_in_between(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("spool")
    options = SMALL | {"limit_bytes": 1 << 30}
    spool = Spool(folder, **options)
    spool.open()
    appended, acknowledged = 0, 0
    try:
        for step, argument in steps:
            if step == "append":
                assert append(spool, appended, argument)
                appended += 1
            elif step == "reopen":
                spool.close()
                spool = Spool(folder, **options)
                found = spool.open()
                assert (found.records_waiting, found.cut, found.position_missing) == (appended - acknowledged, 0, False)
                assert found.rows_waiting == spool.rows_waiting
                assert found.last_ns == (appended * 10 - 1 if appended else None)
            elif step == "resend":
                before = spool.rows_waiting
                back = spool.resend(argument)
                first = min(acknowledged, (argument + 9 - 9) // 10)
                assert back == sum(n % 7 for n in range(first, acknowledged)) == spool.rows_waiting - before
                acknowledged = first
            else:
                records = spool.peek(argument)
                found = numbers(records)
                assert found == list(range(acknowledged, acknowledged + len(found)))
                assert bool(found) == (acknowledged < appended)
                assert len(found) <= 1 or sum(len(record.body) for record in records) <= argument
                if step == "take":
                    spool.acknowledge(records)
                    acknowledged += len(found)
            assert spool.rows_waiting == sum(n % 7 for n in range(acknowledged, appended))
            assert spool.oldest_ns == (acknowledged * 10 if acknowledged < appended else None)
        assert numbers(take_all(spool)) == list(range(acknowledged, appended))
        assert spool.bytes_waiting == 0
    finally:
        spool.close()


def test_many_segments_come_back_in_order_with_consecutive_sequences(tmp_path, opened):
    spool = opened(tmp_path)
    for number in range(500):
        assert append(spool, number)
    spool.close()
    assert len(segment_files(tmp_path)) > 10
    spool = opened(tmp_path)
    records = take_all(spool)
    assert numbers(records) == list(range(500))
    assert [record.sequence for record in records] == list(range(1, 501))
    assert append(spool, 500)
    assert spool.peek(1)[0].sequence == 501


def test_segments_are_named_after_their_first_record(tmp_path, opened):
    spool = opened(tmp_path)
    for number in range(100):
        append(spool, number)
    spool.close()
    for path in segment_files(tmp_path):  # each is readable without those before
        (tmp_path / "position").unlink()
        spool = opened(tmp_path)
        assert spool.peek(1)[0].sequence == int(path.stem)
        spool.close()
        path.unlink()


def test_what_was_acknowledged_stays_so_and_the_rest_comes_again(tmp_path, opened):
    spool = opened(tmp_path)
    for number in range(200):
        append(spool, number)
    taken = 0
    while taken < 77:
        records = spool.peek(1)
        spool.acknowledge(records)
        taken += len(records)
    spool.close()
    spool = opened(tmp_path)
    assert numbers(take_all(spool))[0] == 77


def test_the_same_batch_acknowledged_twice_counts_once(tmp_path, opened):
    spool = opened(tmp_path)
    for number in range(10):
        append(spool, number)
    records = spool.peek(300)
    spool.acknowledge(records)
    spool.acknowledge(records)
    assert numbers(take_all(spool)) == list(range(len(records), 10))


def test_reading_holds_no_more_than_was_asked_for(tmp_path, opened):
    spool = opened(tmp_path, limit_bytes=1 << 30, segment_bytes=8 << 20)
    body = bytes(500_000)
    for _ in range(100):
        spool.append(body, 1, 1, 2)
    tracemalloc.start()
    try:
        assert len(spool.peek(2_000_000)) == 4
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4_000_000


def test_pump_and_writer_together_lose_and_reorder_nothing(tmp_path, opened):
    spool = opened(tmp_path, segment_bytes=1 << 16, limit_bytes=1 << 30, keep_seconds=0.2, sync_seconds=0.005)
    stop, appended = threading.Event(), 0

    def pump():
        nonlocal appended
        while not stop.is_set():
            assert append(spool, appended, appended % 3000)
            appended += 1

    thread = threading.Thread(target=pump)
    thread.start()
    taken = []
    until = time.monotonic() + 3
    while time.monotonic() < until:
        if records := spool.peek(20_000):
            taken += numbers(records)
            if random.random() < 0.8:
                spool.acknowledge(records)
            else:  # a failed request: the same ones come again
                del taken[len(taken) - len(records) :]
    stop.set()
    thread.join()
    taken += numbers(take_all(spool, 1 << 20))
    assert taken == list(range(appended))
    assert appended > 1000
    assert len(os.listdir("/proc/self/fd")) < 200


APPENDER = """
import sys, random
from pathlib import Path
from ingester.store.spool import Spool
spool = Spool(Path(sys.argv[1]), reserve_bytes=0, free_bytes=0, segment_bytes=20000)
spool.open()
number = int(sys.argv[2])
while True:
    body = random.Random(number).randbytes(number % 5000) + b"%d" % number
    assert spool.append(body, number % 7, number * 10, number * 10 + 9)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


def test_kill_9_loses_nothing_that_was_appended(tmp_path, opened):
    expected = 0
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(tmp_path), str(expected)], stdout=subprocess.PIPE, text=True
        )
        reported = [int(child.stdout.readline()) for _ in range(200 + random.randrange(200))]
        child.send_signal(signal.SIGKILL)
        reported += [int(line) for line in child.stdout.read().split()]
        child.stdout.close()
        child.wait()
        spool = opened(tmp_path)
        found = numbers(spool.peek(1 << 30))
        assert found == list(range(len(found)))
        assert len(found) in (reported[-1] + 1, reported[-1] + 2)  # one may be appended and not yet reported
        expected = len(found)
        spool.close()


def test_a_second_recorder_is_refused_with_the_first_ones_process_id_until_that_is_killed(tmp_path, opened):
    child = subprocess.Popen([sys.executable, "-c", APPENDER, str(tmp_path), "0"], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    with pytest.raises(SpoolError, match=rf"process id {child.pid}: stop that one.*--collector") as refused:
        Spool(tmp_path).open()
    assert str(tmp_path) in str(refused.value)
    child.send_signal(signal.SIGKILL)
    child.stdout.close()
    child.wait()
    assert opened(tmp_path).rows_waiting


def test_two_spools_of_one_process_do_not_share_a_folder_either(tmp_path, opened):
    opened(tmp_path)
    with pytest.raises(SpoolError, match=str(os.getpid())):
        Spool(tmp_path).open()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"cannot use .*file/spool.*--data-dir"):
        Spool(tmp_path / "file" / "spool").open()
