"""What is acknowledged: how long it stays, what is sent again, and the file that says so."""

import contextlib
import errno
import os
import resource
from pathlib import Path

import pytest
from spools import SMALL, Clock, append, fill, numbers, segment_files, take_all

from ingester.errors import SpoolError
from ingester.spool import Spool


def test_acknowledged_segments_stay_for_the_time_given_and_then_go(tmp_path, opened):
    clock = Clock()
    spool = opened(tmp_path, keep_seconds=900, now=clock)
    for number in range(200):
        append(spool, number)
    files = segment_files(tmp_path)
    taken = take_all(spool)
    clock.seconds += 899
    spool.tidy()
    assert segment_files(tmp_path) == files
    clock.seconds += 2
    spool.tidy()
    assert segment_files(tmp_path) == files[-1:]  # that one still takes records
    position = int((tmp_path / "position").read_text().split()[0])
    assert position == taken[-1].sequence + 1
    append(spool, 200)
    assert numbers(take_all(spool)) == [200]


def test_the_position_is_written_once_a_second_and_where_a_segment_ends(tmp_path, opened):
    clock = Clock()
    spool = opened(tmp_path, now=clock)

    def position():
        return int((tmp_path / "position").read_text().split()[0])

    def take(number):
        append(spool, number)
        spool.acknowledge(spool.peek(1000))

    clock.seconds += 1
    take(0)
    assert position() == 2
    for number in range(1, 5):
        take(number)
    assert position() == 2
    clock.seconds += 1
    take(5)
    assert position() == 7
    for number in range(6, 40):  # the first of the next segment ends this one
        append(spool, number)
    second = int(segment_files(tmp_path)[1].stem)
    while spool.peek(1)[0].sequence < second:
        spool.acknowledge(spool.peek(1))
    assert position() == second


def test_no_segment_goes_before_its_position_is_on_disk(tmp_path, opened, monkeypatch, caplog):
    clock = Clock()
    spool = opened(tmp_path, keep_seconds=10, now=clock)
    for number in range(200):
        append(spool, number)
    files = segment_files(tmp_path)

    def fail(path, content, mode):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("ingester.spool.checkpoint.replace_durably", fail)
        take_all(spool)
        clock.seconds += 100
        spool.tidy()
        assert segment_files(tmp_path) == files
        assert caplog.text.count("cannot write") == 1
    spool.tidy()
    assert segment_files(tmp_path) == files[-1:]


@pytest.mark.parametrize("reopened", [False, True])
def test_retained_records_can_be_sent_again(tmp_path, opened, reopened):
    spool = opened(tmp_path)
    for number in range(200):
        append(spool, number)
    taken = take_all(spool)
    if reopened:
        spool.close()
        spool = opened(tmp_path)
    assert spool.resend(2000) == 0
    assert spool.resend(1209) == sum(n % 7 for n in range(120, 200))
    append(spool, 200)
    spool.acknowledge(taken[-1:])  # an answer that comes too late moves nothing
    assert int((tmp_path / "position").read_text().split()[0]) == 121  # so a crash does not forget it
    assert numbers(take_all(spool)) == list(range(120, 201))
    assert spool.resend(0) == sum(n % 7 for n in range(201))


def test_what_is_sent_again_is_not_dropped_meanwhile(tmp_path, opened):
    clock = Clock()
    spool = opened(tmp_path, keep_seconds=10, now=clock)
    for number in range(200):
        append(spool, number)
    take_all(spool)
    spool.resend(500)
    clock.seconds += 100
    spool.tidy()
    assert numbers(take_all(spool)) == list(range(50, 200))


def test_what_nobody_has_seen_in_the_table_stays_whatever_happens(tmp_path, opened):
    clock = Clock()
    spool = opened(tmp_path, limit_bytes=50_000, keep_until_verified=True, keep_seconds=10, now=clock)
    count = fill(spool)
    files = segment_files(tmp_path)
    taken = take_all(spool)
    assert spool.acknowledged == taken[-1].sequence + 1
    clock.seconds += 100
    spool.tidy()
    assert not append(spool, count)
    assert segment_files(tmp_path) == files
    spool.verify(taken[count // 2].sequence)
    spool.tidy()
    gone = set(files) - set(segment_files(tmp_path))
    assert gone
    assert all(int(path.stem) <= taken[count // 2].sequence for path in gone)
    assert append(spool, count)
    rest = numbers(taken)[count // 2 :]
    assert spool.resend(rest[0] * 10) == sum(n % 7 for n in rest)
    spool.verify(1 << 40)  # what waits again cannot have been seen
    clock.seconds += 100
    spool.tidy()
    assert numbers(take_all(spool)) == [*rest, count]


def test_after_a_restart_nothing_counts_as_seen(tmp_path, opened):
    clock = Clock()
    spool = opened(tmp_path, keep_until_verified=True, keep_seconds=10, now=clock)
    for number in range(200):
        append(spool, number)
    take_all(spool)
    spool.verify(spool.acknowledged)
    spool.close()
    files = segment_files(tmp_path)
    spool = opened(tmp_path, keep_until_verified=True, keep_seconds=10, now=clock)
    clock.seconds += 100
    spool.tidy()
    assert segment_files(tmp_path) == files
    spool.verify(spool.acknowledged)
    spool.tidy()
    assert segment_files(tmp_path) == []


def test_what_earlier_runs_had_acknowledged_can_be_counted(tmp_path, opened):
    spool = opened(tmp_path)
    for number in range(100):
        append(spool, number)
    assert spool.retained() == (0, 0, 0)
    while spool.peek(1)[0].first_ns < 600:
        spool.acknowledge(spool.peek(1))
    assert spool.retained() == (0, 0, 0)  # this run's own
    spool.close()
    spool = opened(tmp_path)
    take_all(spool)
    assert spool.retained() == (sum(n % 7 for n in range(60)), 10, 599)  # record 0 has no rows


def test_holes_found_when_opening_are_said_with_their_ends(tmp_path, opened):
    spool = opened(tmp_path)
    for number in range(150):
        append(spool, number)
    for _ in range(5):
        spool.acknowledge(spool.peek(1))
    spool.close()
    paths = segment_files(tmp_path)
    firsts = [int(path.stem) - 1 for path in paths]
    os.truncate(paths[1], paths[1].stat().st_size - 10)  # its last record
    paths[2].unlink()
    os.truncate(paths[-1], paths[-1].stat().st_size - 10)  # covered by the gap until the restart
    spool = Spool(tmp_path, **SMALL)
    found = spool.open()
    assert found.lost_ranges == ((firsts[2] * 10 - 11, firsts[3] * 10, 0),)
    assert found.last_ns == 148 * 10 + 9
    lost = {firsts[2] - 1, *range(firsts[2], firsts[3]), 149}
    assert numbers(take_all(spool)) == [n for n in range(5, 150) if n not in lost]
    spool.close()
    spool = Spool(tmp_path, **SMALL)
    assert spool.open().lost_ranges == ()
    spool.close()


@pytest.fixture
def unreadable(monkeypatch):
    """Lets the file of the position fail with an error of the system."""

    def unreadable(number):
        read_bytes = Path.read_bytes

        def refuse(path):
            if path.name == "position":
                raise OSError(number, os.strerror(number))
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)

    return unreadable


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("segments", [True, False])
def test_a_position_that_cannot_be_read_now_is_kept_and_numbers_go_on_from_it(
    tmp_path, opened, monkeypatch, unreadable, number, segments
):
    spool = opened(tmp_path)
    for each in range(100):
        append(spool, each)
    take_all(spool)
    spool.close()
    if not segments:
        for path in tmp_path.glob("0*"):
            path.unlink()
    before = (tmp_path / "position").read_bytes()
    unreadable(number)
    with pytest.raises(SpoolError, match=os.strerror(number)):
        Spool(tmp_path, **SMALL).open()
    monkeypatch.undo()
    assert (tmp_path / "position").read_bytes() == before
    spool = opened(tmp_path)
    append(spool, 100)
    assert [record.sequence for record in spool.peek(1000)] == [101]
    assert numbers(take_all(spool)) == [100]


def test_without_a_free_descriptor_no_position_is_taken_for_lost(tmp_path, opened):
    """Whichever of the files that a start opens is the first for which there is no descriptor."""
    spool = opened(tmp_path)
    for each in range(20):
        append(spool, each)
    take_all(spool)
    spool.close()
    before = (tmp_path / "position").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opens = 0
    for free in range(12):
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
        spool = Spool(tmp_path, **SMALL)
        try:
            with contextlib.suppress(SpoolError):
                recovery = spool.open()
                assert (recovery.checkpoint_missing, recovery.rows_waiting) == (False, 0)
                opens += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            spool.close()
        assert (tmp_path / "position").read_bytes() == before
    assert 0 < opens < 12
