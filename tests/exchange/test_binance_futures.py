"""binance_futures.py: what frames of the futures market say, and what is sent."""

import json

import pytest
from hypothesis import given, strategies as st

from ingester.exchange import VENUES, Acknowledged, Book, Listing, ListingStatus, Malformed, Method, ShuttingDown

VENUE = VENUES["binance-futures"]
FRAME = (
    b'{"stream":"btcusdt_261225@depth5@100ms","data":{"e":"depthUpdate","E":1571889248277,"T":1571889248276,'
    b'"s":"BTCUSDT_261225","U":390497796,"u":390497878,"pu":390497794,'
    b'"b":[["7403.89","0.002"],["7403.90","3.906"]],"a":[["7405.96","3.340"]]}}'
)


def decoded(payload):
    """What one frame says."""
    (message,) = VENUE.books.decode([payload])
    return message


def test_a_partial_book_has_the_exchanges_own_time_and_its_last_update_id():
    name = b"btcusdt_261225@depth5@100ms"
    assert decoded(FRAME) == Book(
        name, 390497878, [(7403.89, 0.002), (7403.90, 3.906)], [(7405.96, 3.34)], 1_571_889_248_277_000_000
    )
    assert VENUE.books.peek(FRAME) == (name, 390497796, 390497878)
    assert VENUE.books.salvage(FRAME[:200]) == (name, 390497878)


def test_what_is_no_partial_book_is_told_apart():
    assert decoded(b'{"result":null,"id":7}') == Acknowledged(7)
    assert decoded(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":12}}') == ShuttingDown()
    for payload in (FRAME.replace(b"depthUpdate", b"trade"), FRAME[:150], FRAME.replace(b"390497878", b"-1"), b"[]"):
        assert VENUE.books.peek(payload) is None or payload == FRAME[:150]
        assert isinstance(decoded(payload), Malformed)
    spot = b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":160,"bids":[],"asks":[]}}'
    assert VENUE.books.peek(spot) is None
    assert isinstance(decoded(spot), Malformed)


@pytest.mark.parametrize("time", [b"0", b"-5", b"9223372036854775807", b'"soon"', b"1.5"])
def test_a_time_that_is_none_makes_a_frame_malformed(time):
    assert isinstance(decoded(FRAME.replace(b"1571889248277", time)), Malformed)


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_no_frame_raises(payload):
    decoded(payload)
    VENUE.books.peek(payload)
    VENUE.books.salvage(payload)


@pytest.mark.parametrize(
    ("symbol", "interval_ms", "name"),
    [
        ("BTCUSDT", 100, "btcusdt@depth5@100ms"),
        ("BTCUSDT", 250, "btcusdt@depth5"),
        ("BTCUSDT_261225", 500, "btcusdt_261225@depth5@500ms"),
    ],
)
def test_stream_names(symbol, interval_ms, name):
    assert VENUE.books.stream_name(symbol, 5, interval_ms) == name


def test_of_the_offered_intervals_the_longest_that_fits_is_subscribed():
    channel = VENUE.books
    assert [channel.interval_of(each) for each in (100, 200, 250, 300, 500, 750, 1000)] == [
        100, 100, 250, 100, 500, 250, 500,
    ]  # fmt: skip
    assert channel.interval_of(50) is channel.interval_of(125) is None


def test_addresses_and_requests():
    assert VENUE.connection_url == "wss://fstream.binance.com/public/stream"
    assert VENUE.at(stream_url="ws://127.0.0.1:9/public/stream").connection_url == "ws://127.0.0.1:9/public/stream"
    (request,) = VENUE.requests(Method.UNSUBSCRIBE, ["btcusdt@depth5"], 3)
    assert json.loads(request.text) == {"method": "UNSUBSCRIBE", "params": ["btcusdt@depth5"], "id": 3}
    assert VENUE.rest_address(VENUE.server_time) == "https://fapi.binance.com/fapi/v1/time"
    snapshot = VENUE.depth_snapshot("BTCUSDT_261225", 60)
    assert (snapshot.path, snapshot.weight) == ("/fapi/v1/depth?symbol=BTCUSDT_261225&limit=100", 5)
    body = b'{"lastUpdateId":1027024,"E":1589436922972,"T":1589436922959,"bids":[["4.0","431.0"]],"asks":[]}'
    assert snapshot.decode(body) == Book(b"", 1027024, [(4.0, 431.0)], [], 1_589_436_922_972_000_000)


def test_listings_have_assets_states_and_steps():
    body = {
        "symbols": [
            {
                "symbol": "BTCUSDT_261225",
                "contractType": "CURRENT_QUARTER",
                "deliveryDate": 1_798_185_600_000,
                "status": "TRADING",
                "baseAsset": "BTC",
                "quoteAsset": "USDT",
                "filters": [
                    {"filterType": "PRICE_FILTER", "tickSize": "0.10", "minPrice": "1"},
                    {"filterType": "LOT_SIZE", "stepSize": "0.001"},
                    {"filterType": "MAX_NUM_ORDERS", "limit": 200},
                ],
            },
            {"symbol": "ETHUSDT", "status": "DELIVERING", "baseAsset": "ETH", "quoteAsset": "USDT"},
            {"symbol": "NEWUSDT", "status": "PENDING_TRADING", "baseAsset": "NEW", "quoteAsset": "USDT"},
            {"symbol": "ODDUSDT", "status": "A_NEW_WORD", "baseAsset": "ODD", "quoteAsset": "USDT", "filters": 7},
            {"symbol": "XUSDT"},
        ]
    }
    assert VENUE.listings.decode(json.dumps(body).encode()) == [
        Listing("BTCUSDT_261225", "BTC", "USDT", ListingStatus.TRADING, 0.1, 0.001),
        Listing("ETHUSDT", "ETH", "USDT", ListingStatus.CLOSED),
        Listing("NEWUSDT", "NEW", "USDT", ListingStatus.PENDING),
        Listing("ODDUSDT", "ODD", "USDT", ListingStatus.UNKNOWN),
        None,
    ]
