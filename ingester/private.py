"""Files and folders that are for this user alone: made so, made so again, or refused. The one place for that rule.

What this user (or root) owns and nobody else may write to is trusted. Of our own, wider modes are taken back. What
another user owns or may change, and a symbolic link where a file or folder of ours should be, is refused: whoever made
it could read what we write there, have us read what is not ours, or have us overwrite it. Root may read what another
user owns, for that gives away nothing, but writes only to what is its own.
"""

import contextlib
import errno
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import BinaryIO

from ingester.errors import UnsafeFile

FOLDER, FILE = 0o700, 0o600
OURS = (
    *("spool", "state", "questdb", "dead-letter"),
    *("pairs.txt", "pairs-", "listing.json", "recorded.json", "ingester.toml", "lost+found"),
)
"""What begins so may be in a data folder: what we keep there, and what a file system of its own has."""


def changeable_by(state: os.stat_result, owners: tuple[int, ...] = ()) -> str:
    """Who but this user and root may change what a stat is about: `user bob, who owns it`; empty for nobody.

    `owners`: further users that are trusted. A group that is only its user's, as some systems make for each, is nobody.
    """
    if state.st_uid not in (os.geteuid(), 0, *owners):
        return f"user {user_name(state.st_uid)}, who owns it"
    if stat.S_ISLNK(state.st_mode):  # its own mode means nothing
        return ""
    if state.st_mode & stat.S_IWOTH:
        return "every user of this machine"
    if state.st_mode & stat.S_IWGRP and not _is_of_one(state.st_gid, state.st_uid):
        return f"the group {_group_name(state.st_gid)}"
    return ""


def folder(path: Path) -> None:
    """Makes a folder for this user alone, and those above it that are missing, or makes it so again.

    Raises UnsafeFile, and OSError where that fails.
    """
    missing = [each for each in path.parents if not each.exists()]
    for each in (*reversed(missing), path):
        with contextlib.suppress(FileExistsError):
            each.mkdir(FOLDER)
    descriptor = _opened(path, os.O_RDONLY | os.O_DIRECTORY, FOLDER)
    try:
        _claim(path, descriptor, FOLDER)
    finally:
        os.close(descriptor)


def linked_folder(path: Path) -> None:
    """As `folder`, for one that may be reached by a symbolic link, if that is our own or root's."""
    folder(resolved(path))


def data_folder(path: Path) -> None:
    """As `linked_folder`, for the data folder. One that holds other things too, as /tmp or the root of a disk, keeps
    its mode, for others may need it; what is ours in it is in folders of its own."""
    path = resolved(path)
    others = [name for name in os.listdir(path) if not name.startswith(OURS)] if path.is_dir() else []
    if not others or path.stat().st_uid != os.geteuid():
        folder(path)
    elif who := changeable_by(path.stat()):
        raise UnsafeFile(
            f"{path} is not used, because it holds other things too ({others[0]}) and can be changed by {who}. "
            f"Give a folder of its own: --data-dir {path / 'ingester'}"
        )


def resolved(path: Path) -> Path:
    """Where a path leads. Raises UnsafeFile where it is a symbolic link that another user made."""
    if path.is_symlink() and (owner := path.lstat().st_uid) not in (os.geteuid(), 0):
        raise UnsafeFile(_refusal(path, f"it is a symbolic link of user {user_name(owner)}"))
    return path.resolve()


def open_file(path: Path, flags: int) -> int:
    """A descriptor of a file for this user alone, made where `flags` say so. Raises UnsafeFile, and OSError."""
    descriptor = _opened(path, flags, FILE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnsafeFile(_refusal(path, "it is not a regular file"))
        _claim(path, descriptor, FILE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_anew(path: Path) -> BinaryIO:
    """A file for this user alone, emptied and open for writing. Raises UnsafeFile, and OSError."""
    return os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")


def read_file(path: Path) -> bytes:
    """What a file of ours holds. Raises UnsafeFile, and OSError."""
    descriptor = _opened(path, os.O_RDONLY, FILE)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        owners = (state.st_uid,) if os.geteuid() == 0 else ()
        if who := changeable_by(state, owners):
            raise UnsafeFile(_refusal(path, f"{who}, may change it"))
        return file.read()


def user_name(number: int) -> str:
    """A user's name; the number where it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _opened(path: Path, flags: int, mode: int) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
            raise UnsafeFile(_refusal(path, "it is a symbolic link")) from None
        raise


def _claim(path: Path, descriptor: int, mode: int) -> None:
    """Takes wider modes back; refuses what is not ours."""
    state = os.fstat(descriptor)
    if state.st_uid == os.geteuid():
        if stat.S_IMODE(state.st_mode) != mode:
            os.fchmod(descriptor, mode)
    elif os.geteuid() == 0:
        raise UnsafeFile(_refusal(path, f"user {user_name(state.st_uid)} owns it, and root would write to it"))
    elif (who := changeable_by(state)) and not (state.st_uid == 0 and state.st_mode & stat.S_ISVTX):
        raise UnsafeFile(_refusal(path, f"it can be changed by {who}"))


def _refusal(path: Path, why: str) -> str:
    return (
        f"{path} is not used, because {why}. Only one user may have access to it: run this as that user, remove it, "
        "chown it to yourself, or give another --data-dir."
    )


def _is_of_one(group: int, user: int) -> bool:
    """Whether a group is the private one of a user: of its name, and with nobody else in it."""
    try:
        name, found = pwd.getpwuid(user), grp.getgrgid(group)
    except KeyError:
        return False
    return name.pw_gid == group and found.gr_name == name.pw_name and set(found.gr_mem) <= {name.pw_name}


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
