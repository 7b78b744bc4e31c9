"""Small files that ask for much: what people import from elsewhere takes neither memory nor time beyond its size."""

import bz2
import gzip
import io
import lzma
import re
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingester.datasets import pickles
from ingester.datasets.columns import MOST_COLUMNS, UnreadableRecording
from ingester.datasets.importer import Content
from ingester.datasets.pickle_machine import UnreadablePickle
from ingester.datasets.recordings import Origin, open_recording

NAME = "ADA_USDT_100ms_(2023-06-01 08꞉31)_(1)"
LEVEL_SIDES = ["Bid", "BidV", "Ask", "AskV"]
LEVEL = ["Bid_1", "BidV_1", "Ask_1", "AskV_1"]

PACK = {".gz": gzip.compress, "bz2": bz2.compress, ".xz": lambda data: lzma.compress(data, preset=1)}


def read(path):
    return list(open_recording(path).pieces())


def times(rows):
    return pa.array(np.arange(rows) * 10**9 + 1_685_000_000 * 10**9).cast(pa.timestamp("ns"))


def repeated(value, rows):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), value)


def parquet(path, rows, **columns):
    columns = {"Request Time": times(rows), **dict.fromkeys(LEVEL, pa.array(np.ones(rows))), **columns}
    table = pa.table({name.replace("_time", "Request Time"): column for name, column in columns.items()})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    return path


def text(value):
    return b"\x8d" + struct.pack("<Q", len(value)) + value.encode()


def named(name):
    return b"".join(map(text, name.split())) + b"\x93"


def import_content(path, skip_bad):
    """CPU seconds until a file was refused, with what reason, or else its rows."""
    begun = time.process_time()
    try:
        content = Content(open_recording(path), Origin(), skip_bad)
    except UnreadableRecording as error:
        return time.process_time() - begun, str(error)
    return time.process_time() - begun, content.rows


@pytest.mark.parametrize(
    ("ending", "line", "refused"),
    [
        (".csv.gz", b"\n", r"has [\d,]+ more blank lines than others up to line [\d,]+; expected a book in each"),
        (".csv.bz2", b"\r\n", "more blank lines than others"),
        (".csv.xz", b"\n\r\n", "more blank lines than others"),
        (".csv.gz", b"x\n", r"has 100,001 bad lines among the first 100,002, the first of them: line 3 has 1 fields"),
        (".csv.gz", b" \n", "bad lines among the first"),
        (".csv.gz", b"2023-06-01 12:00:00,1,1,2,y\n", "line 3 AskV_1 is 'y', which is not a number"),
        (".csv.xz", b"y,1,1,2,1\n", "line 3 has no time"),
        (".csv.gz", b"1999-06-01 12:00:00,1,1,2,1\n", "line 3 has the time 1999-06-01 12:00"),
    ],
)
def test_a_few_bytes_that_become_millions_of_lines_without_a_book_are_refused_early(tmp_path, ending, line, refused):
    path = tmp_path / (NAME + ending)
    begin = ",".join(["Request Time", *LEVEL]).encode() + b"\n2023-06-01 12:00:00,1,1,2,1\n"
    path.write_bytes(PACK[ending[-3:]](begin + line * ((16 << 20) // len(line))))
    assert path.stat().st_size < 1 << 20
    for skip_bad in (False, True):
        seconds, why = import_content(path, skip_bad)
        assert re.search(refused, why), why
        assert seconds < 5


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b"\r\n\n", b"x\n"])
def test_a_file_with_some_blank_or_bad_lines_between_its_books_is_read(tmp_path, between):
    path = tmp_path / f"{NAME}.csv"
    rows = 300_000
    lines = [f"{1_685_600_000_000 + at},1,1,2,1\n".encode() for at in range(rows)]
    lines[::10] = [line + between for line in lines[::10]]
    path.write_bytes(",".join(["Request Time", *LEVEL]).encode() + b"\n" + b"".join(lines))
    pieces = read(path)
    times = np.concatenate([piece.times for piece in pieces])
    assert np.array_equal(times, (1_685_600_000_000 + np.arange(rows)) * 10**6)
    assert import_content(path, True)[1] == rows
    bad = [each.line for piece in pieces for each in piece.bad]
    assert bad == (list(range(3, 3 + 11 * rows // 10, 11)) if between == b"x\n" else [])


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_a_head_of_half_a_million_names_is_refused_at_once(tmp_path, ending):
    path, content = tmp_path / (NAME + ending), b"a," * 400_000 + b"a\n1\n"
    path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
    begun = time.monotonic()
    with pytest.raises(UnreadableRecording, match=r"has 400,001 columns; a recording has Bid_1"):
        read(path)
    assert time.monotonic() - begun < 10


def test_names_of_columns_are_told_in_brief(tmp_path):
    path = tmp_path / f"{NAME}.csv"
    for names in (["x" * 100_000], ["y" * 100_000] * 2, ["Request Time"] * MOST_COLUMNS):
        path.write_text(",".join(names) + "\n")
        with pytest.raises(UnreadableRecording) as caught:
            read(path)
        assert len(str(caught.value)) < 500


def test_a_state_that_names_one_dict_over_and_over_is_refused():
    keys = b"".join(text(f"{number:x}") + b"N" for number in range(2000))
    state = b"(}\x94(" + keys + b"u" + b"h\x00" * 20_000 + b"t"
    array = named("pandas DatetimeArray") + b")R" + state + b"b"
    content = b"\x80\x05" + named("pandas DataFrame") + b"(" + array + b"N](" + text("Bid_1") + b"etR."
    tracemalloc.start()
    with pytest.raises(UnreadablePickle, match="over and over"):
        pickles.read(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * len(content)


def list_of_nones(count):
    return b"(" + b"N" * count + b"l"


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        (b"N0" * 6_000_000, r"unpacks to more than [\d,]+ instructions; expected a frame of plain numbers.*unpack it"),
        (b"N" + b"\x94" * 12_000_000, "instructions"),
        (list_of_nones(12_000_000), "instructions"),
        (b"X\x00\x00\x00\x11" + b"x" * (17 << 24), "unpacks to more than 300 times its size"),
    ],
)
def test_a_few_bytes_that_become_millions_of_steps_of_a_pickle_are_refused(tmp_path, content, refused):
    path = tmp_path / f"{NAME}.pkl.gz"
    path.write_bytes(gzip.compress(b"\x80\x04" + content + b"N."))
    assert path.stat().st_size < 1 << 20
    seconds, why = import_content(path, False)
    assert re.search(refused, why), why
    assert seconds < 5


def test_packed_pickles_of_a_quiet_pair_are_read(tmp_path):
    rows = 100_000
    index = pd.date_range("2023-06-01", periods=rows, freq="100ms", name="Request Time")
    frame = pd.DataFrame(np.ones((rows, 20)), index, [f"{side}_{n}" for side in LEVEL_SIDES for n in range(1, 6)])
    path = tmp_path / f"{NAME}.pkl.xz"
    frame.to_pickle(path, compression={"method": "xz", "preset": 0})
    assert import_content(path, False)[1] == rows
    texts = frame[:20_000].astype(str)
    path = tmp_path / f"{NAME}.pkl.gz"
    texts.to_pickle(path, protocol=4)
    assert import_content(path, False)[1] == 20_000


@pytest.mark.parametrize("column", ["_time", "Bid_1"])
def test_a_long_text_that_every_row_of_a_parquet_file_repeats_is_refused(tmp_path, column):
    path = parquet(tmp_path / f"{NAME}.parquet", 20_000, **{column: repeated(pa.array(["2" * 5_000_000]), 20_000)})
    assert path.stat().st_size < 1 << 20
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    with pytest.raises(UnreadableRecording, match="text of 5,000,000 bytes; expected numbers or times"):
        read(path)
    assert pool.bytes_allocated() - before < 64 << 20


def test_text_that_is_packed_as_differences_is_refused(tmp_path):
    path = tmp_path / f"{NAME}.parquet"
    table = pa.table({"Request Time": ["2023-06-01" + "x" * 100_000] * 30, **dict.fromkeys(LEVEL, np.ones(30))})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"Request Time": "DELTA_BYTE_ARRAY"})
    with pytest.raises(UnreadableRecording, match="packed as differences"):
        read(path)


@pytest.mark.parametrize(
    "column", [pa.array([None] * 5, pa.list_(pa.float64())), pa.array([b"x"] * 5), pa.array([b"xy"] * 5, pa.binary(2))]
)
def test_columns_of_which_a_row_may_hold_much_are_refused_by_their_type(tmp_path, column):
    with pytest.raises(UnreadableRecording, match=r"column Bid_1 is of type .* expected float64"):
        open_recording(parquet(tmp_path / f"{NAME}.parquet", 5, Bid_1=column))


def test_a_parquet_file_of_rows_that_are_all_alike_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("ingester.datasets.recordings.ALWAYS_BYTES", 1 << 20)
    rows = 2_000_000
    columns = dict.fromkeys(LEVEL, repeated(pa.array([1.0]), rows)) | {"_time": repeated(times(1), rows)}
    with pytest.raises(UnreadableRecording, match="100 times its size"):
        open_recording(parquet(tmp_path / f"{NAME}.parquet", rows, **columns))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("stored", [False, True])
def test_times_as_text_in_a_parquet_file_are_read(tmp_path, kind, stored):
    path = tmp_path / f"{NAME}.parquet"
    column = pa.array([f"2023-06-01 12:00:{second:02}" for second in range(60)], kind)
    table = pa.table({"Request Time": column, **dict.fromkeys(LEVEL, np.ones(60))})
    pq.write_table(table, path, store_schema=stored)
    (piece,) = read(path)
    assert np.array_equal(piece.times, np.arange(60) * 10**9 + 1_685_620_800 * 10**9)
    assert (piece.values == 1).all()


def test_an_array_of_a_negative_size_is_refused(tmp_path):
    path, head = tmp_path / f"{NAME}.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<U1", "fortran_order": False, "shape": (-1,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("columns.npy", "w") as member:
        member.write(head.getvalue() + bytes(4 << 20))
    with pytest.raises(UnreadableRecording, match="expected numbers row by row"):
        read(path)
