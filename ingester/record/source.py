"""What a program names for a live recorder: pairs, and the exchange or a simulator of its own."""

from collections.abc import Sequence

from ingester.errors import SettingsError
from ingester.exchange import (
    DEFAULT_COINS,
    DEFAULT_QUOTE,
    SIMULATOR,
    Venue,
    normal,
    rightly_named,
    simulator_at,
    symbols_of,
    venue_named,
)

OWN = "ws://127.0.0.1:1"
"""Stands for the address of our own simulator."""


def named_symbols(pairs: Sequence[str] | str) -> list[str]:
    """Pairs as Binance writes them. Raises SettingsError where there are none."""
    names = pairs.split(",") if isinstance(pairs, str) else pairs
    symbols = list(dict.fromkeys(normal(name) for name in names))
    if not symbols:
        raise SettingsError("pairs is empty. Name some as Binance writes them, such as ['BTCUSDT', 'ETHUSDT'].")
    return symbols


def simulated_symbols(symbols: Sequence[str]) -> list[str]:
    """What our own simulator lists: well-known pairs too, so that they can be added later."""
    return list(dict.fromkeys([*symbols, *symbols_of(DEFAULT_COINS, DEFAULT_QUOTE)]))


def exchange_of(exchange: str | Venue, stream_url: str | None, rest_url: str | None) -> Venue:
    """The exchange that is meant; the addresses of a simulator of our own are `OWN` until it runs."""
    if isinstance(exchange, Venue):
        known = exchange
    elif exchange == SIMULATOR:
        known = simulator_at(OWN, "http://127.0.0.1:1")
        if bool(stream_url) != bool(rest_url):
            raise SettingsError("Of stream_url and rest_url only one is given. A simulator elsewhere needs both.")
    else:
        known = venue_named(exchange)
    return rightly_named(known.at(stream_url=stream_url, rest_url=rest_url))
