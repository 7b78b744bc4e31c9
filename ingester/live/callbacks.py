"""Calls a user's functions with what comes, each from a thread of its own, so that none can hold up anything else.

What a function raises is logged (at the 1st, 2nd, 4th, 8th, … time) and counted, and it is called again with the next:
an error of one who looks on never ends a recording. A function that is too slow misses rows, as any consumer does.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial

from ingester.events import Event
from ingester.live.buffer import LiveBuffer
from ingester.live.consumer import Consumer
from ingester.live.ring import Row
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

OnSnapshot = Callable[[str, Row], object]
OnEvent = Callable[[Event], object]


class Callback:
    """A function and its thread, which runs from `start` until the record is closed and all is delivered."""

    def __init__(self, what: str, deliver: Callable[["Callback"], bool]) -> None:
        """`deliver` waits for what is to be delivered, and does that; False when there will be nothing more."""
        self.failures = 0
        """How often the function raised something."""
        self.finished = False
        """Whether what is left is not to be delivered any more."""
        self._what = what
        self._deliver = deliver
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to deliver, in a new thread."""
        self.finished = False
        name = f"callback {self._what}"
        self._thread = SupervisedThread(partial(self._run, self._thread), name)
        self._thread.start()

    def finish(self, timeout: float) -> None:
        """Waits until all is delivered, but no longer than `timeout` seconds, and not for itself; then no more is."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, timeout))
        self.finished = True

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Calls it, whatever it does."""
        try:
            function(*arguments)
        except Exception:
            self.failures += 1
            if self.failures & (self.failures - 1) == 0:
                log.exception("callback %s failed (the %d. time); the recording goes on", self._what, self.failures)

    def _run(self, before: threading.Thread | None) -> None:
        if before is not None:  # may still be busy with what came before the last stop
            before.join()
        while not self.finished and self._deliver(self):
            pass


def on_snapshots(record: LiveBuffer, consumer: Consumer, function: OnSnapshot) -> Callback:
    """Has a function called with each row that the consumer is to see: `function(pair, row)`."""

    def deliver(callback: Callback) -> bool:
        more = record.running
        for symbol in consumer.wait():
            if symbol not in record.rings:  # removed in this moment
                continue
            taken = consumer.take(symbol)
            for time, values in zip(taken.times.tolist(), taken.values, strict=True):
                if callback.finished:
                    return False
                callback.call(function, symbol, Row(time, values))
        return more

    return Callback(consumer.name, deliver)


def on_events(record: LiveBuffer, name: str, function: OnEvent) -> Callback:
    """Has a function called with each event from now on: `function(event)`."""
    bell = threading.Event()
    record.on_events.add(bell)
    following = record.events_noted

    def deliver(callback: Callback) -> bool:
        nonlocal following
        bell.clear()
        more = record.running
        if record.events_noted > following:
            for number, event in record.events(following):
                following = number + 1
                callback.call(function, event)
        elif more:
            bell.wait()
        return more or record.events_noted > following

    return Callback(name, deliver)
