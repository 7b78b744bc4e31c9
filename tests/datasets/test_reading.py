"""reading.py: any rows of a file are those that were written, wherever they begin and end, whatever the format."""

import zipfile

import numpy as np
import pytest
from data_sets import received_pairs

from ingester.datasets.dataset import FORMATS
from ingester.datasets.formats import GROUP_ROWS, WRITERS
from ingester.datasets.reading import open_rows
from ingester.errors import UnreadableDataSet

ROWS = 2 * GROUP_ROWS + 5_000


@pytest.fixture(scope="module")
def written():
    return received_pairs(ROWS, ["BTCUSDT"])["BTCUSDT"]


@pytest.mark.parametrize("form", FORMATS)
def test_any_rows_and_the_place_of_any_time(tmp_path, written, form):
    times, values = written
    path = tmp_path / f"x.{form}"
    WRITERS[form](path, times, values)
    rows = open_rows(path, form, 2)
    assert len(rows) == ROWS
    chance = np.random.default_rng(5)
    bounds = [0, 1, GROUP_ROWS - 1, GROUP_ROWS, GROUP_ROWS + 1, 2 * GROUP_ROWS, ROWS - 1, ROWS]
    slices = [(first, stop) for first in bounds for stop in bounds if first <= stop]
    slices += np.sort(chance.integers(0, ROWS + 1, (20, 2)), axis=1).tolist()
    for first, stop in slices:
        assert np.array_equal(rows.times(first, stop), times[first:stop])
        assert np.array_equal(rows.values(first, stop), values[first:stop])
        assert np.array_equal(rows.read(first, stop), values[first:stop])
    for at in [
        times[0] - 1,
        times[-1] + 1,
        *times[[each for each in bounds if each < ROWS]],
        *chance.choice(times, 20),
    ]:
        for ns in (at - 1, at, at + 1):
            assert rows.place(int(ns)) == np.searchsorted(times, ns)


def test_arrays_in_npz_are_mapped_where_others_can_use_them(tmp_path, written):
    path = tmp_path / "x.npz"
    WRITERS["npz"](path, *written)
    rows = open_rows(path, "npz", 2)
    for array in (rows.times(0, ROWS), rows.values(0, ROWS)):
        assert array.ctypes.data % 64 == 0
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert rows.read(0, 5).flags.owndata or rows.read(0, 5).base.flags.owndata


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_of_other_levels_or_another_format_is_refused(tmp_path, written, form):
    path = tmp_path / f"x.{form}"
    WRITERS[form](path, written[0][:10], written[1][:10])
    for told, levels in ((form, 3), ("npz" if form == "pkl" else "pkl", 2), ("xls", 2)):
        with pytest.raises(UnreadableDataSet, match=r"x\."):
            open_rows(path, told, levels)


def test_a_compressed_member_is_refused(tmp_path, written):
    path = tmp_path / "x.npz"
    WRITERS["npz"](path, *written)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "y.npz", "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(UnreadableDataSet, match="compressed"):
        open_rows(tmp_path / "y.npz", "npz", 2)
