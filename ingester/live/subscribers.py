"""Readers that get each row of the live buffer once: consumers, which take, and callbacks, which are called.

Each goes at its own pace and costs the recording nothing when it is slow: rows wait in the rings, and what these no
longer hold is lost to it and counted. Each callback has a thread of its own. What it raises is logged (at the 1st, 2nd,
4th, 8th, … time) and counted, and it is called again with the next row: an error in it never ends a recording.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

from ingester.errors import UsageError
from ingester.events import Event
from ingester.grid import Floats, Nanoseconds
from ingester.live.buffer import LiveBuffer
from ingester.live.ring import Ring, Row
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""How long the end of a recording waits for callbacks to take what is left."""

OnSnapshot = Callable[[str, Row], object]
OnEvent = Callable[[Event], object]


class Taken(NamedTuple):
    """Rows that a consumer had not seen, oldest first: receive times (n,) in ns since 1970, values (n, 4 x depth).

    `lost`: so many before them had come and were gone, because the consumer was slower than the buffer keeps rows.
    """

    times: Nanoseconds
    values: Floats
    lost: int


class Consumer:
    """Takes rows, beginning with those that come after it was made. For one thread at a time."""

    def __init__(
        self,
        buffer: LiveBuffer,
        *,
        name: str,
        symbols: Sequence[str] | None = None,
        on_close: "Callable[[Consumer], None]" = lambda consumer: None,
    ) -> None:
        """`symbols` None: all pairs, with those that are added later."""
        self.name = name
        self.lost = 0
        """Rows of all its pairs that it was too slow for."""
        self._buffer = buffer
        self._symbols = symbols
        self._on_close = on_close
        self._next: dict[Ring, int] = {ring: ring.count for ring in buffer.rings.values()}
        self._notified = buffer.on_rows.count
        self._own_rows = 0  # of its pairs at the last wait, where it has not all
        self._has_own_rows()
        self._woken = threading.Event()
        self._unsubscribe = buffer.on_rows.add(self._woken)

    def updated(self, pair: str) -> bool:
        """Whether a pair has rows that this consumer has not taken. Raises UnknownPair."""
        ring = self._buffer.ring(self._buffer.symbol(pair))
        return ring.count > self._next.get(ring, 0)

    def take(self, pair: str) -> Taken:
        """The rows of a pair that this consumer has not taken yet, perhaps none. Raises UnknownPair."""
        symbol = self._buffer.symbol(pair)
        ring = self._buffer.ring(symbol)
        wanted = max(self._next.get(ring, 0), self._buffer.start_of(symbol))
        first, rows = ring.read(wanted)
        self._next[ring] = first + len(rows.times)
        self.lost += first - wanted
        return Taken(rows.times, rows.values, first - wanted)

    def wait(self, timeout: float | None = None) -> list[str]:
        """Waits until a row has come since the last `wait`, and gives all pairs that have rows to take.

        An empty list: nothing came within `timeout` seconds (None: no limit), or the recorder has stopped.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        buffer, woken = self._buffer, self._woken
        while True:
            woken.clear()
            notified = buffer.on_rows.count
            if notified != self._notified:
                self._notified = notified
                if (self._symbols is None or self._has_own_rows()) and (pairs := self._pairs_to_take()):
                    return pairs
            if not buffer.running:
                return []
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not woken.wait(left):
                return []

    def close(self) -> None:
        """Ends the subscription; its name is free again. A second time does nothing."""
        self._unsubscribe()
        self._on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _has_own_rows(self) -> bool:
        """Whether one of its own pairs has a row that had not come at the last call."""
        rings, before = self._buffer.rings, self._own_rows
        self._own_rows = sum(rings[each].count for each in self._symbols or () if each in rings)
        return self._own_rows != before

    def _pairs_to_take(self) -> list[str]:
        rings, taken = self._buffer.rings, self._next
        symbols = rings if self._symbols is None else [symbol for symbol in self._symbols if symbol in rings]
        return [symbol for symbol in symbols if (ring := rings[symbol]).count > taken.get(ring, 0)]


class Callback:
    """A function and its thread, which runs from `start` until the buffer is closed and all is delivered."""

    def __init__(self, *, name: str, deliver: Callable[["Callback"], bool]) -> None:
        """`deliver` waits for what is to be delivered, and delivers it; returns False when nothing more will come."""
        self.failures = 0
        """How often the function raised something."""
        self.finished = False
        """Whether what is left is not to be delivered any more."""
        self._name = name
        self._deliver = deliver
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to deliver, in a new thread."""
        self.finished = False
        self._thread = SupervisedThread(partial(self._run, self._thread), f"callback {self._name}")
        self._thread.start()

    def finish(self, timeout: float) -> None:
        """Waits until all is delivered, but no longer than `timeout` seconds, and not for itself; then no more is."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, timeout))
        self.finished = True

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Calls the function; what it raises is logged and counted."""
        try:
            function(*arguments)
        except Exception:
            self.failures += 1
            if self.failures & (self.failures - 1) == 0:
                log.exception("callback %s failed (the %d. time); the recording goes on", self._name, self.failures)

    def _run(self, before: threading.Thread | None) -> None:
        if before is not None:  # may still be busy with what came before the last stop
            before.join()
        while not self.finished and self._deliver(self):
            pass


class Subscribers:
    """All consumers and callbacks of a recorder. Methods may be called from any thread, by callbacks too."""

    def __init__(self, buffer: LiveBuffer) -> None:
        self._buffer = buffer
        self._lock = threading.Lock()
        self._consumers: dict[str, Consumer] = {}
        self._callbacks: list[Callback] = []

    @property
    def failures(self) -> int:
        """How often callbacks have raised something."""
        return sum(callback.failures for callback in self._callbacks)

    def subscribe(self, name: str, pairs: Sequence[str] | None) -> Consumer:
        """A new consumer. Raises UnknownPair, and UsageError where the name is in use."""
        symbols = None if pairs is None else [self._buffer.symbol(pair) for pair in pairs]
        with self._lock:
            if name in self._consumers:
                raise UsageError(f"There is a consumer {name!r} already. Close it, or choose another name.")
            self._consumers[name] = consumer = Consumer(self._buffer, name=name, symbols=symbols, on_close=self._forget)
        return consumer

    def on_snapshot(self, function: OnSnapshot, pairs: Sequence[str] | None) -> None:
        """Has `function(pair, row)` called with each row that comes from now on. Raises UnknownPair."""
        name = f"on_snapshot {len(self._callbacks)} {getattr(function, '__qualname__', function)}"
        self._add(_snapshot_callback(self._buffer, self.subscribe(name, pairs), function))

    def on_event(self, function: OnEvent) -> None:
        """Has `function(event)` called with each event that comes from now on."""
        self._add(_event_callback(self._buffer, f"on_event {getattr(function, '__qualname__', function)}", function))

    def start(self) -> None:
        """To be called when the buffer was opened."""
        with self._lock:
            for callback in self._callbacks:
                callback.start()

    def finish(self) -> None:
        """To be called when the buffer was closed: callbacks take what is left, within `PATIENCE_SECONDS`."""
        with self._lock:
            callbacks = list(self._callbacks)
        deadline = time.monotonic() + PATIENCE_SECONDS
        for callback in callbacks:
            callback.finish(deadline - time.monotonic())

    def _add(self, callback: Callback) -> None:
        with self._lock:
            self._callbacks.append(callback)
            if self._buffer.running:
                callback.start()

    def _forget(self, consumer: Consumer) -> None:
        with self._lock:
            if self._consumers.get(consumer.name) is consumer:
                del self._consumers[consumer.name]


def _snapshot_callback(buffer: LiveBuffer, consumer: Consumer, function: OnSnapshot) -> Callback:
    """A callback for the rows of a consumer."""

    def deliver(callback: Callback) -> bool:
        more = buffer.running
        for symbol in consumer.wait():
            if symbol not in buffer.rings:  # removed in this moment
                continue
            taken = consumer.take(symbol)
            for at_ns, values in zip(taken.times.tolist(), taken.values, strict=True):
                if callback.finished:
                    return False
                callback.call(function, symbol, Row(at_ns, values))
        return more

    return Callback(name=consumer.name, deliver=deliver)


def _event_callback(buffer: LiveBuffer, name: str, function: OnEvent) -> Callback:
    """A callback for events."""
    woken = threading.Event()
    buffer.on_events.add(woken)
    following = buffer.events_noted

    def deliver(callback: Callback) -> bool:
        nonlocal following
        woken.clear()
        more = buffer.running
        if buffer.events_noted > following:
            for number, event in buffer.events(following):
                following = number + 1
                callback.call(function, event)
        elif more:
            woken.wait()
        return more or buffer.events_noted > following

    return Callback(name=name, deliver=deliver)
