"""A recorder's settings: frozen, and checked once; errors name the value."""

import re
import socket
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from platformdirs import user_data_path

from ingester.errors import SettingsError
from ingester.exchange import EXCHANGE_NAME, Channel, StreamSpec, Venue, rightly_named

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


def interval_ms(text: str, channel: Channel) -> int:
    """A recording interval in ms. Raises SettingsError where it is not a whole multiple of what the channel sends."""
    interval = round(seconds(text, "--interval") * 1000, 6)
    if channel.interval_of(interval) is None:
        offered = " or ".join(f"{each}ms" for each in channel.intervals_ms)
        shortest = channel.intervals_ms[0]
        raise SettingsError(
            f"--interval {text!r} is not a whole multiple of {offered}, the rhythm in which the exchange sends books. "
            f"Write {shortest}ms, {2 * shortest}ms, {5 * shortest}ms, {10 * shortest}ms, …"
        )
    return int(interval)


def default_data_dir() -> Path:
    """The platform's folder for a user's data, with `ingester` below it."""
    return user_data_path("ingester", appauthor=False)


@dataclass(frozen=True)
class Settings:
    """One recorder's settings. Raises SettingsError on a value that cannot be used."""

    symbols: tuple[str, ...]
    exchange: Venue
    """Under the name that is true of its address."""
    _: KW_ONLY
    depth: int = 5
    interval_ms: int = 0
    """Keep a snapshot this often; 0: as often as the exchange sends."""
    connections: int = 2
    """How many connections receive each pair."""
    rotate_seconds: float = 23 * 3600.0
    """How old a connection may become before it is replaced; the exchange ends it at 24 h."""
    collector: str = field(default_factory=lambda: default_collector())

    def __post_init__(self) -> None:
        if not self.symbols:
            raise SettingsError("No pair is left to record. Name some with --coins BTC,ETH or --pairs BTCUSDT,ETHUSDT.")
        _check_url("--stream-url", self.exchange.stream_url, ("ws", "wss"), "wss://stream.example.com:9443")
        _check_url("--rest-url", self.exchange.rest_url, ("http", "https"), "https://api.example.com")
        object.__setattr__(self, "exchange", rightly_named(self.exchange))
        if not self.exchange.name or not re.match(EXCHANGE_NAME, self.exchange.name):
            raise SettingsError(
                f"The exchange's name {self.exchange.name!r} is not usable in tables and data sets. Write letters, "
                "digits, dots, dashes and underscores, such as binance-futures."
            )
        channel = self.exchange.books
        if self.depth not in channel.depths:
            *others, last = map(str, channel.depths)
            offered = f"{', '.join(others)} or {last}" if others else last
            raise SettingsError(f"--depth {self.depth} is not offered by {self.exchange.title}. Choose {offered}.")
        if not self.interval_ms:
            object.__setattr__(self, "interval_ms", channel.intervals_ms[0])
        if not 1 <= self.connections <= 8:
            raise SettingsError(f"--connections {self.connections} is not between 1 and 8.")
        if not 2 <= self.rotate_seconds <= 24 * 3600:
            raise SettingsError(f"--rotate-every {self.rotate_seconds:g}s is not between 2s and 24h.")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.collector) or self.collector in (".", ".."):
            raise SettingsError(
                f"--collector {self.collector!r} is no name of 1 to 64 letters, digits, dots, dashes and underscores."
            )

    @property
    def streams(self) -> StreamSpec:
        """What is subscribed for every pair: of the intervals that the exchange offers the longest one that fits."""
        channel = self.exchange.books
        interval = channel.interval_of(self.interval_ms) or channel.intervals_ms[0]
        return StreamSpec(channel=channel, depth=self.depth, interval_ms=interval)


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
