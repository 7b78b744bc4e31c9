"""A spool that opens after a kill or over damaged files: nothing lost, never a wrong row, what is missing is said."""

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from spools import SMALL, append, numbers, segment_files, take_all

from ingester.errors import SpoolError
from ingester.spool import Spool
from ingester.spool.segment import RECORD_HEADER_BYTES

APPENDER = """
import sys, random
from pathlib import Path
from ingester.spool import Spool
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
    child = subprocess.Popen([sys.executable, "-c", APPENDER, str(tmp_path), "1"], stdout=subprocess.PIPE, text=True)
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
        waiting = list(range(0 if found.checkpoint_missing else 30, 150))
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
        outcomes.add((kind, name == "position", bool(found.cut), found.checkpoint_missing))
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
        assert spool.open().checkpoint_missing or seed
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
    lost = spool.take_lost_ranges()
    assert sum(each.rows for each in lost) == sum(n % 7 for n in set(range(101)) - set(got))
    first_lost, last_of_last = 2, 99
    assert [(lost[0].since_ns, lost[0].until_ns)] == [(first_lost * 10 - 1, int(second.stem) * 10 - 11)]
    assert (lost[1].since_ns, lost[1].until_ns) == ((kept_of_last + 1) * 10 + 9, last_of_last * 10 + 9)
    assert spool.take_lost_ranges() == []
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
    assert found.checkpoint_missing
    assert numbers(take_all(spool)) == list(range(100))
    assert "position" in caplog.text
    spool.close()
    spool = Spool(tmp_path, **SMALL)
    assert not spool.open().checkpoint_missing
    spool.close()


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
    monkeypatch.setattr("ingester.spool.segment._VERSION", 2)
    spool = opened(tmp_path)
    append(spool, 1)
    spool.close()
    content = segment_files(tmp_path)[0].read_bytes()
    monkeypatch.undo()
    # `_file_header` has its version as a default: write the header as version 2 would
    from ingester.spool.segment import FILE_HEADER_BYTES, _file_header

    segment_files(tmp_path)[0].write_bytes(_file_header(1, 2) + content[FILE_HEADER_BYTES:])
    with pytest.raises(SpoolError, match=r"has format 2.*reads format 1"):
        Spool(tmp_path).open()
    assert len(segment_files(tmp_path)) == 1
