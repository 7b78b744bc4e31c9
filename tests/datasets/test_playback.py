"""playback.py: what was recorded comes out as snapshots, in the order of time, each book once, in bounded memory."""

import itertools

import numpy as np
import pytest
from books_in_table import flat, store
from data_sets import NOON, grid_pairs, make, received_pairs

from ingester import open_dataset
from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.datasets import playback
from ingester.datasets.dataset import FORMATS
from ingester.datasets.playback import dataset_snapshots, rising_ids, table_snapshots
from ingester.questdb import query, reader, schema
from ingester.questdb.client import QuestDB

DAY = 1_602_460_800 * SECOND  # 2020-10-12, which no other test writes to


@pytest.fixture(scope="module")
def stored(questdb):
    """Books of two pairs, thin ones and an empty one among them; half of them were recorded twice."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    chance = np.random.default_rng(2)
    books = []
    for place, symbol in enumerate(("YAUSDT", "YBUSDT")):
        times = DAY + place * 1000 + np.cumsum(chance.choice([1000, 100_000_000, 30 * SECOND], 600, p=[0.2, 0.7, 0.1]))
        for number, at in enumerate(times.tolist()):
            price, depth = float(chance.random()), 5 if number % 50 else number // 50 % 5
            levels = [(price + level + 1, float(chance.random()) * 1e-5) for level in range(depth)]
            books.append(OrderBook(symbol, at, 500 + 2 * number, levels[::-1], [(p + 9, q) for p, q in levels][:3]))
    store(db, books, "playback-a")
    store(db, [book._replace(receive_ns=book.receive_ns + 3_000_000) for book in books[::2]], "playback-b")
    return db, sorted(books, key=lambda book: (book.receive_ns, book.update_id))


def played(db, start, end, symbols=("YAUSDT", "YBUSDT")):
    return list(table_snapshots(db, start, end, symbols, query.rows_by_symbol(db, start, end)))


@pytest.mark.parametrize("slice_rows", [50, 120_000])
def test_a_range_of_the_table_is_merged_by_time_and_each_book_comes_once(stored, monkeypatch, slice_rows):
    db, books = stored
    monkeypatch.setattr(reader, "SLICE_ROWS", slice_rows)
    assert played(db, DAY, books[-1].receive_ns + 1) == books
    middle, own = books[400].receive_ns, [book for book in books if book.symbol == "YBUSDT"]
    assert played(db, middle, middle + 600 * SECOND, ["YBUSDT"]) == [
        book for book in own if middle <= book.receive_ns < middle + 600 * SECOND
    ]


def test_a_copy_of_a_book_before_the_range_is_not_played(stored):
    db, books = stored
    since = books[0].receive_ns + 1000  # its copy comes 3 ms later
    assert played(db, since, since + SECOND) == [book for book in books if since <= book.receive_ns < since + SECOND]


def test_no_more_is_read_than_is_played_soon(stored, monkeypatch):
    db, books = stored
    parts = []
    read = reader.TableReader.read
    monkeypatch.setattr(reader, "SLICE_ROWS", 20)
    monkeypatch.setattr(reader.TableReader, "read", lambda self, part: parts.append(part) or read(self, part))
    snapshots = table_snapshots(db, DAY, books[-1].receive_ns + 1, ["YAUSDT", "YBUSDT"], {"YAUSDT": 1, "YBUSDT": 1})
    assert list(itertools.islice(snapshots, 30)) == books[:30]
    assert len(parts) < 10
    snapshots.close()
    assert len(parts) < 10


def test_books_of_two_recorders_are_played_in_order_with_the_deepest_levels(stored):
    db, _ = stored
    day = DAY + 86_400 * SECOND

    def book(update_id, ms, levels):
        return OrderBook(
            "YCUSDT", day + ms * 1_000_000, update_id, [(update_id / 2, 1.0)] * levels, [(9.0, 1.0)] * levels
        )

    store(db, [book(4, 0, 2), book(5, 30, 2), book(8, 50, 2)], "playback-a")
    store(db, [book(4, 1, 5), book(6, 20, 5), book(7, 40, 5), book(8, 51, 5)], "playback-b")
    found = played(db, day, day + 60 * SECOND, ["YCUSDT"])
    assert found == [book(4, 0, 5), book(6, 20, 5), book(7, 40, 5), book(8, 50, 5)]


def rows_of(snapshots, levels=2):
    rows = {}
    for each in snapshots:
        numbers = np.full(4 * levels, np.nan)
        numbers[: 2 * len(each.bids)] = flat(each._replace(asks=[]))
        numbers[2 * levels : 2 * levels + 2 * len(each.asks)] = flat(each._replace(bids=[]))
        rows.setdefault(each.symbol, []).append((each.receive_ns, *numbers))
    return {symbol: np.array(found) for symbol, found in rows.items()}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("every", [None, 100_000_000])
def test_the_rows_of_a_data_set_are_played_as_they_are(tmp_path, monkeypatch, form, every):
    monkeypatch.setattr(playback, "PIECE_ROWS", 70)
    pairs = grid_pairs(300) if every else received_pairs(300)
    pairs["BTCUSDT"][1][120:200] = np.nan
    pairs["ETHUSDT"][1][7, 6:] = np.nan
    data = open_dataset(make(tmp_path, form, pairs, every, span_ns=every and 300 * every))
    snapshots = list(dataset_snapshots(data))
    times = [each.receive_ns for each in snapshots]
    assert times == sorted(times)
    for symbol, found in rows_of(snapshots).items():
        own_times, values = pairs[symbol]
        kept = ~np.isnan(values).all(axis=1) | (every is None)  # on a grid, such a row means that nothing was there
        assert np.array_equal(found[:, 0].astype(np.int64), own_times[kept].astype(float).astype(np.int64))
        assert np.array_equal(found[:, 1:], values[kept], equal_nan=True)
        ids = [each.update_id for each in snapshots if each.symbol == symbol]
        assert all(later > earlier for earlier, later in itertools.pairwise(ids))
    part = data.between(NOON + 10 * SECOND, NOON + 20 * SECOND).select(["ETHUSDT"])
    assert list(dataset_snapshots(part)) == [
        each
        for each in snapshots
        if each.symbol == "ETHUSDT" and NOON + 10 * SECOND <= each.receive_ns < NOON + 20 * SECOND
    ]


def test_ids_are_microseconds_and_rise_within_one():
    assert rising_ids(np.array([5000, 5400, 5900, 9000]), -1).tolist() == [5, 6, 7, 9]
    assert rising_ids(np.array([5000, 5400, 5900, 9000]), 12).tolist() == [13, 14, 15, 16]
