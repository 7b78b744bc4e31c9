"""How long an exchange wants to be left alone: whatever it sends becomes a number of seconds that can be waited for."""

import email.utils
import math
import re
import time
from collections.abc import Callable

LONGEST_SECONDS = 3600.0
"""Nothing is waited for longer, so that a wrong number costs an hour at most; a ban that lasts is then told again."""
LONGEST_BAN_SECONDS = 3 * 86_400.0
"""The longest that Binance documents. A greater number is a date, or nonsense."""
_BANNED_UNTIL = re.compile(rb"banned until (\d{10,16})\b")


def retry_after(header: str | None, body: bytes = b"", now: Callable[[], float] = time.time) -> float | None:
    """Seconds from 0 to `LONGEST_SECONDS`, from a `Retry-After` or else from "banned until <ms>" in the answer's text.

    The header may hold seconds, an HTTP date, or a Unix time in s or ms. None where neither says anything sensible.
    """
    told = _seconds((header or "").strip()[:100], now)
    if told is None and (until := _BANNED_UNTIL.search(body[:4096])):
        told = _seconds(until[1].decode(), now)
    return None if told is None else min(told, LONGEST_SECONDS)


def _seconds(text: str, now: Callable[[], float]) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return _until_date(text, now)
    if not math.isfinite(number) or number < 0:
        return None
    if number <= LONGEST_BAN_SECONDS:
        return number
    return _sensible(number / (1000 if number > 1e11 else 1) - now())  # 1e11 s are the year 5138, as ms 1973


def _until_date(text: str, now: Callable[[], float]) -> float | None:
    try:
        return _sensible(email.utils.parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, OverflowError):
        return None


def _sensible(left: float) -> float | None:
    """What is left of a ban until a moment, which may be over."""
    return max(0.0, left) if left <= LONGEST_BAN_SECONDS else None
