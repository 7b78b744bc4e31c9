"""All consumers and callbacks of a recorder, by name."""

import threading
import time
from collections.abc import Sequence

from ingester.errors import UsageError
from ingester.live.buffer import LiveBuffer
from ingester.live.callbacks import Callback, OnEvent, OnSnapshot, on_events, on_snapshots
from ingester.live.consumer import Consumer

PATIENCE_SECONDS = 2.0
"""How long the end waits for callbacks to take what is left."""


class Subscribers:
    """Who follows a record. Methods may be called from any thread, by callbacks too."""

    def __init__(self, record: LiveBuffer) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._consumers: dict[str, Consumer] = {}
        self._callbacks: list[Callback] = []

    @property
    def failures(self) -> int:
        """How often callbacks have raised something."""
        return sum(callback.failures for callback in self._callbacks)

    def subscribe(self, name: str, pairs: Sequence[str] | None) -> Consumer:
        """A new consumer. Raises UnknownPair, and UsageError where the name is in use."""
        symbols = None if pairs is None else [self._record.symbol(pair) for pair in pairs]
        with self._lock:
            if name in self._consumers:
                raise UsageError(f"There is a consumer {name!r} already. Close it, or choose another name.")
            self._consumers[name] = consumer = Consumer(self._record, name, symbols, self._forget)
        return consumer

    def on_snapshot(self, function: OnSnapshot, pairs: Sequence[str] | None) -> None:
        """A function is called with each row that comes from now on. Raises UnknownPair."""
        name = f"on_snapshot {len(self._callbacks)} {getattr(function, '__qualname__', function)}"
        self._call(on_snapshots(self._record, self.subscribe(name, pairs), function))

    def on_event(self, function: OnEvent) -> None:
        """A function is called with each event that comes from now on."""
        self._call(on_events(self._record, f"on_event {getattr(function, '__qualname__', function)}", function))

    def start(self) -> None:
        """The record has been opened."""
        with self._lock:
            for callback in self._callbacks:
                callback.start()

    def finish(self) -> None:
        """The record has been closed: callbacks take what is left, but not for long."""
        with self._lock:
            callbacks = list(self._callbacks)
        deadline = time.monotonic() + PATIENCE_SECONDS
        for callback in callbacks:
            callback.finish(deadline - time.monotonic())

    def _call(self, callback: Callback) -> None:
        with self._lock:
            self._callbacks.append(callback)
            if self._record.running:
                callback.start()

    def _forget(self, consumer: Consumer) -> None:
        with self._lock:
            if self._consumers.get(consumer.name) is consumer:
                del self._consumers[consumer.name]
