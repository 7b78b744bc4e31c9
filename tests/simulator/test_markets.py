"""What the two markets understand, and how their limits count."""

import pytest

from ingester.simulator.markets import (
    FUTURES_MARKET,
    SPOT_MARKET,
    AttemptRate,
    BookStream,
    ExchangeLimits,
    MessageRate,
    WeightRate,
    parse_path,
)


def test_five_messages_within_a_second_are_allowed_and_a_sixth_is_not() -> None:
    rate = MessageRate(5)
    assert [rate.exceeded(0.1 * number) for number in range(6)] == [False] * 5 + [True]


def test_five_messages_in_every_second_are_allowed() -> None:
    rate = MessageRate(5)
    assert not any(rate.exceeded(float(number // 5)) for number in range(50))


def test_without_a_limit_any_number_is_allowed() -> None:
    rate = MessageRate(None)
    assert not any(rate.exceeded(0.0) for _ in range(50))


def test_too_many_attempts_get_429_until_the_window_has_passed_and_the_stubborn_418() -> None:
    rate = AttemptRate(ExchangeLimits(attempts=2, attempt_window=300, patience=1))
    assert [rate.refusal("a", now) for now in (0, 100)] == [None, None]
    assert rate.refusal("a", 120.5) == (429, 180)
    assert rate.refusal("a", 121) == (418, 179)
    assert rate.refusal("b", 121) is None
    assert rate.refusal("a", 300) is None
    assert rate.refusal("a", 301) == (429, 99)


def test_attempts_can_be_unlimited() -> None:
    rate = AttemptRate(ExchangeLimits(attempts=None))
    assert all(rate.refusal("a", 0.0) is None for _ in range(1000))


def test_weight_is_counted_by_the_minute_and_the_stubborn_get_418() -> None:
    rate = WeightRate(ExchangeLimits(weight=100, patience=1))
    assert rate.refusal("a", 60.0, 100) is None
    assert rate.refusal("a", 90.5, 1) == (429, 30)
    assert rate.refusal("a", 119.9, 1) == (418, 1)
    assert rate.used("a", 119.9) == 102
    assert rate.refusal("b", 119.9, 100) is None
    assert rate.refusal("a", 120.0, 100) is None
    assert WeightRate(ExchangeLimits(weight=None)).refusal("a", 0.0, 10**9) is None


@pytest.mark.parametrize(
    ("market", "name", "stream"),
    [
        (SPOT_MARKET, "btcusdt@depth5@100ms", BookStream("BTCUSDT", 5, 100)),
        (SPOT_MARKET, "btcusdt@depth10", BookStream("BTCUSDT", 10, 1000)),
        (SPOT_MARKET, "币安人生usdt@depth20@1000ms", BookStream("币安人生USDT", 20, 1000)),
        (SPOT_MARKET, "btcusdt@depth5@250ms", None),
        (FUTURES_MARKET, "btcusdt_261225@depth5@100ms", BookStream("BTCUSDT_261225", 5, 100)),
        (FUTURES_MARKET, "btcusdt@depth10", BookStream("BTCUSDT", 10, 250)),
        (FUTURES_MARKET, "btcusdt@depth20@500ms", BookStream("BTCUSDT", 20, 500)),
        (FUTURES_MARKET, "btcusdt@depth20@250ms", None),
        (FUTURES_MARKET, "BTCUSDT@depth20@100ms", None),
        (FUTURES_MARKET, "btcusdt@depth@100ms", None),
    ],
)
def test_each_market_has_streams_of_its_own(market, name, stream) -> None:
    assert market.stream(name) == stream


@pytest.mark.parametrize("interval_ms", [100, 250, 500, 1000])
def test_a_stream_is_due_once_in_each_interval(interval_ms: int) -> None:
    stream = BookStream("A", 5, interval_ms)
    due = [tick for tick in range(17_300_000_000, 17_300_001_000) if stream.is_due(tick)]
    assert len(due) == 100_000 // interval_ms
    assert [stream.tick_before(tick) for tick in due[1:]] == due[:-1]


@pytest.mark.parametrize(
    ("path", "market", "is_combined", "has_books", "streams"),
    [
        ("/stream", SPOT_MARKET, True, True, []),
        ("/stream?streams=a@depth5/b@depth5", SPOT_MARKET, True, True, ["a@depth5", "b@depth5"]),
        ("/ws/a@depth5/%E5%B8%81@depth5", SPOT_MARKET, False, True, ["a@depth5", "币@depth5"]),
        ("/public/stream?streams=a@depth5", FUTURES_MARKET, True, True, ["a@depth5"]),
        ("/public/ws/a@depth5", FUTURES_MARKET, False, True, ["a@depth5"]),
        ("/market/stream", FUTURES_MARKET, True, False, []),
        ("/private/ws", FUTURES_MARKET, False, False, []),
    ],
)
def test_the_path_tells_market_and_form(path, market, is_combined, has_books, streams) -> None:
    assert parse_path(path) == (market, is_combined, has_books, streams)


@pytest.mark.parametrize("path", ["/", "/public", "/public/depth", "/api/v3/time", "/streams"])
def test_other_paths_are_none_of_websockets(path: str) -> None:
    assert parse_path(path) is None
