"""known.py: what the table has already, whoever recorded it."""

import numpy as np
import pytest

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.datasets import known
from ingester.datasets.dataset import parse_time
from ingester.questdb import reader, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder

START = parse_time("2018-06-01 08:31")
STEP = SECOND // 10


@pytest.fixture(scope="module")
def db(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 10)
    return db


def values(rows, levels=10, seed=1):
    return np.random.default_rng(seed).random((rows, 4 * levels))


def times(rows, start=START, step=STEP):
    return start + step * np.arange(rows)


def recorded(db, symbol, when, books, collector="one", first_id=7_000_000_000):
    half = books.shape[1] // 2
    snapshots = [
        OrderBook(symbol, int(at), first_id + place, *(sides(book[:half]), sides(book[half:])))
        for place, (at, book) in enumerate(zip(when, books, strict=True))
    ]
    encoder = RowEncoder(depth=10, exchange="binance", collector=collector)
    for begin in range(0, len(snapshots), 5000):
        db.write(encoder.snapshots(snapshots[begin : begin + 5000]))
    db.sql("SELECT wait_wal_table('orderbook')")


def sides(numbers):
    pairs = numbers.reshape(-1, 2).tolist()
    return [tuple(pair) for pair in pairs if not np.isnan(pair).any()]


def found(db, symbol, when, books, every_ns=0):
    return known.find(db, symbol, when, books, every_ns, "import")


def test_the_same_numbers_at_the_same_microsecond_are_known_whoever_recorded_them(db):
    when, books = times(1000), values(1000)
    recorded(db, "KNOWA", when[::2], books[::2], "one")
    recorded(db, "KNOWA", when[1::2], books[1::2], "two")
    recorded(db, "KNOWOTHER", when, books)
    assert found(db, "KNOWA", when, books).known.all()
    assert not found(db, "KNOWNEW", when, books).known.any()
    assert not found(db, "KNOWA", when + 1000, books).known.any()
    other = books.copy()
    other[::3, 17] += 1e-12
    assert np.array_equal(found(db, "KNOWA", when, other).known, np.arange(1000) % 3 > 0)


def test_the_table_may_have_more_levels_but_not_other_ones(db):
    when, books = times(100), values(100)
    recorded(db, "KNOWB", when, books)
    few = known.cut_to(books, 3)
    assert found(db, "KNOWB", when, few).known.all()
    thin = few.copy()
    thin[:50, 4:6] = np.nan  # of these the third bid is not there: other books
    assert np.array_equal(found(db, "KNOWB", when, thin).known, np.arange(100) >= 50)


def test_of_a_cut_that_the_table_has_the_id_is_found(db):
    when, books = times(100), values(100)
    cut = books.copy()
    cut[:, 6:20] = cut[:, 26:] = np.nan
    recorded(db, "KNOWC", when, cut)
    answer = found(db, "KNOWC", when, books)
    assert not answer.known.any()
    assert np.array_equal(answer.ids, 7_000_000_000 + np.arange(100))
    assert np.array_equal(answer.taken, answer.ids)
    recorded(db, "KNOWC", when + 5 * STEP // 2, books, "two")  # all of it, by another collector, a moment later
    answer = found(db, "KNOWC", when, books)
    assert answer.known.all()
    assert answer.elsewhere.all()


def test_a_row_without_levels_is_a_cut_of_nothing(db):
    when, books = times(5), values(5)
    recorded(db, "KNOWD", when, np.full((5, 40), np.nan))
    answer = found(db, "KNOWD", when, books)
    assert not answer.known.any()
    assert (answer.ids == known.NEW).all()


def test_many_books_of_one_time_are_each_held_against_all(db):
    when = np.sort(np.random.default_rng(3).choice(times(20), 3000))
    books = values(3000)
    recorded(db, "KNOWE", when, books)
    order = np.random.default_rng(4).permutation(3000)
    order = order[np.argsort(when[order], kind="stable")]
    assert found(db, "KNOWE", when[order], books[order]).known.all()
    half = books[order].copy()
    half[::2] += 1
    assert np.array_equal(found(db, "KNOWE", when[order], half).known, np.arange(3000) % 2 == 1)


def test_every_bit_counts(db):
    books = np.full((4, 40), 1.0)
    books[:, 0] = [0.0, 1e-310, 1e300, 2.0**60]
    recorded(db, "KNOWF", times(4), books)
    assert found(db, "KNOWF", times(4), books).known.all()
    other = books.copy()
    other[:, 0] = [-0.0, 1.0000000001e-310, np.nextafter(1e300, 0), 2.0**60 + 256]
    assert not found(db, "KNOWF", times(4), other).known.any()


def test_rows_of_a_grid_are_known_where_they_repeat_a_book_of_the_table(db):
    received = START + np.cumsum(np.random.default_rng(5).integers(1000, 3 * STEP // 1000, 2000)) * 1000
    books = values(2000)
    recorded(db, "KNOWG", received, books)
    grid = times(2500)
    grid = grid[(grid >= received[0]) & (grid < received[-1] + STEP)]
    rows = books[np.searchsorted(received, grid, side="right") - 1]
    answer = found(db, "KNOWG", grid, rows, STEP)
    assert answer.known.all()
    assert answer.elsewhere.sum() > 1000
    assert not found(db, "KNOWG", grid, rows).known.all()  # as rows of their own time they are new
    assert not found(db, "KNOWG", grid - 10 * STEP, rows, STEP).known.any()  # a book repeats none that comes after it


@pytest.mark.parametrize("every", [1, 60, 300])
def test_rows_of_a_grid_are_known_however_old_the_book_is_that_they_repeat(db, monkeypatch, every):
    monkeypatch.setattr(reader, "SLICE_ROWS", 7)
    chance, symbol = np.random.default_rng(every), f"KNOWS{every}"
    received = START + np.cumsum(chance.choice([20, 90, 400, 4000], 60)) * SECOND + 7000
    books = values(60)
    recorded(db, symbol, received, books)
    grid = np.arange(START, received[-1] + 7200 * SECOND, every * SECOND)
    grid = grid[grid >= received[3] + 70 * SECOND]
    rows = books[np.searchsorted(received, grid, side="right") - 1]
    for part in np.array_split(np.arange(len(grid)), 5):
        assert found(db, symbol, grid[part], rows[part], every * SECOND).known.all()
    assert not found(db, symbol, grid, np.roll(rows, len(rows) // 2, axis=0), every * SECOND).known.all()


@pytest.mark.parametrize("slice_rows", [7, 100_000])
@pytest.mark.parametrize("end", [400, 250])  # rows of a grid that end before the deeper copies do
def test_rows_of_a_grid_are_known_whose_book_got_its_levels_from_a_later_copy(db, monkeypatch, slice_rows, end):
    monkeypatch.setattr(reader, "SLICE_ROWS", slice_rows)
    chance, symbol = np.random.default_rng(end), f"KNOWM{slice_rows}{end}"
    received = START + np.cumsum(chance.integers(1, 3 * STEP // 1000, 400)) * 1000
    deep, thin = values(400), values(400)
    thin[:, 10:20] = thin[:, 30:] = np.nan
    recorded(db, symbol, received, thin, "one")
    recorded(db, symbol, received + chance.integers(0, 60_000, 400) * 1_000_000, deep, "two")
    grid = times(2500)
    grid = grid[(grid >= received[0]) & (grid < received[end - 1])]
    place = np.searchsorted(received, grid, side="right") - 1
    for books in (deep, thin):
        for part in np.array_split(np.arange(len(grid)), 3):
            answer = found(db, symbol, grid[part], books[place[part]], STEP)
            assert answer.known.all()
    early = deep[np.minimum(place + 1, 399)]
    assert not found(db, symbol, grid, early, STEP).known.any()  # a row repeats no book that came after it


def test_rows_that_were_imported_from_a_grid_are_not_what_others_repeat(db):
    books = np.repeat(values(10), 10, axis=0)
    recorded(db, "KNOWH", times(50), books[:50], "import")
    assert np.array_equal(found(db, "KNOWH", times(100), books, STEP).known, np.arange(100) < 50)


def test_a_range_is_compared_in_slices(db, monkeypatch):
    """Of two collectors, with books in between that nobody recorded."""
    monkeypatch.setattr("ingester.questdb.reader.SLICE_ROWS", 500)
    monkeypatch.setattr(known, "PAIRS_AT_ONCE", 100)
    when, books = times(6000), values(6000)
    for collector in ("one", "two"):
        recorded(db, "KNOWI", when[::3], books[::3], collector)
    assert np.array_equal(found(db, "KNOWI", when, books).known, np.arange(6000) % 3 == 0)


def test_nothing_is_asked_for_no_books(db):
    assert not len(found(db, "KNOWA", times(0), values(0)).known)
