"""merging.py against the rule of the view `books`, told plainly."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingester.datasets.merging import WINDOW_NS, Merger

SECONDS = WINDOW_NS // 60


def told_plainly(times, ids):
    last, kept = {}, []
    for at, update_id in zip(times, ids, strict=True):
        kept.append(update_id not in last or at - last[update_id] > WINDOW_NS)
        last[update_id] = at
    return kept


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 6)), max_size=40), st.lists(st.integers(0, 300)))
def test_the_earliest_of_copies_passes_wherever_the_pieces_are_cut(rows, cuts):
    rows = sorted((at * SECONDS + place, update_id) for place, (at, update_id) in enumerate(rows))
    times, ids = (np.array(column, np.int64) for column in (list(zip(*rows, strict=True)) or [[], []]))
    merger, kept = Merger(), []
    edges = [0, *sorted(cut * SECONDS for cut in cuts), 400 * SECONDS]
    for start, end in pairwise(edges):
        piece = (times >= start) & (times < end)
        kept += merger.take(times[piece], ids[piece]).tolist()
    assert kept == told_plainly(times.tolist(), ids.tolist())


def test_rising_ids_all_pass():
    merger = Merger()
    assert merger.take(np.arange(5), np.arange(5)).all()
    assert merger.take(np.arange(5, 9), np.arange(5, 9)).all()
    assert merger.take(np.arange(9, 11), np.array([8, 20])).tolist() == [False, True]
