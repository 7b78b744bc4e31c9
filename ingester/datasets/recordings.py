"""Finds and opens files of earlier recordings, one pair each: raw backups, data sets, and files of other sources.

The manifest of a data set gives pair, grid, gaps and exchange of its files, even of renamed ones; else the name of a
file gives the pair. Files are read piece by piece, except pickles, which `pickles.py` reads without executing them.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple, Protocol

import msgspec
import numpy as np

from ingester.datasets import pickles
from ingester.datasets.columns import (
    ALL_COLUMNS,
    ALWAYS_BYTES,
    MOST_RATIO,
    PACKED,
    Bad,
    Layout,
    ParsedBooks,
    Times,
    UnreadableRecording,
    books,
    first_line,
    open_regular,
    unpacked,
)
from ingester.datasets.dataset import COLON, MILLISECOND, parse_time, symbol_named
from ingester.datasets.lines import Lines
from ingester.datasets.pickle_machine import UnreadablePickle
from ingester.errors import SettingsError
from ingester.exchange import EXCHANGE_NAME
from ingester.grid import Floats

MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 256 << 20
KINDS = (".pkl", ".csv", ".parquet", ".npz")
"""Endings of files that can be imported, in any case; the first two may be compressed."""
ENDINGS = ".pkl, .csv (also .gz, .bz2, .xz, .zst), .parquet or .npz"
EXPECTED = f"ADA_USDT_100ms_(2023-06-01 08{COLON}31)_(1).pkl"

_NAME = re.compile(r"([^_]+_[^_]*)_(\d+)(ms|s|min|m|h)(_\([^()]+\))+", re.IGNORECASE)
_READ_BYTES = 1 << 20
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000}


class Origin(NamedTuple):
    """What manifest and name say about a file."""

    symbol: str = ""
    """Empty where only the content of the file may name it."""
    every_ns: int = 0
    """The step of the data set's grid; 0: rows as received, or unknown."""
    gaps: tuple[tuple[int, int, str], ...] = ()
    """(since, until, reason) in ns, from the manifest."""
    frequency_ns: int = 0
    """The interval of rows in the name."""
    note: str = ""
    """A remark about the manifest, for the user."""
    exchange: str = ""
    """The exchange in the manifest; empty without one."""


class _OriginGap(msgspec.Struct):
    since: str = msgspec.field(name="from")
    until: str = msgspec.field(name="to")
    reason: str = ""


class _OriginGrid(msgspec.Struct):
    every_ms: int


class _ManifestPair(msgspec.Struct):
    file: str
    sha256: str = ""
    bytes: int = 0
    gaps: list[_OriginGap] = []


class _OriginManifest(msgspec.Struct):
    pairs: dict[str, _ManifestPair]
    grid: _OriginGrid | None = None
    exchange: Annotated[str, msgspec.Meta(pattern=EXCHANGE_NAME)] = ""


class Origins:
    """Finds the origin of files. The manifest of a folder is read once."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._manifest: _OriginManifest | str | None = None
        """A text is the reason why it cannot be used; None: there is no manifest."""
        self._renamed: dict[Path, str] = {}
        """The pair of each file that the manifest lists under another name; empty where it does not."""

    def of(self, path: Path) -> Origin:
        """Returns the origin of a file. Raises UnreadableRecording for an unknown ending."""
        if path.parent != self._folder:
            self._folder, self._manifest = path.parent, _read(path.parent / MANIFEST)
        named = _named(path.name)
        manifest = self._manifest
        if isinstance(manifest, str):
            return named._replace(note=manifest)
        if manifest is None or not (symbol := self._pair_of(path, manifest.pairs)):
            return named
        try:
            gaps = [(parse_time(gap.since), parse_time(gap.until), gap.reason) for gap in manifest.pairs[symbol].gaps]
        except (SettingsError, OverflowError) as error:
            return named._replace(note=f"{MANIFEST} beside it is damaged, its gaps are not known: {str(error)[:200]}")
        every_ns = manifest.grid.every_ms * MILLISECOND if manifest.grid else 0
        return named._replace(
            symbol=symbol, every_ns=every_ns, gaps=tuple(gaps), frequency_ns=0, exchange=manifest.exchange
        )

    def _pair_of(self, path: Path, pairs: Mapping[str, _ManifestPair]) -> str:
        """Returns the pair of a file by its name, else by its content; empty where the manifest does not list it."""
        names = (path.name, _unpacked(path.name))
        if symbol := next((symbol for symbol, pair in pairs.items() if pair.file in names), ""):
            return symbol
        if path not in self._renamed:
            self._renamed[path] = _pair_of_content(path, pairs)
        return self._renamed[path]


def _pair_of_content(path: Path, pairs: Mapping[str, _ManifestPair]) -> str:
    """Returns the pair whose file has the same bytes, after decompression; empty where there is none."""
    by_content = {pair.sha256: symbol for symbol, pair in pairs.items() if pair.sha256}
    sizes = {pair.bytes for pair in pairs.values() if pair.sha256}
    digest, size = hashlib.sha256(), 0
    try:
        with unpacked(path) as file:
            if path.suffix.lower() not in PACKED and os.fstat(file.fileno()).st_size not in sizes:
                return ""
            while size <= max(sizes, default=0) and (data := file.read(_READ_BYTES)):
                digest.update(data)
                size += len(data)
    except Exception:  # damaged and hostile bytes may raise anything; reading the rows reports it
        return ""
    return by_content.get(digest.hexdigest(), "")


def symbol_of(name: str) -> str:
    """Returns the symbol in a file name; empty without one. Raises UnreadableRecording for an unknown ending."""
    return _named(name).symbol


def _unpacked(name: str) -> str:
    """Returns the name of a file without the ending of its compression."""
    path = Path(name)
    return path.stem if path.suffix.lower() in PACKED else name


def kind_of(name: str) -> str:
    """Returns the kind of a file by its name, `.csv`, compressed or not; empty where it cannot be imported."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    packed = bool(suffixes) and suffixes[-1] in PACKED
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    return kind[0] if kind and kind[0] in (KINDS[:2] if packed else KINDS) else ""


def _named(name: str) -> Origin:
    kind = kind_of(name)
    if not kind:
        raise UnreadableRecording(f"has an unknown file ending; expected {ENDINGS}")
    stem = name[: name.lower().rindex(kind)]
    match = _NAME.fullmatch(stem)
    try:
        symbol = symbol_named(match[1]) if match else ""
    except ValueError:  # also of bytes that are no UTF-8
        symbol = ""
    if match is None or not symbol or not symbol.isprintable():
        return Origin()
    return Origin(symbol, frequency_ns=int(match[2][:9]) * _UNITS_MS[match[3].lower()] * MILLISECOND)


def _read(path: Path) -> _OriginManifest | str | None:
    if not path.exists() and not path.is_symlink():
        return None
    try:
        with open_regular(path) as file:
            text = file.read(MOST_MANIFEST_BYTES + 1)
        if len(text) > MOST_MANIFEST_BYTES:
            raise ValueError("it is too large")
        manifest = msgspec.json.decode(text, type=_OriginManifest)
        if manifest.grid is not None and not 0 < manifest.grid.every_ms < 1 << 40:
            raise ValueError(f"every_ms is {manifest.grid.every_ms}")
        if unfit := next((symbol for symbol in manifest.pairs if not symbol.isprintable() or not symbol), None):
            raise ValueError(f"it names the pair {unfit!r}")
    except (UnreadableRecording, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        return f"{MANIFEST} beside it cannot be used, its exchange and gaps are not known: {str(error)[:200]}"
    return manifest


PIECE_ROWS = 1 << 16
PICKLE_BYTES, PICKLE_RATIO = 256 << 20, 300
"""Limits of a decompressed pickle, which is read as a whole: bytes, or a multiple of its size. A pickle of equal rows
has a ratio of 130."""
MOST_TEXT_BYTES = 1000
"""Limit of the text of a number or a time."""
_LEFT_BY_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")


class Recording(Protocol):
    """The books of one pair in a file."""

    levels: int
    missing: list[str]
    """Columns that a recording of so many levels has, but this one lacks."""
    symbol: str
    """The symbol in the content; empty without one."""
    exchange: str
    """The exchange in the content; empty without one."""
    notes: dict[str, None]
    """Remarks for the user; complete when all pieces were read."""
    times: Times
    part: str
    """The unit that `Bad` counts: line or row."""

    def pieces(self) -> Iterator[ParsedBooks]:
        """Yields the books in the order of the file, each piece sorted by time. May be called again.

        Raises UnreadableRecording.
        """


class FoundFiles(NamedTuple):
    """The files at the given paths."""

    files: list[Path]
    """Each file once, sorted."""
    passed_over: list[tuple[Path, str]]
    """Paths in the folders that are not recordings, with the reason."""


def find_recordings(paths: Iterable[Path]) -> FoundFiles:
    """Returns the named files, and the files in named folders, at any depth, with the ending of a recording.

    Symbolic links in folders are not followed. Files that macOS and others leave there (`._name`) are ignored.
    """
    files: set[Path] = set()
    passed: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            files.add(path)
            continue
        for folder, folders, names in os.walk(path):
            inside = Path(folder)
            for name in sorted(folders):
                if (inside / name).is_symlink():
                    passed[inside / name] = "a symbolic link"
                elif name.startswith("."):
                    passed[inside / name] = "a hidden folder"
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.startswith("._") or name in (*_LEFT_BY_SYSTEMS, MANIFEST):
                    continue
                if why := _no_recording(inside / name):
                    passed[inside / name] = why
                else:
                    files.add(inside / name)
    return FoundFiles(sorted(files), sorted((path, why) for path, why in passed.items() if path not in files))


def require_files(found: FoundFiles, paths: Sequence[Path]) -> None:
    """Raises SettingsError where one of `paths` does not exist, or there is no recording in them."""
    if missing := [str(path) for path in paths if not path.exists()]:
        raise SettingsError(f"There is no file or folder {', '.join(missing)}. Paths are relative to {Path.cwd()}.")
    if not found.files:
        raise SettingsError(f"There is no file that ends in {ENDINGS} in {', '.join(map(str, paths))}.")


def _no_recording(path: Path) -> str:
    if path.is_symlink():
        return "a symbolic link"
    if not path.is_file():
        return "no regular file"
    if path.name.startswith("."):
        return "a hidden file"
    return "" if kind_of(path.name) else "not the ending of a recording"


def open_recording(path: Path) -> Recording:
    """Opens a file and reads its header. Raises UnreadableRecording."""
    kind = kind_of(path.name)
    try:
        match kind:
            case ".csv":
                return Lines(lambda: unpacked(path))
            case ".parquet":
                return _Parquet(path)
            case ".npz":
                return _Npz(path)
        return _unpickled(path)
    except UnreadableRecording:
        raise
    except Exception as error:  # damaged and hostile bytes may raise anything
        raise unreadable(error) from error


def unreadable(error: Exception) -> UnreadableRecording:
    """Returns the error for a file whose reading raised `error`."""
    return (
        error
        if isinstance(error, UnreadableRecording)
        else UnreadableRecording(f"cannot be read: {type(error).__name__}: {first_line(error)}")
    )


def _unpickled(path: Path) -> "_Frame":
    import pandas as pd

    with unpacked(path, PICKLE_BYTES, PICKLE_RATIO) as file:
        content = file.read()
    try:
        plain = pickles.read(content, path.stat().st_size)
    except UnreadablePickle as error:
        raise UnreadableRecording(str(error)) from error
    arrays = [_plain(name, column) for name, column in zip(plain.names, plain.columns, strict=True)]
    return _Frame(plain.names, arrays, np.asarray(pd.Index(plain.labels)))


class _Frame:
    """The recording in a pickle: columns and index as plain arrays."""

    symbol, exchange, part = "", "", "row"

    def __init__(self, names: list[str], arrays: Sequence[Any], labels: Any) -> None:
        self._layout = Layout.of(names, has_index=_holds_times(labels))
        self.levels, self.missing = self._layout.levels, self._layout.missing
        self.notes: dict[str, None] = {}
        self.times = Times()
        self._columns = dict(zip(names, arrays, strict=True))
        self._labels = labels if self._layout.time is None else self._columns[self._layout.time]

    def pieces(self) -> Iterator[ParsedBooks]:
        for first in range(0, len(self._labels), PIECE_ROWS):
            rows = slice(first, first + PIECE_ROWS)
            columns = {name: self._columns[name][rows] for name in self._layout.places}
            yield _books(self._layout, self.times, self._labels[rows], columns, first + 1)


class _Parquet:
    """The recording in a Parquet file."""

    symbol, exchange, part = "", "", "row"

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._path = path
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            opened = pq.ParquetFile(file)
            schema, metadata = opened.schema_arrow, opened.metadata
        groups = [metadata.row_group(each) for each in range(metadata.num_row_groups)]
        largest = max((group.total_byte_size for group in groups), default=0)
        most = max(ALWAYS_BYTES, MOST_RATIO * size)
        if largest > most:
            raise UnreadableRecording(
                f"has a row group of {largest / 1e9:.1f} GB; write it with row groups of 100,000 rows"
            )
        self._layout = Layout.of(schema.names)
        if 8 * sum(group.num_rows for group in groups) * len(self._layout.places) > most:
            raise UnreadableRecording(f"unpacks to more than {MOST_RATIO} times its size: it was made to fill memory")
        self.levels, self.missing = self._layout.levels, self._layout.missing
        self.notes: dict[str, None] = {}
        self.times = Times()
        self._names = [*self._layout.places, str(self._layout.time)]
        self._texts = _text_columns([schema.field(name) for name in self._names])
        for column in (group.column(place) for group in groups for place in range(group.num_columns)):
            if column.path_in_schema in self._texts and "DELTA_BYTE_ARRAY" in column.encodings:
                raise UnreadableRecording(
                    f"column {column.path_in_schema} is of text that is packed as differences, of which little can "
                    "become much. Make its columns plain numbers, and write it again"
                )

    def pieces(self) -> Iterator[ParsedBooks]:
        import pyarrow.parquet as pq

        with open_regular(self._path) as file:
            number = 1
            opened = pq.ParquetFile(file, read_dictionary=self._texts)
            for batch in opened.iter_batches(PIECE_ROWS, columns=self._names, use_threads=False):
                frame = _spelt_out(batch, self._texts).to_pandas(ignore_metadata=True)
                columns = {name: _plain(name, frame[name]) for name in self._layout.places}
                yield _books(self._layout, self.times, frame[self._names[-1]], columns, number)
                number += len(frame)


def _text_columns(fields: Sequence[Any]) -> list[str]:
    """Returns the columns with text. Raises UnreadableRecording for types that may hold much data in a row."""
    from pyarrow import types

    for field in fields:
        if types.is_nested(field.type) or "binary" in str(field.type):
            raise UnreadableRecording(
                f"column {field.name} is of type {str(field.type)[:60]}, expected float64, or times. Make its columns "
                "plain numbers, and write it again"
            )
    return [field.name for field in fields if types.is_string(field.type) or types.is_large_string(field.type)]


def _spelt_out(batch: Any, texts: Sequence[str]) -> Any:
    """Returns a batch in which dictionaries of text are expanded to the text of each row.

    Raises UnreadableRecording for long texts: a few bytes of a file could become very much text.
    """
    import pyarrow as pa
    from pyarrow import compute, types

    for name in texts:
        column = batch.column(name)
        if types.is_dictionary(column.type):
            longest = compute.max(compute.binary_length(column.dictionary)).as_py() or 0
            if longest > MOST_TEXT_BYTES:
                raise UnreadableRecording(f"column {name} has a text of {longest:,} bytes; expected numbers or times")
            spelt = column.dictionary.take(column.indices)
            batch = batch.set_column(batch.schema.get_field_index(name), pa.field(name, spelt.type), spelt)
    return batch


class _Npz:
    """The recording in an npz file of an export: `request_time`, `values`, `columns`."""

    symbol, exchange, part = "", "", "row"

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            size = os.fstat(file.fileno()).st_size
            if sum(entry.file_size for entry in archive.infolist()) > max(ALWAYS_BYTES, MOST_RATIO * size):
                raise UnreadableRecording(
                    f"unpacks to more than {MOST_RATIO} times its size: it was made to fill memory"
                )
            with archive.open("columns.npy") as member:
                shape, dtype = _array_head(member)
                if dtype.kind != "U" or len(shape) != 1 or dtype.itemsize * shape[0] > 1 << 20:
                    raise UnreadableRecording(f"has columns of type {dtype}, expected their names")
                names = np.frombuffer(member.read(dtype.itemsize * shape[0]), dtype).tolist()
        self._layout = Layout.of(names, has_index=True)
        self._places = [self._layout.places[name] for name in names]
        self.levels, self.missing = self._layout.levels, self._layout.missing
        self.notes: dict[str, None] = {}
        self.times = Times()

    def pieces(self) -> Iterator[ParsedBooks]:
        with (
            open_regular(self._path) as file,
            zipfile.ZipFile(file) as archive,
            archive.open("request_time.npy") as times_file,
            archive.open("values.npy") as values_file,
        ):
            rows, dtype = _array_head(times_file)
            shape, kind = _array_head(values_file)
            if dtype.kind not in "Miuf" or kind != np.float64 or shape != (*rows, len(self._places)):
                raise UnreadableRecording(
                    f"holds times {rows} of {dtype} and values {shape} of {kind}, which do not fit"
                )
            for first in range(0, rows[0], PIECE_ROWS):
                count = min(PIECE_ROWS, rows[0] - first)
                stamps = np.frombuffer(times_file.read(count * dtype.itemsize), dtype)
                numbers = np.frombuffer(values_file.read(count * shape[1] * 8), np.float64).reshape(count, shape[1])
                values = np.full((count, self._layout.width), np.nan)
                values[:, self._places] = numbers
                yield books(*self.times.take(stamps), values, np.arange(first + 1, first + 1 + count))


def _array_head(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(member)
    wrong = dtype.hasobject or dtype.itemsize == 0 or (by_column and len(shape) > 1)
    if wrong or len(shape) not in (1, 2) or min(shape) < 0:
        raise UnreadableRecording(f"holds an array of {dtype} {shape}, expected numbers row by row")
    return shape, dtype


def _holds_times(labels: Any) -> bool:
    """Returns whether an index may hold times: it does not if it only counts rows."""
    return not (labels.dtype.kind in "iu" and (not len(labels) or labels[0] < 1e8))


def _plain(name: str, column: Any) -> Any:
    """Returns a column of pandas as an array. Raises UnreadableRecording where a column of levels is not plain."""
    dtype = column.dtype
    plain = isinstance(dtype, np.dtype) and dtype.kind not in "Mm"
    if name in ALL_COLUMNS and not (plain or str(dtype).startswith("str")):
        raise UnreadableRecording(
            f"column {name} is of type {dtype}, expected float64. Make its columns plain numbers "
            "(frame.astype('float64')), and write it again"
        )
    return column if dtype.kind == "M" else np.asarray(column)


def _books(layout: Layout, times: Times, labels: Any, columns: Mapping[str, Any], first: int) -> ParsedBooks:
    """Returns rows of a file as books. `first`: the number of the first row."""
    stamps, wrong = times.take(labels)
    values = np.full((len(stamps), layout.width), np.nan)
    bad: dict[int, str] = {}
    for name, column in columns.items():
        values[:, layout.places[name]] = _numbers(name, column, bad)
    sound = np.ones(len(stamps), bool)
    sound[list(bad)] = False
    numbers = np.arange(first, first + len(stamps))
    found = [Bad(first + row, why) for row, why in bad.items()]
    return books(stamps[sound], wrong[sound], values[sound], numbers[sound], found)


def _numbers(name: str, column: Any, bad: dict[int, str]) -> Floats:
    """Returns a column as floats. Rows that are not numbers are added to `bad` with the reason."""
    if column.dtype.kind in "iuf":
        return column.astype(np.float64)  # type: ignore[no-any-return]
    texts = np.array(column, object)
    texts[(texts == "") | (texts == None)] = np.nan  # noqa: E711
    try:
        return texts.astype(np.float64)
    except (ValueError, TypeError):
        for row, text in enumerate(texts):
            try:
                float(text)
            except (ValueError, TypeError):
                bad.setdefault(row, f"{name} is {str(text)[:40]!r}, which is not a number")
                texts[row] = np.nan
        return texts.astype(np.float64)
