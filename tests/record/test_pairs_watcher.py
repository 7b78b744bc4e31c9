"""watch.py: a recorder follows the file, and what cannot be used changes nothing."""

import os

import pytest

from ingester.clock import SECOND
from ingester.errors import ExchangeError
from ingester.record.pairs_file import PairsFile
from ingester.record.pairs_watcher import PairsWatcher


class Follower:
    """A watch that is looked through by hand, and what it asked for."""

    def __init__(self, path, known):
        self.changes, self.events = [], []
        self.watch = PairsWatcher(
            PairsFile(path), known, lambda *change: self.changes.append(change), self.events.append, lambda: 7
        )

    def look(self, times=2):
        for _ in range(times):
            self.watch.look()
        changes, self.changes = self.changes, []
        return changes


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("BTCUSDT\nETHUSDT\n")
    return path


def replace(path, text):
    new = path.with_name("other")
    new.write_text(text)
    new.replace(path)


def test_a_file_that_is_replaced_is_followed_at_the_first_look(path):
    follower = Follower(path, ["BTCUSDT", "ETHUSDT"])
    assert follower.look() == []
    replace(path, "BTCUSDT\nSUIUSDT # added by alice\n# ETHUSDT removed by bob\n")
    assert follower.look(1) == [({"SUIUSDT": "pairs.txt: added by alice"}, {"ETHUSDT": "pairs.txt: removed by bob"})]
    assert follower.look(5) == []


def test_what_changed_before_the_first_look_is_followed_too(path):
    follower = Follower(path, ["BTCUSDT", "ADAUSDT"])
    assert follower.look() == [({"ETHUSDT": "pairs.txt: edited"}, {"ADAUSDT": "pairs.txt: edited"})]


def test_a_file_that_is_written_in_place_is_read_when_it_rests(path):
    follower = Follower(path, ["BTCUSDT", "ETHUSDT"])
    follower.look()
    with path.open("w") as file:
        for text in ("BTCUSDT\n", "ETHUSDT\nSUI", "USDT\n"):
            file.write(text)
            file.flush()
            assert follower.look(1) == []
    assert follower.look(1) == [({"SUIUSDT": "pairs.txt: edited"}, {})]


@pytest.mark.parametrize("text", ["", "# nothing\n", "BTCUSDT ETHUSDT\n", "[pairs]\n"])
def test_a_broken_file_is_told_once_and_followed_again_when_it_is_mended(path, text, caplog):
    follower = Follower(path, ["BTCUSDT", "ETHUSDT"])
    follower.look()
    replace(path, text)
    assert follower.look(5) == []
    (event,) = follower.events
    assert (event.kind, event.at_ns) == ("pairs_refused", 7)
    assert str(path) in event.detail
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    replace(path, "BTCUSDT\nSUIUSDT\n")
    assert follower.look() == [({"SUIUSDT": "pairs.txt: edited"}, {"ETHUSDT": "pairs.txt: edited"})]
    replace(path, text)
    follower.look()
    assert len(follower.events) == 2


def test_a_file_that_is_gone_ends_nothing(path):
    follower = Follower(path, ["BTCUSDT", "ETHUSDT"])
    follower.look()
    path.unlink()
    assert follower.look(4) == []
    assert len(follower.events) == 1
    path.write_text("BTCUSDT\n")
    assert follower.look() == [({}, {"ETHUSDT": "pairs.txt: edited"})]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_becomes_readable_again_is_read(path):
    follower = Follower(path, ["BTCUSDT"])
    path.chmod(0)
    assert follower.look(3) == []
    path.chmod(0o600)
    assert follower.look(2) == [({"ETHUSDT": "pairs.txt: edited"}, {})]


def test_pairs_that_the_exchange_did_not_list_are_asked_for_again_and_join_when_it_does(path):
    now, recorded, answers, changes = [10 * SECOND], {"BTCUSDT"}, [], []

    def listed():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def change(added, removed):
        changes.append((added, removed))
        recorded.update(added)

    watch = PairsWatcher(
        PairsFile(path), ["BTCUSDT", "ETHUSDT"], change, None, lambda: now[0], lambda: recorded, listed
    )

    def ask(seconds):
        now[0] += int(seconds * SECOND)
        watch.ask_again()
        if watch._asking is not None:
            watch._asking.join(10)

    ask(0)
    assert answers == []  # it was asked just now
    answers += [{"BTCUSDT": None}, ExchangeError("busy"), {"BTCUSDT": None, "ETHUSDT": None, "ADAUSDT": None}, {}]
    for _ in range(3):
        ask(20)
    assert changes == [({"ETHUSDT": "listed by the exchange now"}, {})]
    ask(1000)
    assert answers == [{}]  # nothing is left out, so nobody asks


def test_a_pair_that_leaves_the_file_does_not_join_later(path):
    recorded, changes = {"BTCUSDT"}, []
    watch = PairsWatcher(
        *(PairsFile(path), ["BTCUSDT", "ETHUSDT"], lambda *change: changes.append(change), None, lambda: 7),
        *(lambda: recorded, lambda: {"ETHUSDT"}),
    )
    replace(path, "BTCUSDT\n")
    watch.look()
    watch.look()
    watch._ask()
    assert changes == [({}, {"ETHUSDT": "pairs.txt: edited"})]
