"""live.py: what the live table shows of the first pairs."""

import pytest
from rich.console import Console

from ingester.book import OrderBook
from ingester.cli.live import MOST_BOOKS, Prices
from ingester.clock import SECOND
from ingester.live.buffer import LiveBuffer

NOW = 1_000 * SECOND


def shown(books, room=24):
    console = Console(width=80, file=None)
    with console.capture() as capture:
        console.print(books.table(NOW, room, 30) or "nothing")
    return [line.split() for line in capture.get().splitlines()]


@pytest.fixture
def record():
    record = LiveBuffer([f"P{number}USDT" for number in range(MOST_BOOKS)], depth=5)
    record.open()
    return record


def book(symbol, bids, asks, age=0.1):
    return OrderBook(symbol, NOW - int(age * SECOND), 1, bids, asks)


def test_best_prices_spread_and_age_stand_in_the_order_of_the_pairs(record):
    record.take([book("P1USDT", [(99.5, 1.0)], [(100.5, 1.0)]), book("P0USDT", [(0.0123, 1.0)], [(0.0124, 1.0)], 75)])
    record.take([book("P2USDT", [], [(7.0, 1.0)], 9)])
    lines = shown(Prices(record))
    assert lines[0] == ["10", "of", "30", "bid", "ask", "spread", "age"]
    assert lines[1] == ["P0USDT", "0.0123", "0.0124", "80.97", "bp", "75.0", "s"]
    assert lines[2] == ["P1USDT", "99.50", "100.50", "100.00", "bp", "0.10", "s"]
    assert lines[3] == ["P2USDT", "-", "7.00", "-", "9.0", "s"]
    assert lines[4] == ["P3USDT", "-", "-", "-", "-"]
    assert len(lines) == 1 + MOST_BOOKS


def test_prices_keep_the_places_that_they_have_once_had(record):
    books = Prices(record)
    record.take([book("P0USDT", [(1.25, 1.0)], [(1.375, 1.0)])])
    shown(books)
    record.take([book("P0USDT", [(1.5, 1.0)], [(1.75, 1.0)])])
    assert shown(books)[1][1:3] == ["1.500", "1.750"]


def test_a_small_terminal_has_fewer_of_them_and_a_tiny_one_or_the_end_none(record):
    books = Prices(record)
    assert len(shown(books, room=5)) == 4
    assert shown(books, room=2) == shown(books, room=-3) == [["nothing"]]
    record.close()
    assert shown(books) == [["nothing"]]
