"""inplace.py: a pickle filled bit by bit is the one that pickle would have written at once."""

import numpy as np
import pandas as pd
import pytest

from ingester.datasets.formats import write_pickle
from ingester.datasets.slices import LEAST_ROWS, InPlace

ROWS = LEAST_ROWS + 1234


def rows_of(width):
    chance = np.random.default_rng(2)
    return np.cumsum(chance.integers(1, 10**9, ROWS)), chance.choice([1.5, 0.0, np.nan, 61811.37], (ROWS, width))


@pytest.mark.parametrize("width", [4, 20, 80])
def test_a_pickle_filled_in_pieces_has_the_same_bytes_as_one_written_at_once(tmp_path, width):
    times, values = rows_of(width)
    filled = InPlace(tmp_path, "AUSDT", width, ROWS)
    for start in range(0, ROWS, 999):
        filled.append(times[start : start + 999], values.T.copy().T[start : start + 999])
    assert filled.last()[0] == times[-1]
    assert filled.become(tmp_path / "filled.pkl")
    readable = np.asarray(np.require(times)), np.require(values)
    for array in readable:
        array.flags.writeable = False
    write_pickle(tmp_path / "written.pkl", *readable)
    assert (tmp_path / "filled.pkl").read_bytes() == (tmp_path / "written.pkl").read_bytes()
    frame = pd.read_pickle(tmp_path / "filled.pkl")
    assert np.array_equal(frame.to_numpy(), values, equal_nan=True)
    assert np.array_equal(frame.index.to_numpy("datetime64[ns]").view(np.int64), times)


def test_one_that_is_not_full_does_not_become_a_file_but_gives_its_rows(tmp_path):
    times, values = rows_of(4)
    filled = InPlace(tmp_path, "AUSDT", 4, ROWS)
    filled.append(times[:-1], values[:-1])
    assert not filled.become(tmp_path / "filled.pkl")
    assert not (tmp_path / "filled.pkl").exists()
    got = filled.arrays()
    assert np.array_equal(got[0], times[:-1])
    assert np.array_equal(got[1], values[:-1], equal_nan=True)


def test_one_that_was_interrupted_is_filled_on(tmp_path):
    times, values = rows_of(4)
    InPlace(tmp_path, "AUSDT", 4, ROWS).append(times[:5000], values[:5000])
    filled = InPlace(tmp_path, "AUSDT", 4, ROWS)
    filled.cut(3000)
    filled.append(times[3000:], values[3000:])
    for _ in range(2):  # it may be given its name twice, where that was not noted
        assert filled.become(tmp_path / "filled.pkl")
    filled.remove()
    assert np.array_equal(pd.read_pickle(tmp_path / "filled.pkl").to_numpy(), values, equal_nan=True)
    assert [path.name for path in tmp_path.iterdir()] == ["filled.pkl"]


@pytest.mark.parametrize("room", [LEAST_ROWS, ROWS - 500])
def test_rows_beyond_the_room_give_the_same_bytes_also_after_an_interruption(tmp_path, room):
    times, values = rows_of(4)
    InPlace(tmp_path, "AUSDT", 4, room).append(times, values)
    for kept in (ROWS - 100, room + 1, room, room - 10):  # noted last, before it was interrupted
        filled = InPlace(tmp_path, "AUSDT", 4, room)
        filled.cut(kept)
        assert filled.last()[0] == times[kept - 1]
        filled.append(times[kept : kept + 50], values[kept : kept + 50])
        filled.append(times[kept + 50 :], values[kept + 50 :])
        assert filled.rows == ROWS
        assert filled.last()[0] == times[-1]
        assert not filled.become(tmp_path / "never.pkl")
        write_pickle(tmp_path / "beyond.pkl", *filled.arrays())
        exact = InPlace(tmp_path, "BUSDT", 4, ROWS)
        exact.append(times, values)
        assert exact.become(tmp_path / "exact.pkl")
        exact.remove()
        assert (tmp_path / "beyond.pkl").read_bytes() == (tmp_path / "exact.pkl").read_bytes()
    filled.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beyond.pkl", "exact.pkl"]
