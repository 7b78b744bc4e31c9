"""Recorded order books: read from a file or given by a program, and played in the order of time.

A recording file has a line `<receive time in ns> <JSON of a combined stream>` for each book, plain or gzip, of either
market. What is played goes over the wire of both markets.
"""

import asyncio
import gzip
import re
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from ingester.book import Level, OrderBook
from ingester.errors import SettingsError
from ingester.exchange import upper_symbol

BOOKS_AT_ONCE = 256
"""Read while as many are played."""

_STREAM = re.compile(r"[^@A-Z]+@depth(5|10|20)?(@\d+ms)?")
_NS_PER_MS = 10**6

TextLevel = tuple[str, str]


class TapeBook(NamedTuple):
    """One book of a tape; its levels are texts as they were recorded, or numbers."""

    receive_ns: int
    symbol: str
    update_id: int
    bids: Sequence[Level | TextLevel]
    asks: Sequence[Level | TextLevel]
    event_ns: int | None = None

    @property
    def event_ms(self) -> int:
        """When the exchange made it; where that is not known, when it was received."""
        return (self.receive_ns if self.event_ns is None else self.event_ns) // _NS_PER_MS

    def sides(self, depth: int) -> tuple[bytes, bytes]:
        """Bids and asks as JSON without brackets, `depth` levels at most; a number reads back as the same float64."""
        return sides_of(self.bids[:depth], self.asks[:depth])


class Tape(NamedTuple):
    """Books in the order of time, as often as they are asked for."""

    name: str
    symbols: tuple[str, ...]
    books: Callable[[], Generator[TapeBook, None, None]]
    """Each call begins again. May block; called and run through in a thread of its own."""
    loop: bool = False
    """Whether it begins again at its end, under update ids that go on rising."""


def tape_of_snapshots(
    name: str, symbols: Sequence[str], snapshots: Callable[[], Iterator[OrderBook]], *, loop: bool = False
) -> Tape:
    """A tape of `snapshots`, which each call gives again, in the order of time."""

    def books() -> Generator[TapeBook, None, None]:
        for symbol, receive_ns, update_id, bids, asks, event_ns in snapshots():
            yield TapeBook(receive_ns, symbol, update_id, bids, asks, event_ns)

    return Tape(name, tuple(symbols), books, loop)


def tape_of_file(path: Path, *, loop: bool = False) -> Tape:
    """A tape of a recording. All of it is read once, so that a bad line is named before anyone listens.

    Raises SettingsError where it cannot be read.
    """
    symbols = sorted({book.symbol for book in read_recording(path)})
    return Tape(str(path), tuple(symbols), lambda: read_recording(path), loop)


def read_recording(path: Path) -> Generator[TapeBook, None, None]:
    """The order books of a recording in the order of its lines; lines of other streams are left out.

    Raises SettingsError for a file that cannot be read or a line that is no order book, naming both.
    """
    number = 0
    try:
        with open(path, "rb") as start:
            compressed = start.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if compressed else open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):  # noqa: B007 (for the error message)
                if line.strip():
                    book = _parse(line)
                    if book is not None:
                        yield book
    except (OSError, EOFError) as error:
        raise SettingsError(f"recording {path} cannot be read: {error}") from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"recording {path}, line {number}: {error}; expected <ns> "
            '{"stream":"btcusdt@depth20@100ms","data":{"lastUpdateId":…,"bids":[…],"asks":[…]}}'
        ) from error


class _Line(msgspec.Struct):
    stream: str
    data: msgspec.Raw


class _SpotBook(msgspec.Struct):
    lastUpdateId: int
    bids: list[TextLevel]
    asks: list[TextLevel]


class _FuturesBook(msgspec.Struct):
    u: int
    b: list[TextLevel]
    a: list[TextLevel]
    E: int


def _parse(line: bytes) -> TapeBook | None:
    receive_ns, _, text = line.strip().partition(b" ")
    parsed = msgspec.json.decode(text, type=_Line)
    if not _STREAM.fullmatch(parsed.stream):
        return None
    symbol = upper_symbol(parsed.stream.partition("@")[0])
    if b'"depthUpdate"' in bytes(parsed.data):
        event = msgspec.json.decode(parsed.data, type=_FuturesBook)
        return TapeBook(int(receive_ns), symbol, event.u, event.b, event.a, event.E * _NS_PER_MS)
    book = msgspec.json.decode(parsed.data, type=_SpotBook)
    return TapeBook(int(receive_ns), symbol, book.lastUpdateId, book.bids, book.asks)


def sides_of(bids: Sequence[Level | TextLevel], asks: Sequence[Level | TextLevel]) -> tuple[bytes, bytes]:
    """Both sides as JSON without their outer brackets: `["1.0","2.0"],["0.9","3.0"]`."""
    return _side(bids), _side(asks)


def _side(levels: Sequence[Level | TextLevel]) -> bytes:
    return ",".join([f'["{_text(price)}","{_text(quantity)}"]' for price, quantity in levels]).encode()


def _text(number: float | str) -> str:
    return number if isinstance(number, str) else decimal(number)


@lru_cache(1 << 16)
def decimal(number: float) -> str:
    """`0.00000790`: eight decimals, as Binance writes them; more where a number has more. Never an exponent."""
    text = f"{number:.8f}"
    return text if float(text) == number else np.format_float_positional(number, trim="-")


class Player:
    """Plays a tape from the first subscription to one of its symbols on. Reads ahead in a thread of its own."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.started = asyncio.Event()
        self.finished = threading.Event()
        self.latest: dict[str, TapeBook] = {}
        """Last book played of each symbol."""
        self.played = 0
        """Books so far, in all rounds."""
        self.position_ns = 0
        """When the last one was received."""
        self.rounds = 0
        """How often the end was reached."""
        self._shifts: dict[str, int] = {}  # what update ids have risen by in all rounds before
        self._ids: dict[str, tuple[int, int]] = {}  # least and greatest of the tape

    async def round(self) -> AsyncGenerator[list[TapeBook], None]:
        """The books from the beginning to the end, some at a time.

        Update ids go on where those of the last round ended, so that nobody takes a book for a copy of an earlier one.
        """
        loop, books = asyncio.get_running_loop(), self.tape.books()
        reader = ThreadPoolExecutor(1, "playback")

        def take() -> list[TapeBook]:
            return list(islice(books, BOOKS_AT_ONCE))

        ahead = loop.run_in_executor(reader, take)
        try:
            while batch := await ahead:
                ahead = loop.run_in_executor(reader, take)
                yield [self._numbered(book) for book in batch] if self.tape.loop else batch
        finally:
            ahead.cancel()
            reader.submit(books.close)  # not here: it waits for what is being read
            reader.shutdown(wait=False)
        self.rounds += 1
        for symbol, (least, greatest) in self._ids.items():
            self._shifts[symbol] = self._shifts.get(symbol, 0) + greatest - least + 1

    def note(self, book: TapeBook) -> None:
        """Counts a book that was played."""
        self.played += 1
        self.position_ns = book.receive_ns
        self.latest[book.symbol] = book

    def _numbered(self, book: TapeBook) -> TapeBook:
        least, greatest = self._ids.get(book.symbol, (book.update_id, book.update_id))
        self._ids[book.symbol] = min(least, book.update_id), max(greatest, book.update_id)
        shift = self._shifts.get(book.symbol, 0)
        return book._replace(update_id=book.update_id + shift) if shift else book
