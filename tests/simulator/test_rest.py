"""What the simulator answers over REST."""

import time

import pytest
from simulated_client import PAIRS, SEED, expected, get

from ingester.simulator import SimulatedPair, Simulator, synthetic_pair


def test_exchange_info_lists_pairs_with_assets_and_state(simulator: Simulator) -> None:
    status, info = get(simulator, "/api/v3/exchangeInfo")
    assert status == 200
    assert [(each["symbol"], each["status"], each["baseAsset"], each["quoteAsset"]) for each in info["symbols"]] == [
        ("BTCUSDT", "TRADING", "BTC", "USDT"),
        ("ETHUSDT", "BREAK", "ETH", "USDT"),
        ("ADAUSDT", "TRADING", "ADA", "USDT"),
    ]
    filters = {each["filterType"]: each for each in info["symbols"][0]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"


@pytest.mark.parametrize("question", ["symbol=ADAUSDT", "symbols=%5B%22ADAUSDT%22%5D"])
def test_exchange_info_can_be_asked_for_some_symbols(simulator: Simulator, question: str) -> None:
    _, info = get(simulator, f"/api/v3/exchangeInfo?{question}")
    assert [each["symbol"] for each in info["symbols"]] == ["ADAUSDT"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v3/exchangeInfo?symbol=NOSUCH", 400, -1121),
        ("/api/v3/exchangeInfo?symbols=[%22NOSUCH%22]", 400, -1121),
        ("/api/v3/ticker/24hr?symbol=NOSUCH", 400, -1121),
        ("/api/v3/depth?symbol=NOSUCH", 400, -1121),
        ("/api/v3/depth", 400, -1102),
        ("/api/v3/depth?symbol=BTCUSDT&limit=x", 400, -1100),
        ("/api/v3/nothing", 404, -1000),
    ],
)
def test_bad_rest_requests_get_binance_errors(simulator: Simulator, path: str, status: int, code: int) -> None:
    got, error = get(simulator, path)
    assert (got, error["code"]) == (status, code)


def test_depth_is_the_book_of_the_stream(simulator: Simulator) -> None:
    _, depth = get(simulator, "/api/v3/depth?symbol=BTCUSDT&limit=7")
    assert expected("BTCUSDT", depth, 7)
    assert abs(depth["lastUpdateId"] // synthetic_pair(SEED, "BTCUSDT").stride - time.time() * 10) < 600


def test_tickers_ping_and_time(simulator: Simulator) -> None:
    _, tickers = get(simulator, "/api/v3/ticker/24hr")
    assert [each["symbol"] for each in tickers] == list(PAIRS)
    assert all(float(each["quoteVolume"]) > 0 for each in tickers)
    assert get(simulator, "/api/v3/ticker/24hr?symbol=ADAUSDT")[1]["symbol"] == "ADAUSDT"
    assert get(simulator, "/api/v3/ping") == (200, {})
    assert abs(get(simulator, "/api/v3/time")[1]["serverTime"] / 1000 - time.time()) < 60


def test_the_list_of_a_whole_exchange_arrives_complete() -> None:
    pairs = [f"C{number}USDT" for number in range(3000)]
    with Simulator(pairs) as simulator:
        assert [each["symbol"] for each in get(simulator, "/api/v3/exchangeInfo")[1]["symbols"]] == pairs


def test_assets_can_be_named() -> None:
    with Simulator([SimulatedPair("ABC", ("A", "BC"))]) as simulator:
        symbol = get(simulator, "/api/v3/exchangeInfo")[1]["symbols"][0]
    assert (symbol["baseAsset"], symbol["quoteAsset"]) == ("A", "BC")
