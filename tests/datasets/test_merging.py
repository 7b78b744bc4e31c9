"""merging.py against its rule, told plainly; the view `books` against merging.py, on the same rows."""

from itertools import pairwise

import numpy as np
import pytest
from books_in_table import store
from hypothesis import given, strategies as st

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.datasets.merging import WINDOW_NS, Books, Merger
from ingester.questdb import schema
from ingester.questdb.client import QuestDB

LEVELS = 3


def values_of(number, levels):
    """A row of its own numbers that holds so many levels a side."""
    row = np.full(4 * LEVELS, np.nan)
    row[: 2 * levels] = row[2 * LEVELS : 2 * LEVELS + 2 * levels] = number
    return row


def told_plainly(rows):
    """(time, id, number of the row whose levels it has) of the books of rows (time, id, recorder or -1, levels)."""
    passed = []
    copies, restarts = [], []
    for place, (at, update_id, recorder, _) in enumerate(rows):
        recent = [other for other in rows[:place] if at - other[0] <= WINDOW_NS]
        own = [other for other in rows[:place] if other[2] == recorder][-1:]
        copies.append(any(other[1] == update_id for other in recent))
        restarts.append(recorder >= 0 and any(at - o[0] <= WINDOW_NS and o[1] > update_id for o in own))
    for place, (at, update_id, recorder, _) in enumerate(rows):
        since = max((p for p in range(place + 1) if restarts[p]), default=0)
        newer = [
            p for p in range(since, place)
            if rows[p][2] >= 0 and not copies[p] and rows[p][1] > update_id and at - WINDOW_NS <= rows[p][0] < at
        ]  # fmt: skip
        if copies[place] or (recorder >= 0 and newer):
            continue
        alike = []  # the copies of this one
        for p in range(place + 1, len(rows)):
            if rows[p][1] == update_id:
                if not copies[p]:
                    break
                alike.append(p)
        near = [p for p in alike if rows[p][0] - at <= WINDOW_NS]
        passed.append((at, update_id, max([place, *near], key=lambda p: (rows[p][3], -p))))
    return passed


def merged(rows, cuts=(), several=True):
    """The books of such rows, in pieces that end at these times: as `told_plainly` gives them."""
    times, ids, recorders = (np.array([row[column] for row in rows], np.int64) for column in range(3))
    values = np.array([values_of(number, row[3]) for number, row in enumerate(rows)]).reshape(-1, 4 * LEVELS)
    merger, found, settled = Merger(4 * LEVELS, several), [], -1
    edges = [0, *sorted(cuts), max(400 * SECOND, int(times.max(initial=0)) + 1)]
    for start, end in pairwise(edges):
        piece = (times >= start) & (times < end)
        books, until = merger.take(Books(times[piece], ids[piece], values[piece]), recorders[piece], end)
        assert settled <= until <= end
        assert not len(books.times) or (settled <= books.times[0] and books.times[-1] < until)
        settled = until
        found.append(books)
    found.append(merger.rest())
    return [
        (at, update_id, int(np.nanmax(row)))
        for books in found
        for at, update_id, row in zip(books.times.tolist(), books.ids.tolist(), books.values, strict=True)
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 9), st.integers(-1, 2), st.integers(1, LEVELS)), max_size=40
    ),
    st.lists(st.integers(0, 300)),
)
def test_each_book_passes_once_in_order_with_its_deepest_levels_wherever_the_pieces_are_cut(rows, cuts):
    rows = sorted(
        (at * SECOND + place, update_id if recorder >= 0 else 100 + at, recorder, levels)
        for place, (at, update_id, recorder, levels) in enumerate(rows)
    )
    assert merged(rows, [cut * SECOND for cut in cuts]) == told_plainly(rows)


def test_a_book_that_is_older_than_one_that_has_passed_is_left_out():
    rows = [(0, 4, 0, 3), (1, 6, 1, 3), (2, 5, 0, 3), (3, 7, 1, 3)]
    assert [update_id for _, update_id, _ in merged(rows)] == [4, 6, 7]


def test_rows_of_one_moment_come_by_their_ids_and_none_of_them_is_late():
    assert [row[:2] for row in merged([(5, 6, 0, 3), (5, 5, 1, 3), (6, 6, 1, 3)])] == [(5, 5), (5, 6)]


def test_the_deepest_copy_gives_its_levels_to_the_earliest_also_in_a_later_piece():
    rows = [(1, 10, 0, 1), (2, 10, 1, 2), (3, 10, 2, 3), (4, 11, 0, 1), (5, 11, 1, 3), (6, 12, 1, 3)]
    for cuts in ([], [2], [3], [2, 3, 5]):
        assert merged(rows, cuts) == [(1, 10, 2), (4, 11, 4), (6, 12, 5)]
    assert merged([(1, 10, 0, 1), (1 + WINDOW_NS, 10, 1, 3)], [5]) == [(1, 10, 1)]
    assert merged([(1, 10, 0, 1), (2 + WINDOW_NS, 10, 1, 3)]) == [(1, 10, 0), (2 + WINDOW_NS, 10, 1)]


def test_a_count_that_begins_anew_costs_no_book():
    step, lag = SECOND // 10, SECOND // 4  # the second recorder is behind by more than the time between two books
    ids = [*range(1000, 1050), *range(1, 50)]
    first = [(place * step, update_id, 0, 3) for place, update_id in enumerate(ids)]
    second = [(at + lag, update_id, 1, 3) for at, update_id, *_ in first]
    for rows in (first, sorted(first + second)):
        assert [row[:2] for row in merged(rows)] == [row[:2] for row in first]


def test_imported_rows_have_ids_that_say_nothing_about_age():
    rows = [(1, 100, 0, 3), (2, 2_000_000, -1, 3), (3, 101, 0, 3), (4, 1_500_000, -1, 3), (5, 102, 1, 3)]
    assert [row[1] for row in merged(rows)] == [100, 2_000_000, 101, 1_500_000, 102]


DAY = 1_607_904_000 * SECOND  # 2020-12-14, which no other test writes to


@pytest.mark.parametrize("seed", range(4))
def test_the_view_books_gives_the_same_books(questdb, seed):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    chance, symbol = np.random.default_rng(seed), f"XV{seed}USDT"
    times = DAY + 1000 * (np.cumsum(chance.choice([1, 40_000, 3_000_000, 61_000_000], 400, p=[0.3, 0.5, 0.18, 0.02])))
    ids = np.arange(400) // 2 + chance.integers(-2, 3, 400) + 10  # copies, late ones
    ids[250:] -= 120  # they begin again
    recorders, levels = chance.integers(0, 4, 400) - 1, chance.integers(1, LEVELS + 1, 400)
    ids[recorders < 0] = times[recorders < 0] // 1000
    rows = list(zip(times.tolist(), ids.tolist(), recorders.tolist(), levels.tolist(), strict=True))
    for recorder in range(-1, 3):
        own = [
            OrderBook(symbol, at, update_id, [(float(number), 1.0)] * count, [(1.0, 1.0)] * count)
            for number, (at, update_id, by, count) in enumerate(rows)
            if by == recorder
        ]
        store(db, own, "import" if recorder < 0 else f"view-{recorder}")
    found = db.sql(
        f"DECLARE @during := '2020-12-14;2d', @pair := '{symbol}' "
        f"SELECT cast(timestamp AS LONG), last_update_id, bid_1, bid_{LEVELS}, collector FROM books"
    ).rows
    wanted = merged(rows)
    assert [(at * 1000, update_id, int(number)) for at, update_id, number, *_ in found] == wanted
    assert len(wanted) < 380
    assert any(rows[number][0] != at for at, _, number in wanted)
    firsts = {(at, update_id): by for at, update_id, by, _ in reversed(rows)}
    assert [row[4] for row in found] == [
        "import" if firsts[at, update_id] < 0 else f"view-{firsts[at, update_id]}" for at, update_id, _ in wanted
    ]
    held = {number: count for number, (*_, count) in enumerate(rows)}
    assert [row[3] is not None for row in found] == [held[number] == LEVELS for _, _, number in wanted]
