"""Binance USD-M futures from the exchange to the table: a simulated market, a recorder, rows."""

import pytest
from recorder import Recorder, at, rows_of

from ingester.book import level_columns
from ingester.exchange import VENUES, ListingStatus, fetch_listings
from ingester.simulator import Simulator, synthetic_pair
from ingester.simulator.books import book
from ingester.simulator.rest_answers import SimulatedPair

CONTRACTS = ["BTCUSDT", "BTCUSDT_261225", "DOGEUSDT"]


def flat(bids, asks, depth):
    """Levels as the table has them: all prices and quantities of the bids, then of the asks."""
    return [float(number) for side in (bids, asks) for level in side[:depth] for number in level]


@pytest.mark.parametrize("depth", [5, 20])
def test_contracts_are_recorded_complete_and_exact(questdb, depth):
    collector = f"futures-{depth}"
    own = ["exchange", "symbol", "last_update_id", "cast(event_time AS long)", "cast(timestamp AS long)"]
    columns = ", ".join([*own, *level_columns(depth)])
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
    name = simulator.stream_url.replace("ws://", "binance-futures@")
    for exchange, symbol, update_id, event_us, received_us, *levels in rows_of(questdb, collector, columns):
        assert exchange == name
        assert levels == flat(*book(0, symbol, update_id, depth, "futures"), depth)
        made_us = update_id // synthetic_pair(0, symbol, "futures").stride * 100_000
        assert made_us <= event_us < made_us + 100_000  # the slot of the tick in which the symbol's frames leave
        assert event_us <= received_us + 5_000
        ids[symbol].append(update_id)
    for symbol in CONTRACTS:
        assert len(ids[symbol]) >= 20
        assert ids[symbol] == sent[symbol][: len(ids[symbol])]
        assert len(sent[symbol]) - len(ids[symbol]) <= 1  # one may leave after the goodbye


def test_states_and_steps_of_contracts_are_understood():
    states = {"BTCUSDT": "TRADING", "ETHUSDT": "HALT", "ADAUSDT": "CANCEL_ONLY", "XMRUSDT": "BREAK"}
    with Simulator([SimulatedPair(symbol, status=status) for symbol, status in states.items()]) as simulator:
        listed = fetch_listings(VENUES["binance-futures"].at(rest_url=simulator.rest_url))
    expected = [ListingStatus.TRADING, ListingStatus.HALT, ListingStatus.CANCEL_ONLY, ListingStatus.CLOSED]
    assert [listed[symbol].status for symbol in states] == expected
    assert (listed["BTCUSDT"].tick_size, listed["BTCUSDT"].step_size) == (0.1, 0.0001)
