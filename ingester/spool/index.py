"""Which records of the spool wait and which are acknowledged and retained: bookkeeping without files or clocks."""

from ingester.spool.segment import LostRange, Record, RecordPosition, Segment, start_of


class SegmentIndex:
    """The segments in order, of which the last may be active, and the place of the oldest record that waits."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.active: Segment | None = None
        """Takes records; always the last one."""
        self.next = 0
        """Sequence of the next record."""
        self.inherited = 0
        """The sequence up to which earlier runs had it acknowledged."""
        self.verified: int | None = None
        """Up to this sequence all was seen in the tables; None where nobody looks."""
        self._head: RecordPosition | None = None  # None where there is no segment for it; may be at the end of one

    @property
    def acknowledged(self) -> int:
        """The sequence up to which all is acknowledged."""
        return self._head.sequence if self._head else self.next

    def head(self) -> RecordPosition | None:
        """The place of the oldest record that waits, or None."""
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

    def places(self, head: RecordPosition) -> list[tuple[RecordPosition, int]]:
        """Where records lie from the head on: a start and an end in each segment."""
        later = self.segments[self.segments.index(head.segment) + 1 :]
        return [(head, head.segment.end), *((start_of(segment), segment.end) for segment in later)]

    def retained(self) -> tuple[list[tuple[Segment, int]], int]:
        """The segments with acknowledged records, each up to a byte; and the first sequence that waits."""
        before = self.acknowledged
        return [(segment, segment.end) for segment in self.segments if segment.first < before], before

    def activate(self, segment: Segment) -> None:
        """A new segment takes the records from now on."""
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
        """Moves on behind the oldest record; whether that completes a segment."""
        head = self.head()
        assert head is not None, "acknowledged more than there was"
        self._head = head = head.after(record)
        if head.sequence < head.segment.next or head.segment is self.active:
            return False
        head.segment.acknowledged_at = now
        return True

    def rewind(self, mark: RecordPosition) -> int:
        """Lets everything from `mark` on wait again; returns the rows that had not."""
        before = self.waiting()[1]
        self._head = mark
        if self.verified is not None:
            self.verified = min(self.verified, mark.sequence)
        for segment in self.segments:
            if segment.next > mark.sequence:
                segment.acknowledged_at = None
        return self.waiting()[1] - before

    def cut(self, head: RecordPosition, now: float, acknowledged_ns: int) -> LostRange:
        """Forgets what follows the head in its segment; `acknowledged_ns` is the latest receive time before, if any."""
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
        """All up to `sequence` was seen in the tables."""
        self.verified = max(self.verified or 0, min(sequence, self.acknowledged))

    def droppable(self, durable: int) -> bool:
        """Whether the oldest segment is acknowledged, also by the `durable` position, and seen where somebody looks."""
        if not self.segments or self.segments[0] is self.active:
            return False
        verified = self.acknowledged if self.verified is None else self.verified
        return self.segments[0].next <= min(durable, self.acknowledged, verified)

    def drop(self) -> Segment:
        """Forgets the oldest segment, which is droppable."""
        segment = self.segments.pop(0)
        if self._head is not None and self._head.segment is segment:
            self._head = start_of(self.segments[0]) if self.segments else None
        return segment
