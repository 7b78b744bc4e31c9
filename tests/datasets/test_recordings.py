"""recordings.py: what a file may hold, what is read out of it, and what is refused."""

import bz2
import copyreg
import gzip
import io
import os
import pickle
import zipfile
from datetime import timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_sets import NOON, grid_pairs, make, received_pairs
from pandas.arrays import DatetimeArray
from pandas.core.indexes.datetimes import _new_DatetimeIndex
from pandas.core.internals.managers import BlockManager

from ingester.clock import SECOND
from ingester.datasets.columns import ParsedBooks, UnreadableRecording
from ingester.datasets.dataset import COLON, FORMATS, columns
from ingester.datasets.formats import WRITERS
from ingester.datasets.recordings import Origins, find_recordings, kind_of, open_recording, symbol_of

RAW = f"ADA_USDT_100ms_(2023-06-01 08{COLON}31)_(1)"
OLDER = f"ADA_USDT_100ms_(2023-06-01-08{COLON}31)_(2023-06-01-09{COLON}30)_(1)"
EXTRACTED = f"ADA_USDT_100ms_(2023-06-01 12{COLON}00)_(2023-06-03 00{COLON}00)"


@pytest.mark.parametrize("name", [RAW, OLDER, EXTRACTED, RAW.replace(COLON, ":"), EXTRACTED.lower()])
@pytest.mark.parametrize(
    "ending", [".pkl", ".csv", ".pkl.gz", ".csv.bz2", ".CSV", ".csv.XZ", ".csv.zst", ".npz", ".parquet"]
)
def test_names_of_all_styles_tell_the_pair(name, ending):
    assert symbol_of(name + ending) == "ADAUSDT"


def test_names_that_are_not_ascii_tell_the_pair():
    assert symbol_of(f"币安人生_USDT_100ms_(2023-06-01 08{COLON}31)_(1).pkl") == "币安人生USDT"
    assert symbol_of(f"BTC_USDT%5F240628_100ms_(2023-06-01 08{COLON}31)_(1).pkl") == "BTCUSDT_240628"


@pytest.mark.parametrize(
    "name",
    ["books.pkl", "ADA_USDT.csv", "_USDT_100ms_(2023-06-01 12:00).pkl", "A%FF_B_1s_(1).csv", "A%00_B_1s_(1).csv"],
)
def test_other_names_tell_no_pair(name):
    assert symbol_of(name) == ""


@pytest.mark.parametrize("name", ["books.txt", "books", f"{RAW}.npz.gz", f"{RAW}.gz", ".csv", "manifest.json"])
def test_files_of_other_endings_are_refused(name):
    assert kind_of(name) == ""
    with pytest.raises(UnreadableRecording, match=r"expected \.pkl"):
        symbol_of(name)


def test_the_manifest_tells_pair_grid_and_gaps(tmp_path):
    gaps = {"BTCUSDT": [(NOON + SECOND, NOON + 3 * SECOND)]}
    folder = make(tmp_path, "csv", grid_pairs(100), every_ns=SECOND // 10, gaps=gaps)
    origins = Origins()
    btc, eth = (origins.of(path) for path in sorted(folder.glob("*.csv")))
    assert btc == ("BTCUSDT", SECOND // 10, ((NOON + SECOND, NOON + 3 * SECOND, "test"),), 0, "", "binance")
    assert eth[:3] == ("ETHUSDT", SECOND // 10, ())
    packed = sorted(folder.glob("BTC*.csv"))[0]
    packed = packed.rename(packed.with_name(f"{packed.name}.gz"))
    assert Origins().of(packed) == btc
    plain = make(tmp_path / "other", "csv", received_pairs(100))
    assert origins.of(next(plain.glob("BTC*.csv")))[:3] == ("BTCUSDT", 0, ())


def test_a_renamed_file_is_found_in_the_manifest_by_its_content(tmp_path):
    gaps = {"BTCUSDT": [(NOON + SECOND, NOON + 3 * SECOND)]}
    folder = make(tmp_path, "csv", grid_pairs(100), every_ns=SECOND // 10, gaps=gaps)
    path = next(folder.glob("BTC*.csv"))
    told, content = Origins().of(path), path.read_bytes()
    (folder / f"{RAW}.csv").write_bytes(content)  # of another pair, by its name
    (folder / "copy.csv.gz").write_bytes(gzip.compress(content))
    (folder / "copy.csv.bz2").write_bytes(bz2.compress(content))
    path = path.rename(folder / "books.csv")
    origins = Origins()
    for name in ("books.csv", f"{RAW}.csv", "copy.csv.gz", "copy.csv.bz2"):
        assert origins.of(folder / name) == told
    (folder / f"{RAW}.csv").write_bytes(content[:-1] + b"x")
    (folder / "copy.csv.gz").write_bytes(gzip.compress(content)[:-20])
    (folder / "copy.csv.bz2").write_bytes(b"BZh9" + content[:100])
    assert Origins().of(folder / f"{RAW}.csv")[:2] == ("ADAUSDT", 0)
    assert Origins().of(folder / "missing.csv")[:2] == ("", 0)
    for ending in ("gz", "bz2"):
        assert Origins().of(folder / f"copy.csv.{ending}")[:2] == ("", 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"pairs": {"A\\u0000": {"file": "x"}}}',
        '{"pairs": {}, "grid": {"every_ms": 0}}',
        '{"pairs": {"ADAUSDT": {"file": "NAME", "gaps": [{"from": "soon", "to": "later"}]}}}',
    ],
)
def test_a_damaged_manifest_is_told_and_the_name_still_tells_the_pair(tmp_path, text):
    name = f"{EXTRACTED}.csv"
    (tmp_path / "manifest.json").write_text(text.replace("NAME", name))
    origin = Origins().of(tmp_path / name)
    assert origin.symbol == "ADAUSDT"
    assert "manifest.json beside it" in origin.note


def books(rows=7, levels=5):
    index = pd.date_range("2023-06-01 08:31", periods=rows, freq="100ms", name="Request Time").as_unit("ns")
    values = np.random.default_rng(1).random((rows, 4 * levels))
    return pd.DataFrame(values, index=index, columns=columns(levels))


def as_index_text(frame):
    return frame.set_axis(frame.index.astype(str).rename("Request Time"))


SHAPES = {
    "as exported": books(),
    "zone": books().tz_localize("UTC"),
    "other zone": books().tz_localize("UTC").tz_convert("Europe/Berlin"),
    "fixed offset": books().tz_localize("UTC").tz_convert(timezone(timedelta(hours=2))),
    "text": books().astype(str),
    "object text": books().astype(str).astype(object),
    "text index": as_index_text(books()),
    "object index": books().set_axis(books().index.astype(object)),
    "text index of a zone": as_index_text(books().tz_localize("UTC").tz_convert("Europe/Berlin")),
    "column": books().reset_index(),
    "text column": as_index_text(books()).reset_index(),
    "microseconds": books().set_axis(books().index.as_unit("us")),
    "list index": books().set_axis(pd.DatetimeIndex(list(books().index), name="Request Time")),
    "other order of columns": books()[columns(5)[::-1]],
    "other order of rows": books()[::-1],
}


def read(path):
    """All books of a file, which has to be sound."""
    pieces = list(open_recording(path).pieces())
    bad = [each for piece in pieces for each in piece.bad]
    if bad:
        raise UnreadableRecording("; ".join(f"{line} {why}" for line, why in bad))
    return ParsedBooks(
        np.concatenate([each.times for each in pieces]), np.concatenate([each.values for each in pieces])
    )


def check(path):
    recording, frame = read(path), books()
    assert symbol_of(path.name) == "ADAUSDT"
    assert recording.levels == 5
    assert np.array_equal(recording.times, frame.index.asi8)
    assert np.array_equal(recording.values, frame.to_numpy())


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("shape", SHAPES)
def test_pickles_of_every_shape_and_protocol_are_read_exactly(tmp_path, shape, protocol):
    path = tmp_path / f"{RAW}.pkl"
    path.write_bytes(pickle.dumps(SHAPES[shape], protocol))
    check(path)


@pytest.mark.parametrize("shape", SHAPES)
def test_csv_files_of_every_shape_are_read_exactly(tmp_path, shape):
    path = tmp_path / f"{EXTRACTED}.csv"
    SHAPES[shape].to_csv(path, index=not shape.endswith("column"))
    check(path)


def test_compressed_files_are_read(tmp_path):
    (tmp_path / f"{RAW}.pkl.gz").write_bytes(gzip.compress(pickle.dumps(books())))
    books().to_csv(tmp_path / f"{RAW}.csv.gz")
    for path in find_recordings([tmp_path]).files:
        check(path)


def test_pickles_of_numpy_1_are_read(tmp_path):
    path = tmp_path / f"{RAW}.pkl"
    written = pickle.dumps(books(), 2)
    assert b"numpy._core." in written
    path.write_bytes(written.replace(b"numpy._core.", b"numpy.core."))
    check(path)


def test_pickles_of_pandas_1_are_read(tmp_path):
    """Its DataFrame, index and block manager were reduced in other ways, under other names."""
    frame = books()
    values = np.ascontiguousarray(frame.to_numpy().T)

    class Times:
        __class__ = DatetimeArray

        def __reduce__(self):
            state = {"_data": frame.index.to_numpy(), "_dtype": np.dtype("M8[ns]"), "_freq": None}
            return copyreg.__newobj__, (DatetimeArray,), state

    class Index:
        def __reduce__(self):
            return _new_DatetimeIndex, (pd.DatetimeIndex, {"data": Times(), "name": "Request Time"})

    class Manager:
        __class__ = BlockManager

        def __reduce__(self):
            axes = [pd.Index(columns(5), dtype=object), Index()]
            block = {"values": values, "mgr_locs": slice(0, 20, 1)}
            state = (axes, [values], [axes[0]], {"0.14.1": {"axes": axes, "blocks": [block]}})
            return copyreg.__newobj__, (BlockManager,), state

    class Frame:
        __class__ = pd.DataFrame

        def __reduce__(self):
            state = {"_mgr": Manager(), "_typ": "dataframe", "_metadata": [], "attrs": {}}
            return copyreg.__newobj__, (pd.DataFrame,), state

    class Pickler(pickle._Pickler):
        def save_global(self, obj, name=None):
            if obj in (BlockManager, pd.DataFrame):  # in a protocol that names the module in clear
                module = "pandas.core.internals.managers" if obj is BlockManager else "pandas.core.frame"
                self.write(pickle.GLOBAL + f"{module}\n{obj.__name__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch = pickle._Pickler.dispatch | {type: save_global}

    file = io.BytesIO()
    Pickler(file, 3).dump(Frame())
    path = tmp_path / f"{RAW}.pkl"
    path.write_bytes(file.getvalue())
    check(path)


def test_folders_are_searched_and_each_file_is_found_once(tmp_path):
    deep = tmp_path / "raw fetched data" / "since"
    deep.mkdir(parents=True)
    for name in ("b.pkl", "a.csv", "manifest.json", "c.pkl.gz"):
        (deep / name).touch()
    found = find_recordings([tmp_path, deep, deep / "b.pkl"])
    assert [path.name for path in found.files] == ["a.csv", "b.pkl", "c.pkl.gz"]
    assert found.passed_over == []
    assert find_recordings([deep / "manifest.json"]).files == [deep / "manifest.json"]
    assert find_recordings([tmp_path / "missing.pkl"]).files == [tmp_path / "missing.pkl"]


def test_what_is_passed_over_in_folders_is_named_with_the_reason(tmp_path):
    for name in ("a.CSV", "b.csv.zst", "c.npz.gz", "notes.txt", "._a.CSV", ".DS_Store", ".a.pkl.new", "manifest.json"):
        (tmp_path / name).touch()
    (tmp_path / ".from.partial").mkdir()
    (tmp_path / ".from.partial" / "d.csv").touch()
    (tmp_path / "link.csv").symlink_to("a.CSV")
    (tmp_path / "folder").symlink_to("/")
    os.mkfifo(tmp_path / "pipe.csv")
    found = find_recordings([tmp_path])
    assert [path.name for path in found.files] == ["a.CSV", "b.csv.zst"]
    assert {path.name: why for path, why in found.passed_over} == {
        ".a.pkl.new": "a hidden file",
        ".from.partial": "a hidden folder",
        "c.npz.gz": "not the ending of a recording",
        "folder": "a symbolic link",
        "link.csv": "a symbolic link",
        "notes.txt": "not the ending of a recording",
        "pipe.csv": "no regular file",
    }


def test_what_is_not_finite_becomes_nan_and_the_rest_stays(tmp_path):
    frame = books().astype(str).astype(object)
    frame.iloc[0, 0], frame.iloc[1, 1], frame.iloc[2, 2], frame.iloc[3, 3] = "nan", None, "", "inf"
    frame.iloc[4, [0, 10]] = ["9", "1"]  # crossed
    path = tmp_path / f"{RAW}.pkl"
    frame.replace("", np.nan).to_pickle(path)
    values = read(path).values
    assert np.isnan([values[0, 0], values[1, 1], values[2, 2], values[3, 3]]).all()
    assert np.isnan(values).sum() == 4
    assert (values[4, 0], values[4, 10]) == (9, 1)


def test_levels_that_a_file_lacks_are_nan(tmp_path):
    path = tmp_path / f"{RAW}.csv"
    books(levels=7)[["Bid_1", "BidV_1", "Ask_7", "AskV_7"]].to_csv(path)
    recording = read(path)
    assert recording.levels == 7
    assert np.isfinite(recording.values).sum(axis=0).tolist() == [7, 7] + [0] * 24 + [7, 7]


def test_rows_of_one_time_are_kept_in_their_order(tmp_path):
    frame = books()
    twice = pd.concat([frame, frame * 2])
    path = tmp_path / f"{RAW}.pkl"
    twice.to_pickle(path)
    recording = read(path)
    assert np.array_equal(recording.times, np.repeat(frame.index.asi8, 2))
    assert np.array_equal(recording.values[1::2], 2 * frame.to_numpy())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (books().rename(columns={"Bid_1": "Price"}), "other names: Price"),
        (books().rename(columns={"Bid_1": "Bid_21"}), "Bid_21"),
        (books()[[]], "no columns"),
        (books().reset_index(drop=True), "no times"),
        (books().set_axis(["soon"] * 7), "1 has no time; 2 has"),
        (books().set_axis([pd.NaT, *books().index[1:]]), "^1 has no time$"),
        (
            books().set_axis(books().index - pd.DateOffset(years=60)),
            "^1 has the time 1963-06-01 08:31, before Binance opened",
        ),
        (books().astype(object).replace(books().iloc[0, 0], "cheap"), "^1 Bid_1 is 'cheap'"),
        (books()["Bid_1"], "is refused|holds a Series"),
        ({"Bid_1": 1.0}, "holds a dict"),
    ],
    ids=range(10),
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, content, message):
    path = tmp_path / f"{RAW}.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(UnreadableRecording, match=message):
        read(path)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps(books())[:-200], b"\x80\x05" + b"(" * 10_000])
def test_broken_pickles_are_refused(tmp_path, content):
    path = tmp_path / f"{RAW}.pkl"
    path.write_bytes(content)
    with pytest.raises(UnreadableRecording, match=r"."):
        read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnreadableRecording, match="FileNotFound"):
        read(tmp_path / f"{RAW}.pkl")


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def pickled(folder, content):
    path = folder / f"{RAW}.pkl"
    path.write_bytes(content)
    return path


def hostile(target):
    yield Calls(os.system, f"touch {target}")
    yield Calls(eval, f"open({str(target)!r}, 'w')")
    yield Calls(open, str(target), "w")
    yield Calls(getattr, pd.DataFrame, "to_csv")
    yield Calls(getattr, Path, "touch")
    yield Calls(pd.read_pickle, str(target))
    yield Calls(pd.eval, "1")
    yield Calls(np.load, str(target))
    yield Calls(np.save, str(target), np.zeros(1))
    yield Calls(np.dtype, [("a", "O"), ("b", "i8")])
    yield Calls(np.testing.assert_, False)
    yield Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {target}")))


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickles_are_refused_and_do_nothing(tmp_path, protocol):
    target = tmp_path / "made"
    for attack in hostile(target):
        for content in (attack, [books(), attack]):
            with pytest.raises(UnreadableRecording, match="is refused"):
                open_recording(pickled(tmp_path, pickle.dumps(content, protocol)))
            assert not target.exists()


@pytest.mark.parametrize(
    "name",
    ["os system", "posix system", "builtins eval", "pandas eval", "pandas io.common.os.system", "numpy core.os.system"],
)
def test_dotted_names_do_not_lead_around_the_list(tmp_path, name):
    module, attribute = (part.encode() for part in name.split())
    content = b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(attribute)]) + attribute + b"\x93."
    with pytest.raises(UnreadableRecording, match="is refused"):
        open_recording(pickled(tmp_path, content))


def test_what_other_tools_leave_beside_the_books_is_left_out(tmp_path):
    path = tmp_path / f"{RAW}.csv"
    frame = books().reset_index()
    frame["Response Delay"] = "12 ms"
    frame.to_csv(path)  # with a column that counts the rows
    frame = pd.read_csv(path)  # which is called `Unnamed: 0` now
    frame.to_csv(path)
    check(path)
    frame.to_pickle(path.with_suffix(".pkl"))
    check(path.with_suffix(".pkl"))


def test_a_frame_that_was_written_as_csv_and_read_back_has_its_times_in_an_unnamed_column(tmp_path):
    path = tmp_path / f"{RAW}.csv"
    books().rename_axis(None).to_csv(path)
    check(path)
    pd.read_csv(path).to_csv(path, index=False)
    check(path)


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_own_data_sets_are_read_exactly(tmp_path, form):
    frame = books(200_000 if form != "pkl" else 1000)  # in several pieces
    path = tmp_path / f"{EXTRACTED}.{form}"
    WRITERS[form](path, frame.index.asi8, np.ascontiguousarray(frame.to_numpy()))
    recording = read(path)
    assert np.array_equal(recording.times, frame.index.asi8)
    assert np.array_equal(recording.values.view(np.int64), frame.to_numpy().view(np.int64))


def test_parquet_of_other_tools_is_read(tmp_path):
    path = tmp_path / f"{RAW}.parquet"
    for frame in (books(), books().tz_localize("UTC").tz_convert("Asia/Tokyo"), books().reset_index()):
        frame.to_parquet(path)
        check(path)
    books().astype("Float64").to_parquet(path)
    check(path)


def test_columns_of_types_that_are_no_plain_numbers_are_named_with_the_cure(tmp_path):
    path = tmp_path / f"{RAW}.parquet"
    books().astype({"Bid_1": str}).astype({"Bid_1": "category"}).to_parquet(path)
    with pytest.raises(UnreadableRecording, match=r"column Bid_1 is of type category.*astype\('float64'\)"):
        read(path)


@pytest.mark.parametrize(("unit", "ns"), [("s", 10**9), ("ms", 10**6), ("us", 1000), ("ns", 1)])
@pytest.mark.parametrize("kind", [int, float, str])
def test_numbers_are_times_where_their_size_says_the_unit(tmp_path, unit, ns, kind):
    times = books().index.asi8
    numbers = times // ns if kind is int else times / ns
    frame = books().set_axis(pd.Index(numbers, name="Request Time"))
    if kind is str:
        frame = frame.set_axis(frame.index.map(lambda each: f"{each:.9f}" if unit == "s" else f"{each:.3f}"))
    for path in (tmp_path / f"{RAW}.csv", tmp_path / f"{RAW}.pkl"):
        frame.to_csv(path) if path.suffix == ".csv" else frame.to_pickle(path)
        recording = open_recording(path)
        (piece,) = recording.pieces()
        assert recording.times.unit == unit
        assert (piece.times // 1000).tolist() == (times // ns * ns // 1000 if kind is int else times // 1000).tolist()


@pytest.mark.parametrize("numbers", [range(7), np.full(7, 1.7e8 / 2), [-1] * 7, np.full(7, 1e30)])
def test_numbers_that_are_no_times_are_refused(tmp_path, numbers):
    path = tmp_path / f"{RAW}.csv"
    books().set_axis(pd.Index(numbers, name="Request Time")).to_csv(path)
    with pytest.raises(UnreadableRecording, match="has no time"):
        read(path)


def test_rows_without_any_number_are_no_books(tmp_path):
    path = tmp_path / f"{RAW}.csv"
    frame = books()
    frame.iloc[2:5] = np.nan
    frame.to_csv(path)
    (piece,) = open_recording(path).pieces()
    assert piece.empty == 3
    assert np.array_equal(piece.values, frame.dropna().to_numpy())


def test_links_and_pipes_are_not_opened(tmp_path):
    sound = tmp_path / f"{RAW}.csv"
    books().to_csv(sound)
    for ending in (".csv", ".pkl", ".parquet", ".npz", ".csv.gz"):
        (link := tmp_path / f"{EXTRACTED}{ending}").symlink_to(sound)
        with pytest.raises(UnreadableRecording, match="is a symbolic link"):
            read(link)
        os.mkfifo(pipe := tmp_path / f"{EXTRACTED}_(2){ending}")
        with pytest.raises(UnreadableRecording, match="no regular file"):
            read(pipe)


def test_archives_that_were_made_to_fill_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ingester.datasets.recordings.ALWAYS_BYTES", 1 << 20)
    path = tmp_path / f"{RAW}.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("values.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(20):
            member.write(bytes(1 << 20))
    with pytest.raises(UnreadableRecording, match="100 times its size"):
        read(path)
