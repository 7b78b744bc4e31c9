"""lines.py: CSV of books, sound or not, in blocks."""

import bz2
import gzip
import io
import lzma
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from ingester.datasets import lines
from ingester.datasets.columns import Bad, UnreadableRecording
from ingester.datasets.lines import Lines
from ingester.datasets.recordings import open_recording

HEAD = "Request Time,Bid_1,BidV_1,Ask_1,AskV_1\n"
FIRST = pd.Timestamp("2026-11-10 12:00").value


def opened(text):
    content = text if isinstance(text, bytes) else text.encode()
    return Lines(lambda: io.BytesIO(content))


def row(second, *numbers):
    return f"2026-11-10 12:00:{second:02},{','.join(map(str, numbers or (1, 2, 3, 4)))}\n"


def read(recording):
    pieces = list(recording.pieces())
    times = np.concatenate([piece.times for piece in pieces]) if pieces else np.empty(0, np.int64)
    return ((times - FIRST) / 1e9).tolist(), [each for piece in pieces for each in piece.bad]


def test_a_last_line_without_an_end_is_left_out_and_told():
    for cut in ("2026-11-10 12:00:01,1,1,2,1", "2026-11-10 12:00:01,1", "2"):
        recording = opened(HEAD + row(0) + cut)
        assert read(recording) == ([0.0], [])
        assert list(recording.notes) == ["its last line (3) has no line end and may be cut short: it is skipped"]
    recording = opened(HEAD + row(0))
    assert read(recording) == ([0.0], [])
    assert not recording.notes


def test_a_wrong_line_is_told_with_its_number_and_what_is_wrong():
    text = (
        HEAD + row(0) + row(1, 1, "cheap", 3, 4) + row(2, 1, 2, 3) + row(3) + "soon,1,2,3,4\n" + row(5, 1, 2, 3, 4, 5)
    )
    text += "1970-01-01 00:00:01,1,2,3,4\n2261-01-01 00:00:00,1,2,3,4\n" + row(8) + '"2026\n' + row(10)
    times, bad = read(opened(text))
    assert times == [0.0, 3.0, 8.0, 10.0]
    assert bad == [
        Bad(3, "BidV_1 is 'cheap', which is not a number"),
        Bad(4, "has 4 fields, expected 5"),
        Bad(6, "has no time"),
        Bad(7, "has 6 fields, expected 5"),
        Bad(8, "has the time 1970-01-01 00:00:01, before Binance opened (2017-07)"),
        Bad(9, "has the time 2261-01-01 00:00, which is in the future"),
        Bad(11, "is not a line of CSV"),
    ]


def test_numbers_of_lines_are_right_in_every_block_and_behind_blank_lines(monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 64)
    text = HEAD + "".join(row(second) + "\n" * (second % 3) for second in range(50)) + "soon,1,2,3,4\n" + row(55)
    times, bad = read(opened(text))
    assert times == [*map(float, range(50)), 55.0]
    assert bad == [Bad(text[: text.index("soon")].count("\n") + 1, "has no time")]


def test_windows_ends_of_lines_and_a_byte_order_mark_are_nothing():
    assert read(opened(b"\xef\xbb\xbf" + (HEAD + row(0) + "\n" + row(1)).replace("\n", "\r\n").encode())) == (
        [0, 1],
        [],
    )
    assert read(opened((HEAD + row(0) + row(1, 1, "x", 3, 4) + row(2)).replace("\n", "\r\n")))[0] == [0, 2]


def test_empty_cells_and_their_many_names_are_no_numbers():
    recording = opened(HEAD + "".join(row(second, 1, each, 3, 4) for second, each in enumerate(sorted(lines._NULLS))))
    ((times, values, bad, _),) = recording.pieces()
    assert not bad
    assert len(times) == len(lines._NULLS)
    assert np.isnan(values[:, 1]).all()
    assert (values[:, [0, 2, 3]] == [1, 3, 4]).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=64), min_size=4, max_size=4))
def test_every_float_comes_through_bit_equal(numbers):
    pieces = list(opened(HEAD + row(0, *map(repr, numbers))).pieces())
    kept = [number for number in numbers if math.isfinite(number)]
    values = pieces[0].values.ravel()
    assert values[np.isfinite(values)].view(np.int64).tolist() == np.array(kept).view(np.int64).tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("Request Time,Price,Bid_1\n", "other names: Price(.|\n)*\nmissing: BidV_1, Ask_1"),
        ("Request Time\n", "no columns of a book\\b"),
        ("Bid_1,Ask_1\n1,2\n", "no times(.|\n)*\nmissing: Request Time"),
        ("Request Time,Bid_1,Bid_1\n", "columns twice: 'Bid_1'"),
        ("Request Time,Bid_21\n", "Bid_21"),
        ("x" * 3_000_000, "more than 1 MB"),
        (HEAD + row(0) + "x" * 30_000_000, "more than 1 MB"),
        (b"\xff\xfeR\x00e\x00", "UTF-8"),
    ],
    ids=range(10),
)
def test_a_file_that_is_no_recording_is_refused_with_the_reason(text, message):
    with pytest.raises(UnreadableRecording, match=message):
        read(opened(text))


def test_columns_that_are_missing_are_named():
    recording = opened("Request Time,Bid_1,BidV_1,Ask_1\n2026-11-10 12:00:00,1,2,3\n")
    ((_, values, _, _),) = recording.pieces()
    assert recording.missing == ["AskV_1"]
    assert np.array_equal(values, [[1, 2, 3, np.nan]], equal_nan=True)


def tardis(levels, rows=3, exchange="binance", symbol="BTCUSDT"):
    """As https://docs.tardis.dev/downloadable-csv-files has it."""
    names = [f"{side}[{n}].{what}" for n in range(levels) for side in ("asks", "bids") for what in ("price", "amount")]
    head = ",".join(["exchange", "symbol", "timestamp", "local_timestamp", *names])
    begin = 1_598_918_403_696_000
    numbers = [[f"{100 + row * 1000 + place}.5" for place in range(4 * levels)] for row in range(rows)]
    lines = [
        ",".join([exchange, symbol, str(begin + row), str(begin + 10_000 + row), *each])
        for row, each in enumerate(numbers)
    ]
    return "\n".join([head, *lines, ""]), begin + 10_000


@pytest.mark.parametrize(("levels", "kept"), [(5, 5), (25, 20)])
def test_book_snapshots_of_tardis_are_books(levels, kept):
    text, begin = tardis(levels)
    recording = opened(text)
    ((times, values, bad, _),) = recording.pieces()
    assert (recording.symbol, recording.levels, recording.times.unit, bad, recording.notes) == (
        "BTCUSDT",
        kept,
        "us",
        [],
        {},
    )
    assert times.tolist() == [(begin + row) * 1000 for row in range(3)]
    # asks[0].price, asks[0].amount, bids[0].price, bids[0].amount, asks[1].price …
    first = np.array([100.5 + place for place in range(4 * levels)]).reshape(levels, 2, 2)[:kept]
    assert values[0].tolist() == [*first[:, 1].ravel(), *first[:, 0].ravel()]


def test_tardis_files_of_several_pairs_or_other_exchanges():
    text, _ = tardis(5)
    with pytest.raises(UnreadableRecording, match="several pairs: BTCUSDT, ETHUSDT"):
        read(opened(text + text.split("\n")[1].replace("BTCUSDT", "ETHUSDT") + "\n"))
    recording = opened(tardis(5, exchange="deribit", symbol="BTC-PERPETUAL")[0])
    assert recording.symbol == "BTC-PERPETUAL"
    assert recording.exchange == "deribit"


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_packed_files_are_read_and_those_that_were_cut_as_far_as_they_go(tmp_path, ending):
    rng = np.random.default_rng(1)
    text = HEAD + "".join(row(second % 60, *rng.random(4)) for second in range(20_000))
    codec = pa.Codec("zstd")
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lambda data: lzma.compress(data, preset=0)}.get(
        ending, codec.compress
    )
    packed = bytes(pack(text.encode()))
    path = tmp_path / f"ADA_USDT_100ms_(1).csv{ending}"
    path.write_bytes(packed)
    assert sum(len(piece.times) for piece in open_recording(path).pieces()) == 20_000
    path.write_bytes(packed[: len(packed) // 2])
    recording = open_recording(path)
    rows = sum(len(piece.times) for piece in recording.pieces())
    assert 1000 < rows < 20_000
    assert any("packed data ends too early" in note for note in recording.notes)


def test_a_small_file_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ingester.datasets.columns.ALWAYS_BYTES", 1 << 20)
    path = tmp_path / "ADA_USDT_100ms_(1).csv.xz"
    path.write_bytes(lzma.compress((HEAD + row(0) * 200_000).encode(), preset=0))
    with pytest.raises(UnreadableRecording, match="100 times its size"):
        read(open_recording(path))
