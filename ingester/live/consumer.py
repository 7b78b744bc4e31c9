"""Those who take each row of the live record once, each at its own pace."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from ingester.grid import Floats, Nanoseconds
from ingester.live.buffer import LiveBuffer
from ingester.live.ring import Ring


class Taken(NamedTuple):
    """Rows that a consumer had not seen, oldest first: receive times (n,) in ns since 1970, values (n, 4 x depth).

    `lost`: so many before them had come and were gone, because the consumer was slower than the record keeps rows.
    """

    times: Nanoseconds
    values: Floats
    lost: int


class Consumer:
    """Knows what it has not seen, beginning with what comes after it was made. For one thread at a time.

    It costs the recording nothing when it is slow: rows wait in the rings, and what these no longer hold is lost to it,
    which `take` tells.
    """

    def __init__(
        self, record: LiveBuffer, name: str, symbols: Sequence[str] | None, close: "Callable[[Consumer], None]"
    ) -> None:
        """`symbols` None: all pairs, with those that are added later. `close` hears when it ends."""
        self.name = name
        self.lost = 0
        """Rows of all its pairs that it was too slow for."""
        self._record = record
        self._symbols = symbols
        self._close = close
        self._next: dict[Ring, int] = {ring: ring.count for ring in record.rings.values()}
        self._rung = record.on_rows.rung
        self._heard = 0  # rows of its own pairs, where it has not all
        self._called()
        self._bell = threading.Event()
        self._unsubscribe = record.on_rows.add(self._bell)

    def updated(self, pair: str) -> bool:
        """Whether a pair has rows that this consumer has not taken. Raises UnknownPair."""
        ring = self._record.ring(self._record.symbol(pair))
        return ring.count > self._next.get(ring, 0)

    def take(self, pair: str) -> Taken:
        """The rows of a pair that this consumer has not taken yet, perhaps none. Raises UnknownPair."""
        symbol = self._record.symbol(pair)
        ring = self._record.ring(symbol)
        wanted = max(self._next.get(ring, 0), self._record.start_of(symbol))
        first, rows = ring.read(wanted)
        self._next[ring] = first + len(rows.times)
        self.lost += first - wanted
        return Taken(rows.times, rows.values, first - wanted)

    def wait(self, timeout: float | None = None) -> list[str]:
        """Waits until a row has come since the last `wait`, and gives all pairs that have rows to take.

        An empty list: nothing came within `timeout` seconds (None: no limit), or the recorder has stopped.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        record, bell = self._record, self._bell
        while True:
            bell.clear()
            rung = record.on_rows.rung
            if rung != self._rung:
                self._rung = rung
                if (self._symbols is None or self._called()) and (pairs := self._untaken()):
                    return pairs
            if not record.running:
                return []
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not bell.wait(left):
                return []

    def close(self) -> None:
        """Ends the subscription; its name is free again. A second time does nothing."""
        self._unsubscribe()
        self._close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _called(self) -> bool:
        """Whether one of its own pairs has a row that had not come at the last call."""
        rings = self._record.rings
        heard, self._heard = self._heard, sum(rings[each].count for each in self._symbols or () if each in rings)
        return self._heard != heard

    def _untaken(self) -> list[str]:
        rings, taken = self._record.rings, self._next
        symbols = rings if self._symbols is None else [symbol for symbol in self._symbols if symbol in rings]
        return [symbol for symbol in symbols if (ring := rings[symbol]).count > taken.get(ring, 0)]
