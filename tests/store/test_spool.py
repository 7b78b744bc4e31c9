"""The spool on real files: order, limits, a full disk."""

import errno
import logging
import os
import random
import subprocess
import threading
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spools import SMALL, Clock, append, fill, numbers, segment_files, take_all

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


def test_at_the_limit_records_are_refused_and_none_that_waits_is_lost(tmp_path, opened, caplog):
    caplog.set_level(logging.INFO)
    spool = opened(tmp_path, limit_bytes=50_000)
    count = fill(spool)
    assert spool.full_since == count * 10
    assert not append(spool, count + 1)
    assert spool.full_since == count * 10
    assert sum(path.stat().st_size for path in segment_files(tmp_path)) == spool.size <= 50_000
    assert caplog.text.count("takes no more rows") == 1
    taken = numbers(take_all(spool))
    assert taken == list(range(count))
    assert append(spool, count + 2)
    assert spool.full_since is None
    assert caplog.text.count("takes rows again") == 1
    assert numbers(take_all(spool)) == [count + 2]


def test_near_the_limit_retained_records_go_first(tmp_path, opened):
    spool = opened(tmp_path, limit_bytes=50_000)
    for number in range(5000):
        assert append(spool, number)
        if number % 50 == 49:
            assert len(take_all(spool)) == 50
    assert 30_000 < spool.size <= 50_000


def test_where_one_segment_holds_all_it_still_gets_room_again(tmp_path, opened):
    spool = opened(tmp_path, limit_bytes=1000, segment_bytes=1 << 30)
    count = fill(spool)
    assert count > 3
    take_all(spool)
    spool.tidy()
    assert append(spool, count)


def test_a_record_larger_than_the_limit_is_refused(tmp_path, opened):
    spool = opened(tmp_path, limit_bytes=10_000)
    assert not spool.append(bytes(20_000), 1, 1, 2)
    assert append(spool, 1)


def test_free_space_is_kept_and_looked_up_once_a_second(tmp_path, opened, monkeypatch):
    clock, looks, free = Clock(), 0, 10_000_000

    def statvfs(folder):
        nonlocal looks
        looks += 1
        return os.statvfs_result((4096, 1, 1 << 28, free, free, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    spool = opened(tmp_path, free_bytes=1_000_000, now=clock, limit_bytes=1 << 30)
    for number in range(100):
        assert append(spool, number)
    assert looks <= 2
    free = 1_000_050
    clock.seconds += 1
    assert not append(spool, 100)
    free = 10_000_000
    assert not append(spool, 101)
    clock.seconds += 1
    assert append(spool, 102)
    assert numbers(take_all(spool)) == [*range(100), 102]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_records_keeps_what_waits_and_takes_records_again(small_disk, opened, caplog):
    clock = Clock()
    folder = small_disk / "spool"
    options = {"limit_bytes": 1 << 30, "reserve_bytes": 256 << 10, "segment_bytes": 128 << 10, "now": clock}
    spool = opened(folder, **options)
    assert (folder / "reserve").stat().st_size == 256 << 10
    ballast = small_disk / "ballast"
    count = 0
    while count < 100:
        assert append(spool, count, 3000)
        count += 1
    ballast.write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 10_000))  # before the next look: a real ENOSPC
    while append(spool, count, 3000):
        count += 1
    assert spool.full_since == count * 10
    assert "No space left" in caplog.text
    assert not (folder / "reserve").exists()
    for _ in range(5):
        clock.seconds += 1
        assert not append(spool, 999, 3000)
    records = spool.peek(20_000)
    spool.acknowledge(records)  # the position can be written
    assert int((folder / "position").read_text().split()[0]) == records[-1].sequence + 1
    ballast.unlink()
    clock.seconds += 1
    assert append(spool, 1000, 3000)
    spool.tidy()
    assert (folder / "reserve").exists()
    expected = [*range(len(records), count), 1000]
    assert numbers(spool.peek(1 << 30)) == expected
    spool.close()
    spool = Spool(folder, **SMALL | options)
    assert spool.open().cut == 0
    assert numbers(take_all(spool)) == expected
    spool.close()


def test_a_full_disk_makes_retained_records_go(small_disk, opened):
    clock = Clock()
    spool = opened(small_disk / "spool", limit_bytes=1 << 30, reserve_bytes=64 << 10, segment_bytes=64 << 10, now=clock)
    for number in range(3000):
        assert append(spool, number, 3000), number
        if number % 20 == 19:
            assert len(take_all(spool)) == 20
        clock.seconds += number % 2


def test_it_opens_on_a_full_disk(small_disk, opened):
    spool = opened(small_disk / "spool", reserve_bytes=64 << 10)
    for number in range(100):
        append(spool, number)
    spool.close()
    assert not (small_disk / "spool" / "reserve").exists()
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(3 << 20))
    spool = opened(small_disk / "spool", reserve_bytes=64 << 10)
    assert not append(spool, 100)
    assert numbers(take_all(spool)) == list(range(100))


def test_a_write_that_fails_half_way_leaves_no_torn_record(tmp_path, opened, monkeypatch):
    spool = opened(tmp_path)
    for number in range(5):
        append(spool, number)
    writev = os.writev

    def half(descriptor, parts):
        return writev(descriptor, [b"".join(parts)[:50]])

    def fail(descriptor, data):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", half)
        patch.setattr(os, "write", fail)
        assert not append(spool, 5)
    assert append(spool, 6)
    spool.close()
    spool = Spool(tmp_path, **SMALL)
    assert spool.open().cut == 0
    assert numbers(take_all(spool)) == [0, 1, 2, 3, 4, 6]
    spool.close()


def test_nothing_is_taken_after_the_end_and_descriptors_are_closed(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    spool = Spool(tmp_path, **SMALL)
    spool.open()
    fill(spool)
    spool.close()
    spool.close()
    assert not append(spool, 1)
    assert len(os.listdir("/proc/self/fd")) == before
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".seg"} == {"lock", "position"}
