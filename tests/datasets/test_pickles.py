"""pickles.py, pickle_machine.py: real pickles of all versions are read exactly, and none makes anything happen."""

import copyreg
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pickle_mutations import SAMPLES, check, state

from ingester.datasets import pickles
from ingester.datasets.dataset import INDEX, columns
from ingester.datasets.formats import write_pickle
from ingester.datasets.pickle_machine import UnreadablePickle

MUTATIONS = 4000
PICKLES, EXPECTED = {}, {}
with tarfile.open(SAMPLES) as archive:
    for member in archive:
        folder, name = member.name.split("/", 1)
        (EXPECTED if folder == "expected" else PICKLES)[member.name] = archive.extractfile(member).read()
SOUND = {name: content for name, content in PICKLES.items() if "/ok/" in name}
REFUSED = {name: content for name, content in PICKLES.items() if "/refused/" in name}


def of_version(group):
    return sorted({name.split("/")[0] for name in group})


def times_of(labels):
    if labels.dtype != object:
        return labels.astype("datetime64[ns]").view(np.int64)
    index = pd.DatetimeIndex(pd.to_datetime(pd.Index(labels), utc=True, format="ISO8601"))
    return index.tz_convert(None).as_unit("ns").asi8


def numbers_of(column):
    if column.dtype == object:
        column = np.array([np.nan if cell in ("", None) else cell for cell in column], object)
    return column.astype(float)


@pytest.mark.parametrize("version", of_version(SOUND))
def test_frames_of_every_version_and_shape_are_read_exactly(version):
    files = {name: content for name, content in SOUND.items() if name.startswith(f"{version}/")}
    assert len(files) > 40
    for name, content in files.items():
        shape = name.split("/")[-1].rsplit("-", 1)[0]
        expected = np.load(io.BytesIO(EXPECTED[f"expected/{shape}.npz"]))
        plain = pickles.read(content)
        check(plain)
        read = dict(zip(plain.names, plain.columns, strict=True))
        labels = read.pop(INDEX) if INDEX in read else plain.labels
        assert list(read) == expected["names"].tolist(), name
        assert np.array_equal(times_of(labels), expected["ns"]), name
        for place, column in enumerate(read.values()):
            assert np.array_equal(numbers_of(column), expected["values"][:, place], equal_nan=True), name


@pytest.mark.parametrize("version", of_version(REFUSED))
def test_frames_that_are_not_read_are_refused_with_what_to_do(version):
    for name, content in REFUSED.items():
        if name.startswith(f"{version}/"):
            with pytest.raises(UnreadablePickle, match=r"is refused: .*(again|does not need|type)"):
                pickles.read(content)


def test_what_data_sets_hold_is_read_without_copies(tmp_path):
    times, values = np.arange(9000), np.random.default_rng(1).random((9000, 20))
    write_pickle(tmp_path / "x.pkl", times, values)
    content = (tmp_path / "x.pkl").read_bytes()
    tracemalloc.start()
    plain = pickles.read(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(content) / 10
    assert plain.names == columns(5)
    assert plain.labels_name == INDEX
    assert plain.block.flags.aligned
    assert np.array_equal(plain.block, values)
    assert np.array_equal(plain.labels.view(np.int64), times)


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_read_as_what_they_stand_for(protocol):
    at = datetime(2023, 6, 1, 8, 31, 0, 250_000)
    west = at.replace(tzinfo=timezone(timedelta(hours=-5)))
    cells = np.array([np.float64(1.5), np.int64(3), "2.5", Decimal("0.1"), None, pd.NA, 7, True], object)
    for times, expected in (
        ([pd.Timestamp(at)] * 7 + [pd.NaT], at),
        ([pd.Timestamp(at, tz="Europe/Berlin").as_unit("ms")] * 7 + [None], at - timedelta(hours=2)),
        ([west] * 7 + [pd.NaT], at + timedelta(hours=5)),
    ):
        frame = pd.DataFrame({"Bid_1": cells}, pd.Index(times, dtype=object))
        frame.attrs = {"made": at.date(), "by": {"name": [1, (2, 3)]}}
        plain = pickles.read(pickle.dumps(frame, protocol))
        assert plain.columns[0].tolist() == [1.5, 3, "2.5", "0.1", None, None, 7, True]
        assert plain.labels[:7].tolist() == [int(expected.replace(tzinfo=UTC).timestamp() * 1000) * 10**6] * 7
        assert np.isnat(plain.labels[7])


# What a file may name but never gets: arguments of its choosing for what is admitted.


def text(value):
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def named(name):
    return b"".join(map(text, name.split())) + b"\x93"


class Calls:
    """Pickles as a call, and a state."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def frame_with(**parts):
    """A frame in the manner of pandas of which some parts are others."""
    given = {"values": np.zeros((4, 3)), "places": slice(0, 4, 1), "names": pd.Index(columns(1), dtype=object)}
    given |= {"times": pd.date_range("2023", periods=3, unit="ns")} | parts
    from pandas._libs.internals import _unpickle_block
    from pandas.core.internals.managers import BlockManager

    block = Calls(_unpickle_block, given["values"], given["places"], 2)
    manager = Calls(BlockManager, (block,), [given["names"], given["times"]])
    return pickle.dumps(Calls(copyreg._reconstructor, pd.DataFrame, object, None, state={"_mgr": manager}), 4)


def test_a_frame_with_its_own_parts_is_read():
    plain = pickles.read(frame_with())
    assert plain.names == columns(1)
    assert not np.concatenate(plain.columns).any()


pointers = (0xDEADBEEF).to_bytes(8, "little") * 12
HOSTILE_PARTS = {
    "objects at addresses of its choosing": {"values": Calls(np.ndarray, (4, 3), np.dtype(object), pointers)},
    "the same in a buffer": {"values": Calls(np.ndarray, (4, 3), "O", bytearray(pointers))},
    "the same with strides": {"values": Calls(np.ndarray, (4, 3), "<f8", bytes(96), 0, (10**9, 8))},
    "an array of no bytes": {"values": Calls(np.ndarray, (4, 3), "<f8", b"")},
    "an array without values": {"values": Calls(np.ndarray, (4, 3))},
    "times that were never made": {"times": Calls(copyreg._reconstructor, pd.arrays.DatetimeArray, object, None)},
    "an index that was never made": {"times": Calls(copyreg._reconstructor, pd.DatetimeIndex, object, None)},
    "a slice that was never made": {"places": Calls(slice, None, None, None)},
    "a slice of everything": {"places": slice(0, 2**62, 1)},
    "a slice of text": {"places": slice("a", "b", "c")},
    "text that was never made": {"names": Calls(copyreg._reconstructor, pd.arrays.StringArray, object, None)},
    "a frame in a frame": {"values": pd.DataFrame({"a": [1]})},
    "numbers with parts": {"values": np.zeros((4, 3), [("a", "f4"), ("b", "f4")])},
    "numbers without size": {"values": np.zeros((4, 3), "V0")},
    "a long type": {"values": np.zeros((4, 3), "U1")},
    "a range without end": {"times": pd.RangeIndex(2**62)},
    "names that are lists": {"names": pd.Index([["a"], ["b"], ["c"], ["d"]], dtype=object)},
}


@pytest.mark.parametrize("what", HOSTILE_PARTS)
def test_parts_that_pandas_and_numpy_would_take_at_their_word_are_refused(what):
    with pytest.raises(UnreadablePickle, match=r"^\S.*$"):
        pickles.read(frame_with(**HOSTILE_PARTS[what]))


BUILDS = [
    b"\x80\x04" + named("pandas DatetimeIndex") + b"}" + text("asi8") + b"K\x01sb.",
    b"\x80\x04" + named("pandas DataFrame") + b"N}" + text("columns") + b"K\x01s\x86b.",
    b"\x80\x04" + named("numpy ndarray") + b"}" + text("tolist") + named("builtins getattr") + b"sb.",
    b"\x80\x02cpandas\nDatetimeIndex\n(dS'asi8'\nI1\nsb.",
    b"(ipandas\nDatetimeIndex\n}" + text("__class__") + named("pandas DataFrame") + b"sb.",
    b"(cpandas\nDataFrame\no}" + text("__setstate__") + named("builtins getattr") + b"sb.",
]


@pytest.mark.parametrize("content", BUILDS, ids=range(len(BUILDS)))
def test_a_class_is_never_changed(content):
    sound = pickle.dumps(pd.DataFrame({"Bid_1": [1.5]}, pd.DatetimeIndex(["2023-06-01"], name=INDEX)))
    before, read = state(), pickles.read(sound)
    with pytest.raises(UnreadablePickle):
        pickles.read(content)
    assert state() == before
    assert repr(pickles.read(sound)) == repr(read)


OUTSIDE = [b"Pnumber\n.", b"K\x01Q.", b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00.", b"\x97.", b"N\x98."]


@pytest.mark.parametrize("content", OUTSIDE, ids=range(len(OUTSIDE)))
def test_what_leads_out_of_the_file_is_refused(content):
    copyreg.add_extension("os", "getcwd", 1)
    try:
        with pytest.raises(UnreadablePickle, match="outside"):
            pickles.read(b"\x80\x05" + content)
    finally:
        copyreg.remove_extension("os", "getcwd", 1)


def deep(levels):
    return b"N" + b"\x85" * levels


ONE_NAME = b"](" + text("Bid_1") + b"e"


def frame_of(values, names=ONE_NAME):
    index = named("pandas DatetimeIndex") + named("numpy ndarray") + b"K\x01\x85" + text("<M8[ns]")
    index += b"C\x08" + bytes(8) + b"\x87R\x85R"
    return b"\x80\x05" + named("pandas DataFrame") + b"(" + values + index + names + b"tR."


def array(size, dtype, data):
    return named("numpy ndarray") + size + b"\x85" + dtype + data + b"\x87R"


HUGE = b"\x8a\x08" + (2**62).to_bytes(8, "little")
COLLIDING = [b"\x8a\x10" + ((2**61 - 1) * each).to_bytes(16, "little") + b"N" for each in range(3000)]
GREEDY = {
    "a length of 2 GB": b"\x80\x05B" + struct.pack("<I", 2**31) + b".",
    "a length of 9 EB": b"\x80\x05\x8e" + struct.pack("<Q", 2**63) + b".",
    "a length of more than there are numbers": b"\x80\x05\x96" + struct.pack("<Q", 2**64 - 1) + b".",
    "text of 4 GB": b"\x80\x05X" + struct.pack("<I", 2**32 - 1) + b".",
    "text of 9 EB": b"\x80\x05\x8d" + struct.pack("<Q", 2**63) + b".",
    "a negative length": b"\x80\x05T" + struct.pack("<i", -5) + b".",
    "a number of 2 GB": b"\x80\x05\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "a number of many digits": b"I" + b"9" * 900 + b"\n" + b"I" + b"9" * 60_000 + b"\n.",
    "a frame of 9 EB": b"\x80\x05\x95" + struct.pack("<Q", 2**63) + b"N.",
    "a far place in the memo": b"\x80\x05Nr" + struct.pack("<I", 2**32 - 1) + b".",
    "a far place in the memo, in digits": b"Np99999999999\n.",
    "a negative place in the memo": b"Np-1\n.",
    "an array of 8 TB": frame_of(array(b"\x8a\x06" + (10**12).to_bytes(6, "little"), text("<f8"), b"C\x00")),
    "a bytearray of 4 EB": frame_of(array(b"K\x01", text("<f8"), named("builtins bytearray") + HUGE + b"\x85R")),
    "a list in itself": b"\x80\x05]\x94h\x00a.",
    "a dict in itself": b"\x80\x05}\x94" + text("a") + b"h\x00s.",
    "a frame that is its own part": b"\x80\x05"
    + named("pandas DataFrame")
    + b")\x81\x94}"
    + text("_mgr")
    + b"h\x00sb.",
    "a deep value": b"\x80\x05" + deep(100_000) + b".",
    "deep lists": b"\x80\x05" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep calls": b"\x80\x05" + named("pandas DataFrame") + b")R" * 100_000 + b".",
    "a deep name": b"\x80\x05" + text("os") + deep(100_000) + b"\x93.",
    "a deep key": b"\x80\x05}" + deep(100_000) + b"Ns.",
    "a deep type": frame_of(array(b"K\x01", deep(100_000), b"C\x08" + bytes(8))),
    "a deep code of a type": frame_of(
        array(b"K\x01", named("numpy dtype") + deep(100_000) + b"\x85R(K\x03NNNNtb", b"C\x08" + bytes(8))
    ),
    "a deep column name": frame_of(b"N", b"](" + deep(100_000) + b"e"),
    "marks": b"\x80\x05" + b"(" * 100_000 + b".",
    "numbers that collide as keys": b"\x80\x05}(" + b"".join(COLLIDING) + b"u.",
}


@pytest.mark.parametrize("what", GREEDY)
def test_what_a_small_file_asks_for_is_not_given(what):
    tracemalloc.start()
    with pytest.raises(UnreadablePickle, match=r"^.{5,300}$"):
        pickles.read(GREEDY[what])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * len(GREEDY[what]) + 100_000


def test_values_that_are_named_over_and_over_cost_no_more_than_a_file_may():
    cells = 20_000
    array = np.empty((1, cells), object)
    array[:] = None
    shared = pickle.dumps(pd.DataFrame(array.T, columns=["Bid_1"]), 4)
    assert pickles.read(shared).columns[0].tolist() == [None] * cells
    from pandas._libs.internals import _unpickle_block
    from pandas.core.internals.managers import BlockManager

    names = [f"{number}" for number in range(2000)]
    blocks = tuple(Calls(_unpickle_block, array, slice(place, place + 1, 1), 2) for place in range(2000))
    manager = Calls(BlockManager, blocks, [pd.Index(names, dtype=object), pd.RangeIndex(cells)])
    content = pickle.dumps(Calls(copyreg._reconstructor, pd.DataFrame, object, None, state={"_mgr": manager}), 4)
    assert len(content) < 300_000
    tracemalloc.start()
    with pytest.raises(UnreadablePickle, match="over and over"):
        pickles.read(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * len(content)


def test_text_whose_offsets_lead_out_of_its_buffer_is_refused():
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"Bid_1": pd.array(["12"], "string[pyarrow]")})
    sound = pickle.dumps(frame, 5)
    assert pickles.read(sound).columns[0].tolist() == ["12"]
    for ends in ([0, 1 << 40], [-(1 << 40), 2], [2, 0]):
        broken = sound.replace(np.array([0, 2], np.int64).tobytes(), np.array(ends, np.int64).tobytes())
        assert broken != sound
        with pytest.raises(UnreadablePickle, match="points outside"):
            pickles.read(broken)


def test_a_file_is_told_apart_from_what_is_no_pickle():
    for content in (
        b"",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"\x80\x06N.",
        b"\x89PNG\r\n\x1a\n",
        b"Request Time,Bid_1\n",
        bytes(99),
    ):
        with pytest.raises(UnreadablePickle, match=r"damaged|protocol|refused"):
            pickles.read(content)


def test_mutated_pickles_crash_nothing_call_nothing_and_change_nothing(tmp_path):
    script = Path(__file__).parents[1] / "support" / "pickle_mutations.py"
    count = os.environ.get("INGESTER_PICKLE_MUTATIONS", str(MUTATIONS))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", script, count], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{int(count):,} pickles, " in done.stdout
    assert not list(tmp_path.iterdir())
