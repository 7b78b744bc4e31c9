"""Reads back what a spool folder holds after a restart, and sets aside what is damaged in it."""

import contextlib
import itertools
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ingester import private
from ingester.spool.checkpoint import Checkpoint, CheckpointFile, SegmentIndex
from ingester.spool.disk import reason_of
from ingester.spool.segment import (
    FILE_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    LostRange,
    RecordPosition,
    Segment,
    find,
    free_name,
    is_segment,
    record_headers,
    scan,
    start_of,
    walk,
)

log = logging.getLogger(__name__)

FIRST_SEQUENCE = 1


@dataclass(frozen=True)
class Recovery:
    """What opening a spool found."""

    records_waiting: int
    rows_waiting: int
    bytes_waiting: int
    cut: int
    """Segments of which an unreadable rest was cut off and set aside in `damaged/`."""
    cut_bytes: int
    checkpoint_missing: bool
    """Whether the checkpoint was missing or damaged, so that everything retained is sent again."""
    last_ns: int | None
    """Receive time of the last good record; None where there never was one."""
    lost_ranges: tuple[LostRange, ...] = ()
    """What is missing between good records; what is missing after the last one begins at `last_ns`."""


class RowCount(NamedTuple):
    """Rows, and the receive times of the first and the last of them; 0 where there are none."""

    rows: int = 0
    first_ns: int = 0
    last_ns: int = 0


def read_back(folder: Path, checkpoint: Checkpoint | None, now: float) -> tuple[SegmentIndex, int, Recovery]:
    """Returns the good records of a folder, the bytes on its disk, and what was found there.

    Segments before the one that the checkpoint is in are only read if they are sent again. One that the system does not
    let us read is kept as it is, to be read when its turn comes. Raises OSError where the folder cannot be listed, and
    SpoolError for a newer format.
    """
    sequence, last_ns = checkpoint or (FIRST_SEQUENCE, 0)
    index = SegmentIndex()
    index.next = sequence
    cut = cut_bytes = 0
    found = find(folder)
    size = sum(segment.size for segment in found)
    sound = [segment for segment in found if is_segment(segment)]
    following = {segment.first: after.first for segment, after in itertools.pairwise(sound)}
    for segment in found:
        before = following.get(segment.first)
        if segment not in sound:
            segment.end = FILE_HEADER_BYTES  # nothing in it is ours
        elif before is not None and before <= sequence:
            segment.next, segment.acknowledged_at = before, now
            index.segments.append(segment)
            continue
        else:
            try:
                scan(segment, before)
            except (OSError, MemoryError) as error:
                log.error("cannot read %s (%s): it is kept, and tried again", segment.path, reason_of(error))
                _keep_unread(segment, before)
                index.next = max(index.next, segment.next)
                index.segments.append(segment)
                continue
        aside = True
        if segment.size > segment.end:
            cut += 1
            cut_bytes += segment.size - segment.end
            aside = set_aside(segment)
        if segment.next > segment.first:
            index.next = max(index.next, segment.next)
            last_ns = max(last_ns, segment.last_ns or 0)
            segment.acknowledged_at = now if segment.next <= sequence else None
            index.segments.append(segment)
        elif aside:
            segment.path.unlink(missing_ok=True)
            size -= segment.size
    for segment in index.segments:
        if segment.next > sequence:
            start = start_of(segment)
            with contextlib.suppress(OSError):  # then what is acknowledged in it is sent again
                start = next((at for at, _ in walk(start, segment.end) if at.sequence >= sequence), start)
            index.rewind(start)
            break
    index.inherited = index.acknowledged
    damaged = folder / "damaged"
    if damaged.is_dir():
        size += sum(path.stat().st_size for path in damaged.iterdir())
        size -= cut_bytes
    missing = checkpoint is None and bool(index.segments)
    if missing:
        log.warning("the position in %s is lost: everything retained is sent again", folder)
    if cut:
        log.warning("%d bytes in %d files of %s are damaged", cut_bytes, cut, folder)
    lost = () if missing else _lost_ranges(index.segments, *(checkpoint or (FIRST_SEQUENCE, 0)))
    return index, size, Recovery(*index.waiting(), cut, cut_bytes, missing, last_ns or None, lost)


def _keep_unread(segment: Segment, before: int | None) -> None:
    """Counts a segment that cannot be read as waiting; `before` is the sequence with which the next one begins."""
    segment.end = segment.size
    segment.next = before or segment.first + max(1, segment.size // RECORD_HEADER_BYTES)  # no more can be in it


def read_late(segment: Segment, acknowledged_ns: int) -> LostRange | None:
    """Reads a segment that could not be read at the start; returns what is damaged in it. Raises OSError.

    `acknowledged_ns`: the latest receive time before it.
    """
    scan(segment, segment.next)
    lost = None
    if segment.size > segment.end:
        log.error("%s is damaged at byte %d", segment.path, segment.end)
        since = segment.last_ns or acknowledged_ns
        lost = LostRange(since, max(since, segment.path.stat().st_mtime_ns), 0)
        set_aside(segment)
    segment.last_ns = segment.last_ns or 0
    return lost


def _lost_ranges(segments: list[Segment], sequence: int, last_ns: int) -> tuple[LostRange, ...]:
    """Finds where sequences that wait are missing; `sequence` and `last_ns`: what is acknowledged."""
    lost = []
    for segment in segments:
        if segment.next <= sequence:
            continue
        if segment.first > sequence:
            until = segment.last_ns or 0
            with contextlib.suppress(OSError):
                until = next((record.first_ns for _, record in walk(start_of(segment), segment.end)), until)
            if until:
                lost.append(LostRange(min(last_ns or until, until), until, 0))
        sequence, last_ns = segment.next, max(last_ns, segment.last_ns or 0)
    return tuple(lost)


def count_retained(segments: list[tuple[Segment, int]], before: int) -> RowCount:
    """Counts the rows of records with sequences below `before`, in segments up to the byte beside.

    Raises OSError where one cannot be read now.
    """
    rows, first_ns, last_ns = 0, 0, 0
    for segment, end in segments:
        with contextlib.suppress(FileNotFoundError):  # dropped meanwhile
            for at, record in walk(start_of(segment), end):
                if at.sequence >= before:
                    break
                if record.rows:
                    rows += record.rows
                    first_ns = min(first_ns or record.first_ns, record.first_ns)
                    last_ns = max(last_ns, record.last_ns)
    return RowCount(rows, first_ns, last_ns)


def count_waiting(folder: Path) -> RowCount:
    """Counts the rows that wait in a folder whose recorder does not run. Reads record headers only, changes nothing.

    Raises OSError where something cannot be read now.
    """
    checkpoint = CheckpointFile(folder).load()
    sequence = checkpoint.sequence if checkpoint else 0
    rows, first_ns, last_ns = 0, 0, 0
    for segment, after in itertools.pairwise([*find(folder), None]):
        if segment is None or (after is not None and after.first <= sequence):
            continue
        for header in record_headers(segment):
            if header.sequence >= sequence and header.rows:
                rows += header.rows
                first_ns, last_ns = first_ns or header.first_ns, max(last_ns, header.last_ns)
    return RowCount(rows, first_ns, last_ns)


def find_since(retained: list[tuple[Segment, int]], since_ns: int) -> RecordPosition | None:
    """Finds the first record whose end was received at `since_ns` or later, in segments up to the byte beside.

    From there on, segments that were not read since the start are scanned. Raises OSError where one cannot be read.
    """
    found: RecordPosition | None = None
    for segment, end in retained:
        with contextlib.suppress(FileNotFoundError):  # dropped meanwhile: the next one then
            if found is None and (segment.last_ns is None or segment.last_ns >= since_ns):
                later = (at for at, record in walk(start_of(segment), end) if record.last_ns >= since_ns)
                found = next(later, None)
            if found is not None and segment.last_ns is None:
                scan(segment, segment.next)
    return found


def set_aside(segment: Segment) -> bool:
    """Moves what follows the good records to `damaged/`; False where that fails and it stays where it is."""
    try:
        target = free_name(segment.path.parent, f"{segment.path.stem}.{segment.end}")
        if segment.next == segment.first:
            segment.path.replace(target)
        else:
            with segment.path.open("rb") as source, private.write_anew(target) as copy:
                source.seek(segment.end)
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
            os.truncate(segment.path, segment.end)
    except OSError as error:
        log.error("cannot set aside what is damaged in %s: %s", segment.path, error)
        return False
    segment.size = segment.end
    return True
