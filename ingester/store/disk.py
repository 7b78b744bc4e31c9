"""The disk under the spool: who holds the folder, how much room is left, and files that are whole or not there."""

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from ingester.errors import SpoolError

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""How old the knowledge of free space may be."""
RESERVE = "reserve"
"""The file in a spool's folder that keeps room for what must be written on a full disk."""
_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT}


def is_full(error: OSError) -> bool:
    """Whether an error says that no more can be written, by disk or by quota."""
    return error.errno in _OUT_OF_SPACE


def sync_folder(folder: Path) -> None:
    """Makes names created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes) -> None:
    """Replaces a file: after a power cut there is the old or the new one, never a part. Raises OSError."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def claim(folder: Path) -> int:
    """Makes a folder where there is none, and locks it until the descriptor is closed or this process ends, however.

    Raises OSError, and SpoolError where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (folder, folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):  # a parent may be unreadable for us; then it is not new either
            sync_folder(name)
    path = folder / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise SpoolError(
            f"{folder} is in use by the recorder with process id {holder}: stop that one, "
            "or give this one another name with --collector"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except OSError as error:  # the lock holds all the same, only its holder stays nameless
        log.warning("cannot write the process id into %s: %s", path, error)
    return descriptor


class Disk:
    """Free space, looked up at most once a second, and a reserve that is given up when there is none.

    The reserve is for what must be written on a full disk: positions and events. So while it is given up, its size
    has to be free again before records may be written.
    """

    def __init__(self, folder: Path, free_bytes: int, reserve_bytes: int, now: Callable[[], float]) -> None:
        self._folder = folder
        self._keep = free_bytes
        self._reserve_bytes = reserve_bytes
        self._now = now
        self._free = 0
        self._total = 0
        self._checked = -float("inf")
        self._reserved = False
        self._path = folder / RESERVE
        self._restoring = threading.Lock()
        self.out = False
        """Whether a write failed for lack of space since the last look at what is free."""

    @property
    def reserved(self) -> bool:
        """Whether the reserve is held."""
        return self._reserved

    def room(self) -> int:
        """Bytes that may be written; below zero where less is free than has to be."""
        if self._now() - self._checked >= CHECK_SECONDS:
            self._free = 0
            with contextlib.suppress(OSError):
                state = os.statvfs(self._folder)
                self._free, self._total = state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize
            self._checked = self._now()
            self.out = False
        return self._free - self._keep - (0 if self._reserved else self._reserve_bytes)

    def margin(self, at_most: int) -> int:
        """What must be free beyond the need before a full disk counts as roomy again, or it would flap."""
        return min(at_most, self._total // 16)

    def changed(self, added: int) -> None:
        """Keeps account of what this process has written (or removed: below zero) since the last look."""
        self._free -= added

    def ran_out(self) -> None:
        """A write failed for lack of space: believe that rather than the last look, and give up the reserve."""
        self._free = 0
        self._checked = self._now()
        self.out = True
        self._reserved = False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def give_back(self) -> None:
        """Frees the reserve, for nothing is written here until it is taken again."""
        with self._restoring, contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._reserved = False

    def restore(self) -> None:
        """Takes the reserve where it is not held and there is room for it."""
        if self._reserved or not self._reserve_bytes:
            self._reserved = True
            return
        with self._restoring:
            self._restore(self._path.with_name("reserve.new"))

    def _restore(self, temporary: Path) -> None:
        try:
            if self._path.exists() and self._path.stat().st_blocks * 512 >= self._reserve_bytes:
                self._reserved = True
            elif self.room() >= 0:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                try:
                    os.posix_fallocate(descriptor, 0, self._reserve_bytes)
                finally:
                    os.close(descriptor)
                self._reserved = True  # before the rename: a reserve too many is found again, one too few is not
                temporary.replace(self._path)
                self._free -= self._reserve_bytes
        except OSError as error:
            log.debug("no reserve of %d bytes: %s", self._reserve_bytes, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
