"""Files and folders that only this user may use, and locks between processes.

A file or folder is made with modes for this user alone, is given such modes again, or is refused; this module is the
only place for that rule. Files that this user or root owns and nobody else may write to are trusted. Wider modes of our
own files are narrowed. A file that another user owns or may change is refused, and so is a symbolic link in the place
of one of our files or folders: its maker could read what we write there, make us read another file, or make us
overwrite one. Root may read files of other users, which gives nothing away, but writes only to files of its own.

A lock ends when its file is closed, so also when its process ends.
"""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import stat
import time
from pathlib import Path
from typing import BinaryIO

from ingester.errors import UnsafeFile

FOLDER, FILE = 0o700, 0o600
OURS = (
    *("spool", "state", "questdb", "dead-letter"),
    *("pairs.txt", "pairs-", "listing.json", "recorded.json", "ingester.toml", "lost+found"),
)
"""Beginnings of names in a data folder that is used by ingester alone: our files, and `lost+found` of a file system."""
LOCK_RETRY_SECONDS = 0.02
"""The pause before a lock that another process holds is tried again."""


def changeable_by(state: os.stat_result, owners: tuple[int, ...] = ()) -> str:
    """Returns who else may change a file, for messages: `user bob, who owns it`. Empty: only this user and root may.

    `state`: of the file. `owners`: further users that are trusted. The private group of a user does not count.
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
    """Makes a folder for this user alone, with missing parents, or narrows the modes of one that exists.

    Raises UnsafeFile where it is refused, and OSError.
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
    """As `folder`, but the path may be a symbolic link that this user or root made."""
    folder(resolved(path))


def data_folder(path: Path) -> None:
    """As `linked_folder`, for the data folder. A folder that also holds other things, as /tmp does, keeps its mode.

    Others may need such a folder, and our files in it are in folders of their own. Raises UnsafeFile where another user
    may change it.
    """
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
    """Returns the path with symbolic links followed. Raises UnsafeFile where another user made the link."""
    if path.is_symlink() and (owner := path.lstat().st_uid) not in (os.geteuid(), 0):
        raise UnsafeFile(_refusal(path, f"it is a symbolic link of user {user_name(owner)}"))
    return path.resolve()


def open_file(path: Path, flags: int) -> int:
    """Opens a file of this user alone, with the `flags` of os.open, and returns its descriptor.

    Raises UnsafeFile and OSError.
    """
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
    """Opens a file of this user alone for writing, made or emptied. Raises UnsafeFile and OSError."""
    return os.fdopen(open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")


def read_file(path: Path) -> bytes:
    """Returns the content of a file that no other user may change. Raises UnsafeFile and OSError."""
    descriptor = _opened(path, os.O_RDONLY, FILE)
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        owners = (state.st_uid,) if os.geteuid() == 0 else ()
        if who := changeable_by(state, owners):
            raise UnsafeFile(_refusal(path, f"{who}, may change it"))
        return file.read()


def take_lock(descriptor: int, seconds: float = 0.0) -> bool:
    """Locks an open file or folder; returns False where another process still holds the lock after `seconds`.

    Raises OSError where the file system has no locks.
    """
    ends = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):  # the second by some network file systems
            if time.monotonic() >= ends:
                return False
        time.sleep(LOCK_RETRY_SECONDS)


def is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock of a file. Raises OSError where that cannot be found out now."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def user_name(number: int) -> str:
    """Returns the name of a user, or the number where it has no name."""
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
    """Narrows the modes of a file of this user. Raises UnsafeFile where another user owns it or may change it."""
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
    """Returns whether a group is the private group of a user: it has the user's name, and nobody else is in it."""
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
