"""Locks on files and folders between processes. A lock ends when its file is closed, so also when its process ends."""

import fcntl
import os
import time
from pathlib import Path

STEP_SECONDS = 0.02
"""A lock that another process holds is tried again after so long."""


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
        time.sleep(STEP_SECONDS)


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
