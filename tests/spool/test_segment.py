"""The bytes of a segment file are those that the package describes; they are written here by hand."""

import struct
import zlib

import pytest

from ingester.spool import Spool


def header(first, version=1):
    start = b"ingspool" + struct.pack("<IQ", version, first)
    return start + struct.pack("<I", zlib.crc32(start))


def record(sequence, body, rows=1, first_ns=10, last_ns=19):
    length, fields = struct.pack("<I", len(body)), struct.pack("<QIqq", sequence, rows, first_ns, last_ns)
    return length + struct.pack("<I", zlib.crc32(length + fields + body)) + fields + body


def checkpoint(sequence, last_ns):
    text = b"%d %d" % (sequence, last_ns)
    return text + b" %08x\n" % zlib.crc32(text)


@pytest.fixture
def waiting(tmp_path, opened):
    """Writes a segment that begins with sequence 5; gives (sequence, body, rows, times) of what waits then."""

    def waiting(content, position=None):
        (tmp_path / f"{5:020d}.seg").write_bytes(content)
        if position is not None:
            (tmp_path / "position").write_bytes(position)
        return [tuple(each) for each in opened(tmp_path, limit_bytes=1 << 20).peek(1 << 20)]

    return waiting


def test_records_written_by_hand_are_read(waiting):
    content = header(5) + record(5, b"one", 3, 100, 109) + record(6, b"two")
    assert waiting(content) == [(5, b"one", 3, 100, 109), (6, b"two", 1, 10, 19)]


def test_the_checkpoint_says_what_waits(waiting):
    assert waiting(header(5) + record(5, b"one") + record(6, b"two"), checkpoint(6, 19)) == [(6, b"two", 1, 10, 19)]


@pytest.mark.parametrize(
    "damaged",
    [
        record(6, b"two")[:-1],
        record(6, b"two")[:-1] + b"x",
        record(7, b"two"),
        b"\xff" * 100,
    ],
    ids=["cut", "changed", "another sequence", "junk"],
)
def test_reading_stops_at_the_first_record_that_is_not_good(waiting, damaged, tmp_path):
    good = header(5) + record(5, b"one")
    assert waiting(good + damaged + record(7, b"three")) == [(5, b"one", 1, 10, 19)]
    (aside,) = (tmp_path / "damaged").iterdir()
    assert aside.name == f"{5:020d}.{len(good)}"
    assert aside.read_bytes() == damaged + record(7, b"three")


def test_a_damaged_file_header_costs_nothing(waiting):
    assert waiting(b"\0" * 24 + record(5, b"one")) == [(5, b"one", 1, 10, 19)]


def test_what_is_written_has_these_bytes(tmp_path, opened):
    spool = opened(tmp_path)
    assert spool.append(b"one", 3, 100, 109)
    assert spool.append(b"two", 1, 10, 19)
    (file,) = tmp_path.glob("*.seg")
    assert file.name == f"{1:020d}.seg"
    assert file.read_bytes() == header(1) + record(1, b"one", 3, 100, 109) + record(2, b"two")
    spool.acknowledge(spool.peek(1))
    spool.close()
    assert (tmp_path / "position").read_bytes() == checkpoint(2, 109)
    reopened = Spool(tmp_path)
    reopened.open()
    assert reopened.rows_waiting == 1
    reopened.close()
