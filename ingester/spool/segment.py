"""One file of the spool: a header, then records, each with its length and a CRC32. The package describes the bytes."""

import contextlib
import logging
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ingester import private
from ingester.errors import SpoolError
from ingester.spool.disk import leads_to

log = logging.getLogger(__name__)

SUFFIX = ".seg"

_MAGIC = b"ingspool"
_VERSION = 1
_FILE = struct.Struct("<8sIQI")
"""Magic, version, first sequence, CRC32 of these three."""
_FRAME = struct.Struct("<II")
"""Length of the body, CRC32 of that length, of the fields below and of the body."""
_FIELDS = struct.Struct("<QIqq")
"""Sequence, rows, first and last receive time in ns."""
_LENGTH = struct.Struct("<I")

FILE_HEADER_BYTES = _FILE.size
RECORD_HEADER_BYTES = _FRAME.size + _FIELDS.size


class Record(NamedTuple):
    """Encoded rows that were received together; `first_ns` and `last_ns` are the receive times of the ends."""

    sequence: int
    body: bytes
    rows: int
    first_ns: int
    last_ns: int


@dataclass(eq=False, slots=True)
class Segment:
    """What is known about one segment file."""

    path: Path
    first: int
    """Sequence of its first record: also its name."""
    next: int
    """Sequence after its last good record."""
    end: int = FILE_HEADER_BYTES
    """Good records end at this byte."""
    size: int = FILE_HEADER_BYTES
    """Bytes on disk: more than `end` where something damaged follows."""
    rows: int = 0
    payload: int = 0
    """Bytes of all bodies."""
    last_ns: int | None = None
    """Receive time of the end of the last record; None where there is none, or the file was not read yet."""
    acknowledged_at: float | None = None
    """When (monotonic) its last record was acknowledged."""
    descriptor: int = -1
    """Open while records are appended or wait for a sync."""
    kept: int = -1
    """Open where the file has no name any more, for `path` then leads to it by this descriptor."""

    def write(self, sequence: int, body: bytes, rows: int, first_ns: int, last_ns: int) -> int:
        """Appends a record with one system call and returns the bytes added.

        Raises OSError; the file then ends where it ended before, or its end is known to be wrong and `size` > `end`.
        """
        fields = _FIELDS.pack(sequence, rows, first_ns, last_ns)
        frame = _FRAME.pack(len(body), _checksum(len(body), fields, body))
        added = RECORD_HEADER_BYTES + len(body)
        try:
            written = os.writev(self.descriptor, (frame, fields, body))
            if written < added:  # a full disk takes a part first, then fails: so that the reason is known, go on
                _write_all(self.descriptor, (frame + fields + body)[written:])
        except OSError:
            self._cut_back()
            raise
        self.end += added
        self.size = self.end
        self.next = sequence + 1
        self.rows += rows
        self.payload += len(body)
        self.last_ns = last_ns if self.last_ns is None else max(self.last_ns, last_ns)
        return added

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self.descriptor, self.end)
        except OSError:
            self.size = os.fstat(self.descriptor).st_size


class LostRange(NamedTuple):
    """Rows that cannot be read any more, received after `since_ns` and not after `until_ns`."""

    since_ns: int
    until_ns: int
    rows: int
    """0 where nobody knows."""


class RecordPosition(NamedTuple):
    """A position between two records of a segment; `rows` and `payload` count what lies before it in this segment."""

    segment: Segment
    offset: int
    sequence: int
    rows: int = 0
    payload: int = 0
    last_ns: int | None = None
    """Receive time of the end of the record before it in this segment."""

    def after(self, record: Record) -> "RecordPosition":
        """The position behind the record that follows here."""
        return RecordPosition(
            self.segment,
            self.offset + RECORD_HEADER_BYTES + len(record.body),
            record.sequence + 1,
            self.rows + record.rows,
            self.payload + len(record.body),
            record.last_ns,
        )


def start_of(segment: Segment) -> RecordPosition:
    """The position before its first record."""
    return RecordPosition(segment, FILE_HEADER_BYTES, segment.first)


def create(folder: Path, first: int) -> Segment:
    """Makes a segment file, ready for records. Raises OSError, and leaves no file behind then.

    A file of that name that is no segment (segments were found at the start) is moved to `damaged/`.
    """
    path = folder / f"{first:020d}{SUFFIX}"
    segment = Segment(path, first, first)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    try:
        segment.descriptor = os.open(path, flags, private.FILE)
    except FileExistsError:
        log.error("%s is in the way of a new file, it is moved to damaged/", path)
        path.replace(free_name(folder, path.name))
        segment.descriptor = os.open(path, flags, private.FILE)
    try:
        _write_all(segment.descriptor, _file_header(first))
    except OSError:
        os.close(segment.descriptor)
        path.unlink(missing_ok=True)
        raise
    return segment


def free_name(folder: Path, name: str) -> Path:
    """Returns an unused name in `damaged/`. Raises OSError."""
    target = folder / "damaged" / name
    private.folder(target.parent)
    while target.exists():
        target = target.with_name(target.name + ".again")
    return target


def remove(segment: Segment) -> None:
    """Deletes its file, and frees its room also while it is still open. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(segment.path, 0)
        if segment.kept < 0:
            segment.path.unlink()
    close_kept([segment])


def keep_readable(segment: Segment) -> None:
    """Keeps a file that is open readable although it was deleted or moved. Raises OSError."""
    segment.kept = os.dup(segment.descriptor)
    segment.path = Path(f"/proc/self/fd/{segment.kept}")


def relocate(folder: Path, segments: Iterable[Segment]) -> None:
    """Sets the paths of segments whose folder was moved."""
    for segment in segments:
        if segment.kept < 0:
            segment.path = folder / segment.path.name


def close_kept(segments: Iterable[Segment]) -> None:
    """Closes the files that `keep_readable` holds open."""
    for segment in segments:
        if segment.kept >= 0:
            os.close(segment.kept)
            segment.kept = -1


def is_in_place(segment: Segment) -> bool:
    """Whether its name still leads to the file that is written to; True where that cannot be seen."""
    return leads_to(segment.path, segment.descriptor)


def find(folder: Path) -> list[Segment]:
    """Finds the files of a folder that have the name of a segment, in order; reads none. Raises OSError."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if re.fullmatch(rf"[0-9]{{20}}\{SUFFIX}", entry.name) and entry.is_file(follow_symlinks=False):
                first, size = int(entry.name[:20]), entry.stat(follow_symlinks=False).st_size
                found.append(Segment(folder / entry.name, first, first, end=size, size=size))
    return sorted(found, key=lambda segment: segment.first)


def is_segment(segment: Segment) -> bool:
    """Whether a file is what its name says: by its own header, or where that is damaged, by its first record.

    One that cannot be read is taken for a segment.
    """
    try:
        with segment.path.open("rb") as file:
            header = file.read(FILE_HEADER_BYTES)
        if len(header) == FILE_HEADER_BYTES:
            magic, version, first, _ = _FILE.unpack(header)
            if magic == _MAGIC and first == segment.first and header == _file_header(first, version):
                return True
        return any(True for _ in walk(start_of(segment), segment.size))
    except OSError:
        return True


def walk(at: RecordPosition, end: int) -> Iterator[tuple[RecordPosition, Record]]:
    """Yields good records from a position on, each with its own. Stops before the first damaged one, and at byte `end`.

    Holds one record at a time. Raises OSError.
    """
    with at.segment.path.open("rb") as file:
        file.seek(at.offset)
        while at.offset + RECORD_HEADER_BYTES <= end:
            header = file.read(RECORD_HEADER_BYTES)
            if len(header) < RECORD_HEADER_BYTES:
                return
            length, checksum = _FRAME.unpack_from(header)
            if at.offset + RECORD_HEADER_BYTES + length > end:
                return
            body = file.read(length)
            fields = header[_FRAME.size :]
            if len(body) < length or _checksum(length, fields, body) != checksum:
                return
            sequence, rows, first_ns, last_ns = _FIELDS.unpack(fields)
            if sequence != at.sequence:
                return
            record = Record(sequence, body, rows, first_ns, last_ns)
            yield at, record
            at = at.after(record)


class RecordHeader(NamedTuple):
    """The fields before the body of a record."""

    sequence: int
    rows: int
    first_ns: int
    last_ns: int


def record_headers(segment: Segment) -> Iterator[RecordHeader]:
    """Yields the headers of a file's records; bodies are neither read nor checked. Raises OSError."""
    sequence, offset = segment.first, FILE_HEADER_BYTES
    with segment.path.open("rb") as file:
        while offset + RECORD_HEADER_BYTES <= segment.size:
            file.seek(offset)
            header = file.read(RECORD_HEADER_BYTES)
            if len(header) < RECORD_HEADER_BYTES:
                return
            length, _ = _FRAME.unpack_from(header)
            head = RecordHeader(*_FIELDS.unpack(header[_FRAME.size :]))
            offset += RECORD_HEADER_BYTES + length
            if head.sequence != sequence or offset > segment.size:
                return
            yield head
            sequence += 1


def read(places: Iterable[tuple[RecordPosition, int]], at_most_bytes: int) -> tuple[list[Record], str]:
    """Reads records from each position to the byte beside it: at most so many bytes of bodies, but at least one record.

    Ends early before a damaged record. Where that is the first one, the list is empty and the text says what is wrong.
    Raises OSError where the first one cannot be read, which says nothing about what the file holds.
    """
    chosen: list[Record] = []
    size = 0
    for at, end in places:
        offset = at.offset
        try:
            for here, record in walk(at, end):
                size += len(record.body)
                if chosen and size > at_most_bytes:
                    return chosen, ""
                chosen.append(record)
                offset = here.after(record).offset
        except OSError:
            if chosen:
                return chosen, ""
            raise
        if offset < end:
            return chosen, "checksum"
    return chosen, ""


def scan(segment: Segment, before: int | None = None) -> None:
    """Reads a segment file and sets in `segment` what is good in it: records with sequences below `before`.

    Raises OSError, and leaves `segment` as it is, where the file cannot be read: only a checksum tells of damage.
    Raises SpoolError where a newer version has written the file.
    """
    at = start_of(segment)
    last_ns: int | None = None
    _check_header(segment)
    for here, record in walk(at, segment.size):
        if before is not None and record.sequence >= before:
            break
        at = here.after(record)
        last_ns = record.last_ns if last_ns is None else max(last_ns, record.last_ns)
    segment.end, segment.next, segment.rows, segment.payload = at.offset, at.sequence, at.rows, at.payload
    segment.last_ns = last_ns


def _check_header(segment: Segment) -> None:
    with segment.path.open("rb") as file:
        header = file.read(FILE_HEADER_BYTES)
    if len(header) < FILE_HEADER_BYTES:
        return
    magic, version, first, _ = _FILE.unpack(header)
    # A header that does not match its own checksum is damaged and says nothing; records have checksums of their own.
    if magic == _MAGIC and version != _VERSION and header == _file_header(first, version):
        raise SpoolError(
            f"{segment.path} has format {version}, this version of ingester reads format {_VERSION}: run the version "
            "that wrote it until all is stored, or move the folder away"
        )


def _file_header(first: int, version: int = _VERSION) -> bytes:
    start = _FILE.pack(_MAGIC, version, first, 0)[: -_LENGTH.size]
    return start + _LENGTH.pack(zlib.crc32(start))


def _checksum(length: int, fields: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(fields, zlib.crc32(_LENGTH.pack(length))))


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
