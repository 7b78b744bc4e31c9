"""An export that is killed at one of its steps and resumed gives the same folder as one that was not, to the byte."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from books_in_table import store
from recorder import url_of

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.events import Event
from ingester.questdb import schema
from ingester.questdb.client import QuestDB

MIDNIGHT = 1_601_942_400 * SECOND  # 2020-10-06, which no other test writes to
DRIVER = Path(__file__).parent / "support" / "killed_export.py"


@pytest.fixture(scope="module")
def recorded(questdb):
    """A pair of many rows, across midnight; and one of two recorders, of which the first holds fewer levels."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    begin = MIDNIGHT - 100 * SECOND
    many = [
        OrderBook("XKAUSDT", begin + n * SECOND // 100, n + 1, [(100.0 + n % 7, 1.0)] * 5, [(110.0, 2.0)] * 5)
        for n in range(17_000)
    ]
    chance = np.random.default_rng(5)
    times = begin + np.cumsum(chance.choice([100, 300, 900, 4000], 250, p=[0.5, 0.3, 0.15, 0.05]) * 1_000_000)
    deep = [
        OrderBook("XKBUSDT", at, 7 * n, [(float(n + level), 1.0) for level in range(5)], [(9.0, float(n + 1))] * 5)
        for n, at in enumerate(times.tolist())
    ]
    thin = [each._replace(receive_ns=each.receive_ns - 5_000_000, bids=each.bids[:2], asks=[]) for each in deep]
    gap = Event(deep[20].receive_ns, "gap", "XKBUSDT", detail="connection lost", until_ns=deep[21].receive_ns)
    store(db, many + deep[:200], "killed-a", [gap])
    store(db, thin[50:], "killed-b")
    return questdb


RAW, GRID, FILLED = [], ["--every", "10ms"], ["--every", "10ms", "--fill", "forward", "--max-age", "2m"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "grid", "every"),
    [
        ("pkl", RAW, 2),
        ("pkl", FILLED, 5),
        ("csv", GRID, 5),
        ("csv", FILLED, 15),
        ("parquet", RAW, 16),
        ("parquet", GRID, 17),
        ("npz", RAW, 18),
        ("npz", GRID, 19),
    ],
)
def test_an_export_that_is_killed_at_a_step_is_resumed_to_the_same_bytes(recorded, tmp_path, form, grid, every):
    when = ("--from", "2020-10-05 23:58:30", "--to", "2020-10-06 00:01:10", "--pairs", "XKAUSDT,XKBUSDT")
    command = [sys.executable, DRIVER, tmp_path, 9000, every, "--", *when, "--format", form, *grid]
    environment = os.environ | {"INGESTER_QUESTDB": url_of(recorded.endpoint)}
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=1200, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) > 20
