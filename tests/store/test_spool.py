"""The spool on real files: order, crashes, damage, limits."""

import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingester.errors import SpoolError
from ingester.store.segment import RECORD_HEADER_BYTES
from ingester.store.spool import Spool

SMALL = {"limit_bytes": 1 << 20, "reserve_bytes": 1 << 16, "free_bytes": 0, "segment_bytes": 4096}


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def body_of(number, length=100):
    """Bytes that tell which record they are, and fail to compare where a single one is wrong."""
    return random.Random(number).randbytes(length) + b"%d" % number


def append(spool, number, length=100):
    return spool.append(body_of(number, length), number % 7, number * 10, number * 10 + 9)


def numbers(records):
    """Which records these are, after all that is in them was checked."""
    found = [record.first_ns // 10 for record in records]
    for number, record in zip(found, records, strict=True):
        length = len(record.body) - len(b"%d" % number)
        assert record.body == body_of(number, length)
        assert record.rows == number % 7
        assert record.last_ns == number * 10 + 9
    return found


def take_all(spool, at_most=1000):
    """Reads and acknowledges until nothing waits."""
    taken = []
    while records := spool.peek(at_most):
        taken += records
        spool.acknowledge(records)
    return taken


@pytest.fixture
def opened():
    """Opens spools and closes them in the end."""
    spools = []

    def opened(folder, **options):
        spool = Spool(folder, **SMALL | options)
        spool.open()
        spools.append(spool)
        return spool

    yield opened
    for spool in spools:
        spool.close()


def segment_files(folder):
    return sorted(folder.glob("*.seg"))


# --- order and content


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


# --- crashes


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


# --- damage


def damage(path, chance):
    """Cuts a file short, flips a bit, zeroes or scribbles over a range."""
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    kind = chance.choice(["truncate", "flip", "flip", "zero", "scribble", "grow"])
    if kind == "truncate":
        del content[place:]
    elif kind == "flip":
        content[place] ^= 1 << chance.randrange(8)
    elif kind == "grow":
        content += chance.randbytes(chance.randrange(1, 200))
    else:
        length = chance.randrange(1, 300)
        content[place : place + length] = bytes(length) if kind == "zero" else chance.randbytes(length)
    path.write_bytes(content)
    return kind


def test_500_damaged_files_never_give_a_wrong_row(tmp_path):
    original = tmp_path / "original"
    options = SMALL | {"segment_bytes": 2000, "reserve_bytes": 0}
    spool = Spool(original, **options)
    spool.open()
    firsts = {}  # of each segment
    for number in range(150):
        append(spool, number, number % 300)
        for path in segment_files(original):
            firsts.setdefault(path.name, number)
    for _ in range(30):
        spool.acknowledge(spool.peek(1))
    spool.close()
    names = sorted(firsts)
    assert len(names) > 5
    members = {n: range(firsts[n], firsts.get(m, 150)) for n, m in zip(names, [*names[1:], ""], strict=True)}
    outcomes = set()
    for seed in range(500):
        chance = random.Random(seed)
        folder = tmp_path / "damaged"
        shutil.copytree(original, folder)
        name = chance.choice([*names, "position"])
        kind = damage(folder / name, chance)
        spool = Spool(folder, **options)
        found = spool.open()
        got = numbers(take_all(spool, 1 << 20))
        waiting = list(range(0 if found.position_missing else 30, 150))
        if name == "position":
            assert got == waiting, seed
        else:
            lost = sorted(set(waiting) - set(got))
            assert got == [number for number in waiting if number not in lost], seed
            reached = [n for n in members[name] if n in waiting]
            assert lost == reached[len(reached) - len(lost) :], (seed, lost)  # the end of that segment only
            assert not lost or found.cut == 1, seed
        assert found.records_waiting == len(got), seed
        assert append(spool, 150), seed
        spool.close()
        spool = Spool(folder, **options)  # and what was found and appended is whole now
        again = spool.open()
        assert again.cut <= (name in names and not found.cut), seed
        assert numbers(spool.peek(1 << 20)) == [150], seed
        spool.close()
        outcomes.add((kind, name == "position", bool(found.cut), found.position_missing))
        shutil.rmtree(folder)
    assert len(outcomes) > 8


def test_damage_in_all_files_at_once_never_gives_a_wrong_row(tmp_path):
    original = tmp_path / "original"
    spool = Spool(original, **SMALL)
    spool.open()
    for number in range(300):
        append(spool, number)
    spool.close()
    for seed in range(30):
        chance = random.Random(seed)
        folder = tmp_path / "damaged"
        shutil.copytree(original, folder)
        for path in [*segment_files(folder), folder / "position"]:
            damage(path, chance)
        spool = Spool(folder, **SMALL)
        assert spool.open().position_missing or seed
        got = numbers(take_all(spool))
        assert got == sorted(set(got))
        spool.close()
        shutil.rmtree(folder)


def test_damage_while_it_runs_costs_the_rest_of_that_segment_only(tmp_path, opened, caplog):
    spool = opened(tmp_path)
    for number in range(100):
        append(spool, number)
    first, second, *_, last = segment_files(tmp_path)
    for path in (first, last):
        content = bytearray(path.read_bytes())
        content[RECORD_HEADER_BYTES + 60 + 2 * 140] ^= 1
        path.write_bytes(content)
    got = numbers(take_all(spool))
    append(spool, 100)
    got += numbers(take_all(spool))
    kept_of_last = int(last.stem) - 1
    assert got == [0, 1, *range(int(second.stem) - 1, kept_of_last + 2), 100]
    holes = spool.take_holes()
    assert sum(hole.rows for hole in holes) == sum(n % 7 for n in set(range(101)) - set(got))
    first_lost, last_of_last = 2, 99
    assert [(holes[0].since_ns, holes[0].until_ns)] == [(first_lost * 10 - 1, int(second.stem) * 10 - 11)]
    assert (holes[1].since_ns, holes[1].until_ns) == ((kept_of_last + 1) * 10 + 9, last_of_last * 10 + 9)
    assert spool.take_holes() == []
    assert (spool.rows_waiting, spool.bytes_waiting) == (0, 0)
    assert len(list((tmp_path / "damaged").iterdir())) == 2
    assert caplog.text.count("is damaged at byte") == 2


def test_a_lost_position_sends_everything_again(tmp_path, opened, caplog):
    spool = opened(tmp_path)
    for number in range(100):
        append(spool, number)
    take_all(spool)
    spool.close()
    (tmp_path / "position").unlink()
    spool = Spool(tmp_path, **SMALL)
    found = spool.open()
    assert found.position_missing
    assert numbers(take_all(spool)) == list(range(100))
    assert "position" in caplog.text
    spool.close()
    assert not Spool(tmp_path, **SMALL).open().position_missing


def test_a_position_behind_the_data_is_gone_on_from(tmp_path, opened):
    """A power cut took the last records, which were stored and acknowledged before they were synced."""
    spool = opened(tmp_path)
    for number in range(10):
        append(spool, number)
    take_all(spool)
    spool.close()
    (path,) = segment_files(tmp_path)
    os.truncate(path, path.stat().st_size - 200)
    spool = Spool(tmp_path, **SMALL)
    found = spool.open()
    assert (found.records_waiting, found.cut, found.last_ns) == (0, 1, 99)
    append(spool, 10)
    assert [record.sequence for record in spool.peek(1000)] == [11]
    spool.close()
    assert numbers(opened(tmp_path).peek(1000)) == [10]


def test_a_newer_format_is_refused_and_not_touched(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("ingester.store.segment._VERSION", 2)
    spool = opened(tmp_path)
    append(spool, 1)
    spool.close()
    content = segment_files(tmp_path)[0].read_bytes()
    monkeypatch.undo()
    # `_file_header` has its version as a default: write the header as version 2 would
    from ingester.store.segment import FILE_HEADER_BYTES, _file_header

    segment_files(tmp_path)[0].write_bytes(_file_header(1, 2) + content[FILE_HEADER_BYTES:])
    with pytest.raises(SpoolError, match=r"has format 2.*reads format 1"):
        Spool(tmp_path).open()
    assert len(segment_files(tmp_path)) == 1


# --- retention and sending again


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

    def fail(path, content):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("ingester.store.position.replace_durably", fail)
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
    spool = opened(tmp_path, limit_bytes=50_000, audited=True, keep_seconds=10, now=clock)
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
    spool = opened(tmp_path, audited=True, keep_seconds=10, now=clock)
    for number in range(200):
        append(spool, number)
    take_all(spool)
    spool.verify(spool.acknowledged)
    spool.close()
    files = segment_files(tmp_path)
    spool = opened(tmp_path, audited=True, keep_seconds=10, now=clock)
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
    assert found.holes == ((firsts[2] * 10 - 11, firsts[3] * 10, 0),)
    assert found.last_ns == 148 * 10 + 9
    lost = {firsts[2] - 1, *range(firsts[2], firsts[3]), 149}
    assert numbers(take_all(spool)) == [n for n in range(5, 150) if n not in lost]
    spool.close()
    spool = Spool(tmp_path, **SMALL)
    assert spool.open().holes == ()
    spool.close()


# --- syncing


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


# --- limits


def fill(spool, number=0):
    while append(spool, number):
        number += 1
    return number


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
