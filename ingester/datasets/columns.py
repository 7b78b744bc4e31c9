"""Reads the columns and times of recordings in any kind of file, and opens files of unknown origin safely.

Only regular files are opened, and compressed files are decompressed within limits.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.clock import SECOND
from ingester.datasets.dataset import INDEX, columns, parse_time, time_text
from ingester.errors import OperationError
from ingester.grid import Floats, Nanoseconds

PACKED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of compressed files."""
ALWAYS_BYTES = 1 << 30
"""Every file may decompress to so many bytes."""
MOST_RATIO = 100
"""Limit of the ratio of decompressed to compressed size, above `ALWAYS_BYTES`. For books the ratio is about 10."""
_XZ_MEMORY = 256 << 20
"""Limit of memory for xz: the file states how much it needs, and files of `xz -9` need 65 MB."""
_XZ_READ = _ZSTD_READ = 1 << 16


class UnreadableRecording(OperationError):
    """A file is not a recording of one pair's books, or may not be opened."""


def open_regular(path: Path) -> IO[bytes]:
    """Opens a regular file. Raises UnreadableRecording, also for a symbolic link."""
    try:
        # Without O_NONBLOCK, a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise UnreadableRecording(
                f"is a symbolic link, which is not followed; name the file itself: {path.readlink()}"
            ) from error
        raise UnreadableRecording(f"cannot be read: {type(error).__name__}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableRecording("is no regular file, but a folder, a pipe or a device")
    return os.fdopen(descriptor, "rb")


def unpacked(path: Path, always_bytes: int = 0, most_ratio: int = MOST_RATIO) -> IO[bytes]:
    """Opens a file and decompresses it where its ending says so.

    Reading raises UnreadableRecording beyond `always_bytes` (0: `ALWAYS_BYTES`) and `most_ratio` times the compressed
    size, whichever is more, and EOFError where the compressed data is cut short.
    """
    file = open_regular(path)
    ending = path.suffix.lower()
    if ending not in PACKED:
        return file
    size = os.fstat(file.fileno()).st_size
    inner: Any
    if ending == ".gz":
        inner = gzip.GzipFile(fileobj=file)
    elif ending == ".bz2":
        inner = bz2.BZ2File(file)
    elif ending == ".xz":
        inner = _Xz(file)
    else:
        inner = _zstd(file)
    return io.BufferedReader(
        _BoundedStream(inner, file, max(always_bytes or ALWAYS_BYTES, most_ratio * size), most_ratio), 1 << 20
    )


class _BoundedStream(io.RawIOBase):
    """A stream that raises UnreadableRecording beyond a limit of bytes."""

    def __init__(self, inner: Any, file: IO[bytes], limit: int, ratio: int) -> None:
        self._inner = inner
        self._file = file
        self._left = limit
        self._ratio = ratio

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        data = self._inner.read1(len(room))  # data before an error is still returned
        self._left -= len(data)
        if self._left < 0:
            raise UnreadableRecording(
                f"unpacks to more than {self._ratio} times its size: it was made to fill memory or disk. "
                "If it is sound, unpack it and import that."
            )
        room[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Xz:
    """Decompresses xz with a limit of memory, which lzma.open does not have."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = self._begin()

    def read1(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof:  # streams may follow each other
                more = self._decompressor.unused_data or self._file.read(_XZ_READ)
                more = more.lstrip(b"\0")  # padding between streams
                if not more:
                    return b""
                self._decompressor = self._begin()
            else:
                more = self._file.read(_XZ_READ) if self._decompressor.needs_input else b""
                if not more and self._decompressor.needs_input:
                    raise EOFError("the packed data ends too early")
            if data := self._decompressor.decompress(more, size):
                return data

    @staticmethod
    def _begin() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)


def _zstd(file: IO[bytes]) -> Any:
    import pyarrow as pa

    return _Zstd(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))


class _Zstd:
    """The zstd stream of pyarrow, which raises EOFError for data that is cut short, as the others do."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read1(self, size: int) -> bytes:
        try:
            return self._stream.read(min(size, _ZSTD_READ))  # type: ignore[no-any-return]
        except OSError as error:
            if "runcated" in str(error):
                raise EOFError("the packed data ends too early") from error
            raise


MOST_LEVELS = 20
MOST_COLUMNS = 1000
"""A file with more columns is refused: a header of 1 MB can name half a million."""
ALL_COLUMNS = {name: place for place, name in enumerate(columns(MOST_LEVELS))}
EARLIEST_NS = parse_time("2017-07-01")
"""Binance opened in July 2017."""
AHEAD_NS = 60 * SECOND
"""Times may be so far in the future, because clocks differ."""
MOST_BAD = 100_000
"""Limit of bad lines of a file, plus one for every ten good lines."""
UNITS = {"s": SECOND, "ms": 10**6, "us": 1000, "ns": 1}

_MOST_US = np.iinfo(np.int64).max // 1000
_KNOWN_AND_LEFT_OUT = re.compile(r"Response Delay|Unnamed: \d+(\.\d+)?|index|level_0|")
_INDEXES = (INDEX, "", "Unnamed: 0", "__index_level_0__")
"""Columns that may hold the times; the first of them in the file does."""
_TARDIS = re.compile(r"(asks|bids)\[(\d+)\]\.(price|amount)")
_TARDIS_OTHERS = ("exchange", "symbol", "timestamp", "local_timestamp")
_NUMBER = re.compile(r"\s*[+-]?\d+(\.\d*)?([eE]\+?\d+)?\s*")


class Bad(NamedTuple):
    """A line of a CSV file, or a row of another file, that cannot be used."""

    line: int
    why: str


class ParsedBooks(NamedTuple):
    """A part of a recording in the order of time, without rows that hold no number."""

    times: Nanoseconds
    """(n,) receive times in ns."""
    values: Floats
    """(n, 4 x levels) as in a data set; NaN where there is no number."""
    bad: Sequence[Bad] = ()
    """Rows that were left out because they are wrong."""
    empty: int = 0
    """The count of rows that were left out because they hold no number."""

    @property
    def levels(self) -> int:
        return int(self.values.shape[1]) // 4


class Layout(NamedTuple):
    """The meaning of the columns of a file."""

    time: str | None
    """The column of the times; None where they are the index of a frame."""
    places: dict[str, int]
    """The position in a row of values of each column with numbers."""
    levels: int
    missing: list[str]
    symbol: str | None = None
    exchange: str | None = None
    """The columns of these two; None without such a column."""

    @classmethod
    def of(cls, names: Sequence[str], has_index: bool = False) -> "Layout":
        """Returns the layout of these columns. `has_index`: an index may hold the times. Raises UnreadableRecording."""
        if len(names) > MOST_COLUMNS:
            raise UnreadableRecording(
                f"has {len(names):,} columns; a recording has Bid_1, BidV_1, … Ask_1, AskV_1, … to {MOST_LEVELS}"
            )
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise UnreadableRecording(f"has columns twice: {', '.join(repr(name[:40]) for name in twice[:5])}")
        if any(map(_TARDIS.fullmatch, names)):
            return cls._of_tardis(names)
        time = next((name for name in _INDEXES if name in names), None)
        if has_index and time != INDEX:
            time = None
        there = [name for name in names if name in ALL_COLUMNS]
        unknown = [
            name
            for name in names
            if name not in ALL_COLUMNS and name != time and not _KNOWN_AND_LEFT_OUT.fullmatch(name)
        ]
        levels = max((_level(name) for name in there), default=1)
        wanted = {name: place for place, name in enumerate(columns(levels))}
        missing = [name for name in wanted if name not in there]
        if unknown or not there:
            what = f"has columns of other names: {_few(unknown)}" if unknown else "has no columns of a book"
            lacks = f"\nmissing: {', '.join(missing[:8])}{', …' if len(missing) > 8 else ''}" if missing else ""
            raise UnreadableRecording(f"{what}; expected Bid_1, BidV_1, … Ask_1, AskV_1, … to {MOST_LEVELS}{lacks}")
        if time is None and not has_index:
            raise UnreadableRecording(
                f"has no times: neither an index of times nor a column {INDEX!r}\nmissing: {INDEX}"
            )
        return cls(time, {name: wanted[name] for name in there}, levels, missing)

    @classmethod
    def _of_tardis(cls, names: Sequence[str]) -> "Layout":
        """Returns the layout of `book_snapshot_5` and `book_snapshot_25` of tardis.dev.

        The receive time is `local_timestamp`. Levels beyond `MOST_LEVELS` are left out.
        Source: https://docs.tardis.dev/downloadable-csv-files
        """
        found = {name: match for name in names if (match := _TARDIS.fullmatch(name))}
        unknown = [name for name in names if name not in found and name not in _TARDIS_OTHERS]
        lacking = [name for name in ("symbol", "local_timestamp") if name not in names]
        if unknown or lacking:
            what = f"has columns of other names: {_few(unknown)}" if unknown else "lacks columns of Tardis"
            lacks = f"\nmissing: {', '.join(lacking)}" if lacking else ""
            raise UnreadableRecording(f"{what}; expected those of a book_snapshot{lacks}")
        levels = min(MOST_LEVELS, max(int(match[2]) + 1 for match in found.values()))
        wanted = {name: place for place, name in enumerate(columns(levels))}
        places = {}
        for name, match in found.items():
            side, quantity = ("Ask" if match[1] == "asks" else "Bid"), ("V" if match[3] == "amount" else "")
            own = f"{side}{quantity}_{int(match[2]) + 1}"
            if own in wanted:
                places[name] = wanted[own]
        there = set(places.values())
        missing = [name for name, place in wanted.items() if place not in there]
        return cls("local_timestamp", places, levels, missing, "symbol", "exchange" if "exchange" in names else None)

    @property
    def width(self) -> int:
        return 4 * self.levels


def _few(names: Sequence[str]) -> str:
    """Returns the first five names for a message, each cut to 40 characters."""
    return ", ".join(name[:40] for name in names[:5])


def _level(name: str) -> int:
    return int(name.rsplit("_", 1)[1])


class Times:
    """Converts the times of one file to ns since 1970. Times without a zone are UTC.

    The size of the first number tells the unit of all numbers in the file.
    """

    def __init__(self) -> None:
        self.unit = ""
        """The unit of numbers: s, ms, us or ns; empty where times are not numbers."""

    def take(self, column: Any) -> tuple[Nanoseconds, npt.NDArray[np.bool_]]:
        """Returns the times (n,) in ns, and which of them are invalid (n,).

        Raises UnreadableRecording where the column does not hold times.
        """
        import pandas as pd

        try:
            if pd.api.types.is_bool_dtype(column.dtype):
                raise UnreadableRecording("the index holds more than times: True and False")
            if pd.api.types.is_numeric_dtype(column.dtype):
                return self._numbers(np.asarray(column))
            if not isinstance(column.dtype, pd.DatetimeTZDtype) and column.dtype.kind != "M":
                column = pd.Series(np.asarray(column, dtype=object)).reset_index(drop=True)
                first = column.first_valid_index()
                if first is not None and _NUMBER.fullmatch(str(column[first])):
                    return self._texts(column)
                column = pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce")
            index = pd.DatetimeIndex(column)
        except (ValueError, TypeError, OverflowError) as error:
            raise UnreadableRecording(f"the index holds more than times: {first_line(error)}") from error
        index = index.tz_convert(None) if index.tz is not None else index
        wrong = np.array(index.isna(), bool)
        # Times beyond int64 of ns become the nearest such time; `books` leaves them out as impossible.
        us = index.as_unit("us").asi8.clip(-_MOST_US, _MOST_US)
        far = np.abs(us) == _MOST_US
        if far.any() or wrong.any():
            ns = np.where(wrong | far, us * 1000, index.where(~(wrong | far), pd.Timestamp(0)).as_unit("ns").asi8)
        else:
            ns = index.as_unit("ns").asi8.copy()
        return ns, wrong

    def _texts(self, column: Any) -> tuple[Nanoseconds, npt.NDArray[np.bool_]]:
        import pandas as pd

        numbers = pd.to_numeric(column, errors="coerce")
        return self._numbers(np.asarray(numbers))

    def _numbers(self, numbers: Any) -> tuple[Nanoseconds, npt.NDArray[np.bool_]]:
        if not len(numbers):
            return np.zeros(0, np.int64), np.zeros(0, bool)
        wrong = ~np.isfinite(numbers) | (numbers <= 0)
        right = numbers[~wrong]
        if not len(right):
            return np.zeros(len(numbers), np.int64), wrong
        self.unit = self.unit or _unit(float(right[0]))
        if not self.unit:
            raise UnreadableRecording(
                f"has no times: neither an index of times nor a column {INDEX!r}; {right[0]:g} is not a number of s, "
                "ms, us or ns since 1970"
            )
        factor = UNITS[self.unit]
        wrong |= (numbers < 1e8 * SECOND / factor) | (numbers >= 9.2e9 * SECOND / factor)
        safe = np.where(wrong, 0, numbers)
        if safe.dtype.kind in "iu":
            return safe.astype(np.int64) * factor, wrong
        # Rounded to microseconds, the precision of a float64.
        return np.rint(safe * (factor / 1000)).astype(np.int64) * 1000 if factor > 1 else np.rint(safe / 1000).astype(
            np.int64
        ) * 1000, wrong


def _unit(number: float) -> str:
    """Returns the unit in which a number is a time from 1973 to 2261; there is at most one. Empty: none."""
    return next((unit for unit, ns in UNITS.items() if 1e8 * SECOND <= number * ns < 9.2e9 * SECOND), "")


def books(
    times: Nanoseconds,
    wrong: npt.NDArray[np.bool_],
    values: Floats,
    lines: npt.NDArray[np.int64],
    bad: Sequence[Bad] = (),
) -> ParsedBooks:
    """Returns the rows sorted by time, without those that have no number, no time, or an impossible time.

    `values`: (n, 4 x levels). `wrong`: which rows have no time (n,). `lines`: the number of each row in the file (n,).
    """
    values[~np.isfinite(values)] = np.nan
    latest_ns = time.time_ns() + AHEAD_NS
    outside = ~wrong & ((times < EARLIEST_NS) | (times > latest_ns))
    bad = list(bad)
    for row in np.flatnonzero(wrong | outside):
        bad.append(Bad(int(lines[row]), "has no time" if wrong[row] else _outside(int(times[row]))))
    empty = np.isnan(values).all(axis=1)
    kept = ~(wrong | outside | empty)
    if not kept.all():
        times, values = times[kept], values[kept]
    if (np.diff(times) < 0).any():
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[order]
    return ParsedBooks(times, values, sorted(bad), int((empty & ~(wrong | outside)).sum()))


def check_bad(bad: int, good: int, first: Bad, part: str) -> None:
    """Raises UnreadableRecording where too many of the rows read so far are wrong."""
    if bad > MOST_BAD + good // 10:
        raise UnreadableRecording(
            f"has {bad:,} bad {part}s among the first {bad + good:,}, the first of them: {part} {first.line} "
            f"{first.why}. So many are not skipped; correct the file, and import it again"
        )


def _outside(ns: int) -> str:
    try:
        when = time_text(ns)
    except (ValueError, OverflowError):
        when = f"{ns / SECOND / 86400 / 365.2425 + 1970:.0f}"
    if ns < EARLIEST_NS:
        return f"has the time {when}, before Binance opened ({time_text(EARLIEST_NS)[:7]})"
    return f"has the time {when}, which is in the future"


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, at most 200 characters."""
    return (str(error).splitlines() or [""])[0][:200]
