"""open_dataset: all pairs as one object, to the last bit, without loading what is not asked for."""

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from data_sets import NOON, grid_pairs, make, received_pairs
from frames_of import read
from hypothesis import given, strategies as st

import ingester
from ingester import open_dataset
from ingester.clock import SECOND
from ingester.datasets.dataset import FORMATS, columns
from ingester.datasets.opened import Episode, Episodes, stretches
from ingester.errors import OperationError, SettingsError, UnknownPair, UnreadableDataSet

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


EVERY = 100_000_000


@pytest.fixture
def pairs():
    made = grid_pairs(1000)
    made["ETHUSDT"][1][40:60] = np.nan
    made["ETHUSDT"][1][70, 6:] = np.nan
    return made


@pytest.fixture
def data(tmp_path, pairs):
    return open_dataset(make(tmp_path, "npz", pairs, EVERY, span_ns=1000 * EVERY))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rows", [0, 1, 250_000])
def test_frames_are_those_that_were_written_to_the_last_bit(tmp_path, form, rows):
    made = received_pairs(rows) if rows else {"BTCUSDT": (np.empty(0, np.int64), np.empty((0, 8)))}
    folder = make(tmp_path, form, made)
    data = open_dataset(folder)
    assert list(data) == list(data.pairs) == list(made)
    for symbol, (times, values) in made.items():
        frame = data[symbol]
        assert list(frame.columns) == columns(2) == list(data.features)
        assert frame.index.name == "Request Time"
        assert np.array_equal(frame.index.to_numpy("datetime64[ns]").view(np.int64), times)
        assert np.array_equal(frame.to_numpy(), values)
        if rows == 1:
            pd.testing.assert_frame_equal(frame, read(next(folder.glob(f"{symbol[:3]}*"))), check_index_type=False)


@pytest.mark.parametrize("form", FORMATS)
def test_all_pairs_are_one_array_with_its_axes(tmp_path, form, pairs):
    data = open_dataset(make(tmp_path, form, pairs, EVERY, span_ns=1000 * EVERY))
    array = data.to_numpy()
    assert array.shape == data.shape == (len(data.times), len(data.pairs), len(data.features)) == (1000, 2, 8)
    assert np.array_equal(data.times.view(np.int64), pairs["BTCUSDT"][0])
    for place, pair in enumerate(data.pairs):
        assert np.array_equal(array[:, place], pairs[pair][1], equal_nan=True)
        assert np.array_equal(data[pair].to_numpy(), pairs[pair][1], equal_nan=True)
    assert data.manifest["grid"]["every_ms"] == 100
    assert repr(data) == "<DataSet of 2 pairs x 8, 1,000 rows every 100ms, 2020-09-14 12:00 to 2020-09-14 12:01:40>"


def test_a_pair_is_known_by_either_name_and_an_unknown_one_is_told_with_the_nearest(data):
    assert data["BTC_USDT"].equals(data["BTCUSDT"])
    assert "btc/usdt" in data
    with pytest.raises(UnknownPair, match="Nearest names: BTCUSDT"):
        data["BTCUSDC"]


@pytest.mark.parametrize(
    "at",
    [
        "2020-09-14 12:00:30",
        NOON + 30 * SECOND,
        np.datetime64("2020-09-14T12:00:30"),
        pd.Timestamp("2020-09-14 14:00:30", tz="Europe/Berlin"),
        0.3,
    ],
)
def test_a_split_in_time_gives_every_row_to_one_part(data, at):
    train, test = data.split(at)
    assert (train.shape[0], test.shape[0]) == (300, 700)
    assert np.array_equal(np.concatenate([train.times, test.times]), data.times)
    assert np.array_equal(np.concatenate([train.to_numpy(), test.to_numpy()]), data.to_numpy(), equal_nan=True)
    assert np.array_equal(np.concatenate([part["ETHUSDT"] for part in (train, test)]), data["ETHUSDT"], equal_nan=True)


def test_parts_hold_the_rows_of_their_range_and_names(data, pairs):
    part = data.between("2020-09-14 12:00:00.05", "2020-09-14 12:00:00.301").select(["ETH_USDT"], levels=1)
    assert (part.pairs, part.features) == (("ETHUSDT",), ("Bid_1", "BidV_1", "Ask_1", "AskV_1"))
    assert np.array_equal(part.to_numpy()[:, 0], pairs["ETHUSDT"][1][1:4][:, [0, 1, 4, 5]])
    assert list(part["ETHUSDT"].columns) == list(part.features)
    swapped = data.select(features=["Ask_1", "Bid_1"]).to_numpy()
    assert np.array_equal(swapped[:5, 0], pairs["BTCUSDT"][1][:5][:, [4, 0]])


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda data: data.between("2020-09-15"), "2020-09-14 12:01:40"),
        (lambda data: data.between("noon"), "'noon'"),
        (lambda data: data.split(1.5), "1.5"),
        (lambda data: data.select(levels=3), "has 2"),
        (lambda data: data.select(levels=1, features=["Bid_1"]), "one of them"),
        (lambda data: data.select(features=["Bid_9"]), "Bid_9"),
        (lambda data: data.episodes(0), "length is 0"),
        (lambda data: data.episodes(5, stride=-1), "stride is -1"),
    ],
)
def test_what_cannot_be_asked_for_is_told(data, ask, words):
    with pytest.raises(SettingsError, match=words):
        ask(data)


def test_rows_as_received_have_frames_but_no_common_array(tmp_path):
    data = open_dataset(make(tmp_path, "npz", received_pairs(100)))
    assert len(data.between(NOON + SECOND)["BTCUSDT"]) < len(data["BTCUSDT"]) == 100
    for ask in (data.to_numpy, lambda: data.episodes(5), lambda: data.times, lambda: data.shape):
        with pytest.raises(OperationError, match="--every"):
            ask()
    assert "rows as received" in repr(data)


def test_an_array_that_does_not_fit_is_refused_before_it_is_made(data, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(OperationError, match="do not fit"):
        data.to_numpy()


def test_maps_are_not_written_through(data, tmp_path):
    frame = data["BTCUSDT"]
    with pytest.raises(ValueError, match="read-only"):
        frame.to_numpy()[0, 0] = 1.0
    assert data.to_numpy().flags.writeable  # a copy


def test_another_process_opens_its_own_files(data):
    data["BTCUSDT"]
    sent = pickle.dumps(data)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent).to_numpy(), data.to_numpy(), equal_nan=True)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"\x80" * path.stat().st_size)])
def test_damaged_files_are_named(tmp_path, form, pairs, damage):
    folder = make(tmp_path, form, pairs, EVERY, span_ns=1000 * EVERY)
    (path,) = folder.glob("ETH*")
    damage(path)
    data = open_dataset(folder)
    assert len(data["BTCUSDT"]) == 1000
    for ask in (lambda: data["ETHUSDT"], data.to_numpy, data.verify):
        with pytest.raises(UnreadableDataSet, match="ETH_USDT_100ms"):
            ask()


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_pickle_is_executed(tmp_path, pairs, capsys):
    folder = make(tmp_path, "pkl", pairs, EVERY, span_ns=1000 * EVERY)
    (path,) = folder.glob("ETH*")
    size = path.stat().st_size
    path.write_bytes(pickle.dumps(Hostile()).ljust(size, b"\0"))
    with pytest.raises(UnreadableDataSet, match="print"):
        open_dataset(folder)["ETHUSDT"]
    assert capsys.readouterr().out == ""


def test_importing_the_package_is_cheap_and_offers_the_names():
    code = "import sys, ingester; print([each for each in ('pandas', 'numpy', 'pyarrow') if each in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert "open_dataset" in dir(ingester)
    with pytest.raises(AttributeError, match="open_datasets"):
        _ = ingester.open_datasets


SAMPLING = """
import json, resource, sys
import psutil
from ingester import open_dataset
data = open_dataset(sys.argv[1])
first = next(iter(data.episodes(100, seed=0)))
before = psutil.Process().memory_info().rss
windows = sum(1 for _, windows in zip(range(200), data.episodes(100, seed=1)))
print(json.dumps([windows, data.episodes(100).most, psutil.Process().memory_info().rss - before]))
"""


def test_a_long_data_set_is_sampled_without_being_loaded(tmp_path):
    rows = 1_000_000
    times, row = NOON + EVERY * np.arange(rows), np.arange(1.0, 21.0)
    pairs = {symbol: (times, np.broadcast_to(row, (rows, 20))) for symbol in ("BTCUSDT", "ETHUSDT")}
    folder = make(tmp_path, "npz", pairs, EVERY, span_ns=rows * EVERY, levels=5)
    size = sum(path.stat().st_size for path in folder.iterdir())
    done = subprocess.run([sys.executable, "-c", SAMPLING, folder], capture_output=True, text=True, check=True)
    shutil.rmtree(folder)  # no run should leave so much behind
    windows, most, grown = json.loads(done.stdout)
    assert (windows, most) == (200, 10_000)
    assert size > 300e6
    assert grown < size / 4
