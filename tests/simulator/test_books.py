"""Synthetic books are plausible, and everybody who knows seed, symbol and update id computes the same ones."""

import json
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from ingester.simulator.books import MOST_LEVELS, BookBatch, book, update_id
from ingester.simulator.markets import market

TICK = 17_300_000_000
"""Somewhere in 2024."""

GOLDEN = (
    934200000046,
    (
        [("60471.01000000", "0.00276000"), ("60470.74000000", "0.00267000")],
        [("60471.02000000", "0.57197000"), ("60473.81000000", "0.57083000")],
    ),
)

symbols = st.sampled_from(
    ["BTCUSDT", "ETHUSDT", "PEPEUSDT", "SHIBUSDT", "DOGEBTC", "ETHBTC", "ADATRY", "1000SATSUSDT", "Q"]
)
seeds = st.integers(0, 2**31)
ticks = st.integers(0, 10**11)


@given(seeds, symbols, st.integers(0, 10**13), st.sampled_from([1, 5, 20, MOST_LEVELS]))
def test_a_book_is_sound_at_any_seed_symbol_and_update_id(seed: int, symbol: str, number: int, depth: int) -> None:
    bids, asks = book(seed, symbol, number, depth)
    bid_prices, ask_prices = ([Decimal(price) for price, _ in side] for side in (bids, asks))
    step = Decimal(market(seed, symbol).tick_units) / 10**8
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
@given(seeds, st.lists(symbols, min_size=1, max_size=9, unique=True), ticks, st.sampled_from([1, 5, 10, 20]), st.data())
def test_a_batch_writes_the_same_books_byte_for_byte(seed: int, chosen: list[str], tick: int, depth: int, data) -> None:
    thin = data.draw(st.dictionaries(st.sampled_from(chosen), st.integers(0, 25)))
    payloads, ids = BookBatch(seed, chosen, depth, thin).payloads(tick)
    assert ids == [update_id(seed, symbol, tick) for symbol in chosen]
    for symbol, number, payload in zip(chosen, ids, payloads, strict=True):
        bids, asks = book(seed, symbol, number, min(depth, thin.get(symbol, depth)))
        expected = {"lastUpdateId": number, "bids": bids, "asks": asks}
        assert payload == json.dumps(expected, separators=(",", ":")).encode()


def test_a_batch_can_be_asked_for_one_tick_after_another() -> None:
    batch = BookBatch(1, ["BTCUSDT", "ADAUSDT"], 5, {"ADAUSDT": 3})
    first = batch.payloads(TICK)
    batch.payloads(TICK + 1)
    assert batch.payloads(TICK) == first


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
    """Rows stored by an older version are recomputed by this one; who changes the function breaks them."""
    assert (update_id(0, "BTCUSDT", TICK), book(0, "BTCUSDT", 10**12, 2)) == GOLDEN
