"""sent_counts.py: every row is in one minute, once."""

import random
import threading
from collections import Counter

from hypothesis import given, strategies as st

from ingester.book import OrderBook
from ingester.questdb.sent_counts import KEPT, MINUTE, SentCounts

START = 1_700_000_000 * 10**9 // MINUTE * MINUTE


def snapshot(at_ns, symbol="BTCUSDT"):
    return OrderBook(symbol, at_ns, 1, [], [])


def counts(sent_counts):
    return [(span.start_ns, span.end_ns, dict(span.rows)) for span in sent_counts.spans()]


@given(st.lists(st.lists(st.tuples(st.integers(0, 5 * MINUTE), st.sampled_from("AB")), min_size=1), min_size=1))
def test_rows_are_counted_by_minute_and_symbol_however_they_are_portioned(portions):
    sent_counts = SentCounts()
    for portion in portions:
        sent_counts.add([snapshot(START + at, symbol) for at, symbol in portion])
    wanted = {}
    for at, symbol in (row for portion in portions for row in portion):
        wanted.setdefault(START + at // MINUTE * MINUTE, Counter())[symbol] += 1
    assert counts(sent_counts) == [(start, start + MINUTE, dict(rows)) for start, rows in sorted(wanted.items())]
    assert sent_counts.first_ns == START + min(at for portion in portions for at, _ in portion)
    assert sent_counts.sent() == (sum(map(len, portions)), 0)


def test_what_was_not_looked_for_is_never_forgotten_and_what_was_goes_in_time():
    sent_counts = SentCounts()
    for minute in range(100):
        sent_counts.add([snapshot(START + minute * MINUTE), snapshot(START + minute * MINUTE + 1, "ETHUSDT")])
        if minute == 60:  # for an hour nobody could ask; now all of it is seen
            for span in sent_counts.spans():
                span.settled, span.visible = span.expected().total(), span.expected().total()
        sent_counts.trim()
        assert len(sent_counts.spans()) <= KEPT
        assert sent_counts.sent()[0] == 2 * (minute + 1)
    first, second, *_ = sent_counts.spans()
    assert (first.start_ns, first.end_ns) == (START + 61 * MINUTE, START + 85 * MINUTE)
    assert first.rows == {"BTCUSDT": 24, "ETHUSDT": 24}
    assert second.start_ns == first.end_ns
    assert sent_counts.sent() == (200, 122)


def test_a_dead_letter_is_not_expected_any_more_and_makes_a_span_unsettled():
    sent_counts = SentCounts()
    sent_counts.add([snapshot(START + 5), snapshot(START + 6)])
    (span,) = sent_counts.spans()
    span.settled = 2
    assert span.is_settled
    sent_counts.remove("BTCUSDT", START + 6)
    sent_counts.remove("BTCUSDT", START - 1)  # of an earlier run: not counted, so not taken back
    assert span.expected() == {"BTCUSDT": 1}
    assert not span.is_settled


def test_rows_of_an_earlier_run_are_a_span_of_their_own_and_not_sent_by_this_one():
    sent_counts = SentCounts()
    sent_counts.expect_earlier(7, START - 50, START - 10)
    sent_counts.add([snapshot(START)])
    sent_counts.remove("BTCUSDT", START - 10)
    assert [(span.start_ns, span.end_ns, span.expected().total()) for span in sent_counts.spans()] == [
        (START - 50, START - 9, 6),
        (START, START + MINUTE, 1),
    ]
    assert sent_counts.sent() == (1, 0)


def test_counting_and_reading_at_the_same_time_tears_nothing():
    sent_counts, stop = SentCounts(), threading.Event()
    symbols = [f"S{number}" for number in range(1500)]
    portions = [[snapshot(START, symbol) for symbol in random.sample(symbols, 100)] for _ in range(50)]
    seen = []

    def read():
        while not stop.is_set():
            seen.append(sum(span.expected().total() for span in sent_counts.spans()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for portion in portions:
            sent_counts.add(portion)
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert all(rows % 100 == 0 for rows in seen)
    assert sent_counts.sent() == (100_000, 0)
