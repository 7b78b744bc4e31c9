"""Writes and reads `manifest.json`, which describes a data set: files, source, gaps. Opens the files it names."""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ingester.clock import SECOND
from ingester.datasets.dataset import MILLISECOND, Request, parse_time, time_text
from ingester.datasets.formats import FileRows, open_rows
from ingester.datasets.gaps import MissingTime, percent_covered
from ingester.errors import SettingsError, UnreadableDataSet
from ingester.questdb import ORDERBOOK, Instrument
from ingester.spool import replace_durably
from ingester.text import inside

NAME = "manifest.json"
FORMAT_VERSION = 1
UNLISTED = Instrument(None, None, None, None)


class PairFile(msgspec.Struct, frozen=True):
    """A file of a data set. The times are those of rows with data, in ns; None without such rows."""

    symbol: str
    name: str
    rows: int
    rows_without_data: int
    first_ns: int | None
    last_ns: int | None
    bytes: int
    sha256: str


def build_manifest(
    request: Request,
    files: Sequence[PairFile],
    gaps: Mapping[str, Sequence[MissingTime]],
    collectors: Sequence[str],
    instruments: Mapping[str, Instrument] | None = None,
) -> dict[str, Any]:
    """Returns the manifest as a plain mapping. Times are ISO 8601 in UTC, with up to nanoseconds.

    `instruments`: the listing of each pair by the exchange.
    """
    listed = instruments or {}
    return {
        "version": FORMAT_VERSION,
        "ingester": version("ingester"),
        "exchange": request.exchange,
        "from": iso(request.start_ns),
        "to": iso(request.end_ns),
        "format": request.format,
        "levels": request.levels,
        "grid": _grid(request),
        "source": {"table": ORDERBOOK, "collectors": list(collectors)},
        "rows": sum(file.rows for file in files),
        "pairs": {
            file.symbol: _pair(request, file, gaps.get(file.symbol, ()), listed.get(file.symbol, UNLISTED))
            for file in files
        },
    }


def is_whole(folder: Path, request: Request) -> bool:
    """Returns whether a folder holds the requested data set."""
    try:
        found = json.loads((folder / NAME).read_bytes())
        wanted = build_manifest(request, (), {}, ())
        asked = all(
            found[key] == wanted[key] for key in ("version", "exchange", "from", "to", "format", "levels", "grid")
        )
        return asked and set(found["pairs"]) == set(request.symbols)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest durably."""
    replace_durably(folder / NAME, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def iso(ns: int) -> str:
    """Returns `2023-06-01T12:00Z`, with seconds and their fraction where they are not zero."""
    return time_text(ns).replace(" ", "T") + "Z"


def gap_mapping(gap: MissingTime) -> dict[str, Any]:
    """Returns a gap for JSON."""
    return {
        "from": iso(gap.since_ns),
        "to": iso(gap.until_ns),
        "seconds": gap.length_ns / SECOND,
        "reason": gap.reason,
    }


def _grid(request: Request) -> dict[str, Any] | None:
    if request.every_ns is None:
        return None
    return {
        "every_ms": request.every_ns // MILLISECOND,
        "max_age_ms": request.max_age_ns / MILLISECOND,
        "fill": request.fill,
    }


def _pair(request: Request, file: PairFile, gaps: Sequence[MissingTime], instrument: Instrument) -> dict[str, Any]:
    return {
        "file": file.name,
        **instrument._asdict(),
        "sha256": file.sha256,
        "bytes": file.bytes,
        "rows": file.rows,
        "rows_without_data": file.rows_without_data,
        "first_row": None if file.first_ns is None else iso(file.first_ns),
        "last_row": None if file.last_ns is None else iso(file.last_ns),
        "coverage_percent": round(percent_covered(gaps, request.start_ns, request.end_ns), 4),
        "gaps": [gap_mapping(gap) for gap in gaps],
    }


MOST_BYTES = 256 << 20
"""Limit of a manifest: one of 1,500 pairs with a thousand gaps each has 200 MB."""
MOST_LEVELS = 1000
MOST_EVERY_MS = 366 * 86_400_000

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class _Grid(msgspec.Struct):
    every_ms: Annotated[int, msgspec.Meta(ge=1, le=MOST_EVERY_MS)]


class _Gap(msgspec.Struct):
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")


class _File(msgspec.Struct):
    file: str
    sha256: str
    bytes: _Count
    rows: _Count
    gaps: list[_Gap]


class _Manifest(msgspec.Struct):
    version: int
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
    format: str
    levels: Annotated[int, msgspec.Meta(ge=1, le=MOST_LEVELS)]
    grid: _Grid | None
    pairs: dict[str, _File]


class Folder:
    """A data set on disk. Files are opened at their first use; a pickled copy opens them again."""

    def __init__(self, path: Path) -> None:
        """Raises UnreadableDataSet where the manifest cannot be read or a file differs from it."""
        self.path = path
        self.manifest, read = _read_manifest(path)
        self.format, self.levels = read.format, read.levels
        self.every_ns = read.grid.every_ms * MILLISECOND if read.grid else None
        """The step of the grid in ns; None: rows as received."""
        self._files = read.pairs
        try:
            self.start_ns, self.end_ns = parse_time(read.since), parse_time(read.until)
            self.gaps = {
                symbol: [(parse_time(gap.since), parse_time(gap.until)) for gap in file.gaps]
                for symbol, file in read.pairs.items()
            }
            """The gaps of each pair, as (since, until) in ns."""
            if not 0 <= self.start_ns < self.end_ns < 1 << 63:
                raise SettingsError(f"from {read.since} to {read.until} is not a range of time.")
        except (SettingsError, OverflowError) as error:
            raise UnreadableDataSet(f"{path / NAME} is damaged: {error}") from error
        for file in self._files.values():
            self._check_size(file)
        self._opened: dict[str, FileRows] = {}

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(self._files)

    @property
    def grid(self) -> range | None:
        """The times in ns that all pairs share; None where each pair has its own."""
        return None if self.every_ns is None else range(self.start_ns, self.end_ns, self.every_ns)

    def rows(self, symbol: str) -> FileRows:
        """Returns the rows of a pair. Raises UnreadableDataSet."""
        if symbol not in self._opened:
            file, grid = self._files[symbol], self.grid
            rows = open_rows(self.path / file.file, self.format, self.levels)
            ends = [*rows.times(0, 1).tolist(), *rows.times(len(rows) - 1, len(rows)).tolist()] if len(rows) else []
            if len(rows) != file.rows or (grid is not None and ends != [*grid[:1], *grid[-1:]]):
                raise UnreadableDataSet(
                    f"{self.path / file.file} does not hold the rows that {NAME} tells of. {_EXPORT_AGAIN}"
                )
            self._opened[symbol] = rows
        return self._opened[symbol]

    def verify(self) -> None:
        """Reads all files. Raises UnreadableDataSet, which names those whose SHA-256 differs from the manifest."""
        changed = []
        for file in self._files.values():
            self._check_size(file)
            with (self.path / file.file).open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                    changed.append(file.file)
        if changed:
            raise UnreadableDataSet(f"In {self.path}, not as {NAME} tells: {', '.join(changed)}. {_EXPORT_AGAIN}")

    def _check_size(self, file: _File) -> None:
        try:
            path = inside(self.path, file.file)
        except SettingsError as error:
            raise UnreadableDataSet(f"{self.path / NAME} names a file elsewhere: {error}") from error
        try:
            state = path.stat()
        except OSError as error:
            raise UnreadableDataSet(
                f"{path} cannot be read ({error.strerror}); {NAME} names it. {_EXPORT_AGAIN}"
            ) from error
        if not stat.S_ISREG(state.st_mode):
            raise UnreadableDataSet(f"{path} is no regular file, but a folder, a pipe or a device. {_EXPORT_AGAIN}")
        if state.st_size != file.bytes:
            raise UnreadableDataSet(
                f"{path} has {state.st_size:,} bytes, {NAME} tells of {file.bytes:,}. {_EXPORT_AGAIN}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}


_EXPORT_AGAIN = "Export the data set again: ingester export --overwrite."


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe is opened without waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read_manifest(path: Path) -> tuple[dict[str, Any], _Manifest]:
    try:
        with open(path / NAME, "rb", opener=_without_waiting) as file:
            text = file.read(MOST_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
        if len(text) > MOST_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    except OSError as error:
        inside = sorted(each.parent.name for each in path.glob(f"*/{NAME}"))
        hint = f"In it are: {', '.join(inside[:5])}" if inside else "Give a folder that `ingester export` wrote."
        raise UnreadableDataSet(f"{path} is no data set, {NAME} cannot be read ({error.strerror}). {hint}") from error
    try:
        plain: dict[str, Any] = msgspec.json.decode(text)
        if isinstance(plain, dict) and plain.get("version", 0) > FORMAT_VERSION:
            raise UnreadableDataSet(f"{path / NAME} is of a later version, that of ingester {plain.get('ingester')}.")
        return plain, msgspec.convert(plain, _Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise UnreadableDataSet(f"{path / NAME} is damaged: {error}. {_EXPORT_AGAIN}") from error
