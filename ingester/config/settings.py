"""What a recorder is told: frozen, checked once, the bad value named."""

import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from platformdirs import user_data_path

from ingester.errors import SettingsError
from ingester.exchange import binance_spot

FILLS = ("none", "forward")
"""What a grid holds where a snapshot is too old."""
LONGEST_SECONDS = 36_500 * 86_400.0
"""No duration that is waited for is longer."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str, what: str = "duration") -> float:
    """`100ms`, `60s`, `5m`, `2h`, `1d` in seconds. Raises SettingsError naming `what` otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)", text.strip())
    if not match or float(match[1]) == 0:
        raise SettingsError(f"{what} {text!r} is not a duration. Write a number with a unit: 100ms, 60s, 5m, 2h or 1d.")
    found = float(match[1]) * _UNITS[match[2]]
    if found > LONGEST_SECONDS:
        raise SettingsError(f"{what} {text[:40]!r} is longer than a hundred years. Write a shorter duration.")
    return found


def interval_ms(text: str) -> int:
    """A recording interval in ms. Raises SettingsError where it is not a whole multiple of what the exchange sends."""
    interval = round(seconds(text, "--interval") * 1000, 6)
    if interval % binance_spot.INTERVAL_MS:
        raise SettingsError(
            f"--interval {text!r} is not a whole multiple of 100ms, the rhythm in which Binance sends books. "
            "Write 100ms, 200ms, 500ms, 1s, …"
        )
    return int(interval)


def default_data_dir() -> Path:
    """The platform's folder for a user's data, with `ingester` below it."""
    return user_data_path("ingester", appauthor=False)


@dataclass(frozen=True)
class Settings:
    """One recorder's settings. Raises SettingsError on a value that cannot be used."""

    symbols: tuple[str, ...]
    exchange: binance_spot.Exchange
    """Under the name that is true of its address."""
    depth: int = 5
    interval_ms: int = binance_spot.INTERVAL_MS
    connections: int = 2
    """How many connections receive each pair."""
    rotate_seconds: float = 23 * 3600.0
    """How old a connection may become before it is replaced; the exchange ends it at 24 h."""
    collector: str = field(default_factory=lambda: default_collector())

    def __post_init__(self) -> None:
        if not self.symbols:
            raise SettingsError("No pair is left to record. Name some with --coins BTC,ETH or --pairs BTCUSDT,ETHUSDT.")
        _check_url("--stream-url", self.exchange.stream_url, ("ws", "wss"), "wss://stream.binance.com:9443")
        _check_url("--rest-url", self.exchange.rest_url, ("http", "https"), "https://api.binance.com")
        object.__setattr__(self, "exchange", binance_spot.rightly_named(self.exchange))
        if self.depth not in binance_spot.DEPTHS:
            raise SettingsError(f"--depth {self.depth} is not offered by Binance. Choose 5, 10 or 20.")
        if not 1 <= self.connections <= 8:
            raise SettingsError(f"--connections {self.connections} is not between 1 and 8.")
        if not 2 <= self.rotate_seconds <= 24 * 3600:
            raise SettingsError(f"--rotate-every {self.rotate_seconds:g}s is not between 2s and 24h.")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.collector) or self.collector in (".", ".."):
            raise SettingsError(
                f"--collector {self.collector!r} is no name of 1 to 64 letters, digits, dots, dashes and underscores."
            )


def _check_url(option: str, url: str, schemes: tuple[str, ...], example: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable:
        expected = " or ".join(f"{scheme}://host[:port]" for scheme in schemes)
        raise SettingsError(f"{option} {url!r} is not an address of the form {expected}, such as {example}.")


def default_collector() -> str:
    """This machine's name, cut to what a collector may be called."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "recorder"
