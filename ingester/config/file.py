"""The configuration file: which one is in force, what it says, and on which line; secrets masked."""

import logging
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from ingester import private
from ingester.config.places import Entry, Keys, places
from ingester.errors import SettingsError

log = logging.getLogger("ingester.config.file")

NAME = "ingester.toml"
VARIABLE = "INGESTER_CONFIG"
MASK = "***"

_SECRET = re.compile(r"(?:^|[-_])(?:password|passphrase|secret|token|webhook|api[-_]key|credentials?)$", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)([^/\s:@'\"]*):(?!password@)[^\s'\"]*@")
_IN_QUERY = re.compile(r"([?&](?:password|secret|token|key|api_?key)=)[^&\s'\"]+", re.IGNORECASE)
_AT = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


@dataclass(frozen=True)
class Configuration:
    """What a file says; without a file, nothing."""

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[Keys, Entry] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's path as a person would give it."""
        return _shown(self.path) if self.path else ""

    def line(self, keys: Keys) -> str:
        """`ingester.toml:12`, where a key stands."""
        return f"{self.name}:{self.entries[keys].key.line}"

    def refuse_key(self, keys: Keys, why: str) -> SettingsError:
        """An error that points at a key."""
        place = self.entries[keys].key
        return SettingsError(f"{self.name}:{place.line}:{place.column}: {masked_text(why)}")

    def refuse_value(self, keys: Keys, why: str) -> SettingsError:
        """An error that points at a value."""
        place = self.entries[keys].value
        return SettingsError(f"{self.name}:{place.line}:{place.column}: {masked_text(why)}")


def user_file() -> Path:
    """The file of this user, for commands that run in any folder."""
    return user_config_path("ingester", appauthor=False) / NAME


def find(told: Path | None) -> Path | None:
    """The file that is in force: the one that was named, else one in this folder, else the user's own.

    One that was not named and that another user could have changed is passed over, with a warning."""
    if told is not None:  # the user's own decision
        return told
    # unlike Path.is_file, no error where a folder above must not be looked into, as somebody else's home
    return next((path for path in (Path(NAME), user_file()) if os.path.isfile(path) and _is_ours(path)), None)


def _is_ours(path: Path) -> bool:
    """Whether nobody else could have written what a file says; a warning where somebody could.

    A file that was not named is trusted as git trusts a repository: whoever may write it would decide what is run.
    """
    try:
        who = _stranger(path.lstat()) or _stranger(path.stat())
    except OSError as error:
        who = f"an unknown user ({error.strerror})"
    if who:
        name = _shown(path)
        log.warning(
            "%s is ignored, because it can be changed by %s. To use it all the same: --config %s", name, who, name
        )
    return not who


def _stranger(state: os.stat_result) -> str:
    """Who besides this user and root may change a file; with sudo, the user who called it is trusted too."""
    caller = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    return private.changeable_by(state, (int(caller),) if caller.isdecimal() else ())


def read(path: Path | None, told_by: str = "") -> Configuration:
    """What the file says. `told_by` is what named it, for the error where it is not there.

    Raises SettingsError, with line and column, where it cannot be read or is not TOML.
    """
    if path is None:
        return Configuration()
    name = _shown(path)
    try:
        with path.open("rb") as file:
            raw, state = file.read(), os.fstat(file.fileno())
    except OSError as error:
        named = f"{told_by} names" if told_by else "There is"
        hint = f" `ingester init {name}` writes one." if isinstance(error, FileNotFoundError) else ""
        raise SettingsError(
            f"{named} the configuration file {name}, which cannot be read: {error.strerror}.{hint}"
        ) from None
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line, column = raw.count(b"\n", 0, error.start) + 1, error.start - raw.rfind(b"\n", 0, error.start)
        raise SettingsError(f"{name}:{line}:{column}: this is not UTF-8. Save the file in that encoding.") from None
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(_syntax(name, text, error)) from None
    if not told_by and stat.S_ISREG(state.st_mode) and (who := _stranger(state)):  # it was exchanged just now
        raise SettingsError(f"{name} can be changed by {who}. To use it all the same: --config {name}")
    if _holds_secret(values) and stat.S_ISREG(state.st_mode) and state.st_mode & stat.S_IROTH:
        log.warning("%s holds a password, and every user of this machine can read it: chmod 600 %s", name, name)
    return Configuration(path, values, places(text))


def _syntax(name: str, text: str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"{name}: lists or tables stand too deep inside each other."
    match = _AT.fullmatch(str(error))
    what, hint = match[1] if match else str(error).removesuffix(" (at end of document)"), ""
    if what.startswith("Invalid value"):
        hint = ' Text stands in quotes: "…".'
    elif what.startswith(("Cannot overwrite", "Cannot declare")):
        hint = " Something stands in the file twice."
    where = f"{match[2]}:{match[3]}" if match else str(text.rstrip("\n").count("\n") + 1)
    return f"{name}:{where}: this is not TOML: {what}.{hint}"


def _shown(path: Path) -> str:
    """Relative to this folder where it is in it."""
    full = Path(os.path.abspath(path))
    return str(full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full)


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'depth'?`, or where none is near, ` Known: …`."""
    names = list(known)
    close = near(name.lower().replace("_", "-"), names)
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else f" Known: {', '.join(names)}."


def near(name: str, known: Iterable[str]) -> list[str]:
    """The names that may have been meant, the likeliest first."""
    return get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.7)


def is_secret(key: str) -> bool:
    """Whether a key, option or variable of this name holds a secret itself, rather than the name of a file with it."""
    return _SECRET.search(key) is not None


def masked(key: str, value: Any) -> Any:
    """The value, fit to be shown: secrets, and passwords inside addresses, replaced."""
    if isinstance(value, list | tuple):
        return [masked(key, each) for each in value]
    if value in (None, "") or isinstance(value, bool):
        return value
    if is_secret(key):
        return MASK
    return masked_text(value) if isinstance(value, str) else value


def masked_text(text: str) -> str:
    """The text with `http://user:***@host` for each address in it, and without secrets in queries."""
    return _IN_QUERY.sub(rf"\1{MASK}", _IN_URL.sub(rf"\1:{MASK}@", text))


def _holds_secret(value: Any, key: str = "") -> bool:
    if isinstance(value, Mapping):
        return any(_holds_secret(each, name) for name, each in value.items())
    if isinstance(value, list):
        return any(_holds_secret(each, key) for each in value)
    return isinstance(value, str) and masked(key, value) != value
