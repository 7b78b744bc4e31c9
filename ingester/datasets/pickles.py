"""Reads the DataFrame in a pickle without executing any of it.

A machine of our own (`pickle_machine.py`) makes inert values of the pickle: plain ones, names as text, and records of
what the pickle wants to be called. A frame is read out of these, each step checked, with arrays that `pickle_arrays.py`
takes from checked bytes. The file decides about nothing else: not what is called, nor how much memory is taken.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ingester.datasets.pickle_arrays import Array, Arrays, what_is
from ingester.datasets.pickle_machine import Machine, Made, Name, UnreadablePickle, kind_of

LEAST_OBJECTS, OBJECTS_PER_BYTE = 10_000_000, 10
"""Opcodes, and cells that are objects, that a pickle may have however small it is packed; and for each packed byte. A
day of 100 ms as text has 35 million opcodes and 18 million cells, and hardly less than 2 MB."""


class PlainFrame(NamedTuple):
    """A frame as plain arrays of one length."""

    names: list[str]
    columns: list[Array]
    """Numbers, datetime64 (UTC), or objects: text, numbers and None."""
    labels: Array
    """Likewise; the rows' index; whole numbers where the frame only counts its rows."""
    labels_name: str | None
    block: Array | None
    """(rows, columns) of which the columns are views, where they all lie in one array."""


def read(content: bytes, packed_bytes: int | None = None) -> PlainFrame:
    """The frame in a pickle of protocol 0 to 5, written under pandas 0.25 to 3. Arrays may be views of `content`.

    `packed_bytes`: the size of the file that `content` was unpacked from. Raises UnreadablePickle.
    """
    most_objects = LEAST_OBJECTS + OBJECTS_PER_BYTE * (len(content) if packed_bytes is None else packed_bytes)
    try:
        return _Reader(len(content), most_objects).frame(Machine(content, most_objects).run())
    except MemoryError as error:
        raise UnreadablePickle("needs more memory than there is") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise UnreadablePickle("is damaged, or no pickle of a frame of books") from error


class _Reader:
    """Reads one frame."""

    def __init__(self, size: int, most_objects: int) -> None:
        """`size`: bytes of the pickle; `most_objects`: cells that may be objects."""
        self._arrays = Arrays(size, most_objects)

    def frame(self, made: Any) -> PlainFrame:
        if kind_of(made) != "DataFrame":
            raise UnreadablePickle(f"is refused: it holds a {what_is(made)}, expected a DataFrame")
        called = made.what.name == "DataFrame" and bool(made.arguments)  # with its parts, as data sets are written
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
        """Where the columns of a part are among all."""
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
        """An index and its name. `rows`: so many are expected; None: any."""
        if kind_of(made) in ("_new_Index", "_new_DatetimeIndex"):
            cls, named = made.arguments
            kind, data = cls.name if isinstance(cls, Name) else "", named.get("data")
        elif isinstance(made, Made):  # a class called with its data, as data sets are written
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
    """Of a frame: its parts, each with the places of its columns; names of columns; the index of its rows."""
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
