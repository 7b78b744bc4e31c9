"""What a simulated pair is like: its assets, price, steps and pace, all derived from seed and symbol."""

import hashlib
from functools import lru_cache
from typing import NamedTuple

from ingester.exchange import guessed_assets

UNITS = 10**8
"""Prices and quantities are counted in units of 1e-8, the eight decimals that Binance's spot market writes."""

DOLLARS = {
    "USDT": 1.0, "USDC": 1.0, "FDUSD": 1.0, "USD": 1.0, "EUR": 1.09, "TRY": 0.03,
    "ADA": 0.345, "AGIX": 0.52, "ALGO": 0.128, "APT": 6.1, "ARB": 0.56, "ARPA": 0.036, "ATOM": 4.6, "AVAX": 21.8,
    "AXS": 4.9, "BCH": 345.0, "BNB": 512.0, "BTC": 61800.0, "CFX": 0.132, "DASH": 24.5, "DOGE": 0.104, "DOT": 4.7,
    "EDU": 0.55, "EOS": 0.49, "ETC": 19.2, "ETH": 2680.0, "FET": 0.92, "FIL": 3.6, "FTM": 0.36, "KAVA": 0.31,
    "LDO": 1.07, "LINK": 10.4, "LTC": 61.0, "MASK": 2.1, "MATIC": 0.42, "NEAR": 4.1, "NEO": 9.6, "ONT": 0.17,
    "OP": 1.4, "PEPE": 0.0000079, "SAND": 0.26, "SHIB": 0.0000138, "SOL": 158.0, "STX": 1.6, "SUI": 0.88,
    "TRX": 0.127, "UNI": 6.0, "VET": 0.022, "WAVES": 0.93, "XLM": 0.1, "XMR": 155.0, "XRP": 0.61, "ZEC": 38.0,
}  # fmt: skip
"""Dollars per coin in August 2024, roughly."""

LEAST_START_TICKS = 1000
"""Below this many ticks a hundred levels of bids would reach down to zero."""


class Market(NamedTuple):
    """The constants of one pair's synthetic book; prices in ticks, quantities in lots, both measured in `UNITS`."""

    key: int
    """64 bits from seed and symbol that everything random about the pair grows from."""
    stride: int
    """Update ids per tick of 100 ms."""
    tick_units: int
    lot_units: int
    start_ticks: int
    """Middle of the range in which the price walks."""
    widest_gap: int
    """Ticks between two neighbouring levels, at most, less one."""
    most_lots: int
    """Largest quantity of a level."""


@lru_cache(maxsize=8192)
def market(seed: int, symbol: str) -> Market:
    """The constants of a pair."""
    key = _number(f"{seed}:{symbol}")
    base, quote = guessed_assets(symbol)  # the same books wherever they are made
    dollars = _dollars(base)
    price_units = max(LEAST_START_TICKS, round(dollars / _dollars(quote) * UNITS))
    tick_units = 10 ** min(6, max(0, len(str(price_units)) - 5))
    start_ticks = max(LEAST_START_TICKS, price_units // tick_units)
    lot_units = 10 ** min(8, max(0, 16 - len(str(max(1, round(dollars * UNITS))))))
    most_lots = round(50_000 / dollars * UNITS) // lot_units
    return Market(
        key=key,
        stride=8 + key % 57,
        tick_units=tick_units,
        lot_units=lot_units,
        start_ticks=start_ticks,
        widest_gap=max(4, start_ticks // 20_000),
        most_lots=min(max(most_lots, 10), 90_000_000 * UNITS // lot_units),
    )


def circulating(seed: int, coin: str) -> int | None:
    """How many coins circulate: worth 20 million to 200 billion dollars; not known of every 16th, as it happens."""
    number = _number(f"{seed}:{coin}:supply")
    if number % 16 == 0:
        return None
    worth: float = 2e7 * 10.0 ** (number // 16 % 1000 / 250)
    return round(worth / _dollars(coin))


def _dollars(asset: str) -> float:
    known = DOLLARS.get(asset)
    if known is not None:
        return known
    number = _number(asset)
    return float(100 + number % 900) / 10.0 ** (1 + number // 1000 % 4)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
