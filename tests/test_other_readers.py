"""formats.py: what is written is read to the last bit by what people have: plain pandas of three generations with numpy
1 and 2 and nothing else, polars, duckdb, Arrow, and our own readers.
"""

import fcntl
import json
import shutil
import subprocess
import sys
import venv

import numpy as np
import pandas as pd
import pyarrow.csv
import pytest
from hypothesis import given, settings, strategies as st
from platformdirs import user_cache_path

from ingester.datasets import formats
from ingester.datasets.dataset import INDEX, columns
from ingester.datasets.formats import open_rows
from ingester.datasets.recordings import open_recording

OLDER = ["python-dateutil==2.9.0.post0", "six==1.17.0", "pytz==2025.2", "tzdata==2025.2"]
ENVIRONMENTS = {
    "pandas 1.5, numpy 1": ["pandas==1.5.3", "numpy==1.26.4", *OLDER],
    "pandas 2.2, numpy 1": ["pandas==2.2.3", "numpy==1.26.4", *OLDER],
    "pandas 2.2, numpy 2": ["pandas==2.2.3", "numpy==2.2.6", *OLDER],
    "pandas 3, numpy 2": ["pandas==3.0.0", "numpy==2.2.6", *OLDER[:2]],
    "polars, duckdb": ["polars==1.31.0", "duckdb==1.3.1"],
}
NEWEST_PYTHON = {"pandas 1.5, numpy 1": (3, 11), "pandas 2.2, numpy 1": (3, 12), "pandas 2.2, numpy 2": (3, 13)}
"""For which there are wheels."""


def environment(name):
    """The Python of a virtual environment with these packages alone, kept from run to run."""
    if sys.version_info[:2] > NEWEST_PYTHON.get(name, sys.version_info[:2]):
        pytest.skip(f"there are no wheels of {name} for this Python")
    packages = ENVIRONMENTS[name]
    key = "_".join([f"py{sys.version_info[0]}.{sys.version_info[1]}", *packages[:2]]).replace("==", "-")
    folder = user_cache_path("ingester") / "test-environments" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=False, symlinks=True)
            pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet"]
            subprocess.run(
                [*pip, "--no-deps", "--no-compile", "--only-binary", ":all:", "--disable-pip-version-check", *packages],
                check=True,
            )
            (folder / "complete").touch()
    return folder / "bin" / "python"


def told_by(python, script, *paths):
    """What a script prints as JSON; warnings are errors in it."""
    done = subprocess.run([python, "-I", "-W", "error", "-c", script, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


UNPICKLE = """
import importlib.util, json, pickle, sys
import pandas as pd
assert importlib.util.find_spec("pyarrow") is None
told = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        frames = [pd.read_pickle(path), pickle.load(file)]
    for frame in frames:
        told.append({
            "index": [type(frame.index).__name__, str(frame.index.dtype), frame.index.name, frame.index.tz],
            "columns": list(frame.columns), "by name": frame[list(frame.columns)].shape == frame.shape,
            "dtypes": sorted({str(dtype) for dtype in frame.dtypes}),
            "times": frame.index.to_numpy().tobytes().hex(), "values": frame.to_numpy().tobytes().hex(),
        })
        if len(frame):
            frame.iloc[0, 0] = 5.0
            assert frame.iloc[0, 0] == 5.0
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if "pandas" in name])
def test_pickles_open_in_plain_pandas_of_every_generation(tmp_path, name):
    chance = np.random.default_rng(1)
    expected = {}
    for rows in (0, 1, 1000, 20_000):
        times = 1_685_620_800 * 10**9 + np.cumsum(chance.integers(1, 10**9, rows))
        values = chance.choice([0.1, 12.0, np.nan, 1e-8, 5e-324, -0.0, 0.1 + 0.2, 123456789012.5], (rows, 8))
        formats.write_pickle(path := tmp_path / f"{rows}.pkl", times, values)
        expected[path] = times.tobytes().hex(), values.tobytes().hex()
    told = told_by(environment(name), UNPICKLE, *expected)
    for number, (times, values) in enumerate(expected.values()):
        for frame in told[2 * number : 2 * number + 2]:
            assert frame["index"] == ["DatetimeIndex", "datetime64[ns]", INDEX, None]
            assert frame["columns"] == columns(2)
            assert frame["by name"]
            assert frame["dtypes"] == ["float64"]
            assert frame["times"] == times
            assert frame["values"] == values


# CSV


def every_magnitude():
    """Numbers of each exponent, of both signs, denormals, powers of ten and their neighbours, large whole numbers."""
    chance = np.random.default_rng(2)
    exponents = np.repeat(np.arange(2047, dtype=np.uint64), 3)
    mantissas = chance.integers(0, 1 << 52, len(exponents), dtype=np.uint64)
    tens = np.array([float(f"1e{power}") for power in range(-323, 309)])
    values = [
        (exponents << np.uint64(52) | mantissas).view(np.float64),
        np.ldexp(1.0, np.arange(-1074, 1024)),
        *(tens, np.nextafter(tens, 0), np.nextafter(tens, np.inf)),
        chance.integers(10**9, 10**16, 3000).astype(float),
        np.arange(9_999_999_990.0, 10_000_000_010.0),
        [0.0, np.finfo(float).max, 5e-324],
    ]
    positive = np.concatenate(values)
    return np.concatenate([positive, -positive])


def written(path, values):
    values = np.concatenate([values, np.full(-len(values) % 4, 1.0)]).reshape(-1, 4)
    formats.write_csv(path, 1_685_620_800 * 10**9 + np.arange(len(values)) * 10**8, values)
    return values


def same_bits(read, values):
    return np.array_equal(np.ascontiguousarray(read).view(np.int64), values.view(np.int64))


def check_csv(path, values):
    """With what this environment has."""
    names = columns(1)
    options = {} if pd.__version__ >= "3.1" else {"float_precision": "round_trip"}
    assert same_bits(pd.read_csv(path, index_col=INDEX, **options)[names].to_numpy(), values)
    table = pyarrow.csv.read_csv(path)
    assert {str(table.schema.field(name).type) for name in names} == {"double"}
    assert same_bits(np.column_stack([table.column(name).to_numpy() for name in names]), values)
    rows = open_rows(path, "csv", 1)
    assert same_bits(rows.values(0, len(rows)), values)
    imported = np.concatenate([piece.values for piece in open_recording(path).pieces()])
    assert same_bits(imported, values)


def csv_path(folder):
    return folder / "ADA_USDT_100ms_(2023-06-01 08꞉00)_(1).csv"


def test_csv_keeps_numbers_of_every_magnitude(tmp_path):
    check_csv(csv_path(tmp_path), written(csv_path(tmp_path), every_magnitude()))


def test_csv_keeps_whole_numbers_that_are_alone_in_a_column(tmp_path):
    for number in (0.0, 1.0, 9_999_999_999.0, 1e10, 12_345_678_901.0, 2.0**53, 1e15, 1e16, 1e22, 1e23, 1e300):
        check_csv(csv_path(tmp_path), written(csv_path(tmp_path), np.full(8, number)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-(10**18), 10**18).map(float),
            st.decimals(0, 10**13, places=8, allow_nan=False).map(float),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_csv_keeps_any_numbers(tmp_path_factory, numbers):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    check_csv(csv_path(folder), written(csv_path(folder), np.array(numbers)))


def test_csv_leaves_missing_levels_empty(tmp_path):
    formats.write_csv(
        tmp_path / "x.csv", np.arange(2), np.array([[1.5, 2.0, np.nan, np.nan], [1.5, 2.0, 3e10, np.inf]])
    )
    assert [line.split(",", 1)[1] for line in (tmp_path / "x.csv").read_text().splitlines()[1:]] == [
        "1.5,2.0,,",
        "1.5,2.0,3e+10,inf",
    ]


READ_CSV = """
import json, struct, sys, duckdb, polars
path, names = sys.argv[1], sys.argv[2:]
frame = polars.read_csv(path)
told = {"polars": [[str(frame[name].dtype), struct.pack(f"{len(frame)}d", *frame[name]).hex()] for name in names]}
read = duckdb.sql(f"SELECT * FROM read_csv('{path}')")
rows = [row if number else () for number, row in enumerate(zip(*read.fetchall()))]
told["duckdb"] = [[str(kind), struct.pack(f"{len(row)}d", *row).hex()] for kind, row in zip(read.types, rows)][1:]
print(json.dumps(told))
"""


@pytest.mark.slow
def test_csv_is_read_to_the_last_bit_by_polars_and_duckdb(tmp_path):
    values = written(tmp_path / "x.csv", every_magnitude())
    told = told_by(environment("polars, duckdb"), READ_CSV, tmp_path / "x.csv", *columns(1))
    for reader, floats in (("polars", "Float64"), ("duckdb", "DOUBLE")):
        assert told[reader] == [[floats, values[:, place].tobytes().hex()] for place in range(4)], reader
