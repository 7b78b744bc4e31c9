"""Synthetic books are plausible, and follow from seed, symbol and update id alone."""

import hashlib
import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ingester.simulator import synthetic_pair
from ingester.simulator.books import MOST_LEVELS, BookBatch, book, update_id
from ingester.simulator.markets import MARKETS, SPOT_MARKET, SimulatedMarket

TICK = 17_300_000_000
"""Somewhere in 2024."""

BOOKS = Path(__file__).parents[1] / "data" / "synthetic_books.jsonl"
"""Seed, symbol, tick, update id, best bid, last ask, SHA-256 of the payload of 100 levels."""

symbols = st.sampled_from(
    ["BTCUSDT", "ETHUSDT", "PEPEUSDT", "SHIBUSDT", "DOGEBTC", "ETHBTC", "ADATRY", "1000SATSUSDT", "Q"]
)
seeds = st.integers(0, 2**31)
ticks = st.integers(0, 10**11)


@given(seeds, symbols, st.integers(0, 10**13), st.sampled_from([1, 5, 20, MOST_LEVELS]))
def test_a_book_is_sound_at_any_seed_symbol_and_update_id(seed: int, symbol: str, number: int, depth: int) -> None:
    bids, asks = book(seed, symbol, number, depth)
    bid_prices, ask_prices = ([Decimal(price) for price, _ in side] for side in (bids, asks))
    step = Decimal(synthetic_pair(seed, symbol).tick_units) / 10**8
    assert len(bids) == len(asks) == depth
    assert all(higher > lower > 0 for higher, lower in pairwise(bid_prices))
    assert all(lower < higher for lower, higher in pairwise(ask_prices))
    assert ask_prices[0] - bid_prices[0] >= step
    assert all(price % step == 0 for price in bid_prices + ask_prices)
    assert all(Decimal(quantity) > 0 for _, quantity in bids + asks)
    assert all(len(text.partition(".")[2]) == 8 for level in bids + asks for text in level)


@given(seeds, symbols, st.integers(0, 10**13))
def test_a_shallow_book_is_the_beginning_of_a_deep_one(seed: int, symbol: str, number: int) -> None:
    shallow, deep = book(seed, symbol, number, 5), book(seed, symbol, number, 20)
    assert shallow == (deep[0][:5], deep[1][:5])


@settings(deadline=None)
@given(
    seeds,
    st.lists(symbols, min_size=1, max_size=9, unique=True),
    ticks,
    st.sampled_from([1, 5, 10, 20]),
    st.sampled_from(MARKETS),
    st.data(),
)
def test_a_payload_holds_the_book_as_its_market_writes_it(
    seed: int, chosen: list[str], tick: int, depth: int, market: SimulatedMarket, data
) -> None:
    thin = data.draw(st.dictionaries(st.sampled_from(chosen), st.integers(0, 25)))
    batch = BookBatch(seed, chosen, depth, market=market.name, format=market.format, thin=thin)
    ids, times = batch.update_ids(tick), np.full(len(chosen), tick * 100)
    payloads = batch.payloads(ids, {"E": times + 7, "T": times, "U": ids + 2, "pu": ids + 3})
    for symbol, number, payload in zip(chosen, ids.tolist(), payloads, strict=True):
        bids, asks = book(seed, symbol, number, min(depth, thin.get(symbol, depth)), market.name)
        assert number == update_id(seed, symbol, tick, market.name)
        expected = {
            "spot": {"lastUpdateId": number, "bids": bids, "asks": asks},
            "futures": {
                "e": "depthUpdate", "E": tick * 100 + 7, "T": tick * 100, "s": symbol,
                "U": number + 2, "u": number, "pu": number + 3, "b": bids, "a": asks,
            },
        }  # fmt: skip
        assert payload == json.dumps(expected[market.name], separators=(",", ":"), ensure_ascii=False).encode()


def test_a_batch_makes_one_tick_after_another() -> None:
    batch = BookBatch(1, ["BTCUSDT", "ADAUSDT"], 5, format=SPOT_MARKET.format, thin={"ADAUSDT": 3})
    first = batch.payloads(batch.update_ids(TICK))
    batch.payloads(batch.update_ids(TICK + 1))
    assert batch.payloads(batch.update_ids(TICK)) == first


@given(seeds, symbols, ticks)
def test_update_ids_rise_with_the_tick(seed: int, symbol: str, tick: int) -> None:
    assert update_id(seed, symbol, tick) < update_id(seed, symbol, tick + 1)


def test_update_ids_are_not_consecutive() -> None:
    ids = [update_id(0, "BTCUSDT", TICK + number) for number in range(100)]
    steps = {after - before for before, after in pairwise(ids)}
    assert len(steps) > 10


def test_the_best_price_mostly_stays_but_no_two_snapshots_are_the_same() -> None:
    books = [book(0, "BTCUSDT", update_id(0, "BTCUSDT", TICK + number), 5) for number in range(4000)]
    pairs = list(pairwise(books))
    unchanged = sum(a[0][0][0] == b[0][0][0] and a[1][0][0] == b[1][0][0] for a, b in pairs) / len(pairs)
    assert 0.86 < unchanged < 0.90
    assert all(a != b for a, b in pairs)


def test_the_price_wanders_within_a_day_but_does_not_jump() -> None:
    def price(tick: int) -> float:
        return float(book(0, "BTCUSDT", update_id(0, "BTCUSDT", tick), 1)[0][0][0])

    day = [price(TICK + number * 600) for number in range(1440)]
    assert 0.005 < max(day) / min(day) - 1 < 0.21
    assert all(abs(price(TICK + number + 10) / price(TICK + number) - 1) < 0.002 for number in range(0, 5000, 50))


@pytest.mark.parametrize(
    ("symbol", "low", "high"),
    [
        ("BTCUSDT", 55_000, 69_000),
        ("ETHBTC", 0.035, 0.05),
        ("SHIBUSDT", 0.000012, 0.000016),
        ("BTCEUR", 50_000, 63_000),
    ],
)
def test_known_coins_cost_about_what_they_cost(symbol: str, low: float, high: float) -> None:
    assert low < float(book(7, symbol, update_id(7, symbol, TICK), 1)[0][0][0]) < high


def test_a_book_is_the_same_in_every_version() -> None:
    """Rows stored by an older version are recomputed by this one; a change of the function breaks them."""
    lines = [json.loads(line) for line in BOOKS.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 90
    for seed, symbol, tick, number, best_bid, last_ask, digest in lines:
        assert update_id(seed, symbol, tick) == number
        bids, asks = book(seed, symbol, number, MOST_LEVELS)
        assert (list(bids[0]), list(asks[-1])) == (best_bid, last_ask)
        payload = json.dumps({"lastUpdateId": number, "bids": bids, "asks": asks}, separators=(",", ":"))
        assert hashlib.sha256(payload.encode()).hexdigest() == digest


@given(seeds, symbols, ticks)
def test_a_contract_follows_its_spot_pair_with_coarser_steps_and_ids_of_its_own(
    seed: int, symbol: str, tick: int
) -> None:
    for contract, widest in ((symbol, 0.002), (f"{symbol}_261225", 0.02)):
        number = update_id(seed, contract, tick, "futures")
        assert number != update_id(seed, symbol, tick) or tick == 0
        (price, _), (_, quantity) = (levels[0] for levels in book(seed, contract, number, 1, "futures"))
        spot = book(seed, symbol, update_id(seed, symbol, tick), 1)[0][0][0]
        assert abs(float(price) / float(spot) - 1) < widest
        assert not price.endswith("00000000")
        assert len(price.partition(".")[2]) <= 8
        assert len(quantity.partition(".")[2]) <= 7
