"""The exchange's limits on those who connect, as pure bookkeeping over times that the caller hands in."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class ExchangeLimits:
    """What the simulator allows and how it keeps connections: seconds, counts and bytes, by default Binance's.

    Source: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams, "General information".
    """

    ping_interval: float = 20.0
    pong_timeout: float = 60.0
    """A client whose last pong is older is dropped."""
    lifetime: float = 24 * 3600.0
    streams: int = 1024
    messages_per_second: int | None = 5
    """Per connection; pings and pongs count. None: any number."""
    attempts: int | None = 300
    """Connection attempts per `attempt_window` and address. None: any number."""
    attempt_window: float = 300.0
    patience: int = 20
    """Attempts answered with 429 before the answer is 418."""
    write_buffer: int = 64 * 2**20
    """Bytes waiting for a client that does not read before it is dropped."""


class MessageRate:
    """Whether a connection has sent more than `most` messages within a second."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._times: deque[float] = deque(maxlen=most)

    def exceeded(self, now: float) -> bool:
        """Count one message at `now`, in seconds; True where it is one too many."""
        if self._most is None:
            return False
        too_many = len(self._times) == self._most and now - self._times[0] < 1.0
        self._times.append(now)
        return too_many


class AttemptRate:
    """Connection attempts per address within the window; refused ones do not count towards the limit."""

    def __init__(self, limits: ExchangeLimits) -> None:
        self._limits = limits
        self._attempts: dict[str, deque[float]] = {}
        self._refused: dict[str, int] = {}

    def refusal(self, address: str, now: float) -> tuple[int, int] | None:
        """(HTTP status, seconds for Retry-After) where an attempt at `now` is refused, else None."""
        most, window = self._limits.attempts, self._limits.attempt_window
        if most is None:
            return None
        times = self._attempts.setdefault(address, deque())
        while times and now - times[0] >= window:
            times.popleft()
        if len(times) < most:
            times.append(now)
            self._refused.pop(address, None)
            return None
        refused = self._refused[address] = self._refused.get(address, 0) + 1
        wait = max(1, -int(-(times[0] + window - now) // 1))
        return (429, wait) if refused <= self._limits.patience else (418, wait)
