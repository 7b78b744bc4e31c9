"""Reads the DataFrame in a pickle without executing the pickle.

`pickle_machine.py` makes inert values of the pickle: plain values, names as text, and records of calls. This module
reads a frame from them. It checks each step, and it takes arrays from bytes whose length was checked. So the file
decides neither which code runs nor how much memory is used.
"""

import math
import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.datasets.pickle_machine import ADVICE, Machine, Made, Name, UnreadablePickle, kind_of, shown

Array = npt.NDArray[Any]

WORK_PER_BYTE = 8
"""Limit of cells made and bytes copied for each byte of the pickle. A frame takes about 2."""
LEAST_WORK = 10_000
_PLAIN_TYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())
_UNITS = ("s", "ms", "us", "ns")
_FLOATS, _TIMES = np.dtype("<f8"), np.dtype("<M8[ns]")
_OFFSET_TYPES: dict[str, np.dtype[Any]] = {"string": np.dtype("<i4"), "large_string": np.dtype("<i8")}
_PLAIN_CELLS = frozenset([str, float, int, bool, type(None)])
_UNIT_NS = {7: 10**9, 8: 10**6, 9: 10**3, 10: 1}
"""The unit of a Timestamp in ns, by its number in numpy (NPY_DATETIMEUNIT)."""
_ZERO = datetime(1970, 1, 1)


class Arrays:
    """Reads the arrays and cells of one pickle. All methods raise UnreadablePickle."""

    def __init__(self, size: int, most_objects: int) -> None:
        """`size`: of the pickle in bytes. `most_objects`: limit of cells that are objects."""
        self._room = WORK_PER_BYTE * size + LEAST_WORK
        self._objects = most_objects

    def spend(self, work: int) -> None:
        """Counts work against `WORK_PER_BYTE`."""
        self._room -= work
        if self._room < 0:
            raise UnreadablePickle("is refused: it names the same values over and over, more than a frame does")

    def _spend_objects(self, cells: int) -> None:
        self._objects -= cells
        if self._objects < 0:
            raise UnreadablePickle(
                "is refused: it has too many cells that are objects for its size; expected numbers. If it is sound, "
                f"{ADVICE}"
            )

    # Arrays

    def array(self, made: Any) -> Array:
        """Returns an array of one or two dimensions: numbers, datetime64, or objects.

        Objects are inert values; `cells` reads them.
        """
        for _ in range(8):  # arrays of pandas wrap one of numpy
            match kind_of(made):
                case "DatetimeArray" | "StringArray" | "StringArrayNumpySemantics":
                    made = self._held(made)
                case "ArrowStringArray" | "ArrowStringArrayNumpySemantics":
                    return self._arrow_texts(made)
                case "_reconstruct":
                    _, shape, dtype, by_column, data = made.state
                    return self._plain(shape, dtype, data, bool(by_column))
                case "_frombuffer":
                    data, dtype, shape, order = made.arguments
                    return self._plain(shape, dtype, data, order == "F")
                case "ndarray":
                    shape, dtype, data = made.arguments
                    return self._plain(shape, dtype, data, False)
                case _:
                    break
        raise UnreadablePickle(f"holds columns of the kind {what_is(made)}, which is not read")

    def _held(self, made: Made) -> Any:
        """Returns the array of numpy in the state of an array of pandas."""
        state = made.state if isinstance(made.state, tuple) else (made.state,)
        parts = list(state)
        for part in state:
            if isinstance(part, dict):
                self.spend(len(part))
                parts += part.values()
        held = [part for part in parts if kind_of(part) in ("_reconstruct", "_frombuffer", "DatetimeArray")]
        if len(held) != 1:
            raise UnreadablePickle("is damaged: an array of pandas holds no values")
        return held[0]

    def _plain(self, shape: Any, dtype: Any, data: Any, by_column: bool) -> Array:
        sizes = [natural(self.whole(size)) for size in shape[:3]]
        if not 1 <= len(sizes) <= 2:
            raise UnreadablePickle("is refused: it holds an array of more dimensions than a frame")
        cells = math.prod(sizes)
        numbers = self._dtype(dtype)
        if numbers.hasobject:
            if type(data) is not list or len(data) != cells:
                raise UnreadablePickle(f"is damaged: an array of {cells:,} cells has another number of values")
            self.spend(cells)
            self._spend_objects(cells)
            objects = np.empty(cells, object)
            for place, cell in enumerate(data):  # one by one: numpy would unpack cells that have a length
                objects[place] = cell
            return objects.reshape(sizes)
        held = self._bytes(data)
        if len(held) != cells * numbers.itemsize:
            raise UnreadablePickle(f"is damaged: an array of {cells:,} numbers has {len(held):,} bytes")
        self.spend(cells)
        flat = np.frombuffer(held, "u1" if numbers.kind == "b" else numbers) if cells else np.empty(0, numbers)
        array: Array = flat.reshape(sizes, order="F" if by_column else "C")
        if numbers.kind == "b":
            array = array != 0
        array = array.astype(numbers.newbyteorder("="), copy=False)
        return array if array.flags.aligned else array.copy(order="K")

    def _dtype(self, made: Any) -> np.dtype[Any]:
        """Returns the dtype for the name and byte order in a pickle; only plain types are allowed."""
        if isinstance(made, str):  # in a file of our exports
            return {"<f8": _FLOATS, "<M8[ns]": _TIMES}[made]
        if kind_of(made) != "dtype" or not isinstance(made.arguments[0], str):
            raise UnreadablePickle("is damaged: an array has no type")
        code, order, unit = made.arguments[0], made.state[1], ""
        if code == "M8":
            name, *steps = made.state[8][1]
            unit = self._short(name, 2).decode("ascii")
            if steps[:2] != [1, 1]:
                raise UnreadablePickle("is refused: its times count steps of several units")
        elif made.state[3] is not None or made.state[4] is not None:
            raise UnreadablePickle("is refused: it holds a structured type")
        if order not in ("<", ">", "|", "="):
            raise UnreadablePickle("is damaged: it has numbers of an unknown byte order")
        if code in ("O8", "O"):
            return np.dtype(object)
        if code == "M8" and unit in _UNITS:
            code = f"M8[{unit}]"
        elif code not in _PLAIN_TYPES:
            raise UnreadablePickle(f"is refused: it holds numbers of the type {shown(code)}")
        plain: np.dtype[Any] = np.dtype(f"{order}{code}")
        return plain

    def _bytes(self, made: Any) -> bytes | memoryview:
        """Returns the bytes of an array. Protocols 0 to 2 store them as text."""
        for _ in range(4):
            if isinstance(made, bytes | memoryview):
                return made
            if isinstance(made, str):
                self.spend(len(made))
                return made.encode("latin1")
            if kind_of(made) not in ("bytearray", "bytes", "encode", "py_buffer"):
                break
            if not made.arguments:
                return b""
            if made.arguments[1:] not in ((), ("latin1",), ("latin-1",)):
                raise UnreadablePickle("is refused: it has bytes in an unknown encoding")
            made = made.arguments[0]
        raise UnreadablePickle("is damaged: an array has no bytes")

    def _short(self, made: Any, most: int) -> bytes:
        data = self._bytes(made)
        if len(data) > most:
            raise UnreadablePickle("is damaged: it has an invalid unit or time")
        return bytes(data)

    def _arrow_texts(self, made: Made) -> Array:
        """Returns texts that pyarrow stored: offsets, and one buffer with all characters."""
        chunks = [made.state["_pa_array"] if "_pa_array" in made.state else made.state["_data"]]
        if kind_of(chunks[0]) == "chunked_array":
            chunks = chunks[0].arguments[0]
        return np.concatenate([np.empty(0, object), *map(self._arrow_chunk, chunks)])

    def _arrow_chunk(self, made: Any) -> Array:
        if kind_of(made) != "_restore_array":
            raise UnreadablePickle("is damaged: its pyarrow text is invalid")
        (parts,) = made.arguments
        type_made, length, _, offset, buffers = parts[:5]
        named = type_made.arguments[0] if kind_of(type_made) == "type_for_alias" else kind_of(type_made)
        if not isinstance(named, str) or named not in _OFFSET_TYPES:
            raise UnreadablePickle(f"is refused: it holds pyarrow data other than text: {ADVICE}")
        valid, offsets, data = (b"" if buffer is None else self._bytes(buffer) for buffer in buffers)
        first, rows = natural(self.whole(offset)), natural(self.whole(length))
        width = _OFFSET_TYPES[named].itemsize
        ends = np.frombuffer(offsets[first * width : (first + rows + 1) * width], _OFFSET_TYPES[named]).tolist()
        bits = np.frombuffer(valid, "u1")
        self.spend(len(ends) + 1)
        self._spend_objects(rows)
        if (rows and len(ends) != rows + 1) or (len(bits) and len(bits) * 8 < first + rows):
            raise UnreadablePickle("is damaged: its pyarrow text is cut short")
        if ends and (ends[0] < 0 or ends[-1] > len(data) or any(end < begin for begin, end in pairwise(ends))):
            raise UnreadablePickle("is damaged: its pyarrow text points outside its bytes")
        self.spend(ends[-1] - ends[0] if ends else 0)
        texts = np.empty(rows, object)
        for place, (begin, end) in enumerate(pairwise(ends)):
            row = first + place
            if not len(bits) or bits[row >> 3] >> (row & 7) & 1:
                texts[place] = str(data[begin:end], "utf-8")
        return texts

    # Cells

    def cells(self, objects: Array) -> Array:
        """Returns cells (n,) that are objects as text, numbers and None, or all as datetime64 where they are times."""
        if {type(cell) for cell in objects} <= _PLAIN_CELLS:
            return objects
        cells = [self._cell(cell) for cell in objects]
        if not any(isinstance(cell, np.datetime64) for cell in cells):
            read: Array = np.empty(len(cells), object)
            read[:] = cells
            return read
        if any(cell is not None and not isinstance(cell, np.datetime64) for cell in cells):
            raise UnreadablePickle("has a column or an index in which some cells are times and some are not")
        return np.array([np.datetime64("NaT", "ns") if cell is None else cell for cell in cells])

    def _cell(self, cell: Any) -> Any:
        if type(cell) in _PLAIN_CELLS:
            return cell
        if isinstance(cell, Name) and cell.name == "NA":
            return None
        match kind_of(cell):
            case "Decimal":
                if isinstance(cell.arguments[0], str):
                    return cell.arguments[0]
            case "scalar":
                return self._scalar(cell)
            case "Timestamp" | "_unpickle_timestamp":
                value, _, _, *unit = cell.arguments
                return np.datetime64(self.whole(value) * _UNIT_NS[self.whole(unit[0]) if unit else 10], "ns")
            case "datetime":
                return np.datetime64(self._datetime_ns(cell), "ns")
            case "_nat_unpickle" | "__nat_unpickle" | "NaTType" | "NAType":
                return None
        raise UnreadablePickle(f"has cells of the kind {what_is(cell)}; expected numbers or text")

    def _datetime_ns(self, made: Made) -> int:
        fields = self._short(made.arguments[0], 10)
        year, (month, day, hour, minute, second) = int.from_bytes(fields[:2], "big"), fields[2:7]
        at = datetime(year, month & 0x7F, day, hour, minute, second, int.from_bytes(fields[7:], "big"))
        ahead = self._zone_ns(made.arguments[1]) if len(made.arguments) > 1 else 0
        return ((at - _ZERO) // timedelta(microseconds=1)) * 1000 - ahead

    def _zone_ns(self, made: Any) -> int:
        """Returns the UTC offset in ns of a zone with a fixed offset. Other zones are refused: they store no offset."""
        match kind_of(made):
            case "_UTC" | "tzutc":
                return 0
            case "timezone" if kind_of(made.arguments[0]) == "timedelta":
                days, seconds = map(self.whole, (*made.arguments[0].arguments, 0, 0)[:2])
                return (days * 86_400 + seconds) * 10**9
            case "FixedOffset" | "_FixedOffset":
                return self.whole(made.arguments[0]) * 60 * 10**9
            case "_p" if len(made.arguments) > 1:
                return self.whole(made.arguments[1]) * 10**9
            case "_p":
                return 0
        raise UnreadablePickle(
            "has datetime objects of a named zone, whose offset is not stored: make its index one of times "
            "(frame.index = pandas.to_datetime(frame.index, utc=True)), and pickle it again"
        )

    def whole(self, number: Any) -> int:
        """Returns an int of 64 bits, stored as such or as a scalar of numpy."""
        if kind_of(number) == "scalar":
            number = self._scalar(number)
        if type(number) is not int or not -(1 << 63) <= number < 1 << 63:
            raise UnreadablePickle("is damaged: it has a size or a time that is not a number")
        return number

    def _scalar(self, made: Made) -> Any:
        dtype, data = made.arguments
        return self._plain((1,), dtype, data, False).tolist()[0]


def natural(number: int) -> int:
    """Returns the number. Raises UnreadablePickle if it is negative."""
    if number < 0:
        raise UnreadablePickle(f"is damaged: it has a size or position of {number}")
    return number


def what_is(made: Any) -> str:
    """Returns the name of a value's class, for messages."""
    return kind_of(made) or type(made).__name__


LEAST_OBJECTS, OBJECTS_PER_BYTE = 10_000_000, 10
"""Limit of opcodes, and of cells that are objects: the first number, and the second for each compressed byte. A day of
books every 100 ms as text has 35 million opcodes and 18 million cells, and is at least about 2 MB compressed."""


class PlainFrame(NamedTuple):
    """A frame as plain arrays of the same length."""

    names: list[str]
    columns: list[Array]
    """Numbers, datetime64 (UTC), or objects: text, numbers and None."""
    labels: Array
    """The index, of the same types; row numbers where the frame has no other index."""
    labels_name: str | None
    block: Array | None
    """The array (rows, columns) of which all columns are views; None where there is no such array."""


def read(content: bytes, packed_bytes: int | None = None) -> PlainFrame:
    """Returns the frame in a pickle of protocol 0 to 5, written by pandas 0.25 to 3. Arrays may be views of `content`.

    `packed_bytes`: the size of the compressed file, None: `content` was not compressed. Raises UnreadablePickle.
    """
    most_objects = LEAST_OBJECTS + OBJECTS_PER_BYTE * (len(content) if packed_bytes is None else packed_bytes)
    try:
        return _Reader(len(content), most_objects).frame(Machine(content, most_objects).run())
    except MemoryError as error:
        raise UnreadablePickle("needs more memory than there is") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise UnreadablePickle("is damaged, or no pickle of a frame of books") from error


class _Reader:
    """Reads one frame. All methods raise UnreadablePickle."""

    def __init__(self, size: int, most_objects: int) -> None:
        """As for `Arrays`."""
        self._arrays = Arrays(size, most_objects)

    def frame(self, made: Any) -> PlainFrame:
        if kind_of(made) != "DataFrame":
            raise UnreadablePickle(f"is refused: it holds a {what_is(made)}, expected a DataFrame")
        called = made.what.name == "DataFrame" and bool(made.arguments)  # in a file of our exports
        if called:
            values, rows_made, columns_made = made.arguments[:3]
            parts = [(values, None)]
        else:
            parts, columns_made, rows_made = _parts(made.state["_mgr"] if "_mgr" in made.state else made.state["_data"])
        names = self._names(columns_made)
        if not names:
            raise UnreadablePickle("has no columns")
        columns: dict[int, Array] = {}
        block = None
        for values, places_made in parts:
            array = self._arrays.array(values)
            by_column = array.reshape(1, -1) if array.ndim == 1 else array.T if called else array
            places = range(len(names)) if places_made is None else self._places(places_made, len(names))
            if len(by_column) != len(places):
                raise UnreadablePickle(f"is damaged: a part has {len(by_column)} columns, expected {len(places)}")
            for place, column in zip(places, by_column, strict=True):
                columns[place] = self._arrays.cells(column) if column.dtype == object else column
            if len(parts) == 1 and list(places) == list(range(len(names))) and array.dtype == np.float64:
                block = by_column.T
        if sorted(columns) != list(range(len(names))):
            raise UnreadablePickle("is damaged: some of its columns have no values")
        rows = len(columns[0])
        labels, labels_name = self._index(rows_made, rows)
        if any(len(column) != rows for column in [*columns.values(), labels]):
            raise UnreadablePickle("is damaged: its columns and its index are not of one length")
        return PlainFrame(names, [columns[place] for place in range(len(names))], labels, labels_name, block)

    def _places(self, made: Any, most: int) -> Sequence[int]:
        """Returns the positions in the frame of the columns of one block."""
        if kind_of(made) == "slice":
            start, stop, step = made.arguments
            places: Sequence[int] = range(
                self._arrays.whole(start), self._arrays.whole(stop), 1 if step is None else self._arrays.whole(step)
            )
        else:
            array = self._arrays.array(made)
            if array.dtype.kind not in "iu" or array.ndim != 1:
                raise UnreadablePickle("is damaged: columns of it are at places that are no numbers")
            places = array.tolist()
        if len(places) > most:
            raise UnreadablePickle("is damaged: a part of it has more columns than there are")
        self._arrays.spend(len(places))
        return places

    def _names(self, made: Any) -> list[str]:
        values = made if type(made) is list else self._index(made, None)[0].tolist()
        self._arrays.spend(len(values))
        if not all(isinstance(name, str | int | float) for name in values):
            raise UnreadablePickle("has columns whose names are no text")
        return [str(name) for name in values]

    def _index(self, made: Any, rows: int | None) -> tuple[Array, str | None]:
        """Returns an index and its name. `rows`: the expected length; None: any length."""
        if kind_of(made) in ("_new_Index", "_new_DatetimeIndex"):
            cls, named = made.arguments
            kind, data = cls.name if isinstance(cls, Name) else "", named.get("data")
        elif isinstance(made, Made):  # a class called with its data, in a file of our exports
            kind, named, data = made.kind, made.named, made.arguments[0]
        else:
            raise UnreadablePickle("is damaged: it has no index")
        name = named.get("name")
        if kind == "RangeIndex":
            counted = range(*(self._arrays.whole(named[each]) for each in ("start", "stop", "step")))
            if rows is not None and len(counted) != rows:
                raise UnreadablePickle("is damaged: its columns and its index are not of one length")
            self._arrays.spend(len(counted))
            array: Array = np.arange(counted.start, counted.stop, counted.step, dtype=np.int64)
        elif kind in ("Index", "DatetimeIndex", "Int64Index", "UInt64Index", "Float64Index"):
            array = self._arrays.array(data)
        else:
            raise UnreadablePickle(f"has an index of the kind {kind}")
        if array.ndim != 1:
            raise UnreadablePickle("is damaged: its index is none")
        labels = self._arrays.cells(array) if array.dtype == object else array
        return labels, name if isinstance(name, str) else None


def _parts(manager: Any) -> tuple[list[tuple[Any, Any]], Any, Any]:
    """Returns the blocks of a frame, each with the positions of its columns, the column names, and the index."""
    if kind_of(manager) != "BlockManager":
        raise UnreadablePickle("is damaged, or of pandas before 0.25: its frame has no blocks")
    if isinstance(manager.state, tuple):  # until pandas 1.2
        state = manager.state[3]["0.14.1"]
        axes, parts = state["axes"], [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    else:
        blocks, axes = manager.arguments[:2]
        if any(kind_of(block) not in ("_unpickle_block", "new_block") for block in blocks):
            raise UnreadablePickle("is damaged: its blocks are none")
        parts = [block.arguments[:2] for block in blocks]
    return parts, axes[0], axes[1]
