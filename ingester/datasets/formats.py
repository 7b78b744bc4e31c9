"""Writes and reads the files of data sets: pickle, CSV, Parquet and npz. The same rows give the same bytes.

Rows are written piece by piece, so memory does not grow with the file.
"""

import math
import pickle
import pickletools
import struct
import threading
import zipfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ingester.datasets import pickles
from ingester.datasets.columns import ALWAYS_BYTES, MOST_RATIO
from ingester.datasets.dataset import INDEX, columns
from ingester.errors import IngesterError, UnreadableDataSet
from ingester.grid import Floats, Nanoseconds, as_frame

PIECE_ROWS = 100_000
GROUP_ROWS = 1 << 14
"""Rows of a row group in Parquet, which is decoded as a whole even for a few of its rows."""
_MAYBE_WITH_EXPONENT = 1e9
"""Arrow writes whole numbers from 1e10 on as `1e+10`; smaller numbers need no search for an exponent."""
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_ZIP_HEAD = 30 + 2 + 20
"""Bytes before a member, without name and padding: header, length of the padding, field of the 64-bit sizes."""
_PADDING = b"\x35\xd9"
"""The id of the extra field that zipalign uses for padding."""
_ALIGNED = 64
"""Arrays begin at multiples of so many bytes, as in an npy file; some readers map only such arrays."""

Write = Callable[[Path, Nanoseconds, Floats], None]


_TUPLE_OF_ONE, _TUPLE_OF_MARKED, _CALL, _CALL_WITH_NAMES, _BYTEARRAY = b"\x85", b"t", b"R", b"\x92", b"\x96"


def write_pickle(path: Path, times: Nanoseconds, values: Floats) -> None:
    """Writes one DataFrame, for `pandas.read_pickle` of pandas 1.5 and later."""
    with path.open("wb") as file:
        pickle_frame(file, times, values)


def pickle_frame(file: IO[bytes], times: Nanoseconds, values: Floats) -> None:
    """Writes the pickle of a frame to an empty file.

    The pickle is the call `DataFrame(values, DatetimeIndex(times, name="Request Time"), names, None, False)`, with
    arrays as `ndarray(shape, type, bytearray)`. These are public names of every pandas and numpy, without pyarrow. A
    pickle of pandas itself has internal names, which change from version to version.
    """
    file.write(b"\x80\x05" + _named("pandas DataFrame") + b"(")
    _pickle_array(file, values, "<f8")
    file.write(_named("pandas DatetimeIndex"))
    _pickle_array(file, times, "<M8[ns]")
    file.write(_TUPLE_OF_ONE + _constant({"name": INDEX}) + _CALL_WITH_NAMES)
    names = columns(values.shape[1] // 4)
    file.write(_constant(names) + _constant(None) + _constant(False) + _TUPLE_OF_MARKED + _CALL + b".")


def _pickle_array(file: IO[bytes], array: np.ndarray, dtype: str) -> None:
    file.write(_named("numpy ndarray") + b"(" + _constant(array.shape) + _constant(dtype))
    begin = _BYTEARRAY + array.nbytes.to_bytes(8, "little")
    room = -(file.tell() + len(_padding(0)) + len(begin)) % _ALIGNED
    file.write(_padding(room) + begin)
    for start in range(0, len(array), PIECE_ROWS):
        file.write(np.ascontiguousarray(array[start : start + PIECE_ROWS]).data)
    file.write(_TUPLE_OF_MARKED + _CALL)


def _named(name: str) -> bytes:
    """Returns the opcodes for `module name`, which put a name of a module on the stack."""
    return b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in name.split()) + b"\x93"


def _constant(value: object) -> bytes:
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]  # without the protocol and the end


def _padding(room: int) -> bytes:
    """Returns opcodes that push `room` bytes and drop them again."""
    return b"C" + bytes([room]) + bytes(room) + b"0"


def write_csv(path: Path, times: Nanoseconds, values: Floats) -> None:
    """Writes CSV with full precision: each number in the shortest form that reads back as the same float64.

    A missing level (NaN) is empty. Infinite numbers, which no book has, are `inf` and `-inf`.
    """
    with path.open("wb") as file:
        file.write(",".join([INDEX, *columns(values.shape[1] // 4)]).encode() + b"\n")
        options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
        for piece_times, piece_values in _pieces(times, values):
            arrays = [pa.array(piece_times.view("datetime64[ns]"))]
            arrays += [_decimal(piece_values[:, place]) for place in range(values.shape[1])]
            pa.csv.write_csv(pa.table(arrays, [str(place) for place in range(len(arrays))]), file, options)


def _decimal(column: Floats) -> pa.Array:
    """Returns a column in which whole numbers are texts like `12.0`, not `12`, so that they are read as floats."""
    numbers = pa.array(column, from_pandas=True)
    size = np.abs(column)
    bare = (column == np.floor(column)) & (size < np.inf)
    if not bare.any():
        return numbers
    text, bare = numbers.cast(pa.string()), pa.array(bare)
    if (size >= _MAYBE_WITH_EXPONENT).any():
        bare = pc.and_(bare, pc.invert(pc.match_substring(text, "e")))
    return pc.if_else(bare, pc.binary_join_element_wise(text, "0", "."), text)


def write_parquet(path: Path, times: Nanoseconds, values: Floats) -> None:
    """Writes Parquet with zstd. `Request Time` is the index for pandas."""
    schema = pa.Schema.from_pandas(as_frame(times[:0], values[:0]))
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
        for piece_times, piece_values in _pieces(times, values):
            frame = as_frame(piece_times, piece_values)
            writer.write_table(pa.Table.from_pandas(frame, schema=schema), GROUP_ROWS)


def write_npz(path: Path, times: Nanoseconds, values: Floats) -> None:
    """Writes npz that can be mapped: `request_time` (n,) datetime64[ns], `values` (n, 4 x levels), `columns`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _store(archive, "request_time", times.view("datetime64[ns]"))
        _store(archive, "values", values)
        _store(archive, "columns", np.array(columns(values.shape[1] // 4)))


def _store(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME)
    assert archive.fp is not None
    head = archive.fp.tell() + _ZIP_HEAD + len(entry.filename) + len(_PADDING)
    room = -head % _ALIGNED
    entry.extra = _PADDING + room.to_bytes(2, "little") + bytes(room)
    with archive.open(entry, "w", force_zip64=True) as member:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(member, header)
        for start in range(0, max(1, len(array)), PIECE_ROWS):
            member.write(np.ascontiguousarray(array[start : start + PIECE_ROWS]).tobytes())


def _pieces(times: Nanoseconds, values: Floats) -> Iterator[tuple[Nanoseconds, Floats]]:
    for start in range(0, len(times), PIECE_ROWS):
        yield times[start : start + PIECE_ROWS], values[start : start + PIECE_ROWS]


WRITERS: dict[str, Write] = {"pkl": write_pickle, "csv": write_csv, "parquet": write_parquet, "npz": write_npz}


GROUPS_KEPT = 2
"""Row groups of a pair that stay decoded, because a window may extend over two."""
_LOCAL_HEADER = 30
"""Bytes of the header of a zip member before its name (APPNOTE.TXT, 4.3.7)."""


class FileRows(Protocol):
    """The rows of a file in the order of time."""

    def __len__(self) -> int: ...
    def times(self, first: int, stop: int) -> Nanoseconds:
        """Returns the times (stop - first,) in ns."""

    def values(self, first: int, stop: int) -> Floats:
        """Returns the values (stop - first, 4 x levels), mapped where possible; do not write to them."""

    def read(self, first: int, stop: int) -> Floats:
        """Returns the same values, but reads a mapped file into memory, so none of its pages stay resident."""

    def place(self, ns: int) -> int:
        """Returns the first row that is not before `ns`."""


def open_rows(path: Path, format: str, levels: int) -> FileRows:
    """Opens a file in one of the formats of data sets. Raises UnreadableDataSet."""
    try:
        match format:
            case "npz":
                return _Mapped(path, levels)
            case "parquet":
                return _RowGroups(path, levels)
            case "pkl":
                return _unpickled(path, levels)
            case "csv":
                return _csv(path, levels)
    except Exception as error:  # damaged bytes may raise anything
        why = str(error) if isinstance(error, IngesterError) else f"{type(error).__name__}: {error}"
        raise UnreadableDataSet(f"{path} cannot be read: {why:.300}") from error
    raise UnreadableDataSet(f"{path} has the format {format!r}; expected pkl, csv, parquet or npz.")


class _Arrays:
    """Times and values in memory."""

    def __init__(self, times: Nanoseconds, values: Floats, levels: int) -> None:
        if times.shape != values.shape[:1] or values.shape[1:] != (4 * levels,) or values.dtype != np.float64:
            raise UnreadableDataSet(
                f"it holds {times.shape} times and {values.dtype} values {values.shape}, expected float64 of (n, "
                f"{4 * levels})"
            )
        self._times, self._values = times, values

    def __len__(self) -> int:
        return len(self._times)

    def times(self, first: int, stop: int) -> Nanoseconds:
        return self._times[first:stop]

    def values(self, first: int, stop: int) -> Floats:
        return self._values[first:stop]

    read = values

    def place(self, ns: int) -> int:
        return int(np.searchsorted(self._times, ns))


class _Mapped:
    """Rows of an npz file. Each access maps it again, because a map holds an open file and there may be many pairs."""

    def __init__(self, path: Path, levels: int) -> None:
        with zipfile.ZipFile(path) as archive:
            names, self._times, self._values = (
                _Member.of(path, archive, each) for each in ("columns", "request_time", "values")
            )
        if names.mapped().tolist() != columns(levels):
            raise UnreadableDataSet("it has other columns")
        _Arrays(_int64(self._times.mapped()), self._values.mapped(), levels)  # raises where shapes or types are wrong

    def __len__(self) -> int:
        return self._times.shape[0]

    def times(self, first: int, stop: int) -> Nanoseconds:
        return _int64(self._times.mapped())[first:stop]

    def values(self, first: int, stop: int) -> Floats:
        return self._values.mapped()[first:stop]  # type: ignore[no-any-return]

    def read(self, first: int, stop: int) -> Floats:
        path, _, at, (_, width) = self._values
        numbers = np.fromfile(path, np.float64, (stop - first) * width, offset=at + 8 * first * width)
        return numbers.reshape(-1, width)

    def place(self, ns: int) -> int:
        return int(np.searchsorted(_int64(self._times.mapped()), ns))


class _RowGroups:
    """Rows of a Parquet file. The row groups that were used last stay decoded."""

    def __init__(self, path: Path, levels: int) -> None:
        import pyarrow.parquet as pq

        self._path = path
        self._names = columns(levels)
        self._metadata = pq.read_metadata(path)
        missing = {INDEX, *self._names} - set(self._metadata.schema.names)
        if missing:
            raise UnreadableDataSet(f"it lacks the columns {', '.join(sorted(missing))}")
        schema = self._metadata.schema.to_arrow_schema()
        for name in [INDEX, *self._names]:
            if str(kind := schema.field(name).type) != "double" and not (
                name == INDEX and str(kind).startswith("timestamp")
            ):
                raise UnreadableDataSet(f"it holds {name} as {str(kind)[:60]}, expected float64 and times")
        sizes = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        if 32 * levels * max(sizes, default=0) > max(ALWAYS_BYTES, MOST_RATIO * path.stat().st_size):
            raise UnreadableDataSet(f"it unpacks to more than {MOST_RATIO} times its size: it was made to fill memory")
        self._begins = [0, *np.cumsum(sizes).tolist()]
        self._lock = threading.Lock()
        self._decoded: OrderedDict[int, tuple[Nanoseconds, Floats]] = OrderedDict()
        self._first_times: dict[int, int] = {}

    def __len__(self) -> int:
        return int(self._begins[-1])

    def times(self, first: int, stop: int) -> Nanoseconds:
        return self._joined(0, first, stop)  # type: ignore[no-any-return]

    def values(self, first: int, stop: int) -> Floats:
        return self._joined(1, first, stop)  # type: ignore[no-any-return]

    read = values

    def place(self, ns: int) -> int:
        groups = range(len(self._begins) - 1)
        group = bisect_right(groups, ns - 1, key=self._first_time) - 1
        if group < 0:
            return 0
        return int(self._begins[group] + np.searchsorted(self._group(group)[0], ns))

    def _joined(self, what: int, first: int, stop: int) -> Any:
        parts = []
        group = max(0, bisect_right(self._begins, first) - 1)
        while group < len(self._begins) - 1 and (begin := self._begins[group]) < stop:
            parts.append(self._group(group)[what][max(0, first - begin) : stop - begin])
            group += 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([*parts, np.empty((0, len(self._names))) if what else np.empty(0, np.int64)])

    def _group(self, group: int) -> tuple[Nanoseconds, Floats]:
        with self._lock:
            if group not in self._decoded:
                self._decoded[group] = _decoded(self._read(group, [INDEX, *self._names]), self._names)
            self._decoded.move_to_end(group)
            if len(self._decoded) > GROUPS_KEPT:
                self._decoded.popitem(last=False)
            return self._decoded[group]

    def _first_time(self, group: int) -> int:
        if group not in self._first_times:
            column = self._read(group, [INDEX]).column(INDEX)
            self._first_times[group] = int(_int64(column.slice(0, 1).to_numpy())[0])
        return self._first_times[group]

    def _read(self, group: int, names: list[str]) -> Any:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self._path, metadata=self._metadata) as file:
                return file.read_row_group(group, columns=names)
        except (OSError, ValueError) as error:  # pyarrow's errors are among them
            raise UnreadableDataSet(f"{self._path} cannot be read: {error}") from error


class _Member(NamedTuple):
    """An array in an npz file: its type, shape, and the offset of its numbers."""

    path: Path
    dtype: np.dtype[Any]
    at: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, archive: zipfile.ZipFile, name: str) -> Self:
        """Returns a member of an archive. Raises UnreadableDataSet where it is compressed or damaged."""
        entry = archive.getinfo(f"{name}.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnreadableDataSet(f"{name} in it is compressed")
        with path.open("rb") as file:
            file.seek(entry.header_offset)
            head = file.read(_LOCAL_HEADER)
            begin = entry.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", head[26:]))
            file.seek(begin)
            np.lib.format.read_magic(file)
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
            at = file.tell()
        if dtype.hasobject or at - begin + dtype.itemsize * math.prod(shape) != entry.file_size:
            raise UnreadableDataSet(f"{name} in it is damaged")
        if by_column and len(shape) > 1:
            raise UnreadableDataSet(f"{name} in it lies column by column")
        return cls(path, dtype, at, shape)

    def mapped(self) -> Any:
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        return np.asarray(np.memmap(str(self.path), self.dtype, "r", self.at, self.shape))


def _unpickled(path: Path, levels: int) -> _Arrays:
    plain = pickles.read(path.read_bytes())
    if plain.names != columns(levels):
        raise UnreadableDataSet(f"it holds a frame of {', '.join(plain.names[:5]) or 'nothing'}")
    values = np.column_stack(plain.columns) if plain.block is None else plain.block
    return _Arrays(_int64(plain.labels), values, levels)


def _csv(path: Path, levels: int) -> _Arrays:
    from pyarrow import csv, float64, timestamp

    names = columns(levels)
    types = {INDEX: timestamp("ns"), **dict.fromkeys(names, float64())}
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=types, include_columns=[INDEX, *names]))
    return _Arrays(*_decoded(table, names), levels)


def _decoded(table: Any, names: list[str]) -> tuple[Nanoseconds, Floats]:
    """Returns times (n,) and values (n, columns) of an Arrow table."""
    values = np.empty((table.num_rows, len(names)))
    for place, name in enumerate(names):
        values[:, place] = table.column(name).to_numpy()
    return _int64(table.column(INDEX).to_numpy()), values


def _int64(times: Any) -> Nanoseconds:
    if times.dtype.kind != "M":
        raise UnreadableDataSet(f"its times are {times.dtype}")
    return times.astype("datetime64[ns]", copy=False).view(np.int64)  # type: ignore[no-any-return]
