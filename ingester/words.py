"""Numbers, durations and names in words, for messages and tables."""

import difflib
import math
from collections.abc import Iterable


def counted(number: int, thing: str) -> str:
    """`1 pair`, `1,500 pairs`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def duration_text(seconds: float) -> str:
    """`12 ms`, `0.42 s`, `3.2 s`, `12.5 min`, `5.3 h` or `2.1 d`; `-` where it is not a number."""
    if math.isnan(seconds):
        return "-"
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 1.0:
        return f"{seconds:.2f} s"
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def size_text(count: float) -> str:
    """`1.3 GB`, `12.0 MB` or `470 kB`, of a number of bytes."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 1e3:,.0f} kB"


def nearest_names(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that resemble this one, the likeliest first."""
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.6)


def nearest_text(name: str, known: Iterable[str], otherwise: str) -> str:
    """`Nearest names: BTCUSDT, BTCUSDC.`, or `otherwise` where no known name resembles this one."""
    near = nearest_names(name, known)
    return f"Nearest names: {', '.join(near)}." if near else otherwise
