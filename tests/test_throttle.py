"""What others can make us say is bounded per time."""

import logging

import pytest

from ingester.throttle import LineLimit, Throttle, exchange_lines


@pytest.fixture
def clock():
    return [1000.0]


def test_a_burst_passes_and_then_one_now_and_then(clock):
    throttle = Throttle(3, 10.0, lambda: clock[0])
    assert [throttle.take() for _ in range(5)] == [0, 0, 0, None, None]
    clock[0] += 9.9
    assert throttle.take() is None
    clock[0] += 0.2
    assert [throttle.take(), throttle.take()] == [3, None]
    clock[0] += 1000
    assert [throttle.take() for _ in range(4)] == [1, 0, 0, None]
    clock[0] -= 500  # a clock that goes back gives nothing
    assert throttle.take() is None


def test_lines_that_the_exchange_causes_are_bounded_and_others_pass(clock):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    handler.addFilter(LineLimit(("ingester.feed", "ingester.sequence"), Throttle(5, 1.0, lambda: clock[0])))

    def say(name, text, *arguments):
        handler.handle(logging.LogRecord(name, logging.WARNING, "", 0, text, arguments, None))

    for number in range(1000):
        say(("ingester.feed.feed", "ingester.sequence.monitor")[number % 2], "line %d", number)
        say("ingester.questdb.writer", "other %d", number)
        say("ingester.feedback", "also %d", number)
    assert [each for each in said if each.startswith("line")] == [f"line {number}" for number in range(5)]
    assert len(said) == 2005
    clock[0] += 1
    say("ingester.feed.feed", "100 %")
    assert said[-1] == "100 % (995 lines before it were left out)"


def test_the_limit_of_the_program_names_modules_that_there_are():
    for name in exchange_lines()._packages:
        __import__(name.removesuffix("."))
