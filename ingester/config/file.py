"""The configuration file: which one is in force, what it says, and whether it can be trusted; secrets are masked."""

import logging
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platformdirs import user_config_path

from ingester import private
from ingester.errors import SettingsError

log = logging.getLogger("ingester.config.file")

CONFIG_NAME = "ingester.toml"
CONFIG_VARIABLE = "INGESTER_CONFIG"
MASK = "***"

_SECRET = re.compile(r"(?:^|[-_])(?:password|passphrase|secret|token|webhook|api[-_]key|credentials?)$", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)([^/\s:@'\"]*):(?!password@)[^\s'\"]*@")
_IN_QUERY = re.compile(r"([?&](?:password|secret|token|key|api_?key)=)[^&\s'\"]+", re.IGNORECASE)


@dataclass(frozen=True)
class Configuration:
    """What a file says; without a file, nothing."""

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's path, relative to this folder where it is inside."""
        return _shown(self.path) if self.path else ""

    def refuse(self, why: str) -> SettingsError:
        """Returns the error that this file cannot be used; passwords in `why` are masked."""
        return SettingsError(f"{self.name}: {masked_text(why)}")


def user_config_file() -> Path:
    """The file of this user, for commands that run in any folder."""
    return user_config_path("ingester", appauthor=False) / CONFIG_NAME


def find_configuration(named: Path | None) -> Path | None:
    """Returns the file that is in force: the named one, else the one in this folder, else the user's own, else None.

    A file that was not named and that another user could have changed is ignored, with a warning.
    """
    if named is not None:  # the user's own decision
        return named
    # unlike Path.is_file, no error where a folder above must not be looked into, as somebody else's home
    return next(
        (path for path in (Path(CONFIG_NAME), user_config_file()) if os.path.isfile(path) and _is_ours(path)), None
    )


def _is_ours(path: Path) -> bool:
    """Returns whether nobody else could have written the file; logs a warning where somebody could.

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


def read_configuration(path: Path | None, named_by: str = "") -> Configuration:
    """Reads a file. `named_by`: the option or variable that names it, for the error where it is missing.

    Raises SettingsError where the file cannot be read or is not TOML.
    """
    if path is None:
        return Configuration()
    name = _shown(path)
    try:
        with path.open("rb") as file:
            raw, state = file.read(), os.fstat(file.fileno())
    except OSError as error:
        named = f"{named_by} names" if named_by else "There is"
        hint = f" `ingester init {name}` writes one." if isinstance(error, FileNotFoundError) else ""
        raise SettingsError(
            f"{named} the configuration file {name}, which cannot be read: {error.strerror}.{hint}"
        ) from None
    try:
        values = tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name}: this is not UTF-8 (byte {error.start + 1}). Save it in that encoding.") from None
    except RecursionError:
        raise SettingsError(f"{name}: lists or tables are nested too deeply.") from None
    except ValueError as error:
        raise SettingsError(f"{name}: this is not TOML: {error}. `ingester init FILE` writes an example.") from None
    if not named_by and stat.S_ISREG(state.st_mode) and (who := _stranger(state)):  # it was exchanged just now
        raise SettingsError(f"{name} can be changed by {who}. To use it all the same: --config {name}")
    if _holds_secret(values) and stat.S_ISREG(state.st_mode) and state.st_mode & stat.S_IROTH:
        log.warning("%s holds a password, and every user of this machine can read it: chmod 600 %s", name, name)
    return Configuration(path, values)


def _shown(path: Path) -> str:
    """Relative to this folder where it is in it."""
    full = Path(os.path.abspath(path))
    return str(full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full)


def is_secret(key: str) -> bool:
    """Whether a key, option or variable of this name holds a secret itself, rather than the name of a file with it."""
    return _SECRET.search(key) is not None


def masked(key: str, value: Any) -> Any:
    """Returns the value fit to be shown: secrets, and passwords inside addresses, are replaced."""
    if isinstance(value, list | tuple):
        return [masked(key, each) for each in value]
    if value in (None, "") or isinstance(value, bool):
        return value
    if is_secret(key):
        return MASK
    return masked_text(value) if isinstance(value, str) else value


def masked_text(text: str) -> str:
    """Returns the text with `http://user:***@host` for each address in it, and without secrets in queries."""
    return _IN_QUERY.sub(rf"\1{MASK}", _IN_URL.sub(rf"\1:{MASK}@", text))


def _holds_secret(value: Any, key: str = "") -> bool:
    if isinstance(value, Mapping):
        return any(_holds_secret(each, name) for name, each in value.items())
    if isinstance(value, list):
        return any(_holds_secret(each, key) for each in value)
    return isinstance(value, str) and masked(key, value) != value
