"""formats.py: what is written reads back to the last bit, and is written the same way twice."""

import hashlib

import numpy as np
import pytest
from frames_of import read

from ingester.datasets import formats
from ingester.datasets.dataset import columns

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
