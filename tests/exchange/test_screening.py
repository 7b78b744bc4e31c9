"""screening.py: which pairs qualify, and what an exchange's failure must not do."""

import pytest
from hypothesis import given, strategies as st

from ingester.errors import ExchangeError, Incomplete, SettingsError
from ingester.exchange import Listing, ListingStatus, assets_of, simulator_at
from ingester.exchange.screening import (
    SUPPLIES_PATH,
    Criteria,
    Supplies,
    Ticker,
    Verdict,
    amount_text,
    fetch_supplies,
    fetch_tickers,
    parse_amount,
    read_supplies,
    require_moderate,
    screen_pairs,
)
from ingester.simulator import Simulator
from ingester.simulator.books import circulating

FULL = Criteria(min_market_cap=500e6, min_volume=50e6)


def world(**volumes):
    """Listings, tickers at a price of 2, and supplies; a pair's figures are its volume and market cap in millions."""
    listed = {symbol: Listing(symbol, *assets_of(symbol), ListingStatus.TRADING) for symbol in volumes}
    tickers = {symbol: Ticker(symbol, 2.0, volume * 1e6) for symbol, (volume, _) in volumes.items()}
    coins = {assets_of(symbol)[0]: cap * 1e6 / 2 for symbol, (_, cap) in volumes.items() if cap is not None}
    return listed, tickers, Supplies(coins)


def judge(criteria, watched, listed, tickers, supplies):
    return {verdict.symbol: verdict for verdict in screen_pairs(criteria, listed, tickers, supplies, watched)}


def test_what_reaches_every_threshold_qualifies():
    verdicts = judge(FULL, (), *world(BTCUSDT=(900, 9e5), ETHUSDT=(50, 500), ADAUSDT=(49.9, 600), EOSUSDT=(60, 499)))
    assert [symbol for symbol, verdict in verdicts.items() if verdict.wanted] == ["BTCUSDT", "ETHUSDT"]
    assert list(verdicts) == ["BTCUSDT", "EOSUSDT", "ETHUSDT", "ADAUSDT"]  # the most traded first
    assert verdicts["BTCUSDT"].reason == "market cap 900B, volume 900M"
    assert verdicts["ADAUSDT"].reason == "volume 49.9M below 50M"
    assert verdicts["EOSUSDT"].reason == "market cap 499M below 500M"


def test_a_watched_pair_stays_until_it_is_clearly_below():
    figures = world(ADAUSDT=(41, 600), EOSUSDT=(39, 600), BTCUSDT=(900, 401), ETHUSDT=(900, 399))
    verdicts = judge(FULL, list(figures[0]), *figures)
    assert [symbol for symbol, verdict in verdicts.items() if not verdict.wanted] == ["ETHUSDT", "EOSUSDT"]
    assert verdicts["EOSUSDT"].reason == "volume 39M below 40M (80% of 50M)"
    assert not any(verdict.wanted for verdict in judge(FULL, (), *figures).values())


@given(st.lists(st.floats(30, 70), min_size=2, max_size=40))
def test_a_coin_that_moves_within_the_margin_changes_at_most_once(volumes):
    """Between 40 and 50 it stays what it is."""
    watched, changes = False, 0
    for volume in (40 + volume % 9.99 for volume in volumes):
        verdict = judge(Criteria(min_volume=50e6), ["ADAUSDT"] if watched else [], *world(ADAUSDT=(volume, 1)))
        changes += verdict["ADAUSDT"].wanted != watched
        watched = verdict["ADAUSDT"].wanted
    assert changes == 0


def test_what_is_not_known_brings_nothing_in_and_removes_nothing():
    listed, tickers, supplies = world(
        BTCUSDT=(900, 9e5), ETHUSDT=(900, None), **{f"C{number}USDT": (1, 1) for number in range(20)}
    )
    del tickers["C1USDT"]
    new, old = (judge(FULL, watched, listed, tickers, supplies) for watched in ((), ["ETHUSDT", "C1USDT"]))
    assert (new["ETHUSDT"].wanted, new["ETHUSDT"].reason) == (False, "market cap unknown")
    assert not new["C1USDT"].wanted
    assert old["ETHUSDT"].wanted
    assert old["C1USDT"].wanted


def test_what_does_not_trade_or_hardly_moves_is_left_out():
    listed, tickers, supplies = world(
        **dict.fromkeys(["BTCUSDT", "USDCUSDT", "BTCUPUSDT", "JUPUSDT", "SYRUPUSDT", "X3LUSDT", "EOSUSDT"], (900, 9e5))
    )
    listed["EOSUSDT"] = Listing("EOSUSDT", "EOS", "USDT", ListingStatus.HALT)
    supplies = supplies._replace(leveraged=frozenset(["X3LUSDT"]))
    verdicts = judge(FULL, (), listed, tickers, supplies)
    assert {symbol for symbol, verdict in verdicts.items() if verdict.wanted} == {"BTCUSDT", "JUPUSDT", "SYRUPUSDT"}
    everything = judge(FULL._replace(stablecoins=True, leveraged=True), (), listed, tickers, supplies)
    assert {symbol for symbol, verdict in everything.items() if not verdict.wanted} == {"EOSUSDT"}


def test_a_halted_pair_stays_one_that_is_gone_for_good_does_not():
    listed, tickers, supplies = world(BTCUSDT=(900, 9e5), EOSUSDT=(900, 9e5), XMRUSDT=(900, 9e5))
    listed["EOSUSDT"] = Listing("EOSUSDT", "EOS", "USDT", ListingStatus.HALT)
    listed["XMRUSDT"] = Listing("XMRUSDT", "XMR", "USDT", ListingStatus.BREAK)
    verdicts = judge(FULL, ["EOSUSDT", "XMRUSDT", "OLDUSDT", "OLDBTC"], listed, tickers, supplies)
    assert {symbol: verdict.reason for symbol, verdict in verdicts.items() if not verdict.wanted} == {
        "XMRUSDT": "does not trade (BREAK)",
        "OLDUSDT": "the exchange no longer lists it",
    }
    assert verdicts["EOSUSDT"].wanted
    assert "OLDBTC" not in verdicts  # another quote is not judged


def test_coins_that_are_to_be_kept_are():
    verdicts = judge(FULL._replace(keep=frozenset(["EDU", "SUI"])), ["EDUUSDT"], *world(EDUUSDT=(1, 1), SUIUSDT=(1, 1)))
    assert verdicts["EDUUSDT"].wanted
    assert verdicts["EDUUSDT"].reason.startswith("kept, though market cap 1M below")
    assert not verdicts["SUIUSDT"].wanted


def test_an_answer_that_lacks_what_it_should_hold_is_refused():
    listed, tickers, supplies = world(**{f"C{number}USDT": (900, 9e5) for number in range(20)})
    few = dict(list(tickers.items())[:17])
    halted = {symbol: Listing(symbol, *assets_of(symbol), ListingStatus.BREAK) for symbol in listed}
    for wrong in (
        ({}, tickers, supplies),
        (halted, tickers, supplies),
        (listed, {}, supplies),
        (listed, few, supplies),
        (listed, tickers, Supplies({})),
    ):
        with pytest.raises(Incomplete):
            screen_pairs(FULL, *wrong, listed)
    assert len(screen_pairs(Criteria(min_volume=1.0), listed, tickers, Supplies({}), listed)) == 20


def test_a_quote_in_which_nothing_trades_is_an_error_that_names_others():
    with pytest.raises(SettingsError, match=r"'USDX'.*USDT"):
        screen_pairs(FULL._replace(quote="USDX"), *world(BTCUSDT=(1, 1)), ())


def test_a_repetition_does_not_remove_most_of_the_list():
    def verdicts(gone):
        return [Verdict(f"C{number}USDT", True, number >= gone, "") for number in range(10)]

    require_moderate([*verdicts(5), Verdict("NEWUSDT", False, False, "")])
    with pytest.raises(ExchangeError, match="6 of 10"):
        require_moderate(verdicts(6))
    require_moderate([])


@pytest.mark.parametrize(
    ("text", "value"), [("500M", 5e8), ("1.5B", 1.5e9), ("2k", 2e3), ("750_000", 7.5e5), ("1 t", 1e12), ("0", 0)]
)
def test_amounts_may_be_short(text, value):
    assert parse_amount(text, "--min-volume") == value


@pytest.mark.parametrize("text", ["", "M", "50X", "-5M", "1,5B", "nan", "1e9", "5MM"])
def test_other_amounts_are_refused_with_an_example(text):
    with pytest.raises(SettingsError, match=r"--min-volume '.*1\.5B"):
        parse_amount(text, "--min-volume")


def test_amounts_are_shown_to_three_digits():
    shown = [amount_text(value) for value in (None, 0.0, 12.0, 999.96, 1999.0, 49.94e6, 999_960_000.0, 1.234e9, 5e12)]
    assert shown == ["?", "0", "12", "1k", "2k", "49.9M", "1B", "1.23B", "5T"]


def test_figures_come_from_the_exchange():
    with Simulator(pairs=["BTCUSDT", "ETHBTC"]) as simulator:
        tickers = fetch_tickers(simulator_at(simulator.stream_url, simulator.rest_url))
    assert tickers.keys() == {"BTCUSDT", "ETHBTC"}
    assert tickers["BTCUSDT"].price > 1000 > tickers["ETHBTC"].price > 0
    assert tickers["BTCUSDT"].volume > 1e5


def test_the_exchange_tells_what_circulates_and_which_tokens_are_leveraged():
    pairs = [f"C{number}USDT" for number in range(40)]
    with Simulator(pairs=[*pairs, "BTCUPUSDT", "C0BTC"], seed=3) as simulator:
        supplies = fetch_supplies(f"{simulator.rest_url}{SUPPLIES_PATH}")
        with pytest.raises(ExchangeError):
            fetch_supplies(f"{simulator.rest_url}/elsewhere")
    expected = {f"C{number}": circulating(3, f"C{number}") for number in range(40)}
    assert None in expected.values()
    known = {coin: supply for coin, supply in expected.items() if supply is not None}
    assert {coin: supply for coin, supply in supplies.coins.items() if coin != "BTCUP"} == known
    assert supplies.leveraged == {"BTCUPUSDT"}


def test_a_file_can_stand_in(tmp_path):
    path = tmp_path / "supplies.csv"
    path.write_text("\ufeffrank,coin,circulating_supply\n1,btc,19_700_000\n\n2,ETH,1.2e8\n", encoding="utf-8")
    assert fetch_supplies(str(path)).coins == {"BTC": 19.7e6, "ETH": 1.2e8}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("BTC,1\n", "coin,circulating_supply"),
        ("coin,circulating_supply\nBTC,1\nETH,many\n", "line 3.*ETH,many"),
        ("coin,circulating_supply\nBTC\n", "line 2"),
        ("coin,circulating_supply\nBTC,-1\n", "line 2"),
        ("coin,circulating_supply\nBTC,inf\n", "line 2"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(tmp_path, text, words):
    path = tmp_path / "supplies.csv"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words):
        read_supplies(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.csv"):
        fetch_supplies(str(tmp_path / "none.csv"))
