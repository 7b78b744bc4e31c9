"""What the simulator can play: books in the order of time, and how one made of numbers goes over the wire."""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from ingester.book import Level, OrderBook
from ingester.simulator.recording import read_recording, recorded_symbols


class TapeBook(Protocol):
    """One book of a tape."""

    @property
    def receive_ns(self) -> int: ...
    @property
    def symbol(self) -> str: ...
    @property
    def update_id(self) -> int: ...
    def cut(self, depth: int) -> bytes:
        """The payload with at most `depth` levels a side."""

    def numbered(self, update_id: int) -> "TapeBook":
        """The same book under another update id."""


class Tape(NamedTuple):
    """Books in the order of time, as often as they are asked for."""

    name: str
    symbols: tuple[str, ...]
    books: Callable[[], Generator[TapeBook, None, None]]
    """Each call begins again. May block; called and run through in a thread of its own."""


class SnapshotBook(NamedTuple):
    """A book of numbers."""

    receive_ns: int
    symbol: str
    update_id: int
    bids: list[Level]
    asks: list[Level]

    def cut(self, depth: int) -> bytes:
        """The payload as Binance writes it; each number reads back as the same float64."""
        bids, asks = _side(self.bids[:depth]), _side(self.asks[:depth])
        return f'{{"lastUpdateId":{self.update_id},"bids":[{bids}],"asks":[{asks}]}}'.encode()

    def numbered(self, update_id: int) -> "SnapshotBook":
        return self._replace(update_id=update_id)


def tape_of_snapshots(name: str, symbols: Sequence[str], snapshots: Callable[[], Iterator[OrderBook]]) -> Tape:
    """A tape of `snapshots`, which each call gives again, in the order of time."""

    def books() -> Generator[TapeBook, None, None]:
        for symbol, receive_ns, update_id, bids, asks, _ in snapshots():
            yield SnapshotBook(receive_ns, symbol, update_id, bids, asks)

    return Tape(name, tuple(symbols), books)


def tape_of_file(path: Path) -> Tape:
    """A tape of a recording. Raises SettingsError where it cannot be read."""
    return Tape(str(path), tuple(recorded_symbols(path)), lambda: read_recording(path))


def _side(levels: list[Level]) -> str:
    return ",".join([f'["{decimal(price)}","{decimal(quantity)}"]' for price, quantity in levels])


@lru_cache(1 << 16)
def decimal(number: float) -> str:
    """`0.00000790`: eight decimals, as Binance writes them; more where a number has more. Never an exponent."""
    text = f"{number:.8f}"
    return text if float(text) == number else np.format_float_positional(number, trim="-")
