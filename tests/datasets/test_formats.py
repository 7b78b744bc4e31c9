"""formats.py: what is written reads back to the last bit, and is written the same way twice."""

import hashlib
import zipfile

import numpy as np
import pytest
from data_sets import received_pairs
from frames_of import read

from ingester.datasets import formats
from ingester.datasets.dataset import FORMATS, columns
from ingester.datasets.formats import GROUP_ROWS, WRITERS, open_rows
from ingester.errors import UnreadableDataSet

TIMES = np.cumsum(np.random.default_rng(5).integers(1, 10**9, 250_000)) + 1_685_620_800 * 10**9


def odd_values(rows):
    chance = np.random.default_rng(3)
    values = chance.choice([0.1, 12.0, 61811.37, 1e-8, 5e22, 123456789.12345678, 0.1 + 0.2, np.nan, 3e15], (rows, 8))
    values[:, 0] = np.arange(rows)  # a column of whole numbers is one of floats all the same
    values[:, 1] = chance.random(rows) * 1e-7
    return values


@pytest.mark.parametrize("form", formats.WRITERS)
@pytest.mark.parametrize("rows", [0, 1, 250_000])
def test_every_format_reads_back_to_the_last_bit(tmp_path, form, rows):
    times, values = TIMES[:rows], odd_values(rows)
    path = tmp_path / f"x.{form}"
    formats.WRITERS[form](path, times, values)
    frame = read(path)
    assert frame.index.name == "Request Time"
    assert list(frame.columns) == columns(2)
    assert np.array_equal(frame.to_numpy(float), values, equal_nan=True)
    if rows:
        assert (frame.dtypes == "float64").all()
        assert np.array_equal(frame.index.to_numpy("datetime64[ns]").view(np.int64), times)
        assert frame.index.tz is None


@pytest.mark.parametrize("form", formats.WRITERS)
def test_the_same_rows_give_the_same_bytes(tmp_path, form):
    digests = set()
    for name in "ab":
        path = tmp_path / f"{name}.{form}"
        formats.WRITERS[form](path, TIMES[:1000], odd_values(1000))
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_numbers_in_csv_are_plain(tmp_path):
    path = tmp_path / "x.csv"
    formats.write_csv(path, TIMES[:2], np.array([[12.0, 0.5, np.nan, -3.0], [1e16, 1e-9, 7.0, 0.0]]))
    lines = path.read_text().splitlines()
    assert lines[0] == "Request Time,Bid_1,BidV_1,Ask_1,AskV_1"
    assert lines[1].split(",")[1:] == ["12.0", "0.5", "", "-3.0"]
    assert [float(number) for number in lines[2].split(",")[1:]] == [1e16, 1e-9, 7.0, 0.0]


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
