"""supplies.py: what circulates of each coin."""

import pytest

from ingester.errors import ExchangeError, SettingsError
from ingester.exchange.supplies import PRODUCTS, fetch_supplies, read_supplies
from ingester.simulator import Simulator
from ingester.simulator.books import circulating


def test_the_exchange_tells_what_circulates_and_which_tokens_are_leveraged():
    pairs = [f"C{number}USDT" for number in range(40)]
    with Simulator(pairs=[*pairs, "BTCUPUSDT", "C0BTC"], seed=3) as simulator:
        supplies = fetch_supplies(f"{simulator.rest_url}{PRODUCTS}")
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
