"""The rows of several pairs on one grid, as they come: by the same rule, and the same code, as `export --every`.

A row at time t is given when everything received up to t is in the buffer, as its watermark tells (`FeedLoop` sets it).
So it never holds less than the table will; and as the table has microseconds, "up to t" ends a microsecond later.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from ingester.clock import SECOND, Now
from ingester.errors import FellBehind
from ingester.grid import LOOK_BACK_NS, Sampler, grid
from ingester.live.buffer import LiveBuffer
from ingester.live.ring import Ring, Row
from ingester.sequence import RESOLUTION_NS

MOST_AT_ONCE = 64
"""Grid rows that are made at once for a reader who is late."""


class SynchronousRows:
    """Iterates over grid rows; ends when the recorder has stopped and all rows up to then were given."""

    def __init__(
        self,
        buffer: LiveBuffer,
        symbols: Sequence[str],
        *,
        every_ns: int,
        max_age_ns: int,
        fill: str,
        now: Now,
        wake: Callable[[], None],
    ) -> None:
        """`wake` makes the feed thread raise the watermark."""
        self.pairs = tuple(symbols)
        """In the order in which rows hold them."""
        self._buffer = buffer
        self._every_ns = every_ns
        self._now = now
        self._wake = wake
        self._rings = [buffer.ring(symbol) for symbol in symbols]
        self._samplers = [Sampler(4 * buffer.depth, max_age_ns, fill) for _ in symbols]
        self._next_ns = -(-now() // every_ns) * every_ns
        reach_ns = self._next_ns - max(max_age_ns, LOOK_BACK_NS)
        self._next = [_last_before(ring, reach_ns, self._next_ns) for ring in self._rings]
        self._ready: deque[Row] = deque()
        self._ended = False

    def __iter__(self) -> "SynchronousRows":
        return self

    def __next__(self) -> Row:
        if not self._ready:
            end_ns = 0 if self._ended else self._await()
            if not end_ns:
                self._ended = True
                raise StopIteration
            self._make(grid(self._next_ns, end_ns, self._every_ns)[:MOST_AT_ONCE])
        return self._ready.popleft()

    def _await(self) -> int:
        """Waits until the next row can be made; returns the time before which rows can be made, 0 for the end."""
        buffer, woken = self._buffer, threading.Event()
        unsubscribe = buffer.on_progress.add(woken)
        try:
            while True:
                woken.clear()
                running = buffer.running
                if buffer.until_ns >= self._next_ns + RESOLUTION_NS:
                    return buffer.until_ns - RESOLUTION_NS + 1
                if not running:
                    return 0
                early_ns = self._next_ns + RESOLUTION_NS - self._now()
                if early_ns > 0:
                    buffer.closed.wait(early_ns / SECOND)
                else:
                    self._wake()
                    woken.wait()
        finally:
            unsubscribe()

    def _make(self, times: np.ndarray) -> None:
        values = np.empty((len(times), len(self._rings), 4 * self._buffer.depth))
        stop_ns = int(times[-1]) + 1
        for place, (ring, sampler) in enumerate(zip(self._rings, self._samplers, strict=True)):
            wanted = self._next[place]
            first, rows = ring.read(wanted, ring.number_at(stop_ns, wanted) if ring.count > wanted else wanted)
            if first > wanted and not (len(rows.times) and rows.times[0] <= times[0]):
                raise FellBehind(
                    f"{first - wanted} rows of {self.pairs[place]} are gone that the grid row at {self._next_ns} ns "
                    "needs: it was read later than rows are kept. Iterate faster, or keep more of them (keep=)."
                )
            self._next[place] = first + len(rows.times)
            values[:, place] = sampler.take(rows.times, rows.values, times)
        self._next_ns = int(times[-1]) + self._every_ns
        self._ready.extend(Row(time, values[number]) for number, time in enumerate(times.tolist()))


def _last_before(ring: Ring, reach_ns: int, until_ns: int) -> int:
    """The number of the last row up to a time, or of the first one after it where that lies before `reach_ns`."""
    return max(ring.oldest(), ring.number_at(reach_ns), ring.number_at(until_ns + 1) - 1)
