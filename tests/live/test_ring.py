"""ring.py: rows in order, whole, and no more than are kept."""

import threading

import numpy as np
from hypothesis import given, strategies as st

from ingester.book import OrderBook
from ingester.live.ring import Ring, flat


def book(number, depth=5):
    """Every number of the book is that of the row, so that a torn row shows."""
    levels = [(float(number), float(number))] * depth
    return OrderBook("A", number * 1_000, number, levels, levels)


def test_thin_books_have_holes_and_deeper_ones_than_asked_for_are_cut():
    assert flat([(1.0, 2.0)], [(3.0, 4.0), (5.0, 6.0)], 1) == [1.0, 2.0, 3.0, 4.0]
    row = flat([(1.0, 2.0)], [], 2)
    assert row[:2] == [1.0, 2.0]
    assert np.isnan(row[2:]).all()
    assert len(row) == 8


def test_times_are_whole_microseconds_as_in_the_table():
    ring = Ring(5, 4)
    ring.put(book(7)._replace(receive_ns=1_999))
    assert ring.read(0)[1].times.tolist() == [1_000]


@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 40), st.integers(0, 45), st.integers(0, 45))
def test_a_read_gives_what_is_kept_of_the_range_and_where_it_begins(rows, spare, came, first, stop):
    ring = Ring(1, rows, spare)
    for number in range(came):
        ring.put(book(number, 1))
    begin, read = ring.read(first, stop)
    kept = range(max(0, came - rows), came)
    expected = [number for number in range(first, stop) if number in kept]
    assert read.times.tolist() == [number * 1_000 for number in expected]
    assert read.values.tolist() == [[float(number)] * 4 for number in expected]
    assert ring.oldest() == kept.start
    if expected:
        assert begin == expected[0]
    before = read.values.copy()
    assert ring.number_at(first * 1_000) == min(max(first, kept.start), came)
    for number in range(came, came + rows + 10):
        ring.put(book(number, 1))
    assert np.array_equal(read.values, before)  # what was read is a copy


def test_readers_never_see_a_torn_row_however_fast_the_ring_is_overwritten():
    ring, ended, wrong, lost = Ring(20, 400, spare=2), threading.Event(), [], []

    def write():
        number = 0
        books = [book(number, 20) for number in range(5_000)]
        while not ended.is_set():
            for each in books:
                ring.put(each._replace(receive_ns=number * 1_000, bids=[(float(number), float(number))] * 20))
                number += 1

    def read():
        reads = 0
        while not ended.is_set():
            wanted = max(0, ring.count - 400)
            begin, (times, values) = ring.read(wanted)
            lost.append(begin - wanted)
            bids = values[:, :40]
            whole = (bids == bids[:, :1]).all() and (bids[:, 0] * 1_000 == times).all()
            asks = values[:, 40:]
            if not (whole and (asks == asks[:, :1]).all() and (np.diff(times) == 1_000).all()):
                wrong.append(times)
            if len(times) and times[0] != begin * 1_000:
                wrong.append(begin)
            reads += 1
        assert reads > 10

    threads = [threading.Thread(target=each) for each in (write, read, read)]
    for thread in threads:
        thread.start()
    ended.wait(1.5)
    ended.set()
    for thread in threads:
        thread.join(10)
    assert not wrong
    assert ring.count > 5_000
    assert sum(lost) > 0  # the writer did overtake readers


def test_rows_that_were_overwritten_while_they_were_copied_are_not_given(monkeypatch):
    ring, copy = Ring(1, 4, spare=0), Ring._copy
    for number in range(4):
        ring.put(book(number, 1))

    def overtaken(self, of, first, stop):
        copied = copy(self, of, first, stop)
        if ring.count == 4:
            for number in range(4, 6):
                ring.put(book(number, 1))
        return copied

    monkeypatch.setattr(Ring, "_copy", overtaken)
    begin, rows = ring.read(0)
    assert begin == 2
    assert rows.times.tolist() == [2_000, 3_000]
    assert rows.values.tolist() == [[2.0] * 4, [3.0] * 4]
