"""Passwords and tokens that are kept in files."""

import logging
import os
import stat
from pathlib import Path

from ingester import private
from ingester.errors import SettingsError

log = logging.getLogger(__name__)

LARGEST = 64 << 10
GIVEN = Path("/run/secrets")
"""Where container runtimes put secrets, with rights that nobody chose."""


def read_secret(path: Path) -> str:
    """What a file holds, without the line's end; a file that every user may read is told.

    Raises SettingsError, naming the file and never its content, where there is nothing to be had.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
            state = os.fstat(file.fileno())
    except OSError as error:
        raise SettingsError(f"The secret file {path} cannot be read: {error.strerror}.") from None
    if len(content) > LARGEST:
        raise SettingsError(f"The secret file {path} is too large to hold a password or token.")
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(f"The secret file {path} is not text in UTF-8.") from None
    if not secret:
        raise SettingsError(f"The secret file {path} is empty; the password or token belongs into it.")
    if "\n" in secret:
        raise SettingsError(f"The secret file {path} has several lines; only the password or token belongs into it.")
    owners = (state.st_uid,) if os.geteuid() == 0 else ()
    if GIVEN not in path.absolute().parents and (who := private.changeable_by(state, owners)):
        raise SettingsError(
            f"The secret file {path} can be changed by {who}, so it is not used. Make it yours alone: "
            f"chown {private.user_name(os.geteuid())} {path}; chmod 600 {path}."
        )
    if state.st_mode & stat.S_IROTH and GIVEN not in path.absolute().parents:
        log.warning("every user of this machine can read the secret in %s; chmod 600 mends that", path)
    return secret
