"""What the simulator answers over REST."""

import time

import pytest
from simulated_client import PAIRS, SEED, expected, get

from ingester.simulator import ExchangeLimits, Simulator, synthetic_pair
from ingester.simulator.books import book
from ingester.simulator.rest_answers import SimulatedPair, parse_request


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


def test_futures_exchange_info_lists_contracts_with_their_steps() -> None:
    pairs = [
        "BTCUSDT",
        "BTCUSDT_261225",
        SimulatedPair("ETHUSDT", status="HALT"),
        SimulatedPair("ADAUSDT", status="BREAK"),
    ]
    with Simulator(pairs, seed=SEED) as simulator:
        status, info = get(simulator, "/fapi/v1/exchangeInfo?symbol=BTCUSDT")  # the parameter does not exist there
        spot = get(simulator, "/api/v3/exchangeInfo")[1]
    assert status == 200
    assert [each["symbol"] for each in spot["symbols"]] == ["BTCUSDT", "ETHUSDT", "ADAUSDT"]
    fields = ("symbol", "pair", "contractType", "status", "baseAsset", "quoteAsset")
    assert [tuple(each[field] for field in fields) for each in info["symbols"]] == [
        ("BTCUSDT", "BTCUSDT", "PERPETUAL", "TRADING", "BTC", "USDT"),
        ("BTCUSDT_261225", "BTCUSDT", "CURRENT_QUARTER", "TRADING", "BTC", "USDT"),
        ("ETHUSDT", "ETHUSDT", "PERPETUAL", "TRADING_HALT", "ETH", "USDT"),
        ("ADAUSDT", "ADAUSDT", "PERPETUAL", "SETTLING", "ADA", "USDT"),
    ]
    assert info["symbols"][1]["deliveryDate"] == 1798185600000  # 2026-12-25 08:00 UTC
    filters = {each["filterType"]: each for each in info["symbols"][0]["filters"]}
    assert (filters["PRICE_FILTER"]["tickSize"], filters["LOT_SIZE"]["stepSize"]) == ("0.1", "0.0001")
    assert info["rateLimits"][0]["limit"] == 2400


def test_futures_depth_ticker_and_time(simulator: Simulator) -> None:
    _, depth = get(simulator, "/fapi/v1/depth?symbol=BTCUSDT&limit=5")
    bids, asks = book(SEED, "BTCUSDT", depth["lastUpdateId"], 5, "futures")
    assert (depth["bids"], depth["asks"]) == (list(map(list, bids)), list(map(list, asks)))
    assert abs(depth["E"] / 1000 - time.time()) < 60
    _, tickers = get(simulator, "/fapi/v1/ticker/24hr")
    assert [each["symbol"] for each in tickers] == list(PAIRS)
    assert "bidPrice" not in tickers[0]  # only the spot market gives the best prices here
    assert abs(float(tickers[0]["lastPrice"]) / float(depth["bids"][0][0]) - 1) < 0.01
    assert abs(get(simulator, "/fapi/v1/time")[1]["serverTime"] / 1000 - time.time()) < 60
    assert get(simulator, "/fapi/v1/depth?symbol=BTCUSDT&limit=7")[1]["code"] == -4021
    assert get(simulator, "/fapi/v1/depth?symbol=NOSUCH")[1]["code"] == -1121


def test_requests_beyond_the_weight_of_a_minute_are_refused_on_their_market_only() -> None:
    with Simulator(PAIRS, limits=ExchangeLimits(weight=45)) as simulator:
        statuses = [get(simulator, "/fapi/v1/ticker/24hr")[0] for _ in range(2)]
        if statuses == [200, 200]:  # a new minute began in between
            statuses = [200, get(simulator, "/fapi/v1/ticker/24hr")[0]]
        assert statuses == [200, 429]
        assert get(simulator, "/api/v3/time")[0] == 200


@pytest.mark.parametrize(
    ("url", "weight"),
    [
        ("/fapi/v1/exchangeInfo", 1), ("/fapi/v1/time", 1), ("/fapi/v1/ticker/24hr", 40),
        ("/fapi/v1/ticker/24hr?symbol=A", 1), ("/fapi/v1/depth?symbol=A", 10), ("/fapi/v1/depth?symbol=A&limit=5", 2),
        ("/fapi/v1/depth?symbol=A&limit=1000", 20), ("/api/v3/exchangeInfo", 20), ("/api/v3/ticker/24hr", 80),
        ("/api/v3/depth?symbol=A", 5), ("/api/v3/depth?symbol=A&limit=5000", 250), ("/api/v3/time", 1),
    ],
)  # fmt: skip
def test_requests_weigh_what_the_documentation_says(url: str, weight: int) -> None:
    assert parse_request(url).weight == weight
