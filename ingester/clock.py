"""Receive times in nanoseconds since 1970 (UTC) from a clock that never jumps; waits between repeated attempts."""

import random
import time
from collections.abc import Callable, Iterator

Now = Callable[[], int]
"""Nanoseconds since 1970, UTC."""

SECOND = 1_000_000_000


STEP_NS = SECOND // 10
"""From this size on a change of the wall clock is a step."""
FOLLOW_NS = 5_000_000
"""So much a call of `follow` moves the clock at most, evenly over the second after it."""


class Clock:
    """The monotonic clock, anchored to the wall clock, so that a step of the wall clock cannot reorder rows.

    After a step it draws near to the wall clock again, slowly enough that no interval is bent by more than 0.5 %. It
    never goes back: what is stamped later has no earlier time.
    """

    def __init__(self, wall_ns: Now = time.time_ns, monotonic_ns: Now = time.monotonic_ns) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        # Where it is ahead of the monotonic clock, by how much that is to change, and since when it does: one value,
        # as several threads read it.
        self._course = wall_ns() - monotonic_ns(), 0, 0
        self._known = 0  # how far the wall clock was away at the last look

    def now(self) -> int:
        """Nanoseconds since 1970, UTC."""
        monotonic = self._monotonic_ns()
        anchor, change, since = self._course
        passed = monotonic - since
        return monotonic + anchor + (change if passed >= SECOND else change * passed // SECOND)

    def advance(self, by_ns: int) -> None:
        """Jumps ahead; to be called before anything is stamped. `follow` brings it back to the wall clock."""
        anchor, change, since = self._course
        self._course = anchor + by_ns, change, since
        self._known -= by_ns

    def step(self) -> int:
        """By how many nanoseconds the wall clock has moved away from this one; positive where it is ahead."""
        return self._wall_ns() - self.now()

    def follow(self) -> int:
        """To be called once a second; returns by how many ns the wall clock was set since, 0 where it was not."""
        away = self.step()
        stepped = away - self._known
        given = max(-FOLLOW_NS, min(FOLLOW_NS, away))
        monotonic = self._monotonic_ns()
        self._course = self.now() - monotonic, given, monotonic
        self._known = away - given
        return stepped if abs(stepped) >= STEP_NS else 0


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
