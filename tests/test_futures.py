"""Binance USD-M futures from the exchange to the table: a simulated market, a recorder, rows."""

import pytest
from recorder import Recorder, at, rows_of

from ingester.book import level_columns
from ingester.simulator import Simulator
from ingester.simulator.books import book

CONTRACTS = ["BTCUSDT", "BTCUSDT_261225", "DOGEUSDT"]


def flat(bids, asks, depth):
    """Levels as the table has them: all prices and quantities of the bids, then of the asks."""
    return [float(number) for side in (bids, asks) for level in side[:depth] for number in level]


@pytest.mark.parametrize("depth", [5, 20])
def test_contracts_are_recorded_complete_and_exact(questdb, depth):
    collector = f"futures-{depth}"
    columns = ", ".join(["symbol", "last_update_id", *level_columns(depth)])
    with (
        Simulator(CONTRACTS, keep_sent=True) as simulator,
        Recorder(
            *("--exchange", "binance-futures", "--pairs", ",".join(CONTRACTS), "--depth", depth),
            *("--collector", collector, "--for", "4s", *at(simulator, questdb)),
        ) as recorder,
    ):
        recorder.process.wait(60)
        code, output = recorder.stop()
        sent, spot = simulator.sent_futures, simulator.sent
    assert code == 0, output
    assert spot == {}  # nothing came from the spot market
    ids = {symbol: [] for symbol in CONTRACTS}
    for symbol, update_id, *levels in rows_of(questdb, collector, columns):
        assert levels == flat(*book(0, symbol, update_id, depth, "futures"), depth)
        ids[symbol].append(update_id)
    for symbol in CONTRACTS:
        assert len(ids[symbol]) >= 20
        assert ids[symbol] == sent[symbol][: len(ids[symbol])]
        assert len(sent[symbol]) - len(ids[symbol]) <= 1  # one may leave after the goodbye
