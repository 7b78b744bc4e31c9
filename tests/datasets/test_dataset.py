"""dataset.py: the contract to the letter, times as people write them."""

import time
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings, strategies as st

from ingester.clock import SECOND
from ingester.datasets import dataset
from ingester.datasets.recordings import symbol_of
from ingester.errors import SettingsError

NOON = 1_685_620_800 * SECOND  # 2023-06-01 12:00


def test_names_are_those_of_the_contract():
    end = dataset.parse_time("2023-06-03")
    assert dataset.folder_name(NOON, end) == "from_(2023-06-01 12\ua78900)_to_(2023-06-03 00\ua78900)"
    name = "ADA_USDT_100ms_(2023-06-01 12\ua78900)_(2023-06-03 00\ua78900).pkl"
    assert dataset.file_name("ADAUSDT", SECOND // 10, NOON, end, "pkl") == name
    assert dataset.file_name("ETHBTC", SECOND // 4, NOON, end, "csv").startswith("ETH_BTC_250ms_(")
    since = dataset.parse_time("2023-06-01 08:31")
    assert dataset.raw_folder_name(since) == "since_2023-06-01 08\ua78931"
    assert dataset.raw_file_name("ADAUSDT", SECOND // 10, since, 1, "pkl") == (
        "ADA_USDT_100ms_(2023-06-01 08\ua78931)_(1).pkl"
    )


def test_columns_go_bid_by_bid_then_ask_by_ask():
    assert dataset.columns(2) == ["Bid_1", "BidV_1", "Bid_2", "BidV_2", "Ask_1", "AskV_1", "Ask_2", "AskV_2"]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("2023-06-01", NOON - 12 * 3600 * SECOND),
        ("2023-06-01 12:00", NOON),
        ("2023-06-01T12:00:00Z", NOON),
        ("2023-06-01T12:00", NOON),
        ("2023-06-01T14:00:00.25+02:00", NOON + SECOND // 4),
        ("2023-06-01 07:00-0500", NOON),
        (" 2023-06-01 12:00:00.000000001 ", NOON + 1),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(text, ns):
    assert dataset.parse_time(text) == ns


def test_now_is_a_full_second_and_today_a_midnight():
    now = dataset.parse_time("now")
    assert now % SECOND == 0
    assert 0 <= time.time_ns() - now < 60 * SECOND
    assert dataset.parse_time("Today") == now // (86_400 * SECOND) * 86_400 * SECOND


@pytest.mark.parametrize("text", ["yesterday", "2023-13-01", "2023-06-31", "12:00", "2023-06-01 25:00", "", "2023-6-1"])
def test_what_is_no_time_is_named(text):
    with pytest.raises(SettingsError, match="--from"):
        dataset.parse_time(text, "--from")


@given(st.integers(0, 4_000_000_000 * SECOND))
def test_a_time_reads_back_as_what_it_was(ns):
    assert dataset.parse_time(dataset.time_text(ns)) == ns


@settings(max_examples=500)
@given(st.text(min_size=1, max_size=30), st.integers(0, 30))
def test_every_symbol_comes_back_from_its_file_name(symbol, cut):
    with mock.patch.object(dataset, "assets_of", lambda symbol: (symbol[:cut], symbol[cut:])):
        names = [
            dataset.file_name(symbol, SECOND // 10, NOON, NOON + SECOND, "csv"),
            dataset.raw_file_name(symbol, SECOND, NOON, 3, "pkl"),
        ]
    for name in names:
        assert not set(name) & set('/\\\0\n:*?"<>|')
        assert Path(name).name == name
        assert not name.startswith(".")
        if symbol.isprintable():
            assert symbol_of(name) == symbol


@pytest.mark.parametrize(
    ("symbol", "both", "pair"),
    [
        ("ADAUSDT", ("ADA", "USDT"), "ADA_USDT"),
        ("BNBUSD", ("BNB", "USD"), "BNB_USD"),
        ("币安人生USDT", ("币安人生", "USDT"), "币安人生_USDT"),
        ("1000SHIBUSDC", ("1000SHIB", "USDC"), "1000SHIB_USDC"),
        ("BTCUSDT_240628", ("BTC", "USDT"), "BTC_USDT%5F240628"),
        ("BTC/USDT", ("BTC", "USDT"), "BTC_%2FUSDT"),
        ("kPEPEUSDT", ("PEPE", "USDT"), "%6BPEPEUSDT_"),
        ("..", ("..", ""), "%2E%2E_"),
    ],
)
def test_file_names_follow_what_the_exchange_lists_and_stay_unambiguous(monkeypatch, symbol, both, pair):
    monkeypatch.setattr(dataset, "assets_of", {symbol: both}.get)
    assert dataset.file_name(symbol, SECOND // 10, NOON, NOON + SECOND, "csv").startswith(f"{pair}_100ms_(")
    assert dataset.symbol_named(pair) == symbol
