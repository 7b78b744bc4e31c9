"""The disk under the spool: the lock on the folder, free space and the reserve, files that are replaced whole."""

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from ingester import private
from ingester.errors import SpoolError, UnsafeFile
from ingester.private import take_lock

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""How old the knowledge of free space may be."""
RESERVE = "reserve"
"""The file in a spool's folder that keeps room for what must be written on a full disk."""
_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT}


def is_full(error: OSError) -> bool:
    """Whether an error says that no more can be written, by disk or by quota."""
    return error.errno in _OUT_OF_SPACE


def reason_of(error: Exception) -> str:
    """What an error of the system says, without its number and path."""
    return "out of memory" if isinstance(error, MemoryError) else getattr(error, "strerror", None) or str(error)


def sync_folder(folder: Path) -> None:
    """Makes names created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, content: bytes, mode: int | None = None) -> None:
    """Replaces a file: after a power cut there is the old or the new one, never a part. Raises OSError.

    `mode`: who may read it, whatever the umask; without, as the umask says.
    """
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o666 if mode is None else mode), "wb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def claim(folder: Path, seconds: float = 0.0) -> int:
    """Makes a folder where there is none, and locks it until the descriptor is closed or this process ends, however.

    `seconds`: how long another process may hold it, as one does that only frees what is reserved there.

    Raises OSError, UnsafeFile where it is not ours alone, and SpoolError where another process holds it.
    """
    private.folder(folder)
    for name in (folder, folder.parent, folder.parent.parent):
        with contextlib.suppress(OSError):  # a parent may be unreadable for us; then it is not new either
            sync_folder(name)
    path = folder / "lock"
    descriptor = private.open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        locked = take_lock(descriptor, seconds)
        holder = "" if locked else os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
    except OSError:
        os.close(descriptor)
        raise
    if not locked:
        os.close(descriptor)
        raise SpoolError(
            f"{folder} is in use by the recorder with process id {holder}: stop that one, "
            "or give this one another name with --collector"
        )
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except OSError as error:  # the lock holds all the same, only its holder stays nameless
        log.warning("cannot write the process id into %s: %s", path, error)
    return descriptor


def leads_to(path: Path, descriptor: int) -> bool:
    """Whether a path leads to what is open; True where that cannot be seen."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def free_reserve(folder: Path) -> None:
    """Deletes the reserve in a spool's folder that no recorder holds; the next one that starts takes it again."""
    reserve = folder / RESERVE
    if not reserve.exists():
        return
    try:
        lock = claim(folder)
    except (OSError, SpoolError):
        return
    try:
        reserve.unlink(missing_ok=True)
    except OSError as error:
        log.debug("%s stays: %s", reserve, error)
    finally:
        os.close(lock)


class FolderLock:
    """A spool's folder and the lock on it, held also where both are deleted or moved under a running recorder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = self._opened = -1
        self._former: list[int] = []

    def claim(self, seconds: float = 0.0) -> None:
        """Takes the folder. Raises as `claim`."""
        lock = claim(self._folder, seconds)
        try:
            opened = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            os.close(lock)
            raise
        self._lock, self._opened = lock, opened

    def is_lost(self) -> bool:
        """Whether the folder or its lock is no longer there; False where that cannot be seen."""
        return not leads_to(self._folder / "lock", self._lock)

    def reclaim(self) -> Path | None:
        """Takes the folder again, which is made again where it is gone; returns where what was in it can be reached
        where it was moved, and None where only the lock was lost. Raises as `claim`, and the old claim stays."""
        moved = not leads_to(self._folder, self._opened)
        lock, opened = self._lock, self._opened
        self.claim()
        if not moved:
            os.close(lock)
            os.close(opened)
            return None
        self._former += [lock, opened]  # what waits in a moved folder is still ours
        former = Path(f"/proc/self/fd/{opened}")
        with contextlib.suppress(OSError):
            log.error("%s was deleted or moved (%s), it is created again", self._folder, os.readlink(former))
        return former

    def close(self) -> None:
        """Releases the folder."""
        for descriptor in (self._lock, self._opened, *self._former):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._opened = -1
        self._former.clear()


class Disk:
    """Free space, looked up at most once a second, and a reserve that is given up when there is none.

    The reserve is for what must be written on a full disk: checkpoints and events. So while it is given up, its size
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
            self._free = 1 << 62  # where nobody knows, a write tells
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
        """Counts what this process has written (or removed: below zero) since free space was looked up."""
        self._free -= added

    def ran_out(self) -> None:
        """Notes that a write failed for lack of space, whatever the last look said, and gives up the reserve."""
        self._free = 0
        self._checked = self._now()
        self.out = True
        self._reserved = False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def moved(self) -> None:
        """Notes that the folder was made again: it holds no reserve."""
        self._reserved, self._checked = False, -float("inf")

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
                descriptor = private.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                try:
                    os.posix_fallocate(descriptor, 0, self._reserve_bytes)
                finally:
                    os.close(descriptor)
                self._reserved = True  # before the rename: a reserve too many is found again, one too few is not
                temporary.replace(self._path)
                self._free -= self._reserve_bytes
        except (OSError, UnsafeFile) as error:
            log.debug("no reserve of %d bytes: %s", self._reserve_bytes, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
