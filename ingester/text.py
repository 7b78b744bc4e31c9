"""Text from outside (tables, manifests, listings, servers): what it may do where it is printed or becomes a path."""

import logging
import re
from pathlib import Path

from ingester.errors import SettingsError

MOST_NAME_BYTES = 255
"""Of one name in a path, on Linux and macOS."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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
