"""Reads back what a spool folder holds, and sets aside what is damaged in it."""

import contextlib
import itertools
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ingester.store.ledger import Ledger
from ingester.store.position import Position
from ingester.store.segment import Hole, Mark, Segment, find, scan, start_of, walk

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
    position_missing: bool
    """Whether the position was lost, so that everything retained is sent again."""
    last_ns: int | None
    """Receive time of the last good record; None where there never was one."""
    holes: tuple[Hole, ...] = ()
    """What is missing between good records; what is missing after the last one begins at `last_ns`."""


class Retained(NamedTuple):
    """Rows acknowledged in earlier runs that are still there, and the receive times of the first and the last."""

    rows: int = 0
    first_ns: int = 0
    last_ns: int = 0


def read_back(folder: Path, position: Position | None, now: float) -> tuple[Ledger, int, Recovery]:
    """The good records of a folder, the bytes on its disk, and what was found there.

    Segments before the one that the position is in are only read if they are sent again. Raises OSError where the
    folder cannot be listed, and SpoolError for a newer format.
    """
    sequence, last_ns = position or (FIRST_SEQUENCE, 0)
    ledger = Ledger()
    ledger.next = sequence
    cut = cut_bytes = 0
    found = find(folder)
    size = sum(segment.size for segment in found)
    for segment, after in itertools.zip_longest(found, found[1:]):
        before = after.first if after else None
        if before is not None and before <= sequence:
            segment.next, segment.acknowledged_at = before, now
            ledger.segments.append(segment)
            continue
        scan(segment, before)
        aside = True
        if segment.size > segment.end:
            cut += 1
            cut_bytes += segment.size - segment.end
            aside = set_aside(segment)
        ledger.next = max(ledger.next, segment.next)
        if segment.next > segment.first:
            last_ns = max(last_ns, segment.last_ns or 0)
            segment.acknowledged_at = now if segment.next <= sequence else None
            ledger.segments.append(segment)
        elif aside:
            segment.path.unlink(missing_ok=True)
            size -= segment.size
        else:  # it stays there, so its name is taken
            ledger.next = max(ledger.next, segment.first + 1)
    for segment in ledger.segments:
        if segment.next > sequence:
            marks = (mark for mark, _ in walk(start_of(segment), segment.end) if mark.sequence >= sequence)
            ledger.rewind(next(marks, start_of(segment)))
            break
    ledger.inherited = ledger.acknowledged
    damaged = folder / "damaged"
    if damaged.is_dir():
        size += sum(path.stat().st_size for path in damaged.iterdir())
        size -= cut_bytes
    missing = position is None and bool(ledger.segments)
    if missing:
        log.warning("the position in %s is lost: everything retained is sent again", folder)
    if cut:
        log.warning("%d bytes in %d files of %s are damaged", cut_bytes, cut, folder)
    holes = () if missing else _holes(ledger.segments, *(position or (FIRST_SEQUENCE, 0)))
    return ledger, size, Recovery(*ledger.waiting(), cut, cut_bytes, missing, last_ns or None, holes)


def _holes(segments: list[Segment], sequence: int, last_ns: int) -> tuple[Hole, ...]:
    """Where sequences that wait are missing: `sequence` and `last_ns` tell what is acknowledged."""
    holes = []
    for segment in segments:
        if segment.next <= sequence:
            continue
        if segment.first > sequence:
            first = next((record for _, record in walk(start_of(segment), segment.end)), None)
            until = first.first_ns if first else segment.last_ns or 0
            holes.append(Hole(min(last_ns or until, until), until, 0))
        sequence, last_ns = segment.next, max(last_ns, segment.last_ns or 0)
    return tuple(holes)


def count_retained(places: list[tuple[Segment, int]], before: int) -> Retained:
    """The rows of records with sequences below `before`, in segments up to the byte beside."""
    rows, first_ns, last_ns = 0, 0, 0
    for segment, end in places:
        with contextlib.suppress(OSError):  # dropped meanwhile, or unreadable
            for mark, record in walk(start_of(segment), end):
                if mark.sequence >= before:
                    break
                if record.rows:
                    rows += record.rows
                    first_ns = min(first_ns or record.first_ns, record.first_ns)
                    last_ns = max(last_ns, record.last_ns)
    return Retained(rows, first_ns, last_ns)


def find_since(retained: list[tuple[Segment, int]], since_ns: int) -> Mark | None:
    """The place of the first record whose end was received at `since_ns` or later, in segments up to the byte beside.

    From there on, segments that were not read since the start are scanned.
    """
    found: Mark | None = None
    for segment, end in retained:
        if found is None and (segment.last_ns is None or segment.last_ns >= since_ns):
            with contextlib.suppress(OSError):  # dropped meanwhile, or unreadable: the next one then
                later = (mark for mark, record in walk(start_of(segment), end) if record.last_ns >= since_ns)
                found = next(later, None)
        if found is not None and segment.last_ns is None:
            scan(segment, segment.next)
    return found


def set_aside(segment: Segment) -> bool:
    """Moves what follows the good records to `damaged/`; False where that fails and it stays where it is."""
    folder = segment.path.parent / "damaged"
    try:
        folder.mkdir(exist_ok=True)
        target = folder / f"{segment.path.stem}.{segment.end}"
        while target.exists():
            target = target.with_name(target.name + ".again")
        if segment.next == segment.first:
            segment.path.replace(target)
        else:
            with segment.path.open("rb") as source, target.open("wb") as copy:
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
