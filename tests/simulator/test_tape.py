"""Books of numbers go over the wire as Binance writes them, and read back to the last bit."""

import pytest
from hypothesis import example, given, strategies as st

from ingester.book import OrderBook
from ingester.exchange import Book, binance_spot
from ingester.simulator.tape import SnapshotBook, decimal, tape_of_snapshots

numbers = st.floats(min_value=1e-30, max_value=1e30, allow_nan=False)
levels = st.lists(st.tuples(numbers, numbers), max_size=20)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (7.9e-6, "0.00000790"),
        (61811.37, "61811.37000000"),
        (1.0, "1.00000000"),
        (1e-8, "0.00000001"),
        (1.5e-9, "0.0000000015"),
        (0.1 + 0.2, "0.30000000000000004"),
        (12345678901234567000.0, "12345678901234567168.00000000"),
    ],
)
def test_numbers_look_like_those_of_the_exchange(number: float, text: str) -> None:
    assert decimal(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(1.7976931348623157e308)
def test_every_number_reads_back_as_the_same(number: float) -> None:
    text = decimal(number)
    assert float(text) == number
    assert "e" not in text
    assert len(text.partition(".")[2]) >= 8


@given(levels, levels, st.integers(0, 2**63 - 1), st.sampled_from([5, 10, 20]))
def test_a_book_is_decoded_as_it_was(
    bids: list[tuple[float, float]], asks: list[tuple[float, float]], number: int, depth: int
) -> None:
    tape = tape_of_snapshots("x", ["BTCUSDT"], lambda: iter([OrderBook("BTCUSDT", 5, number, bids, asks)]))
    (book,) = tape.books()
    (message,) = binance_spot.decode([b'{"stream":"btcusdt@depth5@100ms","data":%b}' % book.cut(depth)])
    assert isinstance(message, Book)
    assert (message.bids, message.asks, message.update_id) == (bids[:depth], asks[:depth], number)


def test_a_tape_begins_anew_and_a_book_takes_another_number() -> None:
    tape = tape_of_snapshots("x", ["BTCUSDT"], lambda: iter([OrderBook("BTCUSDT", 5, 7, [(2.0, 1.0)], [])]))
    assert list(tape.books()) == list(tape.books()) == [SnapshotBook(5, "BTCUSDT", 7, [(2.0, 1.0)], [])]
    (book,) = tape.books()
    assert book.numbered(9).cut(5) == b'{"lastUpdateId":9,"bids":[["2.00000000","1.00000000"]],"asks":[]}'
