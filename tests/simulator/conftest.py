"""Simulators to connect to."""

from collections.abc import Iterator

import pytest
from simulated_client import PAIRS, SEED

from ingester.simulator import Simulator
from ingester.simulator.rest_answers import SimulatedPair


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    pairs = ["BTCUSDT", SimulatedPair("ETHUSDT", status="BREAK"), SimulatedPair("ADAUSDT", levels=2)]
    with Simulator(pairs, seed=SEED, speed=5, keep_sent=True) as it:
        yield it


@pytest.fixture
def fast() -> Iterator[Simulator]:
    """50 ticks a second, three plain pairs."""
    with Simulator(PAIRS, seed=SEED, speed=5, keep_sent=True) as it:
        yield it
