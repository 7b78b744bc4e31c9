"""`benchmarks/soak.py`: as long as it is meant to be for the report, else much shorter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"

pytestmark = pytest.mark.slow


def test_everything_at_once(report, thorough):
    minutes, often = (10, []) if thorough else (0.5, ["--fault-every", "2", "--kill-every", "12"])
    command = [sys.executable, SOAK, "--minutes", str(minutes), *often]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300 + 60 * minutes)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = re.search(r"books: (.*)", run.stdout)[1]
    found = {name: int(count.replace(",", "")) for count, name in re.findall(r"(\d[\d,]*) ([a-z ]+)", figures)}
    assert found["sent"] > 50_000
    faults = re.search(r"faults: (.*)", run.stdout)[1]
    held = re.findall(r"\| (memory|descriptors|threads).*?\| ([\d.]+) \| [\d.]+ \| ([\d.]+) \|", run.stdout)
    assert len(held) == 3
    flat = ", ".join(f"{name} {float(start):.0f} to {float(end):.0f}" for name, start, end in held)
    counts = [found[name] for name in ("sent", "stored", "lost", "twice", "in gaps")]
    report(23, "soak", f"{minutes:g} min at ten times the speed: {faults}", None, None, f"{flat} (MB, counts)", counts)
