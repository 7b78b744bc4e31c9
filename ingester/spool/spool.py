"""The queue on disk between the feed thread and the writer. The package says what it promises."""

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
from ingester.spool.checkpoint import Checkpoint, CheckpointFile, SegmentIndex
from ingester.spool.disk import Disk, FolderLock, is_full, reason_of
from ingester.spool.recovery import Recovery, RowCount, count_retained, find_since, read_back, read_late, set_aside
from ingester.spool.segment import LostRange, Record, RecordPosition
from ingester.spool.syncer import Syncer

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 1.0
"""How often the checkpoint is written: a crash makes the writer send that much again, which DEDUP absorbs."""
LOCK_SECONDS = 0.5
"""How long another process may hold the folder at the start: `give_back_reserves` does for a moment."""
LIMIT_SEGMENTS = 8
"""The limit holds at least so many segments, for only whole acknowledged ones can be dropped to make room."""


class Spool:
    """A queue in a folder: one thread appends, one reads and acknowledges, and one of its own syncs.

    All state is guarded by one lock, under which nothing is synced or read; the appending thread waits for no disk
    except for the page cache to take its bytes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int = 8 << 30,
        reserve_bytes: int = 64 << 20,
        free_bytes: int = 256 << 20,
        segment_bytes: int = 64 << 20,
        sync_seconds: float = 0.05,
        keep_seconds: float = 900.0,
        now: Callable[[], float] = time.monotonic,
        sync: Callable[[int], None] = os.fdatasync,
        keep_until_verified: bool = False,
    ) -> None:
        """
        `limit_bytes`: bytes on disk, retained records included. `reserve_bytes`: for what must be written on a full
        disk. `free_bytes`: left free on the disk for others. `sync_seconds`: how long a record waits for its sync.
        `keep_seconds`: how long acknowledged segments stay for `resend`; they go earlier where room is needed.
        `keep_until_verified`: what was acknowledged stays until `verify` says that it was seen in the tables.
        """
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._segment_bytes = max(1, min(segment_bytes, limit_bytes // LIMIT_SEGMENTS))
        self._keep_seconds = keep_seconds
        self._now = now
        self._folder_lock = FolderLock(folder)
        self._disk = Disk(folder, free_bytes, reserve_bytes, now)
        self._checkpoint = CheckpointFile(folder, self._disk)
        self._syncer = Syncer(folder, sync_seconds, sync, CHECKPOINT_SECONDS)
        self._lock = threading.Lock()
        self._index = SegmentIndex()
        self._keep_until_verified = keep_until_verified
        self._lost: deque[LostRange] = deque()
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
            self._folder_lock.claim(LOCK_SECONDS)
            checkpoint = self._checkpoint.load()
            self._index, self.size, recovery = read_back(self.folder, checkpoint, self._now())
        except BaseException as error:
            self._folder_lock.close()
            if not isinstance(error, OSError):
                raise
            first = "Make room" if is_full(error) else "Try again"
            raise SpoolError(
                f"cannot use {self.folder}: {error.strerror or error}. {first}, or give another --data-dir"
            ) from error
        self._closed = False
        self._index.verified = 0 if self._keep_until_verified else None
        self._acknowledged_ns = checkpoint.last_ns if checkpoint else 0
        self._disk.restore()
        self._checkpoint.save(self._current)
        self._syncer.start(recovery.last_ns or 0, self._tend)
        return recovery

    def close(self) -> None:
        """Syncs, writes the checkpoint, releases the folder. Nothing is appended afterwards."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._retire()
        self._syncer.stop()
        self._checkpoint.save(self._current)
        self._disk.give_back()
        segments.close_kept(self._index.segments)
        self._folder_lock.close()

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
                if self._disk.out and self._index.droppable(self._checkpoint.durable):
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
        return self._restore_folder() or self._make_room(need) or self._write(body, rows, first_ns, last_ns)

    def _restore_folder(self) -> str | None:
        """Makes the folder again where it was deleted or moved, and ends the active file where that was.

        Returns why that is not possible, else None: what is appended then will be found again.
        """
        index = self._index
        lost, active = self._folder_lock.is_lost(), index.active
        if not lost and (active is None or segments.is_in_place(active)):
            return None
        try:
            if lost and (former := self._folder_lock.reclaim()) is not None:
                segments.relocate(former, [each for each in index.segments if each is not active])
                self._checkpoint.lost()
                self._disk.moved()
            if active is not None and not segments.is_in_place(active):
                log.error("%s was deleted or moved while recording, starting a new file", active.path)
                segments.keep_readable(active)
                self._retire()
        except (OSError, SpoolError, UnsafeFile) as error:
            return f"{self.folder} cannot be created again: {reason_of(error)}"
        return None

    def _make_room(self, need: int) -> str | None:
        """Drops the oldest retained segments where room is needed. Returns why there is none, else None."""
        index = self._index
        while True:
            extra = self._segment_bytes if self.full_since is not None else 0  # or it would flap
            if self.size + need + extra > self.limit_bytes:
                reason = f"{self.size:,} of {self.limit_bytes:,} bytes are used in {self.folder}"
            elif (room := self._disk.room()) < need + self._disk.margin(extra):
                reason = f"too little is free on the disk of {self.folder}, {max(0, need - room):,} bytes are missing"
            else:
                return None
            if index.active is not None and index.acknowledged >= index.active.next:
                self._retire()
            if not index.droppable(self._checkpoint.durable):
                return reason
            self._remove(index.drop())

    def _write(self, body: bytes, rows: int, first_ns: int, last_ns: int) -> str | None:
        """Appends a record. Returns why that failed, else None. A new file may take what the old one does not."""
        index = self._index
        begun, reason = False, None
        while True:
            if index.active is None or (index.active.end >= self._segment_bytes and not begun):
                begun, reason = True, self._begin()
            if (active := index.active) is None:
                return reason
            try:
                self._count(active.write(index.next, body, rows, first_ns, last_ns))
                break
            except OSError as error:
                self._count(active.size - active.end)
                self._retire()
                reason = self._failed(error)
                if begun or is_full(error):
                    return reason
                log.error("%s cannot be written to, starting a new file: %s", active.path, reason)
        index.next += 1
        self._syncer.appended(active, last_ns)
        return None

    def _begin(self) -> str | None:
        """Begins a new segment. Returns why that failed, else None; the old one stays then, and may take more."""
        try:
            segment = segments.create(self.folder, self._index.next)
        except OSError as error:
            return self._failed(error)
        self._retire()
        self._index.activate(segment)
        self._syncer.created(segment)
        self._count(segment.size)
        return None

    def _failed(self, error: OSError) -> str:
        if is_full(error):
            self._disk.ran_out()
        return f"{error.strerror or error} ({self.folder})"

    def _retire(self) -> None:
        segment = self._index.retire(self._now())
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
                head = self._index.head()
                if head is None:
                    return []
                positions, path = self._index.positions(head), head.segment.path
            try:
                if head.segment.last_ns is None:
                    if (lost := read_late(head.segment, self._acknowledged_ns)) is not None:
                        self._lost.append(lost)
                    continue
                known = itertools.takewhile(lambda each: each[0].segment.last_ns is not None, positions)
                chosen, reason = segments.read(known, at_most_bytes)
            except FileNotFoundError as error:
                with self._lock:
                    if (problem := self._restore_folder()) is not None:
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
        """Gives up what follows in a segment, for the record at `head` is damaged."""
        segment = head.segment
        with self._lock:
            if self._index.head() != head:
                return
            if segment is self._index.active:
                self._retire()
            lost = self._index.cut(head, self._now(), self._acknowledged_ns)
            self._lost.append(lost)
        log.error("%s is damaged at byte %d (%s): %d rows are lost", segment.path, head.offset, reason, lost.rows)
        if segment.path.exists():
            set_aside(segment)

    def acknowledge(self, records: Sequence[Record]) -> None:
        """Removes the records that `peek` gave from the queue, for they are stored.

        Ignored where `resend` has moved the head meanwhile: they come again.
        """
        with self._lock:
            head = self._index.head()
            if not records or head is None or head.sequence != records[0].sequence:
                return
            completed = [self._index.acknowledge(record, self._now()) for record in records]
            self._acknowledged_ns = max(self._acknowledged_ns, *(record.last_ns for record in records))
        if any(completed) or self._now() - self._tidied_at >= CHECKPOINT_SECONDS:
            self.tidy()

    def take_lost_ranges(self) -> list[LostRange]:
        """Returns what was lost in damaged segments since the last call."""
        return [self._lost.popleft() for _ in range(len(self._lost))]

    def verify(self, sequence: int) -> None:
        """Notes that records up to `sequence` were seen in the tables, so they may be dropped when it is time."""
        with self._lock:
            self._index.verify(sequence)

    def retained(self) -> RowCount:
        """The rows acknowledged in earlier runs that `resend` could bring back. Reads all of them; raises OSError."""
        with self._lock:
            places, _ = self._index.retained()
        return count_retained(places, self._index.inherited)

    def resend(self, since_ns: int) -> int:
        """Puts acknowledged records back whose end was received at `since_ns` or later; returns their rows.

        Goes back to the oldest of them, so everything after it comes again too. What was dropped cannot come back.
        Raises SpoolError where what is kept cannot be read now.
        """
        while True:
            with self._lock:
                retained, before = self._index.retained()
            try:
                found = find_since(retained, since_ns)
            except OSError as error:
                raise SpoolError(f"rows cannot be sent again, {self.folder} cannot be read: {error}") from error
            if self._closed or found is None or found.sequence >= before:
                return 0
            with self._lock:
                if found.segment not in self._index.segments or self._index.acknowledged != before:
                    continue  # it was dropped, or more was acknowledged: look again
                rows = self._index.rewind(found)
            self._checkpoint.save(self._current)
            log.warning("%d rows that were acknowledged are sent again", rows)
            return rows

    # About once a second.

    def _tend(self) -> None:
        with self._lock:
            if not self._closed:
                self._restore_folder()
        if self._now() - self._tidied_at >= CHECKPOINT_SECONDS:
            self.tidy()

    def tidy(self) -> None:
        """Writes the checkpoint where it has moved, drops segments acknowledged long ago, takes the reserve again.

        `acknowledge` and the sync thread call it. Raises nothing.
        """
        self._tidied_at = self._now()
        if self._current().sequence != self._checkpoint.durable:
            self._checkpoint.save(self._current)
        with self._lock:
            while self._index.droppable(self._checkpoint.durable):
                at = self._index.segments[0].acknowledged_at
                if at is None or self._now() - at < self._keep_seconds:
                    break
                self._remove(self._index.drop())
        self._disk.restore()

    def _current(self) -> Checkpoint:
        with self._lock:
            return Checkpoint(self._index.acknowledged, self._acknowledged_ns)

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
            return self._index.acknowledged

    @property
    def rows_waiting(self) -> int:
        """Rows not acknowledged."""
        with self._lock:
            return self._index.waiting()[1]

    @property
    def bytes_waiting(self) -> int:
        """Bytes of all bodies not acknowledged."""
        with self._lock:
            return self._index.waiting()[2]

    @property
    def oldest_ns(self) -> int | None:
        """Receive time of the oldest row that waits; None where none does. Where it cannot be read now, the time of
        the last one before it."""
        with self._lock:
            head = self._index.head()
            places = [(head, head.segment.end)] if head else []
            before_ns = (head.last_ns if head else None) or self._acknowledged_ns or None
        try:
            records, _ = segments.read(places, 0)
        except FileNotFoundError:  # they were acknowledged and dropped meanwhile
            return None
        except OSError:
            return before_ns
        return records[0].first_ns if records else None
