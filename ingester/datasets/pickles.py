"""Reads the DataFrame in a pickle without executing any of it.

What the machine makes of a pickle is inert: plain values, names as text, and records of what the pickle wants to be
called. Here a frame is read out of these, each step checked:

1. Nothing of numpy or pandas is called on what a file says but `numpy.frombuffer`, for a plain type (numbers, booleans,
   times) whose size is exactly that of the bytes.
2. Values are looked at in fixed places only. None is walked, hashed or compared before it is known to be plain.
3. A frame has no more cells than its pickle has bytes, however often it names the same ones.
"""

import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.datasets.pickle_machine import ADVICE, Machine, Made, Name, UnreadablePickle, kind_of, natural, shown

Array = npt.NDArray[Any]

MOST_COLUMNS = 10_000


class Plain(NamedTuple):
    """A frame as plain arrays of one length."""

    names: list[str]
    columns: list[Array]
    """Numbers, datetime64 (UTC), or objects: text, numbers and None."""
    labels: Array
    """Likewise; the rows' index; whole numbers where the frame only counts its rows."""
    labels_name: str | None
    block: Array | None
    """(rows, columns) of which the columns are views, where they all lie in one array."""


def read(content: bytes) -> Plain:
    """The frame in a pickle of protocol 0 to 5, written under pandas 0.25 to 3. Arrays may be views of `content`.

    Raises UnreadablePickle.
    """
    try:
        return _frame(Machine(content).run(), len(content))
    except MemoryError as error:
        raise UnreadablePickle("needs more memory than there is") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        first = (str(error).splitlines() or [""])[0]
        raise UnreadablePickle(f"is damaged, or no pickle of a frame ({type(error).__name__}: {first:.100})") from error


# --------------------------------------------------------------------------------------------------- frames


_Block = tuple[Any, Sequence[int]]
"""Values, and the places of their columns."""


def _frame(made: Any, size: int) -> Plain:
    if kind_of(made) != "DataFrame":
        what = kind_of(made) or type(made).__name__
        raise UnreadablePickle(f"is refused: it holds a {what}, expected a DataFrame")
    called = made.what.name == "DataFrame" and bool(made.arguments)  # with its parts, as data sets are written
    if called:
        values, index, names = made.arguments[:3]
        blocks: list[_Block] = [(values, range(len(names)))]
        axes = [names, index]
    else:
        blocks, axes = _managed(made.state["_mgr"] if "_mgr" in made.state else made.state["_data"], size)
    names = _names(axes[0])
    if not names:
        raise UnreadablePickle("has no columns")
    if len(blocks) > len(names):
        raise UnreadablePickle(f"is damaged: it has {len(blocks)} parts for {len(names)} columns")
    columns: list[Array | None] = [None] * len(names)
    block, cells = None, 0
    for number, (values, places) in enumerate(blocks):
        array = _array(values)
        by_column = array.reshape(1, -1) if array.ndim == 1 else array.T if called else array
        if len(by_column) != len(places):
            raise UnreadablePickle(f"is damaged: a part has {len(by_column)} columns, expected {len(places)}")
        cells += by_column.size
        if cells > size:
            raise UnreadablePickle("is refused: it has more cells than bytes")
        if number == 0 and list(places) == list(range(len(names))) and by_column.dtype == np.float64:
            block = by_column.T
        for place, column in zip(places, by_column, strict=True):
            columns[place] = _cells(column) if column.dtype == object else column
    whole = [column for column in columns if column is not None]
    if len(whole) < len(names):
        raise UnreadablePickle("is damaged: some columns have no values")
    rows = len(whole[0])
    index, index_name = _index(axes[1], rows)
    if any(len(column) != rows for column in [*whole, index]):
        raise UnreadablePickle("is damaged: its columns and its index are not of one length")
    return Plain(names, whole, index, index_name, block)


def _managed(manager: Any, size: int) -> tuple[list[_Block], list[Any]]:
    """Blocks, each with the places of its columns, and axes: columns and rows."""
    if kind_of(manager) != "BlockManager":
        raise UnreadablePickle("is damaged, or of pandas before 0.25: its frame has no blocks")
    if isinstance(manager.state, tuple):  # until pandas 1.2
        state = manager.state[3]["0.14.1"]
        axes, pairs = state["axes"], [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    else:
        made, axes = manager.arguments[:2]
        if any(kind_of(block) not in ("_unpickle_block", "new_block") for block in made):
            raise UnreadablePickle("is damaged: its blocks are none")
        pairs = [block.arguments[:2] for block in made]
    return [(values, _places(places, size)) for values, places in pairs], [axes[0], axes[1]]


def _places(made: Any, size: int) -> Sequence[int]:
    if kind_of(made) == "slice":
        start, stop, step = made.arguments
        places: Sequence[int] = range(_whole(start), _whole(stop), 1 if step is None else _whole(step))
    else:
        places = [int(place) for place in _array(made)]
    if len(places) > MOST_COLUMNS or any(place < 0 for place in places):
        raise UnreadablePickle(f"is refused: it has columns at {places!s:.60}")
    return places


def _names(made: Any) -> list[str]:
    values = made if type(made) is list else _index(made, None)[0].tolist()
    if len(values) > MOST_COLUMNS:
        raise UnreadablePickle(f"is refused: it has {len(values):,} columns")
    if not all(isinstance(name, str | int | float) for name in values):
        raise UnreadablePickle("has columns whose names are no text")
    return [str(name) for name in values]


def _index(made: Any, rows: int | None) -> tuple[Array, str | None]:
    """An index and its name. `rows`: so many are expected, None: any."""
    if kind_of(made) in ("_new_Index", "_new_DatetimeIndex"):
        cls, named = made.arguments
        kind = cls.name if isinstance(cls, Name) else ""
        data = named.get("data")
    else:  # a class called with its data, as data sets are written
        kind, named = kind_of(made), getattr(made, "named", {})
        data = made.arguments[0] if kind and made.arguments else None
    name = named.get("name")
    name = name if isinstance(name, str) else None
    if kind == "RangeIndex":
        counted = range(*(_whole(named[each]) for each in ("start", "stop", "step")))
        if len(counted) > MOST_COLUMNS if rows is None else len(counted) != rows:
            raise UnreadablePickle("is damaged: its index is not of the length of its columns")
        return np.arange(counted.start, counted.stop, counted.step, dtype=np.int64), name
    if kind not in ("Index", "DatetimeIndex", "Int64Index", "UInt64Index", "Float64Index"):
        raise UnreadablePickle(f"has an index of the kind {kind or type(made).__name__}")
    array = _array(data)
    if array.ndim != 1:
        raise UnreadablePickle("is damaged: its index is none")
    return (_cells(array) if array.dtype == object else array), name


# --------------------------------------------------------------------------------------------------- arrays

_PLAIN_TYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())
_UNITS = ("s", "ms", "us", "ns")
_FLOATS, _TIMES = np.dtype("<f8"), np.dtype("<M8[ns]")


def _array(made: Any) -> Array:
    """An array of one or two dimensions: plain numbers, datetime64, or objects that are still to be read."""
    for _ in range(8):  # arrays of pandas hold one of numpy
        kind = kind_of(made)
        if kind in ("DatetimeArray", "StringArray", "StringArrayNumpySemantics"):
            made = _held(made)
            continue
        if kind in ("ArrowStringArray", "ArrowStringArrayNumpySemantics"):
            return _arrow_texts(made)
        if kind == "_reconstruct":
            _, shape, dtype, by_column, data = made.state
        elif kind == "_frombuffer":
            data, dtype, shape, order = made.arguments
            by_column = order == "F"
        elif kind == "ndarray":
            shape, dtype, data = made.arguments
            by_column = False
        else:
            break
        return _checked_array(shape, dtype, data, bool(by_column))
    raise UnreadablePickle(f"holds columns of the kind {kind_of(made) or type(made).__name__}, which is not read")


def _held(made: Made) -> Any:
    """The one array in the state of an array of pandas."""
    parts = list(made.state) if isinstance(made.state, tuple) else [made.state]
    for part in list(parts):
        parts += part.values() if isinstance(part, dict) else ()
    held = [part for part in parts if kind_of(part) in ("_reconstruct", "_frombuffer", "DatetimeArray")]
    if len(held) != 1:
        raise UnreadablePickle("is damaged: an array of pandas holds no values")
    return held[0]


def _checked_array(shape: Any, dtype: Any, data: Any, by_column: bool) -> Array:
    sizes = [natural(_whole(size)) for size in shape]
    if not 1 <= len(sizes) <= 2:
        raise UnreadablePickle(f"holds an array of {len(sizes)} dimensions")
    cells = sizes[0] * (sizes[1] if len(sizes) > 1 else 1)
    numbers = _dtype(dtype)
    if numbers.hasobject:
        if type(data) is not list or len(data) != cells:
            raise UnreadablePickle(f"is damaged: an array says that it has {cells:,} cells and has others")
        objects = np.empty(cells, object)
        for place, cell in enumerate(data):  # one by one: numpy would look into what has a length
            objects[place] = cell
        return objects.reshape(sizes)
    held = _bytes(data)
    if len(held) != cells * numbers.itemsize:
        raise UnreadablePickle(f"is damaged: an array of {cells:,} numbers has {len(held):,} bytes")
    if not cells:
        array = np.empty(sizes, numbers)
    else:
        array = np.frombuffer(held, "u1" if numbers.kind == "b" else numbers)
        array = array.reshape(sizes, order="F" if by_column else "C")
    if numbers.kind == "b":
        flags: Array = array != 0
        return flags
    array = array.astype(numbers.newbyteorder("="), copy=False)
    return array if array.flags.aligned else array.copy(order="K")


def _dtype(made: Any) -> np.dtype[Any]:
    """A plain type, of the name and byte order in a pickle."""
    if isinstance(made, str):  # as data sets are written
        return {"<f8": _FLOATS, "<M8[ns]": _TIMES}[made]
    if kind_of(made) != "dtype" or not isinstance(made.arguments[0], str):
        raise UnreadablePickle("is damaged: an array has no type")
    code, order, unit = made.arguments[0], made.state[1], ""
    if code == "M8":
        unit_data = made.state[8][1]
        unit = bytes(_bytes(unit_data[0])).decode("ascii")
        if unit_data[1:3] != (1, 1):
            raise UnreadablePickle("is refused: its times count steps of several units")
    elif made.state[3] is not None or made.state[4] is not None:
        raise UnreadablePickle("is refused: it holds numbers of a type with parts")
    if order not in ("<", ">", "|", "="):
        raise UnreadablePickle("is damaged: it has numbers of no byte order")
    if code in ("O8", "O"):
        return np.dtype(object)
    if code == "M8" and unit in _UNITS:
        code = f"M8[{unit}]"
    elif code not in _PLAIN_TYPES:
        raise UnreadablePickle(f"is refused: it holds numbers of the type {shown(code)} {shown(unit)}")
    plain: np.dtype[Any] = np.dtype(f"{order}{code}")
    return plain


def _bytes(made: Any) -> bytes | memoryview:
    """Of what is bytes, or text that stands for them in protocols 0 to 2."""
    for _ in range(4):
        if isinstance(made, bytes | memoryview):
            return made
        if isinstance(made, str):
            return made.encode("latin1")
        if kind_of(made) not in ("bytearray", "bytes", "encode", "py_buffer"):
            break
        if not made.arguments:
            return b""
        if made.arguments[1:] not in ((), ("latin1",), ("latin-1",)):
            raise UnreadablePickle("is refused: it has bytes in an encoding of its own")
        made = made.arguments[0]
    raise UnreadablePickle("is damaged: an array has no bytes")


def _whole(number: Any) -> int:
    """An int, also as numpy pickles one of its own."""
    if kind_of(number) == "scalar":
        number = _scalar(number)
    if type(number) is not int or not -(1 << 63) <= number < 1 << 63:
        raise UnreadablePickle("is damaged: it has a size or a time that is no number")
    return number


def _scalar(made: Made) -> Any:
    dtype, data = made.arguments
    return _checked_array((1,), dtype, data, False).tolist()[0]


def _arrow_texts(made: Made) -> Array:
    """Text as pyarrow keeps it: where each one ends, and all of them together."""
    state = made.state
    chunks = [state["_pa_array"] if "_pa_array" in state else state["_data"]]
    if kind_of(chunks[0]) == "chunked_array":
        chunks = chunks[0].arguments[0]
    return np.concatenate([np.empty(0, object), *map(_arrow_chunk, chunks)])


def _arrow_chunk(made: Any) -> Array:
    if kind_of(made) != "_restore_array":
        raise UnreadablePickle("is damaged: text of pyarrow is none")
    ((type_made, length, _, offset, buffers, _, _),) = (arguments[:7] for arguments in made.arguments)
    named = type_made.arguments[0] if kind_of(type_made) == "type_for_alias" else kind_of(type_made)
    widths = {"string": "<i4", "large_string": "<i8"}
    if not isinstance(named, str) or named not in widths:
        raise UnreadablePickle(f"is refused: it holds other things of pyarrow than text: {ADVICE['numbers']}")
    valid, offsets, data = (b"" if buffer is None else _bytes(buffer) for buffer in buffers)
    first, stop = natural(_whole(offset)), natural(_whole(offset)) + natural(_whole(length))
    if first == stop:
        return np.empty(0, object)
    width = np.dtype(widths[named])
    numbers = np.frombuffer(offsets[: len(offsets) // width.itemsize * width.itemsize], width)
    bits = np.frombuffer(valid, "u1")
    if len(numbers) <= stop or (len(bits) and len(bits) * 8 < stop):
        raise UnreadablePickle("is damaged: text of pyarrow is cut short")
    ends = numbers[first : stop + 1].tolist()
    if ends[0] < 0 or ends[-1] > len(data) or any(end < begin for begin, end in pairwise(ends)):
        raise UnreadablePickle("is damaged: text of pyarrow leads out of its bytes")
    texts = np.empty(stop - first, object)
    for place, (begin, end) in enumerate(pairwise(ends)):
        row = first + place
        if not len(bits) or bits[row >> 3] >> (row & 7) & 1:
            texts[place] = str(data[begin:end], "utf-8")
    return texts


# ---------------------------------------------------------------------------------------------------- cells

_NAT = np.iinfo(np.int64).min
_PER_SECOND = {7: 10**9, 8: 10**6, 9: 10**3, 10: 1}
"""Nanoseconds of a unit of Timestamps, by numpy's number of it (NPY_DATETIMEUNIT)."""
_ZERO = datetime(1970, 1, 1)


def _cells(objects: Array) -> Array:
    """Objects as text, numbers and None; as datetime64 where they are times."""
    if {type(cell) for cell in objects} <= {str, float, int, bool, type(None)}:
        return objects
    cells = [_cell(cell) for cell in objects]
    stamps = [cell for cell in cells if isinstance(cell, np.datetime64)]
    if stamps:
        if any(cell is not None and not isinstance(cell, np.datetime64) for cell in cells):
            raise UnreadablePickle("has a column or an index in which some cells are times and some are not")
        return np.array([np.datetime64("NaT", "ns") if cell is None else cell for cell in cells])
    read: Array = np.empty(len(cells), object)
    read[:] = cells
    return read


def _cell(cell: Any) -> Any:
    if type(cell) in (str, float, int, bool, type(None)):
        return cell
    if isinstance(cell, Name) and cell.name == "NA":
        return None
    match kind_of(cell):
        case "Decimal":
            if isinstance(cell.arguments[0], str):
                return cell.arguments[0]
        case "scalar":
            return _scalar(cell)
        case "Timestamp" | "_unpickle_timestamp":
            value, _, _, *unit = cell.arguments
            return np.datetime64(_whole(value) * _PER_SECOND[_whole(unit[0]) if unit else 10], "ns")
        case "datetime":
            return np.datetime64(_whole(_datetime_ns(cell)), "ns")
        case "_nat_unpickle" | "__nat_unpickle" | "NaTType" | "NAType":
            return None
    raise UnreadablePickle(f"has cells of the kind {kind_of(cell) or type(cell).__name__}; expected numbers or text")


def _datetime_ns(made: Made) -> int:
    fields = bytes(_bytes(made.arguments[0]))
    if len(fields) != 10:
        raise UnreadablePickle("is damaged: it has a time that is none")
    year, (month, day, hour, minute, second) = int.from_bytes(fields[:2], "big"), fields[2:7]
    at = datetime(year, month & 0x7F, day, hour, minute, second, int.from_bytes(fields[7:], "big"))
    zone = made.arguments[1] if len(made.arguments) > 1 else None
    return ((at - _ZERO) // timedelta(microseconds=1)) * 1000 - (0 if zone is None else _zone_ns(zone))


def _zone_ns(made: Any) -> int:
    """How far a zone of one offset is ahead of UTC; other zones are rules, which are not looked up."""
    match kind_of(made):
        case "_UTC" | "tzutc":
            return 0
        case "timezone" if kind_of(made.arguments[0]) == "timedelta":
            days, seconds, *_ = map(_whole, (*made.arguments[0].arguments, 0, 0))
            return (days * 86_400 + seconds) * 10**9
        case "FixedOffset" | "_FixedOffset":
            return _whole(made.arguments[0]) * 60 * 10**9
        case "_p":
            return _whole(made.arguments[1]) * 10**9 if len(made.arguments) > 1 else 0
    raise UnreadablePickle(
        "has datetime objects of a named zone, whose offset it does not tell: make its index one of times "
        "(frame.index = pandas.to_datetime(frame.index, utc=True)), and pickle it again"
    )
