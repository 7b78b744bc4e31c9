"""Threads that are to live as long as what they work for: one that dies is restarted, counted and reported.

A thread's function returns when it has come to its end. Whatever it raises is a bug, or something nobody foresaw; it is
logged, put on record here, and the function is called again after a pause, which doubles while it keeps failing. The
record is one for the whole process: `deaths` gives it to metrics, alarms and `ingester status`.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from ingester.clock import backoff

log = logging.getLogger(__name__)

SETTLED_SECONDS = 60.0
"""One that ran for so long before it died is restarted as soon as one that died for the first time."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 30.0


class Deaths(NamedTuple):
    """What has happened to this process's threads."""

    counts: dict[str, int]
    """How often each has died, by its name."""
    down: frozenset[str]
    """Those that do not run now: they wait for their restart, or cannot be restarted."""
    last: str = ""
    """Which one died last."""
    error: str = ""
    """What it raised."""
    at: float = 0.0
    """When, in seconds since 1970."""

    @property
    def total(self) -> int:
        """Of all threads together."""
        return sum(self.counts.values())

    def since(self, before: "Deaths") -> "Deaths":
        """What was added after an earlier moment."""
        counts = Counter(self.counts)
        counts.subtract(before.counts)
        counts = +counts
        down = self.down - before.down
        return self._replace(counts=dict(counts), down=down) if counts else Deaths({}, down)


_lock = threading.Lock()
_counts: Counter[str] = Counter()
_down: set[str] = set()
_last: tuple[str, str, float] = ("", "", 0.0)


def deaths() -> Deaths:
    """What is on record now. May be called from any thread."""
    with _lock:
        return Deaths(dict(_counts), frozenset(_down), *_last)


class SupervisedThread(threading.Thread):
    """A daemon thread that calls `work` until it returns in order; see the module."""

    def __init__(self, work: Callable[[], object], name: str, stopping: threading.Event | None = None) -> None:
        """`stopping`: set when `work` is to come to its end. If it dies after that, it gets one more try, at once."""
        super().__init__(name=name, daemon=True)
        self._work = work
        self._stopping = stopping or threading.Event()

    def run(self) -> None:
        """Calls `work`, again after each death."""
        pauses, tried_at_the_end = backoff(SHORTEST_PAUSE, LONGEST_PAUSE), False
        while True:
            begun = time.monotonic()
            try:
                self._work()
                return
            except BaseException as error:  # nobody is above to take it, not even SystemExit
                died(self.name, error)
            if self._stopping.is_set():
                if tried_at_the_end:
                    return
                tried_at_the_end = True
            else:
                if time.monotonic() - begun > SETTLED_SECONDS:
                    pauses = backoff(SHORTEST_PAUSE, LONGEST_PAUSE)
                self._stopping.wait(next(pauses))
            with _lock:
                _down.discard(self.name)


def died(name: str, error: BaseException, restarted: bool = True) -> None:
    """Puts on record that a thread died; `restarted`: whether it will run again."""
    global _last
    text = f"{type(error).__name__}: {error}"
    with _lock:
        _counts[name] += 1
        _down.add(name)
        _last = name, text, time.time()
    with contextlib.suppress(Exception):  # what cannot be logged is on record all the same
        what = "it is restarted" if restarted else "it cannot be restarted"
        log.error("the thread %r died, %s: %s", name, what, text, exc_info=error)
