"""Receive times in nanoseconds since 1970 (UTC) from a clock that never goes back; backoff and rate limits."""

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from ingester.errors import ClockWrong

Now = Callable[[], int]
"""Nanoseconds since 1970, UTC."""

SECOND = 1_000_000_000


STEP_NS = SECOND // 10
"""From this size on a change of the wall clock is a step."""
FOLLOW_NS = 5_000_000
"""So much a call of `follow` moves the clock at most, evenly over the second after it."""
LEAP_NS = 120 * SECOND
"""A wall clock that is so far ahead is followed at once. At 5 ms a second times would be wrong for seven hours."""
EARLIEST_NS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""A clock before this is wrong: this version was made later."""
LATEST_NS = int(datetime(2076, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""A clock after this is wrong, too: a battery that is empty, or a number that has wrapped round."""

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_ns() -> int:
    """Nanoseconds since some moment; they also pass while the machine is suspended, where the system can tell."""
    return time.clock_gettime_ns(_BOOTTIME)


class Clock:
    """The time since boot, anchored to the wall clock, so that a step of the wall clock cannot reorder rows.

    After a step it draws near to the wall clock again, slowly enough that no interval is bent by more than 0.5 %. Only
    where the wall clock is `LEAP_NS` ahead or more, it leaps there. It never goes back: what is stamped later has no
    earlier time.
    """

    def __init__(self, wall_ns: Now = time.time_ns, monotonic_ns: Now = elapsed_ns) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        # Where it is ahead of the monotonic clock, by how much that is to change, and since when it does: one value,
        # as several threads read it.
        self._course = wall_ns() - monotonic_ns(), 0, 0
        self._known = 0  # how far the wall clock was away at the last look
        self.leapt_ns = 0
        """By how much the last call of `follow` moved it at once."""

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
        self.leapt_ns = away if away >= LEAP_NS else 0
        given = 0 if self.leapt_ns else max(-FOLLOW_NS, min(FOLLOW_NS, away))
        monotonic = self._monotonic_ns()
        self._course = self.now() + self.leapt_ns - monotonic, given, monotonic
        self._known = away - self.leapt_ns - given
        return stepped if abs(stepped) >= STEP_NS else 0


PAUSED_NS = 2 * SECOND
"""A thread that comes back after so long, and was not held up by work, was paused with its process or the machine."""
SAMPLE_NS = SECOND // 4


def busy_ns() -> int:
    """How long this process has worked and this thread has waited for a processor, as far as the system tells."""
    waited = 0
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            waited = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return time.process_time_ns() + waited


class PauseDetector:
    """Notices that the process did not run for a while: stopped by a signal, frozen, or the whole machine suspended.

    One for each thread, which looks here at least twice a second. A machine that is merely loaded also keeps threads
    waiting, for three seconds were seen with thirteen busy processes per core; but then this process has worked, or the
    thread has waited for a processor.
    """

    def __init__(self, elapsed: Now = elapsed_ns, busy: Now = busy_ns) -> None:
        self._elapsed = elapsed
        self._busy = busy
        self._looked_ns = self._sampled_ns = elapsed()
        self._busy_ns = busy()

    def look(self) -> int:
        """For how many ns the process was paused since the last look; 0 where it was not."""
        now = self._elapsed()
        away = now - self._looked_ns
        self._looked_ns = now
        if now - self._sampled_ns < SAMPLE_NS:
            return 0
        busy, span = self._busy(), now - self._sampled_ns
        worked, self._busy_ns, self._sampled_ns = busy - self._busy_ns, busy, now
        return away if away > PAUSED_NS and worked < span // 2 else 0


def check_clock(now: int) -> None:
    """Raises ClockWrong where the machine's clock cannot be right, as before NTP has set it."""
    if not EARLIEST_NS <= now < LATEST_NS:
        at = datetime.fromtimestamp(max(0, now) // SECOND, UTC)
        why = "is before this version of ingester was made" if now < EARLIEST_NS else "cannot be"
        raise ClockWrong(
            f"This machine's clock says {at:%Y-%m-%d %H:%M} UTC, which {why}, so all times would be wrong. Set the "
            "clock; `timedatectl` shows whether NTP does."
        )


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


class Throttle:
    """A rate limit: `burst` events pass at once, then one more every `seconds`. Not safe for several threads."""

    def __init__(self, burst: int, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """`now` returns seconds."""
        self._burst = burst
        self._seconds = seconds
        self._now = now
        self._left = float(burst)
        self._at = now()
        self._held = 0

    def take(self) -> int | None:
        """Returns how many were held back since the last one that passed; None where this one is held back too."""
        now = self._now()
        self._left = min(float(self._burst), self._left + max(0.0, now - self._at) / self._seconds)
        self._at = now
        if self._left < 1:
            self._held += 1
            return None
        self._left -= 1
        held, self._held = self._held, 0
        return held
