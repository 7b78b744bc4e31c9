"""slices.py: rows that wait on disk are those that were added, also after an interruption."""

import numpy as np
import pytest

from ingester.datasets.slices import ScratchFile


def rows_of(count, width=4, seed=1):
    chance = np.random.default_rng(seed)
    return np.cumsum(chance.integers(1, 10**9, count)), chance.random((count, width))


def added(folder, times, values):
    scratch = ScratchFile(folder, "AUSDT", values.shape[1])
    for start in range(0, len(times), 700):
        scratch.append(times[start : start + 700], values[start : start + 700])
    return scratch


@pytest.mark.parametrize("count", [0, 1, 2500])
def test_rows_come_back_as_they_were_added(tmp_path, count):
    times, values = rows_of(count)
    found = added(tmp_path, times, values)
    assert found.rows == count
    assert all(np.array_equal(*pair) for pair in zip(found.arrays(), (times, values), strict=True))
    last = found.last()
    assert (last is None) == (count == 0)
    assert last is None or (last[0], last[1].tolist()) == (times[-1], values[-1:].tolist())
    found.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 1000])
def test_what_was_not_noted_before_an_interruption_is_cut_off(tmp_path, kept):
    times, values = rows_of(2500)
    added(tmp_path, times, values)
    again = ScratchFile(tmp_path, "AUSDT", 4)
    again.cut(kept)
    again.append(times[kept:], values[kept:])
    assert np.array_equal(again.arrays()[0], times)
    assert np.array_equal(again.arrays()[1], values)


def test_a_symbol_that_cannot_be_the_name_of_a_file_waits_under_another(tmp_path):
    times, values = rows_of(3)
    scratch = ScratchFile(tmp_path, "../A", 4)
    scratch.append(times, values)
    assert {path.parent for path in tmp_path.iterdir()} == {tmp_path}
    assert scratch.last()[0] == times[-1]
