"""A spool at its limits, and on a full disk."""

import errno
import logging
import os
import subprocess

import pytest
from spools import SMALL, Clock, append, fill, numbers, segment_files, take_all

from ingester.store.spool import Spool


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
    (small_disk / "spool" / "reserve").unlink()
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
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".seg"} == {"lock", "position", "reserve"}
