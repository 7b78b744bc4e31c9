"""The rows of one pair's file, read where they are asked for: npz is mapped, Parquet read by its row groups.

Pickle and CSV allow no such thing; they are read as a whole, at their first use.
"""

import math
import struct
import threading
import zipfile
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from ingester.datasets import pickles
from ingester.datasets.dataset import INDEX, columns
from ingester.datasets.unpacking import ALWAYS_BYTES, MOST_RATIO
from ingester.errors import IngesterError, UnreadableDataSet
from ingester.grid import Floats, Nanoseconds

GROUPS_KEPT = 2
"""Row groups of a pair that stay decoded: a window may lie across two."""
_LOCAL_HEADER = 30
"""Bytes of a zip member's head before its name (APPNOTE.TXT, 4.3.7)."""


class FileRows(Protocol):
    """Rows in the order of time."""

    def __len__(self) -> int: ...
    def times(self, first: int, stop: int) -> Nanoseconds:
        """(stop - first,) times in ns."""

    def values(self, first: int, stop: int) -> Floats:
        """(stop - first, 4 x levels) values, mapped where they can be: not to be written to."""

    def read(self, first: int, stop: int) -> Floats:
        """The same without a map, whose pages would stay resident after they were used."""

    def place(self, ns: int) -> int:
        """The first row that is not before `ns`."""


def open_rows(path: Path, format: str, levels: int) -> FileRows:
    """The rows of a file in one of the formats of data sets. Raises UnreadableDataSet."""
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
    except Exception as error:  # what damaged bytes raise is anybody's guess
        told = str(error) if isinstance(error, IngesterError) else f"{type(error).__name__}: {error}"
        raise UnreadableDataSet(f"{path} cannot be read: {told:.300}") from error
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
    """npz. Maps live as long as what they are used for: each holds an open file, and there may be many pairs."""

    def __init__(self, path: Path, levels: int) -> None:
        with zipfile.ZipFile(path) as archive:
            names, self._times, self._values = (
                _Member.of(path, archive, each) for each in ("columns", "request_time", "values")
            )
        if names.mapped().tolist() != columns(levels):
            raise UnreadableDataSet("it has other columns")
        _Arrays(_int64(self._times.mapped()), self._values.mapped(), levels)  # raises where they do not fit

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
    """Parquet: the row groups used last are kept decoded."""

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
    """An array in an npz file, and where in the file its numbers begin."""

    path: Path
    dtype: np.dtype[Any]
    at: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, path: Path, archive: zipfile.ZipFile, name: str) -> Self:
        """A member that is not compressed."""
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
    """Times and values of an Arrow table."""
    values = np.empty((table.num_rows, len(names)))
    for place, name in enumerate(names):
        values[:, place] = table.column(name).to_numpy()
    return _int64(table.column(INDEX).to_numpy()), values


def _int64(times: Any) -> Nanoseconds:
    if times.dtype.kind != "M":
        raise UnreadableDataSet(f"its times are {times.dtype}")
    return times.astype("datetime64[ns]", copy=False).view(np.int64)  # type: ignore[no-any-return]
