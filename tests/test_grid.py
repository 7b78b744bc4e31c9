"""grid.py against a search by brute force."""

from itertools import pairwise

import numpy as np
from hypothesis import given, strategies as st

from ingester import grid as grids
from ingester.datasets import dataset

rows = st.lists(st.integers(0, 100), min_size=0, max_size=40, unique=True).map(sorted)


@given(rows, st.integers(1, 7), st.integers(1, 30), st.sampled_from(dataset.FILLS), st.sets(st.integers(1, 99)))
def test_the_grid_holds_the_last_snapshot_at_or_before_and_never_a_later_one(times, every, max_age, fill, cuts):
    sampler = grids.Sampler(4, max_age, fill)
    sampled = []
    edges = [0, *sorted(cuts), 100]
    grid = grids.grid(0, 100, every)
    for start, end in pairwise(edges):
        piece = np.array([t for t in times if start <= t < end], np.int64)
        values = np.repeat(piece[:, None].astype(float), 4, axis=1)
        sampled.append(sampler.take(piece, values, grid[(grid >= start) & (grid < end)]))
    expected = []
    for at in grid:
        before = [t for t in times if t <= at]
        fresh = before and (fill == "forward" or at - before[-1] <= max_age)
        expected.append(float(before[-1]) if fresh else np.nan)
    assert np.array_equal(np.concatenate(sampled)[:, 0], expected, equal_nan=True)
