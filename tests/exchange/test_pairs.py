"""pairs.py: which pairs are recorded."""

import pytest

from ingester.errors import UnknownPair
from ingester.exchange.pairs import (
    DEFAULT_COINS,
    Listing,
    assets,
    choose,
    choose_watched,
    normal,
    pair_named,
    symbols_of,
)

LISTED = {
    symbol: Listing(symbol, status, symbol[:-4], "USDT")
    for symbol, status in {"BTCUSDT": "TRADING", "ETHUSDT": "TRADING", "EOSUSDT": "BREAK"}.items()
}


@pytest.mark.parametrize("written", ["btcusdt", "BTC-USDT", "btc/usdt", "BTC_USDT", " BTCUSDT "])
def test_a_pair_may_be_written_in_several_ways(written):
    assert normal(written) == "BTCUSDT"


def test_coins_and_quote_make_symbols():
    assert symbols_of(["btc", "ETH"], "usdc") == ["BTCUSDC", "ETHUSDC"]
    assert len(set(DEFAULT_COINS)) == 44


def test_a_named_pair_that_does_not_exist_is_an_error_with_the_nearest_names():
    with pytest.raises(UnknownPair, match=r"'BTCUSTD'.*BTCUSDT"):
        choose(["BTCUSTD", "ETHUSDT"], True, LISTED)


def test_a_named_pair_that_was_delisted_is_left_out_where_it_was_recorded_before():
    choice = choose(["EDUUSDT", "BTCUSDT"], True, LISTED, before={"EDUUSDT"})
    assert choice.symbols == ["BTCUSDT"]
    assert "EDUUSDT" in choice.remarks[0]
    with pytest.raises(UnknownPair, match="BTCUSTD"):
        choose(["BTCUSTD", "EDUUSDT", "BTCUSDT"], True, LISTED, before={"EDUUSDT"})
    with pytest.raises(UnknownPair, match="EDUUSDT"):
        choose(["EDUUSDT"], True, LISTED, before={"EDUUSDT"})


def test_a_named_pair_that_is_halted_stays():
    choice = choose(["EOSUSDT"], True, LISTED)
    assert choice.symbols == ["EOSUSDT"]
    assert "BREAK" in choice.remarks[0]


def test_from_the_default_list_what_does_not_trade_is_skipped_with_one_line():
    choice = choose(["BTCUSDT", "EOSUSDT", "AGIXUSDT", "ETHUSDT"], False, LISTED)
    assert choice.symbols == ["BTCUSDT", "ETHUSDT"]
    (remark,) = choice.remarks
    assert "EOSUSDT" in remark
    assert "AGIXUSDT" in remark


def test_a_pair_named_twice_is_recorded_once():
    assert choose(["BTCUSDT", "BTCUSDT"], True, LISTED).symbols == ["BTCUSDT"]


@pytest.mark.parametrize(
    ("symbol", "both"),
    [
        ("ADAUSDT", ("ADA", "USDT")),
        ("ETHBTC", ("ETH", "BTC")),
        ("BTCFDUSD", ("BTC", "FDUSD")),
        ("USDCTRY", ("USDC", "TRY")),
    ],
)
def test_a_symbol_splits_into_its_assets(symbol, both):
    assert assets(symbol) == both


def test_of_a_file_what_is_no_longer_listed_is_left_out_with_a_word_and_what_is_halted_stays():
    choice = choose_watched(["EOSUSDT", "OLDUSDT", "BTCUSDT"], LISTED)
    assert choice.symbols == ["EOSUSDT", "BTCUSDT"]
    assert "EOSUSDT" in choice.remarks[0]
    assert "OLDUSDT" in choice.remarks[1]
    assert choose_watched(["BTCUSDT"], LISTED) == (["BTCUSDT"], [])


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
