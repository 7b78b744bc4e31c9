"""binance_spot.py: what frames say, and what is sent."""

import json

import pytest
from hypothesis import given, strategies as st

from ingester.exchange import (
    VENUES,
    Acknowledged,
    Book,
    Malformed,
    Method,
    Refused,
    ShuttingDown,
    binance,
    binance_spot,
    region_refused,
)

VENUE = VENUES["binance"]


def decoded(payload):
    """What one frame says."""
    (message,) = VENUE.books.decode([payload])
    return message


def test_a_wrapped_partial_book_decodes_to_floats_exactly():
    payload = (
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":160,'
        b'"bids":[["0.00000001","10.10000000"]],"asks":[["61800.20","4.868"],["61800.30","0.817"]]}}'
    )
    assert decoded(payload) == Book(b"btcusdt@depth5@100ms", 160, [(1e-8, 10.1)], [(61800.2, 4.868), (61800.3, 0.817)])
    assert VENUE.books.peek(payload) == (b"btcusdt@depth5@100ms", 160, 160)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"result":null,"id":7}', Acknowledged(7)),
        (b'{"result":["a@depth5"],"id":8}', Acknowledged(8)),
        (b'{"error":{"code":2,"msg":"bad"},"id":3}', Refused(3, 2, "bad")),
        (b'{"code":-1121,"msg":"Invalid symbol."}', Refused(None, -1121, "Invalid symbol.")),
        (b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":12}}', ShuttingDown()),
        (b'{"e":"serverShutdown","E":12}', ShuttingDown()),
        (b'{"e":"serverShutdown","E":12.5}', ShuttingDown()),
        (b'{"e":"serverShutdown"}', ShuttingDown()),
    ],
)
def test_answers_are_told_from_data(payload, expected):
    assert decoded(payload) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":160,"bids":[["1.0","2.0"',
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":9223372036854775808,"bids":[],"asks":[]}}',
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":-1,"bids":[],"asks":[]}}',
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":"x","bids":[],"asks":[]}}',
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":1,"bids":[["1.0"]],"asks":[]}}',
        b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":1,"bids":[["abc","1"]],"asks":[]}}',
    ],
)
def test_what_is_no_book_is_malformed_and_kept(payload):
    message = decoded(payload)
    assert isinstance(message, Malformed)
    assert message.payload == payload


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_decoding_never_raises(payload):
    decoded(payload)


@pytest.mark.parametrize("number", ["nan", "inf", "-1.0", "0.0", "-0", "1e999"])
@pytest.mark.parametrize("level", ['["{}","1.0"]', '["1.0","{}"]'])
def test_a_number_that_is_no_price_or_quantity_makes_a_frame_malformed(number, level):
    book = f'{{"lastUpdateId":1,"bids":[{level.format(number)}],"asks":[]}}'
    payload = f'{{"stream":"a@depth5@100ms","data":{book}}}'
    assert isinstance(decoded(payload.encode()), Malformed)


def test_a_full_connection_is_subscribed_within_the_message_limit():
    streams = [VENUE.books.stream_name(f"COIN{i}USDT", 20, 100) for i in range(VENUE.limits.streams_per_connection)]
    messages = VENUE.requests(Method.SUBSCRIBE, streams, 5)
    assert [each.id for each in messages] == list(range(5, 5 + len(messages)))
    assert len(messages) < VENUE.limits.messages_per_second
    decoded = [json.loads(each.text) for each in messages]
    assert [name for each in messages for name in each.streams] == streams
    assert [name for message in decoded for name in message["params"]] == streams
    assert {message["method"] for message in decoded} == {"SUBSCRIBE"}


def test_the_refused_region_is_told_with_presets_that_may_work():
    text = region_refused(VENUE, "https://api.binance.com")
    assert "--exchange binance-us" in text
    assert "--exchange binance-vision" in text
    assert "--exchange binance," not in text


@pytest.mark.parametrize("depth", [2_000, 200_000])
@pytest.mark.parametrize(
    "head", [b'{"x":', b'{"stream":"btcusdt@depth5@100ms","data":', b'{"error":{"code":1,"msg":"x"},"id":']
)
def test_json_that_is_nested_without_end_is_malformed(head, depth):
    assert isinstance(decoded(head + b"[" * depth + b"]" * depth + b"}"), Malformed)


def test_whatever_decoding_raises_the_frame_is_malformed(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(binance_spot, "_decode_frame", fail)
    monkeypatch.setattr(binance, "_control", fail)
    assert decoded(b"{}") == Malformed("not JSON: MemoryError", b"{}")


@pytest.mark.parametrize("name", ["币安人生USDT", "ßİIΣUSDT"])
def test_names_of_any_letters_have_a_stream_and_are_found_in_a_frame_that_cannot_be_read(name):
    stream = VENUE.books.stream_name(name, 5, 100)
    assert binance.upper_symbol(stream.partition("@")[0]) == name
    for text in (json.dumps(stream), json.dumps(stream, ensure_ascii=False)):
        frame = f'{{"stream":{text},"data":{{"lastUpdateId":160,"bids":[["1.0"'.encode()
        assert VENUE.books.salvage(frame) == (stream.encode(), 160)
    (request,) = VENUE.requests(Method.SUBSCRIBE, [stream], 1)
    assert json.loads(request.text)["params"] == [stream]
