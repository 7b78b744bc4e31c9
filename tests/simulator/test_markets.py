"""The simulator's limits count as Binance's do."""

from ingester.simulator.markets import AttemptRate, ExchangeLimits, MessageRate


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
