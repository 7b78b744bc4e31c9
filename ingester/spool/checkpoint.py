"""Which records are acknowledged: in memory (`SegmentIndex`), and on disk (`CheckpointFile`)."""

import logging
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ingester import private
from ingester.spool.disk import Disk, is_full, replace_durably
from ingester.spool.segment import LostRange, Record, RecordPosition, Segment, start_of

log = logging.getLogger(__name__)


class SegmentIndex:
    """The segments in order, of which the last may be active, and the position of the oldest record that waits.

    Plain bookkeeping: no files, no clock, no lock.
    """

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.active: Segment | None = None
        """The segment that takes records; always the last one."""
        self.next = 0
        """Sequence of the next record."""
        self.inherited = 0
        """The sequence up to which earlier runs had it acknowledged."""
        self.verified: int | None = None
        """Up to this sequence all was seen in the tables; None where nothing looks for it."""
        self._head: RecordPosition | None = None  # None where there is no segment for it; may be at the end of one

    @property
    def acknowledged(self) -> int:
        """The sequence up to which all is acknowledged."""
        return self._head.sequence if self._head else self.next

    def head(self) -> RecordPosition | None:
        """The position of the oldest record that waits, or None."""
        while self._head is not None and self._head.offset >= self._head.segment.end:
            index = self.segments.index(self._head.segment)
            if index + 1 == len(self.segments):
                return None
            self._head = start_of(self.segments[index + 1])
        return self._head

    def waiting(self) -> tuple[int, int, int]:
        """Records, rows and bytes that wait."""
        head = self.head()
        if head is None:
            return 0, 0, 0
        records, rows, size = head.segment.first - head.sequence, -head.rows, -head.payload
        for segment in self.segments[self.segments.index(head.segment) :]:
            records += segment.next - segment.first
            rows += segment.rows
            size += segment.payload
        return records, rows, size

    def positions(self, head: RecordPosition) -> list[tuple[RecordPosition, int]]:
        """The records from the head on: a start and an end in each segment."""
        later = self.segments[self.segments.index(head.segment) + 1 :]
        return [(head, head.segment.end), *((start_of(segment), segment.end) for segment in later)]

    def retained(self) -> tuple[list[tuple[Segment, int]], int]:
        """The segments with acknowledged records, each up to a byte; and the first sequence that waits."""
        before = self.acknowledged
        return [(segment, segment.end) for segment in self.segments if segment.first < before], before

    def activate(self, segment: Segment) -> None:
        """Makes a new segment the one that takes records."""
        self.active = segment
        self.segments.append(segment)
        if self._head is None:
            self._head = start_of(segment)

    def retire(self, now: float) -> Segment | None:
        """Ends the active segment and returns it; an empty one is forgotten."""
        segment, self.active = self.active, None
        if segment is None:
            return None
        if self.acknowledged >= segment.next:
            segment.acknowledged_at = now
        if segment.next == segment.first:
            self.segments.remove(segment)
            if self._head is not None and self._head.segment is segment:
                self._head = None
        return segment

    def acknowledge(self, record: Record, now: float) -> bool:
        """Moves the head behind the oldest record; returns whether that completes a segment."""
        head = self.head()
        assert head is not None, "acknowledged more than there was"
        self._head = head = head.after(record)
        if head.sequence < head.segment.next or head.segment is self.active:
            return False
        head.segment.acknowledged_at = now
        return True

    def rewind(self, position: RecordPosition) -> int:
        """Moves the head back: all from `position` on waits again. Returns the rows that did not wait before."""
        before = self.waiting()[1]
        self._head = position
        if self.verified is not None:
            self.verified = min(self.verified, position.sequence)
        for segment in self.segments:
            if segment.next > position.sequence:
                segment.acknowledged_at = None
        return self.waiting()[1] - before

    def cut(self, head: RecordPosition, now: float, acknowledged_ns: int) -> LostRange:
        """Gives up what follows the head in its segment, and returns what is lost.

        `acknowledged_ns`: the latest receive time before it, 0 for none.
        """
        segment = head.segment
        until = segment.last_ns or 0
        index = self.segments.index(segment)
        since = head.last_ns or (self.segments[index - 1].last_ns if index else None) or acknowledged_ns or until
        lost = LostRange(min(since, until), until, segment.rows - head.rows)
        segment.end, segment.next = head.offset, head.sequence
        segment.rows, segment.payload = head.rows, head.payload
        segment.acknowledged_at = now
        return lost

    def verify(self, sequence: int) -> None:
        """Notes that all up to `sequence` was seen in the tables."""
        self.verified = max(self.verified or 0, min(sequence, self.acknowledged))

    def droppable(self, durable: int) -> bool:
        """Whether the oldest segment may be removed: acknowledged, by the `durable` checkpoint too, and verified."""
        if not self.segments or self.segments[0] is self.active:
            return False
        verified = self.acknowledged if self.verified is None else self.verified
        return self.segments[0].next <= min(durable, self.acknowledged, verified)

    def drop(self) -> Segment:
        """Forgets the oldest segment, which is droppable, and returns it."""
        segment = self.segments.pop(0)
        if self._head is not None and self._head.segment is segment:
            self._head = start_of(self.segments[0]) if self.segments else None
        return segment


class Checkpoint(NamedTuple):
    """Everything before `sequence` is acknowledged; `last_ns` is the latest receive time in it, 0 for none."""

    sequence: int
    last_ns: int


class CheckpointFile:
    """Reads and writes the checkpoint, in the file `position`.

    `save` takes a function that gives the checkpoint, and calls it under its lock: so the later one of two threads
    never writes an older checkpoint.
    """

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        """`disk`: gives up its reserve where there is no room for the file."""
        self._path = folder / "position"
        self._disk = disk
        self._lock = threading.Lock()
        self._failing = False
        self.durable = 0
        """The sequence of the checkpoint on disk: records before it may be removed."""

    def load(self) -> Checkpoint | None:
        """The checkpoint; None where there is no file, or it is damaged.

        Raises OSError where the file cannot be read now: without it, numbers would start below those given before.
        """
        try:
            content = self._path.read_bytes()
            sequence, last_ns, _ = content.split(b" ")
            checkpoint = Checkpoint(int(sequence), int(last_ns))
        except (FileNotFoundError, ValueError):
            return None
        if content != _encode(checkpoint):
            return None
        self.durable = checkpoint.sequence
        return checkpoint

    def lost(self) -> None:
        """Notes that the folder was made again, so that the file is written again."""
        self.durable = 0

    def save(self, current: Callable[[], Checkpoint]) -> None:
        """Writes and syncs the checkpoint. A failure is logged once, and leaves the old one."""
        with self._lock:
            checkpoint = current()
            try:
                self._write(_encode(checkpoint))
            except OSError as error:
                if not self._failing:
                    reason = error.strerror or error
                    log.error("cannot write %s, a restart would send rows again: %s", self._path, reason)
                self._failing = True
                return
            self._failing = False
            self.durable = checkpoint.sequence

    def _write(self, content: bytes) -> None:
        try:
            replace_durably(self._path, content, private.FILE)
        except OSError as error:
            if not is_full(error) or self._disk is None or not self._disk.reserved:
                raise
            self._disk.ran_out()  # what the reserve is for
            replace_durably(self._path, content, private.FILE)


def _encode(checkpoint: Checkpoint) -> bytes:
    text = b"%d %d" % checkpoint
    return b"%b %08x\n" % (text, zlib.crc32(text))
