"""Recordings are read as they were written, and what is not one is named."""

import gzip
from pathlib import Path

import pytest

from ingester.errors import SettingsError
from ingester.simulator.recording import RecordedBook, read_recording, recorded_symbols

PAYLOAD = b'{"lastUpdateId":7,"bids":[["2.10","1"],["1.00","1e3"]],"asks":[["3.0","5"]]}'
LINE = b'12 {"stream":"adausdt@depth20@100ms","data":' + PAYLOAD + b"}\n"


@pytest.mark.parametrize("compressed", [False, True])
def test_plain_and_compressed_files_are_read(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "recording"
    path.write_bytes(gzip.compress(LINE) if compressed else LINE)
    assert list(read_recording(path)) == [RecordedBook(12, "ADAUSDT", 7, 2, PAYLOAD)]


def test_cutting_a_book_leaves_the_texts_of_its_numbers_alone() -> None:
    book = RecordedBook(12, "ADAUSDT", 7, 2, PAYLOAD)
    assert book.cut(2) == book.cut(20) == PAYLOAD
    assert book.cut(1) == b'{"lastUpdateId":7,"bids":[["2.10","1"]],"asks":[["3.0","5"]]}'


def test_other_streams_and_empty_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(LINE + b'\n13 {"stream":"bnbusdt@trade","data":{"p":"1"}}\n' + LINE.replace(b"ada", b"zec"))
    assert recorded_symbols(path) == ["ADAUSDT", "ZECUSDT"]


@pytest.mark.parametrize(
    "bad", [b"nonsense\n", LINE[:60], LINE.replace(b"12", b"noon"), LINE.replace(b"lastUpdateId", b"id")]
)
def test_a_bad_line_is_named(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "recording.jsonl"
    path.write_bytes(LINE + bad)
    with pytest.raises(SettingsError, match=r"recording\.jsonl, line 2"):
        recorded_symbols(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing"):
        recorded_symbols(tmp_path / "missing.jsonl")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(LINE * 100)[:-20])
    with pytest.raises(SettingsError, match=r"cut\.gz"):
        recorded_symbols(tmp_path / "cut.gz")


def test_a_recording_of_a_pair_whose_name_is_not_ascii_is_played(tmp_path):
    path = tmp_path / "recording.jsonl"
    book = '{"lastUpdateId":7,"bids":[["1","2"]],"asks":[]}'
    lines = [
        f'{number} {{"stream":"{name}@depth20@100ms","data":{book}}}'
        for number, name in enumerate(("币安人生usdt", "ßusdt"))
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [each.symbol for each in read_recording(path)] == ["币安人生USDT", "ßUSDT"]
