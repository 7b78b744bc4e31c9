"""The forms in which a pair's rows are written: pickle, CSV, Parquet and npz. The same rows give the same bytes.

They are written piece by piece.
"""

import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ingester.datasets.dataset import INDEX, columns
from ingester.grid import Floats, Nanoseconds, as_frame

PIECE_ROWS = 100_000
GROUP_ROWS = 1 << 14
"""Of a row group in Parquet: what has to be decoded for a few rows of it."""
_MAYBE_WITH_EXPONENT = 1e9
"""Arrow writes whole numbers from 1e10 on as `1e+10`; smaller ones need not be looked through for it."""
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_ZIP_HEAD = 30 + 2 + 20
"""Bytes before a member besides its name and the padding: its head, the padding's length, the field of 64 bit sizes."""
_PADDING = b"\x35\xd9"
"""The extra field by which zipalign marks padding."""
_ALIGNED = 64
"""Arrays lie on multiples of so many bytes, as in an npy file: not all that map them take others."""

Write = Callable[[Path, Nanoseconds, Floats], None]


class PickleLayout:
    """The pickle of a frame of so many rows, of which every byte is known but those of the times and values.

    It is the call `DataFrame(values, DatetimeIndex(times, name="Request Time"), names, None, False)`, in which arrays
    are `ndarray(shape, type, bytearray)`. These are public names, which any pandas and numpy have, without pyarrow;
    what pandas itself would write names parts of it that move from version to version.
    """

    def __init__(self, rows: int, width: int) -> None:
        """`width`: values of a row."""
        self.parts: list[tuple[int, bytes]] = []
        """What lies before, between and after the arrays, by its offset."""
        self.size = 0
        self._put(b"\x80\x05" + _named("pandas DataFrame") + b"(")
        self.values_at = self._array((rows, width), "<f8")
        self._put(_named("pandas DatetimeIndex"))
        self.times_at = self._array((rows,), "<M8[ns]")
        self._put(_TUPLE_OF_ONE + _constant({"name": INDEX}) + _CALL_WITH_NAMES)
        self._put(_constant(columns(width // 4)) + _constant(None) + _constant(False) + _TUPLE_OF_MARKED + _CALL + b".")

    def _array(self, shape: tuple[int, ...], dtype: str) -> int:
        """Leaves room for an array, and returns where it begins."""
        size = 8 * math.prod(shape)
        self._put(_named("numpy ndarray") + b"(" + _constant(shape) + _constant(dtype))
        begin = _BYTEARRAY + size.to_bytes(8, "little")
        room = -(self.size + len(_padding(0)) + len(begin)) % _ALIGNED
        self._put(_padding(room) + begin)
        place, self.size = self.size, self.size + size
        self._put(_TUPLE_OF_MARKED + _CALL)
        return place

    def _put(self, part: bytes) -> None:
        self.parts.append((self.size, part))
        self.size += len(part)


_TUPLE_OF_ONE, _TUPLE_OF_MARKED, _CALL, _CALL_WITH_NAMES, _BYTEARRAY = b"\x85", b"t", b"R", b"\x92", b"\x96"


def _named(name: str) -> bytes:
    """The opcodes for what a module and a name in it say."""
    return b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in name.split()) + b"\x93"


def _constant(value: object) -> bytes:
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]  # without the protocol and the end


def _padding(room: int) -> bytes:
    """Bytes that are put on the stack and dropped again."""
    return b"C" + bytes([room]) + bytes(room) + b"0"


def write_pickle(path: Path, times: Nanoseconds, values: Floats) -> None:
    """One DataFrame, for `pandas.read_pickle` of pandas 1.5 and later."""
    layout = PickleLayout(*values.shape)
    with path.open("wb") as file:
        for offset, part in layout.parts:
            file.seek(offset)
            file.write(part)
        for offset, array in ((layout.values_at, values), (layout.times_at, times)):
            file.seek(offset)
            for start in range(0, len(array), PIECE_ROWS):
                file.write(np.ascontiguousarray(array[start : start + PIECE_ROWS]).data)


def write_csv(path: Path, times: Nanoseconds, values: Floats) -> None:
    """Full precision: each number in the shortest form that reads back as the same float64.

    NaN, a level that is missing, is empty; infinite numbers, which no book has, are `inf` and `-inf`.
    """
    with path.open("wb") as file:
        file.write(",".join([INDEX, *columns(values.shape[1] // 4)]).encode() + b"\n")
        options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
        for piece_times, piece_values in _pieces(times, values):
            arrays = [pa.array(piece_times.view("datetime64[ns]"))]
            arrays += [_decimal(piece_values[:, place]) for place in range(values.shape[1])]
            pa.csv.write_csv(pa.table(arrays, [str(place) for place in range(len(arrays))]), file, options)


def _decimal(column: Floats) -> pa.Array:
    """A column whose whole numbers are to be read as floats too: `12.0`, not `12`, and `1e+10` as it is."""
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
    """zstd; `Request Time` is the index that pandas finds."""
    schema = pa.Schema.from_pandas(as_frame(times[:0], values[:0]))
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
        for piece_times, piece_values in _pieces(times, values):
            frame = as_frame(piece_times, piece_values)
            writer.write_table(pa.Table.from_pandas(frame, schema=schema), GROUP_ROWS)


def write_npz(path: Path, times: Nanoseconds, values: Floats) -> None:
    """Not compressed, to be mapped: `request_time` (n,) datetime64[ns], `values` (n, 4 x levels), `columns`."""
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
