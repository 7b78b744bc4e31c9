"""Spools whose recorder does not run: named, sent, their reserve given back."""

import errno
import os
import threading
import time

import pytest
from click.testing import CliRunner
from spools import RESERVE, SECOND, wait_in_spool

from ingester.cli import cli
from ingester.errors import SpoolError
from ingester.monitoring.doctor import spool_findings
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint
from ingester.record.practice import refuse_mixing_unasked
from ingester.record.unsent import Leftover, give_back_reserves, leftovers, send, spools
from ingester.spool import Spool
from ingester.spool.disk import claim


def done(seconds):
    time.sleep(seconds)
    return False


def test_rows_are_counted_that_no_running_recorder_will_send(tmp_path):
    assert leftovers(tmp_path, ()) == []
    first = wait_in_spool(tmp_path, "old")
    wait_in_spool(tmp_path, "part", acknowledged=2, segment_bytes=100)
    wait_in_spool(tmp_path, "all", acknowledged=3)
    wait_in_spool(tmp_path, "runs")
    found = leftovers(tmp_path, {"runs"})
    assert [(each.collector, each.rows) for each in found] == [("old", 30), ("part", 10)]
    assert found[0].oldest_ns == first
    assert found[0].newest_ns == first + 2 * SECOND + 900_000_000


def test_what_waits_and_how_to_send_it_is_said_in_words(tmp_path):
    leftover = Leftover("old", 1234, 0, 3600 * SECOND)
    assert "1,234 rows of the recorder old, received from 1970-01-01 00:00 to 1970-01-01 01:00 UTC" in leftover.text
    assert leftover.mend("/a b") == "ingester spool send --collector old --data-dir '/a b' sends them"


def test_a_damaged_rest_of_a_file_is_not_counted(tmp_path):
    wait_in_spool(tmp_path, "old")
    (file,) = (spools(tmp_path) / "old").glob("*.seg")
    with file.open("ab") as damaged:
        damaged.write(b"\xff" * 1000)
    assert leftovers(tmp_path, ())[0].rows == 30


@pytest.mark.parametrize("depth", [5, 20])
def test_what_waits_is_sent_and_found_in_the_table(questdb, tmp_path, depth):
    name, db = f"leftover-{depth}", QuestDB(questdb.endpoint)
    wait_in_spool(tmp_path, name, depth=depth)
    shown = []
    sent = send(db, tmp_path, name, time.time_ns, done, shown.append)
    assert (sent.rows, sent.waiting, sent.complete) == (30, 0, True)
    assert leftovers(tmp_path, ()) == []
    deepest = f"ask_{depth}"
    assert db.sql(f"SELECT count(), count({deepest}) FROM orderbook WHERE collector = '{name}'").rows == [[30, 30]]
    assert send(db, tmp_path, name, time.time_ns, done, shown.append).rows == 0


def test_sending_does_not_shorten_the_gap_that_the_recorder_will_note_at_its_next_start(questdb, tmp_path):
    first = wait_in_spool(tmp_path, "leftover-gap")
    send(QuestDB(questdb.endpoint), tmp_path, "leftover-gap", time.time_ns, done, lambda rows: None)
    spool = Spool(spools(tmp_path) / "leftover-gap")
    assert spool.open().last_ns == first + 2 * SECOND + 900_000_000
    spool.close()


def test_a_spool_in_use_or_of_nobody_is_not_sent(questdb, tmp_path):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    with pytest.raises(SpoolError, match="no spool of a recorder 'nobody'"):
        send(db, tmp_path, "nobody", time.time_ns, done, lambda rows: None)
    spool = Spool(spools(tmp_path) / "busy", reserve_bytes=RESERVE, free_bytes=0)
    spool.open()
    try:
        with pytest.raises(SpoolError, match="in use"):
            send(db, tmp_path, "busy", time.time_ns, done, lambda rows: None)
    finally:
        spool.close()


def test_a_spool_gives_its_reserve_back_when_it_is_closed_and_takes_it_again(tmp_path):
    for _ in range(2):
        spool = Spool(tmp_path / "spool" / "a", reserve_bytes=RESERVE, free_bytes=0)
        spool.open()
        assert (spool.folder / "reserve").stat().st_size == RESERVE
        spool.close()
        assert not (spool.folder / "reserve").exists()


def test_the_reserve_of_a_killed_recorder_is_given_back_but_not_that_of_one_that_runs(tmp_path):
    killed = spools(tmp_path) / "killed"
    killed.mkdir(parents=True)
    (killed / "reserve").write_bytes(bytes(RESERVE))
    spool = Spool(spools(tmp_path) / "runs", reserve_bytes=RESERVE, free_bytes=0)
    spool.open()
    try:
        give_back_reserves(tmp_path, ())
        assert not (killed / "reserve").exists()
        assert (spool.folder / "reserve").exists()
    finally:
        spool.close()


def test_a_recorder_starts_also_while_another_one_frees_what_was_reserved_there(tmp_path):
    folder = spools(tmp_path) / "killed"
    held = claim(folder)
    threading.Timer(0.2, os.close, [held]).start()
    spool = Spool(folder)
    spool.open()
    spool.close()
    held = claim(folder)
    with pytest.raises(SpoolError, match="in use by the recorder"):
        Spool(folder).open()
    os.close(held)


def test_a_spool_that_cannot_be_read_now_is_not_called_empty(tmp_path, monkeypatch):
    wait_in_spool(tmp_path, "left")
    wait_in_spool(tmp_path, "other")
    scandir = os.scandir

    def refused(path):
        if str(path).endswith("left"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    unreadable = []
    assert [each.collector for each in leftovers(tmp_path, (), unreadable)] == ["other"]
    assert unreadable == [f"{tmp_path}/spool/left cannot be read: Too many open files"]
    listed = CliRunner().invoke(cli, ["spool", "list", "--data-dir", str(tmp_path)])
    assert (listed.exit_code, "Too many open files" in listed.output) == (1, True)
    assert [finding.state for finding in spool_findings(tmp_path)] == ["warning", "warning"]
    (tmp_path / "recorded.json").write_text('{"http://one:9000": "simulator"}')
    with pytest.raises(SpoolError, match="Too many open files"):
        refuse_mixing_unasked(Endpoint("http://two:9000"), "binance", tmp_path)
