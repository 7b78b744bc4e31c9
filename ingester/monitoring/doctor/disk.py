"""The data folder: whose it is, how much room it has, how fast its disk is. What is written for that has no name."""

import contextlib
import os
import stat
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from ingester.monitoring.alerts import AlertLimits, disk_problem
from ingester.monitoring.doctor.check import Check, Finding
from ingester.monitoring.state_file import running_collectors
from ingester.record import leftovers

APPEND_BYTES, APPENDS = 20_000, 40
WRITE_BYTES, WRITE_CHUNK = 256 << 20, 4 << 20
MOST_SECONDS = 2.0
ROOM_TO_WRITE = 2 << 30
"""Where less is free, writing much to see how fast it goes would do harm."""
SLOW_SYNC, HOPELESS_SYNC = 0.05, 1.0
SLOW_WRITE = 20e6
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})


def checks(data_dir: Path) -> list[Check]:
    """All about the data folder; where it is not there yet, about the folder in which it would be made."""
    return [
        Check("data folder", lambda: _folder(data_dir)),
        Check("secrets", lambda: _secrets(data_dir)),
        Check("spool", lambda: _spools(data_dir)),
        Check("disk space", lambda: _space(existing(data_dir))),
        Check("disk speed", lambda: _speed(existing(data_dir))),
    ]


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def _folder(data_dir: Path) -> Iterator[Finding]:
    folder = existing(data_dir)
    where = str(data_dir) if folder == data_dir.absolute() else f"{data_dir} is yet to be made in {folder}"
    mend = f"sudo chown -R {os.getuid()}:{os.getgid()} '{folder}', or another --data-dir"
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("data folder", "fail", f"{where}, which must not be written to", mend)
        return
    closed = [name for name in ("spool", "state", "questdb", "dead-letter") if _is_closed(folder / name)]
    if folder == data_dir.absolute() and closed:
        yield Finding("data folder", "fail", f"{where}: {', '.join(closed)} in it must not be written to", mend)
        return
    kind = filesystem(folder, [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)])
    if kind in NETWORK:
        mend = "take a local disk: QuestDB does not support this, and locks may not hold"
        yield Finding("data folder", "warning", f"{where}, on {kind}: a network file system", mend)
    elif kind in ("tmpfs", "ramfs"):
        yield Finding("data folder", "warning", f"{where}, on {kind}: gone at the next boot", "another --data-dir")
    else:
        yield Finding("data folder", "ok", f"{where}, on {kind or 'an unknown file system'}")


def _is_closed(path: Path) -> bool:
    return path.exists() and not os.access(path, os.W_OK)


def filesystem(path: Path, mounts: list[tuple[str, str]]) -> str:
    """The kind of file system that a path lies on, of (mount point, kind)."""
    above = [(len(Path(point).parts), kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(above, default=(0, ""), key=lambda each: each[0])[1]


def _secrets(data_dir: Path) -> Iterator[Finding]:
    path = data_dir / "questdb" / "password"
    try:
        state = path.stat()
    except FileNotFoundError:
        yield Finding("secrets", "ok", "no password was made yet")
    except OSError as error:
        yield Finding("secrets", "fail", f"{path}: {error.strerror}", f"run this as the owner of {data_dir}")
    else:
        yield secret_finding(path, state.st_mode, state.st_uid, os.getuid())


def secret_finding(path: Path, mode: int, owner: int, self: int) -> Finding:
    """Whether a file with a password is for its owner only, and that is us (or root, who may read all)."""
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"{path} can be read by others ({stat.S_IMODE(mode):04o})"
        return Finding("secrets", "fail", text, f"chmod 600 '{path}'")
    if self not in (owner, 0):
        return Finding(
            "secrets", "fail", f"{path} belongs to user {owner}, not to {self}", f"sudo chown {self} '{path}'"
        )
    return Finding("secrets", "ok", f"{path} is for its owner only")


def _spools(data_dir: Path) -> Iterator[Finding]:
    unreadable: list[str] = []
    found = leftovers(data_dir, running_collectors(data_dir), unreadable)
    for each in found:
        yield Finding("spool", "warning", each.text, each.mend(data_dir))
    for line in unreadable:
        yield Finding(
            "spool", "warning", line, "try again; if it stays so, look at the disk and at who owns the folder"
        )
    if not found and not unreadable:
        yield Finding("spool", "ok", "no rows of stopped recorders are waiting")


def _space(folder: Path) -> Iterator[Finding]:
    state = os.statvfs(folder)
    free, total = state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize
    yield space_finding(free, total, state.f_favail if state.f_files else None)


def space_finding(free: int, total: int, inodes: int | None) -> Finding:
    """What is left on a disk, in bytes; `inodes`: files that can still be made, where there is a limit."""
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    mend = "make room, or give another --data-dir"
    if inodes is not None and inodes < 10_000:
        return Finding("disk space", "fail", f"{text}, but only {inodes:,} files can still be made", mend)
    for problem in disk_problem(free, None, AlertLimits()):
        return Finding("disk space", "fail" if problem.severity == "critical" else "warning", text, mend)
    return Finding("disk space", "ok", text)


def _speed(folder: Path) -> Iterator[Finding]:
    try:
        descriptor = _nameless(folder)
    except OSError as error:
        yield Finding("disk sync", "skipped", f"nothing can be written in {folder}: {error.strerror}")
        return
    try:
        yield sync_finding(_syncs(descriptor))
        state = os.statvfs(folder)
        if state.f_bavail * state.f_frsize < ROOM_TO_WRITE:
            yield Finding("disk write", "skipped", "too little is free to try how fast it writes")
        else:
            yield write_finding(_written(descriptor))
    except OSError as error:
        yield Finding("disk sync", "fail", f"{folder}: {error.strerror}", "make room, look at the disk: dmesg | tail")
    finally:
        os.close(descriptor)


def _nameless(folder: Path) -> int:
    """A file that is gone when it is closed, or this process ends, however."""
    with contextlib.suppress(OSError):
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    descriptor, name = tempfile.mkstemp(prefix=".doctor-", dir=folder)
    os.unlink(name)
    return descriptor


def _syncs(descriptor: int, monotonic: Callable[[], float] = time.monotonic) -> list[float]:
    """Seconds of each append and sync, as the spool does them."""
    data, begun = os.urandom(APPEND_BYTES), monotonic()
    taken: list[float] = []
    while len(taken) < APPENDS and (not taken or monotonic() - begun < MOST_SECONDS):
        at = monotonic()
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        taken.append(monotonic() - at)
    return taken


def _written(descriptor: int, monotonic: Callable[[], float] = time.monotonic) -> float:
    """Bytes per second of one long write, sync included."""
    data, begun, written = os.urandom(WRITE_CHUNK), monotonic(), 0
    while written < WRITE_BYTES and (not written or monotonic() - begun < MOST_SECONDS):
        written += os.write(descriptor, data)
        os.fdatasync(descriptor)
    return written / (monotonic() - begun)


def sync_finding(taken: list[float]) -> Finding:
    """What the times of syncs mean: the spool syncs about ten times a second."""
    median, longest = statistics.median(taken), max(taken)
    text = f"a small append is synced in {median * 1000:.1f} ms, {longest * 1000:.0f} ms at most"
    mend = "take an SSD; on a virtual machine, a disk with guaranteed operations per second"
    if median > HOPELESS_SYNC:
        return Finding("disk sync", "fail", text, mend)
    return Finding("disk sync", "warning", text, mend) if median > SLOW_SYNC else Finding("disk sync", "ok", text)


def write_finding(bytes_per_second: float) -> Finding:
    """What the speed of a long write means: 1,500 pairs write about 10 MB/s, spool, log and table together."""
    text = f"{bytes_per_second / 1e6:,.0f} MB/s written"
    if bytes_per_second < SLOW_WRITE:
        return Finding("disk write", "warning", f"{text}: enough for few pairs only", "take a faster disk")
    return Finding("disk write", "ok", text)
