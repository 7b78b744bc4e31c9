"""The spool on real files: order, limits, a full disk."""

import errno
import logging
import os
import random
import resource
import shutil
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from spools import SMALL, Clock, append, fill, numbers, segment_files, take_all

from ingester.errors import SpoolError
from ingester.spool import Spool


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
                assert (found.records_waiting, found.cut, found.checkpoint_missing) == (
                    appended - acknowledged,
                    0,
                    False,
                )
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


@pytest.fixture
def limited():
    """Sets a limit of this process until the end of the test, or until it is called again."""
    before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)}

    def limited(kind, limit=None):
        resource.setrlimit(kind, before[kind] if limit is None else (limit, before[kind][1]))

    yield limited
    for kind, limits in before.items():
        resource.setrlimit(kind, limits)


def test_without_free_descriptors_everything_is_kept_and_taken_and_comes_later(tmp_path, opened, limited):
    spool = opened(tmp_path)
    for number in range(100):
        append(spool, number)
    assert len(segment_files(tmp_path)) > 2
    taken = spool.peek(1000)
    spool.acknowledge(taken)
    limited(resource.RLIMIT_NOFILE, 1)
    for _ in range(3):
        with pytest.raises(SpoolError, match=r"rows wait in the spool.*Too many open files.*tried again"):
            spool.peek(1000)
    for number in range(100, 200):  # no new file can be made: the one that is open takes more
        assert append(spool, number)
    with pytest.raises(SpoolError, match="Too many open files"):
        spool.resend(0)
    assert spool.oldest_ns == taken[-1].last_ns  # what waits was received after that
    limited(resource.RLIMIT_NOFILE)
    append(spool, 200)
    assert numbers([*taken, *take_all(spool)]) == list(range(201))
    assert not spool.take_lost_ranges()
    assert not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EACCES])
def test_what_the_system_does_not_let_us_read_is_no_damage(tmp_path, opened, monkeypatch, number):
    """While it runs, and at a start: only one of the files cannot be read, and comes when it can."""
    spool = opened(tmp_path)
    for each in range(100):
        append(spool, each)
    victims = segment_files(tmp_path)[1], segment_files(tmp_path)[-1]
    path_open = Path.open

    def refuse(path, *arguments, **options):
        if path in victims:
            raise OSError(number, os.strerror(number))
        return path_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    taken = numbers(records := spool.peek(1 << 20))
    spool.acknowledge(records)
    assert taken == list(range(int(victims[0].stem) - 1))
    with pytest.raises(SpoolError, match=os.strerror(number)):
        spool.peek(1000)
    spool.close()
    spool = Spool(tmp_path, **SMALL)
    recovery = spool.open()
    assert (recovery.cut, recovery.lost_ranges) == (0, ())
    append(spool, 100)
    with pytest.raises(SpoolError, match=os.strerror(number)):
        spool.peek(1000)
    monkeypatch.undo()
    assert numbers(take_all(spool)) == list(range(len(taken), 101))
    assert (spool.rows_waiting, spool.bytes_waiting, spool.take_lost_ranges()) == (0, 0, [])
    spool.close()
    assert not (tmp_path / "damaged").exists()


def test_a_file_that_takes_no_more_makes_way_for_a_new_one(tmp_path, opened, limited):
    """EFBIG, as by a limit of the process or of the file system, long before a segment is full."""
    spool = opened(tmp_path)
    limited(resource.RLIMIT_FSIZE, 1500)
    for number in range(60):
        assert append(spool, number)
    assert not append(spool, 60, length=1500)  # fits in none
    limited(resource.RLIMIT_FSIZE)
    assert append(spool, 61)
    assert numbers(take_all(spool)) == [*range(60), 61]
    assert not spool.take_lost_ranges()


# The folder goes away under a running recorder.


def refused_to_others(folder):
    with pytest.raises(SpoolError, match=str(os.getpid())):
        Spool(folder, **SMALL).open()


def test_a_deleted_folder_is_made_again_and_what_is_lost_is_known(tmp_path, opened, caplog):
    spool = opened(tmp_path / "spool")
    for number in range(100):
        append(spool, number)
    last = int(segment_files(spool.folder)[-1].stem) - 1
    shutil.rmtree(spool.folder)
    for number in range(100, 120):
        assert append(spool, number)
        refused_to_others(spool.folder)
    assert "deleted or moved" in caplog.text
    assert numbers(take_all(spool)) == list(range(last, 120))  # what was in the open file is there still
    lost = spool.take_lost_ranges()
    assert sum(each.rows for each in lost) == sum(number % 7 for number in range(last))
    assert lost[-1].until_ns == (last - 1) * 10 + 9
    spool.tidy()
    names = {path.name for path in spool.folder.iterdir()}
    spool.close()
    assert {"lock", "position", "reserve"} <= names
    again = opened(tmp_path / "spool")
    assert again.rows_waiting == 0


def test_a_moved_folder_is_made_again_and_nothing_is_lost(tmp_path, opened):
    descriptors = len(os.listdir("/proc/self/fd"))
    spool = opened(tmp_path / "spool")
    for number in range(100):
        append(spool, number)
    spool.folder.rename(tmp_path / "elsewhere")
    assert numbers(spool.peek(1 << 20)) == list(range(100))  # before the next row has it noticed
    for number in range(100, 200):
        assert append(spool, number)
        refused_to_others(spool.folder)
    refused_to_others(tmp_path / "elsewhere")  # what waits there is still this one's
    assert numbers(take_all(spool)) == list(range(200))
    assert spool.take_lost_ranges() == []
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_folders_above_it_may_go_too(tmp_path, opened):
    spool = opened(tmp_path / "data" / "spool" / "one")
    append(spool, 0)
    (tmp_path / "data").rename(tmp_path / "moved")
    assert append(spool, 1)
    shutil.rmtree(tmp_path / "data")
    assert append(spool, 2)
    refused_to_others(spool.folder)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").rglob("*") if path.is_dir()} == {0o700}
    assert numbers(take_all(spool)) == [0, 1, 2]


def test_a_deleted_file_is_not_written_to_any_more(tmp_path, opened):
    spool = opened(tmp_path)
    for number in range(5):
        append(spool, number)
    segment_files(tmp_path)[-1].unlink()
    (tmp_path / "lock").unlink()
    for number in range(5, 10):
        assert append(spool, number)
    refused_to_others(tmp_path)
    assert numbers(spool.peek(10_000)) == list(range(10))
    spool.close()
    assert numbers(take_all(opened(tmp_path))) == [5, 6, 7, 8, 9]


def test_a_recorder_that_receives_nothing_notices_it_too(tmp_path, opened):
    spool = opened(tmp_path / "spool")
    shutil.rmtree(spool.folder)
    deadline = time.monotonic() + 10
    while not (spool.folder / "lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    refused_to_others(spool.folder)


def test_a_folder_that_another_recorder_has_taken_meanwhile_is_not_written_to(tmp_path, opened, caplog):
    spool = opened(tmp_path / "spool")
    append(spool, 0)
    held = spool._lock
    with held:  # the first one notices nothing for a while
        spool.folder.rename(tmp_path / "elsewhere")
        other = opened(tmp_path / "spool")
    assert not append(spool, 1)
    assert "in use by the recorder with process id" in caplog.text
    assert append(other, 2)
    assert numbers(take_all(other)) == [2]


def test_a_folder_that_becomes_read_only_takes_rows_while_it_can_and_is_called_so(small_disk, opened, caplog):
    folder = small_disk / "spool"
    spool = opened(folder)
    append(spool, 0)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        for number in range(1, 100):  # in the file that is open, though it is full by now
            assert append(spool, number)
        with spool._lock:
            spool._retire()
        assert not append(spool, 100)
        assert "lost: Read-only file system" in caplog.text
    finally:
        subprocess.run(["umount", folder], check=True)
    assert append(spool, 101)
    assert numbers(take_all(spool)) == [*range(100), 101]


@pytest.mark.parametrize(
    "junk", ["99999999999999999999", "00000000000000000003", "00000000000000000000", "0000000000000000000x", "folder"]
)
def test_junk_with_the_name_of_a_segment_costs_nothing(tmp_path, opened, junk):
    spool = opened(tmp_path)
    for number in range(100):
        append(spool, number)
    following = 1 + 100  # numbers begin with 1
    spool.close()
    if junk == "folder":
        (tmp_path / f"{following:020d}.seg").mkdir()
        (tmp_path / f"{following + 3:020d}.seg").symlink_to("/etc/passwd")
    else:
        (tmp_path / f"{junk}.seg").write_bytes(b"junk" * 100)
    spool = opened(tmp_path)
    for number in range(100, 110):
        assert append(spool, number)
    assert numbers(take_all(spool)) == list(range(110))
    assert spool.take_lost_ranges() == []
    spool.close()
    assert opened(tmp_path).rows_waiting == 0


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
