"""Reads CSV files of one pair's books in blocks of whole lines, so that memory does not grow with the file.

A block is parsed as a whole. Only if that fails, its lines are checked one by one, to name the wrong ones. A file of
mostly blank or wrong lines is refused early, because a few compressed bytes can become millions of such lines.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ingester.datasets.columns import (
    Bad,
    Layout,
    ParsedBooks,
    Times,
    UnreadableRecording,
    books,
    check_bad,
    first_line,
)
from ingester.exchange import EXCHANGE_NAME

BLOCK_BYTES = 8 << 20
MOST_LINE_BYTES = 1 << 20
_READ_BYTES = 1 << 20
MOST_BLANK = 1_000_000
"""A file may have so many blank lines more than filled ones."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.IGNORECASE)
_NULLS = {"", "nan", "NaN", "NULL", "null", "NA", "N/A", "n/a", "None", "-nan", "-NaN", "<NA>"}


class Lines:
    """A CSV file. `notes` gets remarks for the user while the file is read."""

    part = "line"

    def __init__(self, open_file: Callable[[], IO[bytes]]) -> None:
        """Reads the header and the first line. Raises UnreadableRecording."""
        self._open = open_file
        self.notes: dict[str, None] = {}
        with open_file() as file:
            head = _head(file)
        self._names = head
        self._layout = Layout.of(head)
        self.levels, self.missing = self._layout.levels, self._layout.missing
        self.times = Times()
        self.symbol = ""
        """The symbol in a column of the file; empty without such a column, or without rows."""
        self.exchange = ""
        """The exchange in a column of the file; empty as above."""
        with open_file() as file:
            if self._layout.symbol is not None and (line := _line(file, 2)):
                self.symbol = dict(zip(head, line, strict=False)).get(self._layout.symbol, "")
                if self._layout.exchange is not None:
                    self.exchange = dict(zip(head, line, strict=False)).get(self._layout.exchange, "")
                    if not re.match(EXCHANGE_NAME, self.exchange):
                        raise UnreadableRecording(f"names the exchange {self.exchange[:40]!r}, which is no name of one")

    def pieces(self) -> Iterator[ParsedBooks]:
        """Yields the books in the order of the file. Raises UnreadableRecording."""
        surplus = 0
        with self._open() as file:
            for number, block in self._blocks(file):
                lines = _numbers_of(number, block)
                ends = block.count(b"\n")
                surplus += ends - 2 * len(lines)
                if surplus > MOST_BLANK:
                    raise UnreadableRecording(
                        f"has {surplus:,} more blank lines than others up to line {number + ends - 1:,}; expected a "
                        "book in each line. Delete the blank lines, and import it again"
                    )
                yield self._books(number, block, lines)

    def _blocks(self, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yields blocks of whole lines after the header, each with the number of its first line."""
        left, number, begun = b"", 1, False
        while True:
            read = self._read(file)
            if not read:
                break
            data = left + read
            end = data.rfind(b"\n") + 1
            if len(data) - end > MOST_LINE_BYTES:
                raise UnreadableRecording(f"has a line of more than {MOST_LINE_BYTES >> 20} MB, near line {number}")
            block, left = data[:end], data[end:]
            lines = block.count(b"\n")
            if not begun and lines:
                block, begun = block[block.index(b"\n") + 1 :], True
                number, lines = number + 1, lines - 1
            if block:
                yield number, block
            number += lines
        if left.strip() and begun:
            self.notes[f"its last line ({number}) has no line end and may be cut short: it is skipped"] = None

    def _read(self, file: IO[bytes]) -> bytes:
        """Returns the next bytes; none at the end of the file."""
        data = bytearray()
        try:
            while len(data) < BLOCK_BYTES and (more := file.read1(_READ_BYTES)):  # type: ignore[attr-defined]
                data += more
        except EOFError:
            self.notes["the packed data ends too early: what follows is missing"] = None
        return bytes(data)

    def _books(self, number: int, block: bytes, lines: npt.NDArray[np.int64]) -> ParsedBooks:
        """Returns the books of a block. `number`: of its first line; `lines`: the numbers of its filled lines."""
        bad: list[Bad] = []
        try:
            table = self._parsed(block)
            if table.num_rows != len(lines):
                raise ValueError("lines and rows differ")
        except (ValueError, OSError):  # pyarrow's errors are among them
            block, lines, bad = self._sorted_out(number, block)
            try:
                table = self._parsed(block)
            except (ValueError, OSError) as error:
                raise UnreadableRecording(f"cannot be read, from line {number} on: {first_line(error)}") from error
        layout = self._layout
        if layout.symbol is not None:
            others = set(table.column(layout.symbol).unique().to_pylist()) - {self.symbol}
            if others:
                raise UnreadableRecording(
                    f"holds books of several pairs: {self.symbol}, {', '.join(map(str, sorted(others, key=str)[:3]))}"
                )
        values = np.full((table.num_rows, layout.width), np.nan)
        for name, place in layout.places.items():
            values[:, place] = table.column(name).to_numpy()
        times, wrong = self.times.take(table.column(layout.time).to_pandas())
        return books(times, wrong, values, lines, bad)

    def _parsed(self, block: bytes) -> Any:
        import pyarrow as pa
        from pyarrow import csv as arrow

        layout = self._layout
        texts = [name for name in (layout.time, layout.symbol) if name is not None]
        types = dict.fromkeys(layout.places, pa.float64()) | dict.fromkeys(texts, pa.string())
        if not block:
            return pa.table({name: pa.array([], type) for name, type in types.items()})
        return arrow.read_csv(
            io.BytesIO(block),
            read_options=arrow.ReadOptions(column_names=self._names, block_size=len(block) + 1, use_threads=False),
            convert_options=arrow.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                strings_can_be_null=True,
                null_values=sorted(_NULLS),
            ),
        )

    def _sorted_out(self, number: int, block: bytes) -> tuple[bytes, npt.NDArray[np.int64], list[Bad]]:
        """Returns the valid lines of a block, their numbers, and the errors in the others."""
        sound, numbers, bad = list[bytes](), list[int](), list[Bad]()
        for at, line in enumerate(block.removesuffix(b"\n").split(b"\n"), number):
            if not line.rstrip(b"\r"):
                continue
            if why := self._wrong(line):
                bad.append(Bad(at, why))
                check_bad(len(bad), len(sound), bad[0], self.part)
            else:
                sound.append(line)
                numbers.append(at)
        return b"".join(line + b"\n" for line in sound), np.array(numbers, np.int64), bad

    def _wrong(self, line: bytes) -> str:
        """Returns the error in a line; empty for a valid line."""
        try:
            (fields,) = csv.reader([line.decode().rstrip("\r")], strict=True)
        except (UnicodeDecodeError, csv.Error, ValueError):
            return "is not a line of CSV"
        if len(fields) != len(self._names):
            return f"has {len(fields)} fields, expected {len(self._names)}"
        for name, field in zip(self._names, fields, strict=True):
            text = field.strip(" \t")
            if name in self._layout.places and text not in _NULLS and not _NUMBER.fullmatch(text):
                return f"{name} is {field[:40]!r}, which is not a number"
        return ""


def _head(file: IO[bytes]) -> list[str]:
    names = _line(file, 1)
    if not names:
        raise UnreadableRecording("is empty: there is no line with the names of the columns")
    return names


def _line(file: IO[bytes], number: int) -> list[str]:
    """Returns the fields of a line; none where the file has no such line. Raises UnreadableRecording."""
    try:
        for _ in range(number):
            line = file.readline(MOST_LINE_BYTES + 1)
    except EOFError:
        return []
    if len(line) > MOST_LINE_BYTES:
        raise UnreadableRecording(
            f"has a first line of more than {MOST_LINE_BYTES >> 20} MB: it is not a CSV file of books"
        )
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UnreadableRecording("is not UTF-8 text; save it as UTF-8") from error
    return next(csv.reader([text]), [])


def _numbers_of(first: int, block: bytes) -> npt.NDArray[np.int64]:
    """Returns the numbers (n,) of the filled lines of a block."""
    if block.startswith((b"\n", b"\r")) or b"\n\n" in block or b"\n\r" in block:
        text = np.frombuffer(block, np.uint8)
        filled = np.flatnonzero((text != ord("\n")) & (text != ord("\r")))
        ends = np.flatnonzero(text == ord("\n"))
        # The number of filled bytes before each line end.
        before = np.searchsorted(filled, ends)
        return first + np.flatnonzero(np.diff(before, prepend=0))
    return np.arange(first, first + block.count(b"\n"), dtype=np.int64)
