"""`benchmarks/soak.py`, much shorter than it is meant to be."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"

pytestmark = pytest.mark.slow


def test_half_a_minute_of_everything_at_once(report):
    command = [sys.executable, SOAK, "--minutes", "0.5", "--fault-every", "2", "--kill-every", "12"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = re.search(r"books: (.*)", run.stdout)[1]
    found = {name: int(count.replace(",", "")) for count, name in re.findall(r"(\d[\d,]*) ([a-z ]+)", figures)}
    assert found["sent"] > 50_000
    faults = re.search(r"faults: (.*)", run.stdout)[1]
    counts = [found[name] for name in ("sent", "stored", "lost", "twice", "in gaps")]
    report(23, "soak", f"30 s at ten times the speed: {faults}", None, None, "memory, files, threads flat", counts)
