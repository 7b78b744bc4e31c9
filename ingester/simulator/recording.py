"""Recorded order books on disk: a line `<receive time in ns> <JSON of a combined stream>` each, plain or gzip."""

import gzip
import re
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ingester.errors import SettingsError
from ingester.exchange import upper

_STREAM = re.compile(r"[^@A-Z]+@depth(5|10|20)?(@\d+ms)?")


class _Line(msgspec.Struct):
    stream: str
    data: msgspec.Raw


class _Book(msgspec.Struct):
    lastUpdateId: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]


class RecordedBook(NamedTuple):
    """One line of a recording."""

    receive_ns: int
    symbol: str
    update_id: int
    levels: int
    """Levels on the deeper side."""
    payload: bytes
    """The book's JSON as it was recorded."""

    def cut(self, depth: int) -> bytes:
        """The payload with the first `depth` levels of each side; the texts of the numbers stay as they were."""
        if self.levels <= depth:
            return self.payload
        book = msgspec.json.decode(self.payload, type=_Book)
        return msgspec.json.encode(_Book(book.lastUpdateId, book.bids[:depth], book.asks[:depth]))

    def numbered(self, update_id: int) -> "RecordedBook":
        """The same book under another update id."""
        book = msgspec.json.decode(self.payload, type=_Book)
        payload = msgspec.json.encode(_Book(update_id, book.bids, book.asks))
        return self._replace(update_id=update_id, payload=payload)


def read_recording(path: Path) -> Generator[RecordedBook, None, None]:
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


def recorded_symbols(path: Path) -> list[str]:
    """The symbols in a recording, sorted; reads all of it, so that a bad line is named before anyone listens."""
    return sorted({book.symbol for book in read_recording(path)})


def _parse(line: bytes) -> RecordedBook | None:
    receive_ns, _, text = line.strip().partition(b" ")
    parsed = msgspec.json.decode(text, type=_Line)
    if not _STREAM.fullmatch(parsed.stream):
        return None
    payload = bytes(parsed.data)
    book = msgspec.json.decode(payload, type=_Book)
    symbol = upper(parsed.stream.partition("@")[0])
    return RecordedBook(int(receive_ns), symbol, book.lastUpdateId, max(len(book.bids), len(book.asks)), payload)
