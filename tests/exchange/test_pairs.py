"""pairs.py: which pairs are recorded."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from small_servers import Answering

from ingester.datasets import dataset
from ingester.errors import Incomplete, UnknownPair
from ingester.exchange import Listing, ListingStatus, pairs, simulator_at
from ingester.exchange.pairs import (
    DEFAULT_COINS,
    KeptListing,
    assets_of,
    choose_pairs,
    choose_watched_pairs,
    listed_symbols,
    normal_symbol,
    pair_named,
    symbols_of,
)

LISTED = {
    symbol: Listing(symbol, symbol[:-4], "USDT", ListingStatus(status))
    for symbol, status in {"BTCUSDT": "TRADING", "ETHUSDT": "TRADING", "EOSUSDT": "BREAK"}.items()
}


@pytest.mark.parametrize("written", ["btcusdt", "BTC-USDT", "btc/usdt", "BTC_USDT", " BTCUSDT "])
def test_a_pair_may_be_written_in_several_ways(written):
    assert normal_symbol(written) == "BTCUSDT"


def test_coins_and_quote_make_symbols():
    assert symbols_of(["btc", "ETH"], "usdc") == ["BTCUSDC", "ETHUSDC"]
    assert len(set(DEFAULT_COINS)) == 44


def test_a_named_pair_that_does_not_exist_is_an_error_with_the_nearest_names():
    with pytest.raises(UnknownPair, match=r"'BTCUSTD'.*BTCUSDT"):
        choose_pairs(["BTCUSTD", "ETHUSDT"], True, LISTED)


def test_a_named_pair_that_was_delisted_is_left_out_where_it_was_recorded_before():
    choice = choose_pairs(["EDUUSDT", "BTCUSDT"], True, LISTED, before={"EDUUSDT"})
    assert choice.symbols == ["BTCUSDT"]
    assert "EDUUSDT" in choice.remarks[0]
    with pytest.raises(UnknownPair, match="BTCUSTD"):
        choose_pairs(["BTCUSTD", "EDUUSDT", "BTCUSDT"], True, LISTED, before={"EDUUSDT"})
    with pytest.raises(UnknownPair, match="EDUUSDT"):
        choose_pairs(["EDUUSDT"], True, LISTED, before={"EDUUSDT"})


def test_a_named_pair_that_is_halted_stays():
    choice = choose_pairs(["EOSUSDT"], True, LISTED)
    assert choice.symbols == ["EOSUSDT"]
    assert "BREAK" in choice.remarks[0]


def test_from_the_default_list_what_does_not_trade_is_skipped_with_one_line():
    choice = choose_pairs(["BTCUSDT", "EOSUSDT", "AGIXUSDT", "ETHUSDT"], False, LISTED)
    assert choice.symbols == ["BTCUSDT", "ETHUSDT"]
    (remark,) = choice.remarks
    assert "EOSUSDT" in remark
    assert "AGIXUSDT" in remark


def test_a_pair_named_twice_is_recorded_once():
    assert choose_pairs(["BTCUSDT", "BTCUSDT"], True, LISTED).symbols == ["BTCUSDT"]


@pytest.mark.parametrize(
    ("symbol", "both"),
    [
        ("ADAUSDT", ("ADA", "USDT")),
        ("ETHBTC", ("ETH", "BTC")),
        ("BTCFDUSD", ("BTC", "FDUSD")),
        ("USDCTRY", ("USDC", "TRY")),
        ("BNBUSD", ("BNB", "USD")),
        ("DOTUSD", ("DOT", "USD")),
        ("FETUSD", ("FET", "USD")),
        ("SHIBUSD", ("SHIB", "USD")),
        ("BATUSD", ("BAT", "USD")),
        ("USDTUSD", ("USDT", "USD")),
        ("ADATUSD", ("ADA", "TUSD")),
        ("BTCU", ("BTC", "U")),
        ("IDUSDT", ("ID", "USDT")),
        ("币安人生USDT", ("币安人生", "USDT")),
    ],
)
def test_a_symbol_splits_into_its_assets(symbol, both):
    assert assets_of(symbol) == both


def test_of_a_file_what_is_no_longer_listed_is_left_out_with_a_word_and_what_is_halted_stays():
    choice = choose_watched_pairs(["EOSUSDT", "OLDUSDT", "BTCUSDT"], LISTED)
    assert choice.symbols == ["EOSUSDT", "BTCUSDT"]
    assert "EOSUSDT" in choice.remarks[0]
    assert "OLDUSDT" in choice.remarks[1]
    assert choose_watched_pairs(["BTCUSDT"], LISTED) == (["BTCUSDT"], [])


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("btc", LISTED, "BTCUSDT"),
        ("BTC/USDT", LISTED, "BTCUSDT"),
        ("ETHBTC", {"ETHBTC": None, "ETHBTCUSDT": None}, "ETHBTC"),
        ("NEW", LISTED, "NEWUSDT"),
        ("SUI", {}, "SUIUSDT"),
        ("SUIUSDT", {}, "SUIUSDT"),
        ("ETHBTC", {}, "ETHBTC"),
        ("WBTC", {}, "WBTCUSDT"),
        ("NEW-EUR", {}, "NEWEUR"),
        ("USDT", {}, "USDTUSDT"),
    ],
)
def test_a_name_is_a_pair_or_a_coin_whichever_is_known_or_likelier(name, known, meant):
    assert pair_named(name, "USDT", known) == meant


@pytest.fixture
def answers(tmp_path):
    """A server that gives the next of these texts to each question; the last one again and again."""
    answers = []

    def answer(path):
        return (answers.pop(0) if len(answers) > 1 else answers[0]).encode()

    pairs.keep_listings_in(tmp_path)
    with Answering(answer) as server:
        yield answers, simulator_at("ws://127.0.0.1:1", server.url).at(name="tried")
    pairs.keep_listings_in(tmp_path / "nowhere")


def entry(symbol, base, quote, **others):
    return {"symbol": symbol, "status": "TRADING", "baseAsset": base, "quoteAsset": quote} | others


def info(*entries):
    return json.dumps({"symbols": list(entries)})


BNB, ETH, BTC = entry("BNBUSD", "BNB", "USD"), entry("ETHUSDT", "ETH", "USDT"), entry("BTCU", "B", "TCU")


def test_base_and_quote_are_what_the_exchange_lists_in_file_names_too(answers, tmp_path):
    texts, exchange = answers
    texts.append(info(BNB, BTC, entry("币安人生U", "币安", "人生U")))
    pairs.fetch_listings(exchange)
    for _ in range(2):  # in this process, and in one that reads the file
        assert assets_of("BTCU") == ("B", "TCU")
        assert assets_of("币安人生U") == ("币安", "人生U")
        assert dataset.file_name("BTCU", 10**8, 0, 1, "pkl").startswith("B_TCU_")
        assert dataset.raw_file_name("BNBUSD", 10**8, 0, 1, "pkl").startswith("BNB_USD_")
        pairs.keep_listings_in(tmp_path)


@pytest.mark.parametrize(
    "odd",
    [
        {"symbol": "XUSDT", "baseAsset": "X", "quoteAsset": "USDT"},
        entry("XUSDT", "X", "USDT", status=None),
        entry("", "X", "USDT"),
        entry(7, "X", "USDT"),
        entry("XUSDT", ["X"], {}),
        None,
        [],
        "XUSDT",
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out_alone(answers, caplog, odd):
    texts, exchange = answers
    texts.append(info(BNB, odd, ETH))
    assert set(pairs.fetch_listings(exchange)) == {"BNBUSD", "ETHUSDT"}
    assert "1 of 3 pairs" in caplog.text


def test_a_short_answer_at_a_start_drops_no_pair_that_was_listed_lately(answers, caplog):
    texts, exchange = answers
    many = [entry(f"C{number}USDT", f"C{number}", "USDT") for number in range(10)]
    full, partial, short, empty = info(ETH, *many), info(*many), info(BNB), info()
    wanted = ["ETHUSDT", "C1USDT"]

    def started(*now, by_user):
        texts[:] = now
        return listed_symbols(
            exchange, wanted, lambda listed: choose_pairs(wanted, by_user, listed), stream_url_given=False
        )

    assert started(full, by_user=True) == wanted
    for by_user in (True, False):
        for answer in (partial, short, empty):
            assert started(answer, by_user=by_user) == wanted
    for words in ("not listed now, but still recorded", "lists 1 pairs, and listed", "lists no pairs at all"):
        assert words in caplog.text


@pytest.mark.parametrize(
    "name", ["BTCUSDT", "btc/usdt", "币安人生USDT", "हिन्दीUSDT", "ไทยUSDT", "🐶USDT", "1INCH", "BTCUSDT_261225"]
)
def test_names_of_any_script_are_names(name):
    assert pairs.is_pair_name(name)


@pytest.mark.parametrize(
    "name", ["", "-", "BTC,ETH", "BTC\x00", "BTC\n", "[red]", "BTC\u202e", "../x", "BTC'", "../x_261225"]
)
def test_what_is_no_name_of_a_pair(name):
    assert not pairs.is_pair_name(name)


BINANCE, HERE = "https://api.binance.com", "http://127.0.0.1:9443"
DAY = 86_400


def listed_as(*symbols, status=ListingStatus.TRADING):
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
    world.kept.note(BINANCE, {"BNBUSD": odd, "币安人生USDT": named, **listed_as(*TEN)})
    world.kept.note(BINANCE, listed_as(*TEN))
    later = world.later()
    assert later.assets("BNBUSD") == ("BNB", "USD")
    assert later.assets("币安人生USDT") == ("币安人生", "USDT")
    assert later.assets("ADAUSDT") is None
    assert "BNB" in later.bases()
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    assert "币安人生USDT" in world.path.read_text(encoding="utf-8")
    assert [path.name for path in world.path.parent.iterdir()] == ["listing.json"]


def test_a_pair_counts_as_listed_for_a_day_after_it_was(world):
    world.kept.note(BINANCE, listed_as(*TEN))
    world.kept.note(BINANCE, listed_as(*TEN[1:]))
    world.at += DAY - 1
    assert world.later().recent(BINANCE) == listed_as(TEN[0])
    assert world.later().recent(HERE) == {}
    world.at += 2
    assert world.later().recent(BINANCE) == {}
    world.kept.note(BINANCE, listed_as(*TEN))
    assert world.later().recent(BINANCE) == {}


def test_a_much_shorter_answer_is_not_believed_unless_it_stays_so_for_a_day(world):
    world.kept.note(BINANCE, listed_as(*TEN))
    for _ in range(2):
        with pytest.raises(Incomplete, match="lists 7 pairs, and listed 10"):
            world.later().note(BINANCE, listed_as(*TEN[:7]))
        assert world.later().recent(BINANCE) == {}
        world.at += DAY // 2
    world.later().note(HERE, listed_as("OTHERUSDT"))  # another exchange is none of its business
    world.later().note(BINANCE, listed_as(*TEN[:7]))
    assert set(world.later().recent(BINANCE)) == set(TEN[7:])


def test_after_a_full_answer_the_day_begins_again(world):
    world.kept.note(BINANCE, listed_as(*TEN))
    for symbols in (TEN[:1], TEN, TEN[:1]):
        world.at += DAY - 1
        try:
            world.kept.note(BINANCE, listed_as(*symbols))
        except Incomplete:
            assert symbols != TEN
        else:
            assert symbols == TEN


def test_a_simulator_on_this_machine_does_not_change_what_an_exchange_said(world):
    world.kept.note(BINANCE, {"BNBUSD": Listing("BNBUSD", "BNB", "USD", ListingStatus.TRADING)})
    world.kept.note(HERE, {"BNBUSD": Listing("BNBUSD", "BN", "BUSD", ListingStatus.TRADING), **listed_as("NEWUSDT")})
    assert world.later().assets("BNBUSD") == ("BNB", "USD")
    assert world.later().assets("NEWUSDT") == ("NEW", "USDT")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"symbols": {"BTCUSDT": 1}}', b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_written_again(world, content):
    world.path.write_bytes(content)
    assert world.kept.assets("BTCUSDT") is None
    world.kept.note(BINANCE, listed_as("BTCUSDT"))
    assert json.loads(world.path.read_bytes())["sources"][BINANCE]["symbols"]["BTCUSDT"]["base"] == "BTC"


def test_where_there_is_no_folder_none_is_made_unless_that_is_asked_for(tmp_path):
    kept = KeptListing(tmp_path / "data" / "listing.json")
    kept.note(BINANCE, listed_as("BTCUSDT"))
    assert not (tmp_path / "data").exists()
    assert kept.assets("BTCUSDT") == ("BTC", "USDT")
    kept.write(make_folder=True)
    assert KeptListing(tmp_path / "data" / "listing.json").assets("BTCUSDT") == ("BTC", "USDT")


def test_what_is_the_same_is_not_written_again(world):
    world.kept.note(BINANCE, listed_as(*TEN))
    before = world.path.stat().st_ino
    world.kept.note(BINANCE, listed_as(*TEN))
    assert world.path.stat().st_ino == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_file_that_the_system_does_not_let_us_read_is_kept_as_it_is(world, monkeypatch, number):
    world.kept.note(BINANCE, listed_as("GONEUSDT", *TEN))
    later = world.later()

    def refused(path):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as failing:
        failing.setattr(Path, "read_bytes", refused)
        later.note(BINANCE, listed_as(*TEN[:2]))
        assert later.assets("GONEUSDT") is None
    assert later.assets("GONEUSDT") == ("GONE", "USDT")
    with pytest.raises(Incomplete, match="lists 2 pairs, and listed 11"):
        later.note(BINANCE, listed_as(*TEN[:2]))


def test_two_exchanges_that_list_the_same_symbol_are_kept_apart(world):
    futures = "https://fapi.binance.com"
    world.kept.note(BINANCE, listed_as(*TEN))
    world.kept.note(futures, listed_as(*TEN))
    world.kept.note(BINANCE, listed_as(*TEN[1:]))
    assert set(world.later().recent(BINANCE)) == {TEN[0]}
    assert world.later().recent(futures) == {}


def test_a_file_of_an_earlier_version_is_taken_over(world):
    world.path.write_text(
        json.dumps(
            {
                "sources": {BINANCE: {"pairs": 10, "short_since": None}},
                "symbols": {
                    "BNBUSD": {"status": "BREAK", "base": "BNB", "quote": "USD", "source": BINANCE, "gone_since": 990.0}
                },
            }
        )
    )
    assert world.kept.assets("BNBUSD") == ("BNB", "USD")
    assert set(world.kept.recent(BINANCE)) == {"BNBUSD"}
    with pytest.raises(Incomplete):
        world.kept.note(BINANCE, listed_as(*TEN[:2]))
    world.kept.note(BINANCE, listed_as(*TEN))
    assert world.later().assets("BNBUSD") == ("BNB", "USD")
