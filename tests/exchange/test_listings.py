"""listings.py: what exchanges list is kept, and short answers are not believed at once."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from ingester.errors import Incomplete
from ingester.exchange import Listing, ListingStatus
from ingester.exchange.listings import KeptListing

BINANCE, HERE = "https://api.binance.com", "http://127.0.0.1:9443"
DAY = 86_400


def listings(*symbols, status=ListingStatus.TRADING):
    return {symbol: Listing(symbol, symbol[:-4], "USDT", status) for symbol in symbols}


TEN = [f"C{number}USDT" for number in range(10)]


@pytest.fixture
def world(tmp_path):
    """A kept listing, its clock, and what a later process reads."""

    class World:
        at = 1_000.0
        path = tmp_path / "listing.json"

        def __init__(self):
            self.kept = self.later()

        def later(self):
            return KeptListing(self.path, lambda: self.at)

    return World()


def test_base_and_quote_are_known_to_later_processes_also_of_pairs_that_are_no_longer_listed(world):
    odd = Listing("BNBUSD", "BNB", "USD", ListingStatus.TRADING)
    named = Listing("币安人生USDT", "币安人生", "USDT", ListingStatus.TRADING)
    world.kept.note(BINANCE, {"BNBUSD": odd, "币安人生USDT": named, **listings(*TEN)})
    world.kept.note(BINANCE, listings(*TEN))
    later = world.later()
    assert later.assets("BNBUSD") == ("BNB", "USD")
    assert later.assets("币安人生USDT") == ("币安人生", "USDT")
    assert later.assets("ADAUSDT") is None
    assert "BNB" in later.bases()
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    assert "币安人生USDT" in world.path.read_text(encoding="utf-8")
    assert [path.name for path in world.path.parent.iterdir()] == ["listing.json"]


def test_a_pair_counts_as_listed_for_a_day_after_it_was(world):
    world.kept.note(BINANCE, listings(*TEN))
    world.kept.note(BINANCE, listings(*TEN[1:]))
    world.at += DAY - 1
    assert world.later().recent(BINANCE) == listings(TEN[0])
    assert world.later().recent(HERE) == {}
    world.at += 2
    assert world.later().recent(BINANCE) == {}
    world.kept.note(BINANCE, listings(*TEN))
    assert world.later().recent(BINANCE) == {}


def test_a_much_shorter_answer_is_not_believed_unless_it_stays_so_for_a_day(world):
    world.kept.note(BINANCE, listings(*TEN))
    for _ in range(2):
        with pytest.raises(Incomplete, match="lists 7 pairs, and listed 10"):
            world.later().note(BINANCE, listings(*TEN[:7]))
        assert world.later().recent(BINANCE) == {}
        world.at += DAY // 2
    world.later().note(HERE, listings("OTHERUSDT"))  # another exchange is none of its business
    world.later().note(BINANCE, listings(*TEN[:7]))
    assert set(world.later().recent(BINANCE)) == set(TEN[7:])


def test_after_a_full_answer_the_day_begins_again(world):
    world.kept.note(BINANCE, listings(*TEN))
    for symbols in (TEN[:1], TEN, TEN[:1]):
        world.at += DAY - 1
        try:
            world.kept.note(BINANCE, listings(*symbols))
        except Incomplete:
            assert symbols != TEN
        else:
            assert symbols == TEN


def test_a_simulator_on_this_machine_does_not_change_what_an_exchange_said(world):
    world.kept.note(BINANCE, {"BNBUSD": Listing("BNBUSD", "BNB", "USD", ListingStatus.TRADING)})
    world.kept.note(HERE, {"BNBUSD": Listing("BNBUSD", "BN", "BUSD", ListingStatus.TRADING), **listings("NEWUSDT")})
    assert world.later().assets("BNBUSD") == ("BNB", "USD")
    assert world.later().assets("NEWUSDT") == ("NEW", "USDT")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"symbols": {"BTCUSDT": 1}}', b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_written_again(world, content):
    world.path.write_bytes(content)
    assert world.kept.assets("BTCUSDT") is None
    world.kept.note(BINANCE, listings("BTCUSDT"))
    assert json.loads(world.path.read_bytes())["symbols"]["BTCUSDT"]["base"] == "BTC"


def test_where_there_is_no_folder_none_is_made_unless_that_is_asked_for(tmp_path):
    kept = KeptListing(tmp_path / "data" / "listing.json")
    kept.note(BINANCE, listings("BTCUSDT"))
    assert not (tmp_path / "data").exists()
    assert kept.assets("BTCUSDT") == ("BTC", "USDT")
    kept.write(make_folder=True)
    assert KeptListing(tmp_path / "data" / "listing.json").assets("BTCUSDT") == ("BTC", "USDT")


def test_what_is_the_same_is_not_written_again(world):
    world.kept.note(BINANCE, listings(*TEN))
    before = world.path.stat().st_ino
    world.kept.note(BINANCE, listings(*TEN))
    assert world.path.stat().st_ino == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_file_that_the_system_does_not_let_us_read_is_kept_as_it_is(world, monkeypatch, number):
    world.kept.note(BINANCE, listings("GONEUSDT", *TEN))
    later = world.later()

    def refused(path):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as failing:
        failing.setattr(Path, "read_bytes", refused)
        later.note(BINANCE, listings(*TEN[:2]))
        assert later.assets("GONEUSDT") is None
    assert later.assets("GONEUSDT") == ("GONE", "USDT")
    with pytest.raises(Incomplete, match="lists 2 pairs, and listed 11"):
        later.note(BINANCE, listings(*TEN[:2]))
