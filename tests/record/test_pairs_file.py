"""pairs_file.py: what it says, what becomes of a change, and how a recorder follows it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ingester.clock import SECOND
from ingester.errors import ExchangeError, PairsFileError
from ingester.record import pairs_file
from ingester.record.pairs_file import LastRecorded, PairsFile, PairsWatcher, edited, pairs_file_name, parse

WRITTEN = """# mine
BTCUSDT
eth/usdt    # the other big one

 SUIUSDT# added 2026-11-25 10:30 by alice
BTCUSDT # twice
# EDUUSDT removed 2026-11-25 10:31 by bob: too thin
#BNBUSDT
"""


@pytest.fixture
def file(tmp_path):
    return PairsFile(tmp_path / "pairs.txt")


def test_a_file_is_read_as_people_write_it():
    watched = parse(WRITTEN, Path("pairs.txt"))
    assert watched.pairs == {
        "BTCUSDT": "",
        "ETHUSDT": "the other big one",
        "SUIUSDT": "added 2026-11-25 10:30 by alice",
    }
    assert watched.removed == {"EDUUSDT": "removed 2026-11-25 10:31 by bob: too thin"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("BTCUSDT\nETHUSDT SUIUSDT\n", "line 2: 'ETHUSDT SUIUSDT' is not a pair"),
        ("BTCUSDT\n\n[pairs]\n", "line 3: '\\[pairs\\]'"),
        ("BTCUSDT, ETHUSDT", "line 1"),
        ("", "names no pair"),
        ("# BTCUSDT\n", "names no pair"),
    ],
)
def test_what_is_no_list_is_refused_with_its_line(text, words):
    with pytest.raises(PairsFileError, match=words):
        parse(text, Path("pairs.txt"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"BTCUSDT\n\xff\xfe\n", "line 2: no text"), (b"BTC\0USDT", "no text"), (b"A\n" * 600_000, "too long")],
)
def test_bytes_that_are_no_text_are_refused(file, content, words):
    file.path.write_bytes(content)
    with pytest.raises(PairsFileError, match=words):
        file.read()


def test_a_file_that_is_not_there_or_not_readable_says_what_to_do(file):
    assert not file.exists()
    assert file.signature() is None
    with pytest.raises(PairsFileError, match="ingester pairs add"):
        file.read()
    file.path.mkdir()
    with pytest.raises(PairsFileError, match="cannot be read"):
        file.read()


def test_a_change_touches_no_other_line():
    text = edited(WRITTEN, {"EDUUSDT": "added again"}, {"BTCUSDT": "removed by carol"})
    assert text.splitlines() == [
        "# mine",
        "eth/usdt    # the other big one",
        "",
        " SUIUSDT# added 2026-11-25 10:30 by alice",
        "#BNBUSDT",
        "EDUUSDT    # added again",
        "# BTCUSDT removed by carol",
    ]
    watched = parse(text, Path("pairs.txt"))
    assert watched.pairs.keys() == {"ETHUSDT", "SUIUSDT", "EDUUSDT"}
    assert watched.removed == {"BTCUSDT": "removed by carol"}


symbols = st.sampled_from([f"{coin}USDT" for coin in ("BTC", "ETH", "SUI", "EDU", "ADA", "币安人生")])


@given(st.lists(st.tuples(st.booleans(), symbols), max_size=20))
def test_whatever_comes_and_goes_the_file_says_what_is_left_and_does_not_grow(steps):
    text, expected = "BNBUSDT\n", {"BNBUSDT"}
    for add, symbol in steps:
        text = edited(text, {symbol: "added"} if add else {}, {} if add else {symbol: "removed"})
        (expected.add if add else expected.discard)(symbol)
    watched = parse(text, Path("pairs.txt"))
    assert watched.pairs.keys() == expected
    assert len(text.splitlines()) <= 7
    assert watched.removed.keys() == {symbol for _, symbol in steps} - expected


def test_a_first_file_is_made_once(file):
    file.create(["BTCUSDT", "ETHUSDT"], "the heading")
    file.create(["SUIUSDT"], "another")
    assert file.path.read_text() == "# the heading\nBTCUSDT\nETHUSDT\n"


def alter(file, added=(), removed=(), then=lambda: None):
    with file.changing() as change:
        change.added.update(added)
        change.removed.update(removed)
        then()


def test_a_change_that_fails_or_empties_the_list_is_not_written(file):
    file.create(["BTCUSDT"], "heading")
    before = file.signature()
    with pytest.raises(PairsFileError, match="names no pair"):
        alter(file, removed={"BTCUSDT": "removed"})
    with pytest.raises(ZeroDivisionError):
        alter(file, added={"ETHUSDT": "added"}, then=lambda: 1 / 0)
    assert file.signature() == before
    with file.changing() as change:
        change.added["ETHUSDT"] = "added"
    assert file.read().pairs == {"BTCUSDT": "", "ETHUSDT": "added"}
    assert file.signature() != before


def test_a_link_to_the_file_stays_a_link(file, tmp_path):
    real = tmp_path / "elsewhere.txt"
    real.write_text("BTCUSDT\n")
    file.path.symlink_to(real)
    with file.changing() as change:
        change.added["ETHUSDT"] = ""
    assert file.path.is_symlink()
    assert real.read_text() == "BTCUSDT\nETHUSDT\n"


ADD_TEN = """
import pathlib, sys
from ingester.record.pairs_file import PairsFile
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 10):
    with PairsFile(pathlib.Path(sys.argv[1])).changing() as change:
        change.added[f"C{number}USDT"] = ""
"""


def test_two_writers_lose_nothing_of_each_other(file):
    writers = [subprocess.Popen([sys.executable, "-c", ADD_TEN, file.path, str(first)]) for first in (0, 10)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert file.read().pairs.keys() == {f"C{number}USDT" for number in range(20)}


def test_a_writer_that_hangs_is_named_after_a_while(file, monkeypatch):
    monkeypatch.setattr(pairs_file, "LOCK_SECONDS", 0.1)
    with (
        file.changing() as change,
        pytest.raises(PairsFileError, match=r"pairs\.txt\.lock"),
        PairsFile(file.path).changing(),
    ):
        pass
    assert change.added == {}


def test_what_a_recorder_watched_last_is_kept_for_the_next(tmp_path):
    last = LastRecorded(tmp_path)
    assert last.read() is None
    last.write(["BTCUSDT", "币安人生USDT"])
    assert LastRecorded(tmp_path).read() == ["BTCUSDT", "币安人生USDT"]
    last.write(["ETHUSDT"])
    assert last.read() == ["ETHUSDT"]
    assert last.ever() == {"BTCUSDT", "币安人生USDT", "ETHUSDT"}


def test_what_was_ever_watched_is_not_lost_where_it_cannot_be_read_for_a_moment(tmp_path, monkeypatch):
    last = LastRecorded(tmp_path)
    last.write(["BTCUSDT", "ETHUSDT"])

    def refused(path, encoding):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as failing:
        failing.setattr(Path, "read_text", refused)
        with pytest.raises(OSError, match="Too many"):
            last.read()
        with pytest.raises(OSError, match="Too many"):
            last.write(["SUIUSDT"])
    assert last.ever() == {"BTCUSDT", "ETHUSDT"}


def test_a_list_that_cannot_be_seen_now_is_not_made_again(tmp_path, monkeypatch):
    file = PairsFile(tmp_path / "pairs.txt")
    file.create(["BTCUSDT"], "of the user")

    def refused(path, *arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as failing:
        failing.setattr(os, "stat", refused)
        with pytest.raises(PairsFileError, match="Input/output error"):
            file.exists()
    monkeypatch.setattr(PairsFile, "signature", refused)
    with pytest.raises(PairsFileError, match="Input/output error"):
        file.create(["ETHUSDT"], "default")
    with pytest.raises(PairsFileError, match="Input/output error"), file.changing():
        pass
    monkeypatch.undo()
    assert list(file.read().pairs) == ["BTCUSDT"]


@pytest.mark.parametrize(
    ("exchange", "name"),
    [
        ("binance", "pairs.txt"),
        ("binance-vision", "pairs.txt"),  # the same market
        ("simulator", "pairs.txt"),
        ("binance-futures", "pairs-binance-futures.txt"),
        ("testnet", "pairs-testnet.txt"),
    ],
)
def test_each_exchange_has_a_file_of_its_own(exchange, name):
    assert pairs_file_name(exchange) == name


class Follower:
    """A watch that is looked through by hand, and what it asked for."""

    def __init__(self, path, known):
        self.changes, self.events = [], []
        self.watch = PairsWatcher(
            PairsFile(path),
            known=known,
            change=lambda *change: self.changes.append(change),
            record=self.events.append,
            now=lambda: 7,
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
        PairsFile(path),
        known=["BTCUSDT", "ETHUSDT"],
        change=change,
        record=None,
        now=lambda: now[0],
        recorded=lambda: recorded,
        listed=listed,
    )

    def ask(seconds):
        now[0] += int(seconds * SECOND)
        if (asking := watch.ask_again()) is not None:
            asking.join(10)

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
        PairsFile(path),
        known=["BTCUSDT", "ETHUSDT"],
        change=lambda *change: changes.append(change),
        record=None,
        now=lambda: 7,
        recorded=lambda: recorded,
        listed=lambda: {"ETHUSDT"},
    )
    replace(path, "BTCUSDT\n")
    watch.look()
    watch.look()
    watch.ask()
    assert changes == [({}, {"ETHUSDT": "pairs.txt: edited"})]
