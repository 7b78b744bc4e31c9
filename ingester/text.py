"""Text from outside (tables, manifests, listings, servers), made safe for screens, logs and paths.

Also the texts of numbers, durations and names in messages and tables.
"""

import difflib
import logging
import math
import re
import threading
from collections.abc import Iterable
from pathlib import Path

from ingester.clock import Throttle
from ingester.errors import SettingsError

MOST_NAME_BYTES = 255
"""Of one name in a path, on Linux and macOS."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
FROM_THE_EXCHANGE = ("ingester.feed", "ingester.connection", "ingester.sequence")
LINES_AT_ONCE, LINE_SECONDS = 60, 1.0


def plain(text: str, keep: str = "\n\t") -> str:
    """The text with all control characters as `\\x1b` and the like, those that turn its direction round included."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def path_part(name: str, what: str = "name") -> str:
    """The same name, where it may be one part of a path. Raises SettingsError, naming `what` it is, where it may not:

    where it names another folder (`..`, `/`), holds control characters, or is too long.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or _CONTROL.search(name):
        raise SettingsError(f"The {what} {plain(name, '')[:80]!r} cannot be the name of a file.")
    if len(name.encode()) > MOST_NAME_BYTES:
        raise SettingsError(
            f"The {what} {name[:40]!r}… cannot be the name of a file: it is longer than {MOST_NAME_BYTES} bytes."
        )
    return name


def inside(folder: Path, name: str, what: str = "name") -> Path:
    """The path of a name from outside in a folder. Raises SettingsError as `path_part`."""
    return folder / path_part(name, what)


class PlainLines(logging.Filter):
    """Keeps control characters out of a log: a line stays one line, whatever it quotes."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        record.msg, record.args = plain(text, "\t"), ()
        return True


class LineLimit(logging.Filter):
    """Limits the log lines per time that the exchange can cause, over all connections together.

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
    """Returns the limit for the log of a program."""
    return LineLimit(FROM_THE_EXCHANGE, Throttle(LINES_AT_ONCE, LINE_SECONDS))


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
