"""What waits on disk between the feed thread and the writer, and survives both: gone only when acknowledged."""

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from ingester.errors import SpoolError, UnsafeFile
from ingester.spool import segment as segments
from ingester.spool.checkpoint import Checkpoint, CheckpointFile
from ingester.spool.disk import Disk, FolderLock, is_full, reason_of
from ingester.spool.index import SegmentIndex
from ingester.spool.recovery import Recovery, Retained, count_retained, find_since, read_back, read_late, set_aside
from ingester.spool.segment import LostRange, Record, RecordPosition
from ingester.spool.syncer import Syncer

log = logging.getLogger(__name__)

POSITION_SECONDS = 1.0
"""How often the position is written: what a crash makes the writer send again, which DEDUP absorbs."""
LOCK_SECONDS = 0.5
"""How long another process may hold the folder at the start: `give_back_reserves` does for a moment."""
LIMIT_SEGMENTS = 8
"""The limit holds at least so many segments, for only whole acknowledged ones can be dropped to make room."""


class Spool:
    """A queue in a folder: one thread appends, one reads and acknowledges, an own one syncs.

    All state is guarded by one lock, under which nothing is synced or read; the appending thread waits for no disk
    except for the page cache to take its bytes.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int = 8 << 30,
        reserve_bytes: int = 64 << 20,
        free_bytes: int = 256 << 20,
        segment_bytes: int = 64 << 20,
        sync_seconds: float = 0.05,
        keep_seconds: float = 900.0,
        now: Callable[[], float] = time.monotonic,
        sync: Callable[[int], None] = os.fdatasync,
        audited: bool = False,
    ) -> None:
        """With `audited`, what was acknowledged stays until `verify` says that it was seen in the tables."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._segment_bytes = max(1, min(segment_bytes, limit_bytes // LIMIT_SEGMENTS))
        self._keep_seconds = keep_seconds
        self._now = now
        self._place = FolderLock(folder)
        self._disk = Disk(folder, free_bytes, reserve_bytes, now)
        self._position = CheckpointFile(folder, self._disk)
        self._syncer = Syncer(folder, sync_seconds, sync, self._chore, POSITION_SECONDS)
        self._lock = threading.Lock()
        self._ledger = SegmentIndex()
        self._audited = audited
        self._holes: deque[LostRange] = deque()
        self._closed = True
        self._acknowledged_ns = 0  # never goes back, also not when records are put back
        self._tidied_at = -float("inf")
        self.size = 0
        """Bytes on disk, retained records included: what the limit is about."""
        self.full_since: int | None = None
        """Receive time of the first record refused since the spool is full; None while it takes records."""

    def open(self) -> Recovery:
        """Claims the folder, reads what waits in it, starts to sync.

        Raises SpoolError where another recorder holds the folder, or it cannot be used.
        """
        try:
            self._place.claim(LOCK_SECONDS)
            position = self._position.load()
            self._ledger, self.size, recovery = read_back(self.folder, position, self._now())
        except BaseException as error:
            self._place.close()
            if not isinstance(error, OSError):
                raise
            first = "Make room" if is_full(error) else "Try again"
            raise SpoolError(
                f"cannot use {self.folder}: {error.strerror or error}. {first}, or give another --data-dir"
            ) from error
        self._closed = False
        self._ledger.verified = 0 if self._audited else None
        self._acknowledged_ns = position.last_ns if position else 0
        self._disk.restore()
        self._position.save(self._current)
        self._syncer.start(recovery.last_ns or 0)
        return recovery

    def close(self) -> None:
        """Syncs, writes the position, frees the folder. Nothing is taken afterwards."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._retire()
        self._syncer.stop()
        self._position.save(self._current)
        self._disk.give_back()
        segments.let_go(self._ledger.segments)
        self._place.close()

    # The appending side.

    def append(self, body: bytes, rows: int, first_ns: int, last_ns: int) -> bool:
        """Adds rows at the end; False, and nothing added, where there is no room or the disk fails.

        When it returns True, the rows survive the end of this process; `synced_ns` tells what survives a power cut.
        """
        need = segments.RECORD_HEADER_BYTES + len(body)
        with self._lock:
            if self._closed:
                return False
            while (reason := self._take(need, body, rows, first_ns, last_ns)) is not None:
                if self._disk.out and self._ledger.droppable(self._position.durable):
                    continue  # something retained can go
                if self.full_since is None:
                    self.full_since = first_ns
                    log.error("the spool takes no more rows, those received are lost: %s", reason)
                return False
            if self.full_since is not None:
                log.warning("the spool takes rows again after %.1f s", (last_ns - self.full_since) / 1e9)
                self.full_since = None
        return True

    def _take(self, need: int, body: bytes, rows: int, first_ns: int, last_ns: int) -> str | None:
        return self._settle() or self._make_room(need) or self._write(body, rows, first_ns, last_ns)

    def _settle(self) -> str | None:
        """Sees to it that what is written can be found again: makes the folder again where it was deleted or moved, and
        begins a new file where the one that is written to was; or says why that is not possible."""
        ledger = self._ledger
        lost, active = self._place.is_lost(), ledger.active
        if not lost and (active is None or segments.is_in_place(active)):
            return None
        try:
            if lost and (former := self._place.reclaim()) is not None:
                segments.now_in(former, [each for each in ledger.segments if each is not active])
                self._position.lost()
                self._disk.moved()
            if active is not None and not segments.is_in_place(active):
                log.error("%s was deleted or moved while recording, starting a new file", active.path)
                segments.keep(active)
                self._retire()
        except (OSError, SpoolError, UnsafeFile) as error:
            return f"{self.folder} cannot be created again: {reason_of(error)}"
        return None

    def _make_room(self, need: int) -> str | None:
        """Drops the oldest retained segments where room is needed; or says why there is none."""
        ledger = self._ledger
        while True:
            extra = self._segment_bytes if self.full_since is not None else 0  # or it would flap
            if self.size + need + extra > self.limit_bytes:
                reason = f"{self.size:,} of {self.limit_bytes:,} bytes are used in {self.folder}"
            elif (room := self._disk.room()) < need + self._disk.margin(extra):
                reason = f"too little is free on the disk of {self.folder}, {max(0, need - room):,} bytes are missing"
            else:
                return None
            if ledger.active is not None and ledger.acknowledged >= ledger.active.next:
                self._retire()
            if not ledger.droppable(self._position.durable):
                return reason
            self._remove(ledger.drop())

    def _write(self, body: bytes, rows: int, first_ns: int, last_ns: int) -> str | None:
        """Appends a record; or says why that failed. Another file may take what one does not."""
        ledger = self._ledger
        begun, reason = False, None
        while True:
            if ledger.active is None or (ledger.active.end >= self._segment_bytes and not begun):
                begun, reason = True, self._begin()
            if (active := ledger.active) is None:
                return reason
            try:
                self._count(active.write(ledger.next, body, rows, first_ns, last_ns))
                break
            except OSError as error:
                self._count(active.size - active.end)
                self._retire()
                reason = self._failed(error)
                if begun or is_full(error):
                    return reason
                log.error("%s cannot be written to, starting a new file: %s", active.path, reason)
        ledger.next += 1
        self._syncer.appended(active, last_ns)
        return None

    def _begin(self) -> str | None:
        """Begins a new segment; or says why that failed, and leaves the old one, which may take more."""
        try:
            segment = segments.create(self.folder, self._ledger.next)
        except OSError as error:
            return self._failed(error)
        self._retire()
        self._ledger.activate(segment)
        self._syncer.created(segment)
        self._count(segment.size)
        return None

    def _failed(self, error: OSError) -> str:
        if is_full(error):
            self._disk.ran_out()
        return f"{error.strerror or error} ({self.folder})"

    def _retire(self) -> None:
        segment = self._ledger.retire(self._now())
        if segment is not None:
            self._syncer.finished(segment)
            if segment.next == segment.first:
                self._remove(segment)  # the next one has its name

    def _remove(self, segment: segments.Segment) -> None:
        try:
            segments.remove(segment)
        except OSError as error:
            log.warning("cannot remove %s: %s", segment.path, error)
        self._count(-segment.size)

    def _count(self, added: int) -> None:
        self.size += added
        self._disk.changed(added)

    # The reading side.

    def peek(self, at_most_bytes: int) -> list[Record]:
        """The oldest records, their bodies together at most so many bytes but at least one; empty where none waits.

        Raises SpoolError where the system does not let us read them (too many open files, a disk that fails): they are
        kept, to be asked for again.
        """
        while True:
            with self._lock:
                head = self._ledger.head()
                if head is None:
                    return []
                places, path = self._ledger.places(head), head.segment.path
            try:
                if head.segment.last_ns is None:
                    if (lost := read_late(head.segment, self._acknowledged_ns)) is not None:
                        self._holes.append(lost)
                    continue
                known = itertools.takewhile(lambda place: place[0].segment.last_ns is not None, places)
                chosen, reason = segments.read(known, at_most_bytes)
            except FileNotFoundError as error:
                with self._lock:
                    if (problem := self._settle()) is not None:
                        raise SpoolError(problem) from error
                    if head.segment.path != path:
                        continue  # the folder was moved just now
                chosen, reason = [], reason_of(error)
            except (OSError, MemoryError) as error:
                raise SpoolError(
                    f"{self.rows_waiting} rows wait in the spool, but {head.segment.path} cannot be read: "
                    f"{reason_of(error)}. It is tried again; where the disk is broken, move that file away"
                ) from error
            if chosen:
                return chosen
            self._cut(head, reason)

    def _cut(self, head: RecordPosition, reason: str) -> None:
        """Gives up what follows in a segment, for the record at `head` cannot be read any more."""
        segment = head.segment
        with self._lock:
            if self._ledger.head() != head:
                return
            if segment is self._ledger.active:
                self._retire()
            hole = self._ledger.cut(head, self._now(), self._acknowledged_ns)
            self._holes.append(hole)
        log.error("%s is damaged at byte %d (%s): %d rows are lost", segment.path, head.offset, reason, hole.rows)
        if segment.path.exists():
            set_aside(segment)

    def acknowledge(self, records: Sequence[Record]) -> None:
        """Moves on behind the records that `peek` gave, for they are stored.

        Ignored where `resend` has moved the position meanwhile: they come again.
        """
        with self._lock:
            head = self._ledger.head()
            if not records or head is None or head.sequence != records[0].sequence:
                return
            completed = [self._ledger.acknowledge(record, self._now()) for record in records]
            self._acknowledged_ns = max(self._acknowledged_ns, *(record.last_ns for record in records))
        if any(completed) or self._now() - self._tidied_at >= POSITION_SECONDS:
            self.tidy()

    def take_holes(self) -> list[LostRange]:
        """What was lost in damaged segments since the last call."""
        return [self._holes.popleft() for _ in range(len(self._holes))]

    def verify(self, sequence: int) -> None:
        """Records up to `sequence` were seen in the tables, so they may go when it is time."""
        with self._lock:
            self._ledger.verify(sequence)

    def retained(self) -> Retained:
        """The rows acknowledged in earlier runs that `resend` could bring back. Reads all of them; raises OSError."""
        with self._lock:
            places, _ = self._ledger.retained()
        return count_retained(places, self._ledger.inherited)

    def resend(self, since_ns: int) -> int:
        """Puts acknowledged records back whose end was received at `since_ns` or later; returns their rows.

        Goes back to the oldest of them, so everything after it comes again too. What was dropped cannot come back.
        Raises SpoolError where what is kept cannot be read now.
        """
        while True:
            with self._lock:
                retained, before = self._ledger.retained()
            try:
                found = find_since(retained, since_ns)
            except OSError as error:
                raise SpoolError(f"rows cannot be sent again, {self.folder} cannot be read: {error}") from error
            if self._closed or found is None or found.sequence >= before:
                return 0
            with self._lock:
                if found.segment not in self._ledger.segments or self._ledger.acknowledged != before:
                    continue  # it was dropped, or more was acknowledged: look again
                rows = self._ledger.rewind(found)
            self._position.save(self._current)
            log.warning("%d rows that were acknowledged are sent again", rows)
            return rows

    # What is done about once a second.

    def _chore(self) -> None:
        with self._lock:
            if not self._closed:
                self._settle()
        if self._now() - self._tidied_at >= POSITION_SECONDS:
            self.tidy()

    def tidy(self) -> None:
        """Writes the position where it has moved, drops segments acknowledged long ago, takes the reserve again.

        `acknowledge` and the sync thread call it. Raises nothing.
        """
        self._tidied_at = self._now()
        if self._current().sequence != self._position.durable:
            self._position.save(self._current)
        with self._lock:
            while self._ledger.droppable(self._position.durable):
                at = self._ledger.segments[0].acknowledged_at
                if at is None or self._now() - at < self._keep_seconds:
                    break
                self._remove(self._ledger.drop())
        self._disk.restore()

    def _current(self) -> Checkpoint:
        with self._lock:
            return Checkpoint(self._ledger.acknowledged, self._acknowledged_ns)

    @property
    def synced_ns(self) -> int:
        """Everything received up to here would survive a power cut."""
        return self._syncer.synced_ns

    @property
    def sync_failing(self) -> bool:
        """Whether the last sync failed."""
        return self._syncer.failing

    @property
    def acknowledged(self) -> int:
        """The sequence up to which all is acknowledged."""
        with self._lock:
            return self._ledger.acknowledged

    @property
    def rows_waiting(self) -> int:
        """Rows not acknowledged."""
        with self._lock:
            return self._ledger.waiting()[1]

    @property
    def bytes_waiting(self) -> int:
        """Bytes of all bodies not acknowledged."""
        with self._lock:
            return self._ledger.waiting()[2]

    @property
    def oldest_ns(self) -> int | None:
        """Receive time of the oldest row that waits; None where none does. Where it cannot be read now, the time of
        the last one before it."""
        with self._lock:
            head = self._ledger.head()
            places = [(head, head.segment.end)] if head else []
            before_ns = (head.last_ns if head else None) or self._acknowledged_ns or None
        try:
            records, _ = segments.read(places, 0)
        except FileNotFoundError:  # they were acknowledged and dropped meanwhile
            return None
        except OSError:
            return before_ns
        return records[0].first_ns if records else None
