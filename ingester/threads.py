"""Supervised threads, which are restarted when they die, and single calls in a thread of their own, with a time limit.

The function of a supervised thread returns when its work is done. Any exception that it raises is a bug: it is logged
and counted, and the function is called again after a pause, which doubles while it keeps failing. The counts are those
of the whole process: `deaths` returns them for metrics, alerts and `ingester status`.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

from ingester.clock import backoff

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SETTLED_SECONDS = 60.0
"""A thread that ran for so long before it died is restarted after the shortest pause again."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 30.0


class Deaths(NamedTuple):
    """The deaths of the supervised threads of this process."""

    counts: dict[str, int]
    """The number of deaths, by name of thread."""
    down: frozenset[str]
    """Names of threads that do not run now: they wait for their restart, or cannot be restarted."""
    last: str = ""
    """The name of the thread that died last."""
    error: str = ""
    """The exception that it raised."""
    at: float = 0.0
    """The time of its death, in seconds since 1970."""

    @property
    def total(self) -> int:
        """The number of deaths of all threads together."""
        return sum(self.counts.values())

    def since(self, before: "Deaths") -> "Deaths":
        """Returns the deaths since an earlier moment, whose deaths are `before`."""
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
    """Returns the deaths until now. May be called from any thread."""
    with _lock:
        return Deaths(dict(_counts), frozenset(_down), *_last)


class SupervisedThread(threading.Thread):
    """A daemon thread that calls `work` until it returns, and again after each exception."""

    def __init__(self, work: Callable[[], object], name: str, stopping: threading.Event | None = None) -> None:
        """`stopping`: an event that asks `work` to return. If `work` raises after that, it is called once more."""
        super().__init__(name=name, daemon=True)
        self._work = work
        self._stopping = stopping or threading.Event()

    def run(self) -> None:
        """Calls `work`, and calls it again after each death."""
        pauses, tried_at_the_end = backoff(SHORTEST_PAUSE, LONGEST_PAUSE), False
        while True:
            begun = time.monotonic()
            try:
                self._work()
                return
            except BaseException as error:  # no caller above handles it, not even SystemExit
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
    """Counts and logs the death of a thread. `restarted`: whether it will run again."""
    global _last
    text = f"{type(error).__name__}: {error}"
    with _lock:
        _counts[name] += 1
        _down.add(name)
        _last = name, text, time.time()
    with contextlib.suppress(Exception):  # a death that cannot be logged is counted all the same
        what = "it is restarted" if restarted else "it cannot be restarted"
        log.error("the thread %r died, %s: %s", name, what, text, exc_info=error)


def beside(do: Callable[[], Result], name: str) -> Future[Result]:
    """Calls `do` in a daemon thread and returns its future at once. The end of the process does not wait for it."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            result = do()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def within(seconds: float, do: Callable[[], Result], name: str) -> Result:
    """Calls `do` in a daemon thread and returns its result. Raises what it raises.

    Raises TimeoutError after `seconds`; the call then goes on, and its result is dropped.
    """
    return beside(do, name).result(seconds)
