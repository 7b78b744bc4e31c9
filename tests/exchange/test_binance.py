"""binance.py: what frames say, and what is sent."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingester.exchange import binance


def test_a_wrapped_partial_book_decodes_to_floats_exactly():
    payload = (
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":160,'
        b'"bids":[["0.00000001","10.10000000"]],"asks":[["61800.20","4.868"],["61800.30","0.817"]]}}'
    )
    assert binance.decode(payload) == binance.Book(
        "btcusdt@depth5@100ms", 160, [(1e-8, 10.1)], [(61800.2, 4.868), (61800.3, 0.817)]
    )


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"result":null,"id":7}', binance.Acknowledged(7)),
        (b'{"result":["a@depth5"],"id":8}', binance.Acknowledged(8)),
        (b'{"error":{"code":2,"msg":"bad"},"id":3}', binance.Refused(3, 2, "bad")),
        (b'{"code":-1121,"msg":"Invalid symbol."}', binance.Refused(None, -1121, "Invalid symbol.")),
        (b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":12}}', binance.ShuttingDown(12)),
        (b'{"e":"serverShutdown","E":12}', binance.ShuttingDown(12)),
    ],
)
def test_answers_are_told_from_data(payload, expected):
    assert binance.decode(payload) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":160,"bids":[["1.0","2.0"',
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":"x","bids":[],"asks":[]}}',
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":1,"bids":[["1.0"]],"asks":[]}}',
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":1,"bids":[["abc","1"]],"asks":[]}}',
    ],
)
def test_what_is_no_book_is_malformed_and_kept(payload):
    message = binance.decode(payload)
    assert isinstance(message, binance.Malformed)
    assert message.payload == payload


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_decoding_never_raises(payload):
    binance.decode(payload)


def test_a_crossed_book_is_a_fault_and_thin_or_empty_ones_are_not():
    level, higher = (100.0, 1.0), (101.0, 1.0)
    assert binance.fault_in(binance.Book("s", 1, [level], [higher])) is None
    assert "crossed" in str(binance.fault_in(binance.Book("s", 1, [higher], [level])))
    assert "crossed" in str(binance.fault_in(binance.Book("s", 1, [level], [level])))
    assert binance.fault_in(binance.Book("s", 1, [], [level])) is None
    assert binance.fault_in(binance.Book("s", 1, [], [])) is None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_number_that_is_no_price_or_quantity_is_a_fault(number):
    assert binance.fault_in(binance.Book("s", 1, [(number, 1.0)], [])) is not None
    assert binance.fault_in(binance.Book("s", 1, [], [(1.0, number)])) is not None


def test_a_full_connection_is_subscribed_within_the_message_limit():
    streams = [binance.stream_name(f"COIN{i}USDT", 20) for i in range(binance.STREAMS_PER_CONNECTION)]
    messages = binance.requests("SUBSCRIBE", streams, 5)
    assert [request for request, _ in messages] == list(range(5, 5 + len(messages)))
    assert len(messages) < binance.MESSAGES_PER_SECOND
    decoded = [json.loads(text) for _, text in messages]
    assert [name for message in decoded for name in message["params"]] == streams
    assert {message["method"] for message in decoded} == {"SUBSCRIBE"}


def test_the_refused_region_is_told_with_presets_that_may_work():
    text = binance.region_refused("binance", "https://api.binance.com")
    assert "--exchange binance-us" in text
    assert "--exchange binance-vision" in text
    assert "--exchange binance," not in text
