"""Simulators to connect to."""

from collections.abc import Iterator

import pytest
from simulated_client import PAIRS, SEED

from ingester.simulator.simulator import Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(PAIRS, seed=SEED, thin={"ADAUSDT": 2}, statuses={"ETHUSDT": "BREAK"}, speed=5, ledger=True) as it:
        yield it


@pytest.fixture
def fast() -> Iterator[Simulator]:
    """50 ticks a second, three plain pairs."""
    with Simulator(PAIRS, seed=SEED, speed=5, ledger=True) as it:
        yield it
