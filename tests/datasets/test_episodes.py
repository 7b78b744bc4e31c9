"""Windows never cross a gap, none is left out, and the same seed gives the same order; held against brute force."""

import numpy as np
from data_sets import NOON, grid_pairs, make
from hypothesis import given, strategies as st

from ingester import open_dataset
from ingester.datasets.episodes import Episode, Episodes, stretches

EVERY = 10

spans = st.lists(
    st.tuples(st.integers(-30, 330), st.integers(1, 60)).map(lambda gap: (gap[0], gap[0] + gap[1])), max_size=6
)


def crosses(grid, first, stop, gaps):
    """Whether rows from `first` until before `stop` lie in a gap, or on both sides of one."""
    return any(since < grid[stop - 1] and until > grid[first] for since, until in gaps)


def brute_force(grid, gaps, length, stride):
    """First rows of all windows: in each run of rows that may be together, one every `stride` rows."""
    usable = [not crosses(grid, row, row + 1, gaps) for row in range(len(grid))]
    joined = [
        row > 0 and usable[row - 1] and usable[row] and not crosses(grid, row - 1, row + 1, gaps)
        for row in range(len(grid))
    ]
    firsts, begin = [], None
    for row in range(len(grid)):
        if usable[row] and not joined[row]:
            begin = row
        if usable[row] and (row - begin) % stride == 0:
            window = range(row, row + length)
            if (
                window.stop <= len(grid)
                and all(usable[each] for each in window)
                and all(joined[each] for each in window[1:])
            ):
                firsts.append(row)
    return firsts


@given(spans, st.integers(1, 30), st.integers(1, 12), st.integers(1, 12), st.none() | st.integers(0, 9))
def test_windows_are_those_of_brute_force(gaps, rows, length, stride, seed):
    grid = range(0, rows * EVERY, EVERY)
    asked = []

    def read(first, stop):
        asked.append(first)
        times = np.array(grid[first:stop])
        return Episode(times, np.repeat(times, 2).reshape(-1, 2, 1).astype(float))

    episodes = Episodes(read, stretches(grid, gaps), length, stride, seed, True)
    found = [(times[0].item() // EVERY) for times, _ in episodes]
    expected = brute_force(grid, gaps, length, stride)
    assert episodes.most == len(expected)
    assert sorted(found) == expected
    assert all(not crosses(grid, first, first + length, gaps) for first in found)
    if seed is None:
        assert found == expected
    assert [(times[0].item() // EVERY) for times, _ in episodes] == found  # again the same
    assert asked == found * 2  # nothing is read that is not asked for


def test_two_pairs_share_their_gaps_and_nan_is_left_out(tmp_path):
    step = 100_000_000
    pairs = grid_pairs(100)
    pairs["BTCUSDT"][1][50] = np.nan  # no row at all
    pairs["ETHUSDT"][1][80, 7] = np.nan  # a thin book
    gaps = {
        "BTCUSDT": [(NOON + 10 * step, NOON + 12 * step)],
        "ETHUSDT": [(NOON + 20 * step + 1, NOON + 20 * step + 2)],  # between two rows
    }
    data = open_dataset(make(tmp_path, "npz", pairs, step, gaps, span_ns=100 * step))

    def firsts(episodes):
        return [(int(times[0].astype(np.int64)) - NOON) // step for times, _ in episodes]

    assert firsts(data.episodes(10)) == [0, 21, 31, 51, 61, 81]
    assert firsts(data.episodes(10, whole=False)) == [0, 21, 31, 51, 61, 71, 81]
    assert firsts(data.select(["ETHUSDT"]).episodes(10, stride=5))[:4] == [0, 5, 10, 21]
    assert firsts(data.select(levels=1).episodes(10)) == [0, 21, 31, 51, 61, 71, 81]
    times, values = next(iter(data.episodes(9, seed=3)))
    assert values.shape == (9, 2, 8)
    assert values.flags.c_contiguous
    first = (int(times[0].astype(np.int64)) - NOON) // step
    assert np.array_equal(values[:, 1], pairs["ETHUSDT"][1][first : first + 9])


def test_a_seed_shuffles_the_same_way_each_time_and_another_one_otherwise(tmp_path):
    step = 100_000_000
    data = open_dataset(make(tmp_path, "npz", grid_pairs(300), step, span_ns=300 * step))
    orders = [[times[0].item() for times, _ in data.episodes(3, seed=seed)] for seed in (7, 7, 8, None)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == orders[3]
    assert orders[0] != orders[3]


def test_parts_of_a_data_set_have_windows_of_their_own(tmp_path):
    step = 100_000_000
    data = open_dataset(make(tmp_path, "npz", grid_pairs(100), step, span_ns=100 * step))
    train, test = data.split(0.55)
    last = max(times[-1] for times, _ in train.episodes(10, seed=1))
    first = min(times[0] for times, _ in test.episodes(10, seed=1))
    assert (train.episodes(10).most, test.episodes(10).most) == (5, 4)
    assert last < test.times[0] <= first
