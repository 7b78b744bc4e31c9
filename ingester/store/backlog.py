"""What waits in memory between the pump and the writer: appended in order, taken in order, gone when acknowledged."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


class Record(NamedTuple):
    """Encoded rows that were received together; `first_ns` and `last_ns` are the receive times of the ends."""

    body: bytes
    rows: int
    first_ns: int
    last_ns: int


class Backlog:
    """A queue for one appending and one taking thread, with a limit in bytes."""

    def __init__(self, limit_bytes: int = 1 << 30) -> None:
        self._limit = limit_bytes
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """How much waits."""
        return self._bytes

    def append(self, record: Record) -> bool:
        """Adds rows at the end; False, and nothing added, where the limit would be passed."""
        with self._lock:
            if self._bytes + len(record.body) > self._limit:
                return False
            self._records.append(record)
            self._bytes += len(record.body)
            return True

    def peek(self, at_most_bytes: int) -> Sequence[Record]:
        """The oldest records, together at most so many bytes but at least one; empty where nothing waits."""
        chosen: list[Record] = []
        size = 0
        with self._lock:
            for record in self._records:
                size += len(record.body)
                if chosen and size > at_most_bytes:
                    break
                chosen.append(record)
        return chosen

    def acknowledge(self, records: Sequence[Record]) -> None:
        """Drops the oldest records, which `peek` gave, for they are stored."""
        with self._lock:
            for _ in records:
                self._bytes -= len(self._records.popleft().body)
