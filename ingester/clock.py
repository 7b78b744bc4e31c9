"""Receive times in nanoseconds since 1970 (UTC) from a clock that never jumps; waits between repeated attempts."""

import random
import time
from collections.abc import Callable, Iterator

Now = Callable[[], int]
"""Nanoseconds since 1970, UTC."""

SECOND = 1_000_000_000


class Clock:
    """The monotonic clock, anchored once to the wall clock, so that a step of the wall clock cannot reorder rows."""

    def __init__(self, wall_ns: Now = time.time_ns, monotonic_ns: Now = time.monotonic_ns) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._anchor = wall_ns() - monotonic_ns()

    def now(self) -> int:
        """Nanoseconds since 1970, UTC."""
        return self._monotonic_ns() + self._anchor

    def step(self) -> int:
        """By how many nanoseconds the wall clock has moved away from this one; positive where it is ahead."""
        return self._wall_ns() - self.now()


def next_full_second(now: int) -> int:
    """The first full second after `now`, both in ns."""
    return (now // SECOND + 1) * SECOND


def backoff(
    first: float = 0.5, cap: float = 30.0, uniform: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """Seconds to wait before each further attempt, without end: doubling up to `cap`, each drawn from its upper half,
    so that many clients cut off together do not come back together."""
    ceiling = first
    while True:
        yield uniform(ceiling / 2, ceiling)
        ceiling = min(cap, ceiling * 2)
