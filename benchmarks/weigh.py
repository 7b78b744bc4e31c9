"""A command run to its end: how long it took, what it cost, how much memory it held."""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from processes import HERE, cpu_seconds

SAMPLE_SECONDS = 0.02


class Weight(NamedTuple):
    """Memory in MB. `resident_mb` is the kernel's own peak, and at no moment less than the two of which it consists."""

    seconds: float
    cpu: float
    server_cpu: float
    resident_mb: float
    """The peak of all (VmHWM, as last seen)."""
    anonymous_mb: float
    """The peak of what only this process has (RssAnon)."""
    mapped_mb: float
    """The peak of mapped pages of files, which the kernel takes back as it needs them (RssFile)."""
    rusage_mb: float
    """The peak of all as `resource.getrusage` has it."""
    output: str


def weighed(command: list[str], server: int | None = None) -> Weight:
    """Runs a command; `server` is the process that works for it. Raises RuntimeError where it fails."""
    before = cpu_seconds(server)
    peaks = dict.fromkeys(("VmHWM", "RssAnon", "RssFile"), 0.0)
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=HERE, stdout=said, stderr=subprocess.STDOUT)
        try:
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                for name, mb in _memory(process.pid).items():
                    peaks[name] = max(peaks[name], mb)
                time.sleep(SAMPLE_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        said.seek(0)
        output = said.read()
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {process.returncode}:\n{output[-3000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    resident, anonymous, mapped = peaks["VmHWM"], peaks["RssAnon"], peaks["RssFile"]
    server_cpu = cpu_seconds(server) - before
    return Weight(seconds, cpu, server_cpu, resident, anonymous, mapped, usage.ru_maxrss / 1024, output)


def _memory(pid: int) -> dict[str, float]:
    """The memory that a process holds, in MB; nothing where it is about to end."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.startswith(("VmHWM:", "RssAnon:", "RssFile:")))
    return {name.rstrip(":"): int(kb) / 1024 for name, kb, _ in fields}
