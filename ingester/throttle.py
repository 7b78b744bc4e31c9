"""Limits on what others can make us say: a few at once, then one now and then, and a count of what was held back."""

import logging
import threading
import time
from collections.abc import Callable

FROM_THE_EXCHANGE = ("ingester.feed", "ingester.connection", "ingester.sequence")
LINES_AT_ONCE, LINE_SECONDS = 60, 1.0


class Throttle:
    """Lets `burst` through at once, and one more every `seconds`. Not safe for several threads."""

    def __init__(self, burst: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """`now` gives seconds."""
        self._burst = burst
        self._seconds = seconds
        self._now = now
        self._left = float(burst)
        self._at = now()
        self._held = 0

    def take(self) -> int | None:
        """How many were held back since the last one that passed; None where this one is held back too."""
        now = self._now()
        self._left = min(float(self._burst), self._left + max(0.0, now - self._at) / self._seconds)
        self._at = now
        if self._left < 1:
            self._held += 1
            return None
        self._left -= 1
        held, self._held = self._held, 0
        return held


class LineLimit(logging.Filter):
    """Bounds the log lines per time that the exchange can cause, whatever it sends on however many connections.

    All lines of `packages` share one throttle; other lines pass. A line that passes says how many were left out.
    """

    def __init__(self, packages: tuple[str, ...], throttle: Throttle) -> None:
        super().__init__()
        self._packages = tuple(f"{package}." for package in packages)
        self._throttle = throttle
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._packages):
            return True
        with self._lock:
            held = self._throttle.take()
        if held:
            record.msg, record.args = f"{record.getMessage()} ({held:,} lines before it were left out)", ()
        return held is not None


def exchange_lines() -> LineLimit:
    """The limit for a program's log."""
    return LineLimit(FROM_THE_EXCHANGE, Throttle(LINES_AT_ONCE, LINE_SECONDS))
