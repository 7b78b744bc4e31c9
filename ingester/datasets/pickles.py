"""Reads the DataFrame in a pickle without executing any of it.

A pickle is a program. Here it runs on a machine of our own (`_Machine`), and these hold for every file, however made:

1. The machine makes nothing but None, numbers, text, bytes, tuples, lists, dicts with text as keys, `_Name`, `_Made`. A
   `_Name` is a module and a name as text. A `_Made` records that the program called something, with what, and the
   state that it set. Nothing is imported, looked up, called or changed on behalf of a file.
2. `_KNOWN` is the list of names that a frame needs. Any other name refuses the file.
3. What was made is then read as a frame, step by step, each step checked. The only thing built of a file's bytes is
   `numpy.frombuffer` of a plain type (numbers, booleans, times), whose size has to be exactly that of the bytes.
4. Memory is bounded by the size of the file: nothing is allocated by a length that the file merely states, lists of
   lists cost as much as they take in the file, containers are counted, and a frame has no more cells than bytes.
5. Nothing is walked recursively, so depth and cycles do not matter. Nothing is kept between files.
"""

import codecs
import struct
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.errors import OperationError

Array = npt.NDArray[Any]

MOST_CONTAINERS = 20_000_000
"""Lists, dicts, tuples, calls and marks: each costs up to 150 bytes of memory for a byte of the file."""
MOST_COLUMNS = 10_000


class UnreadablePickle(OperationError):
    """A pickle is damaged, holds no frame, or asks for what a frame does not need."""


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
        return _frame(_Machine(content).run(), len(content))
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, struct.error) as error:
        first = (str(error).splitlines() or [""])[0]
        raise UnreadablePickle(f"is damaged, or no pickle of a frame ({type(error).__name__}: {first:.100})") from error


# ---------------------------------------------------------------------------------------------------- names

_OFFSETS = "Nano Micro Milli Second Minute Hour Day"
_KNOWN = {
    "_codecs": "encode",
    "builtins": "bytearray bytes getattr object slice",
    "copyreg": "__newobj__ _reconstructor",
    "dateutil": "_unpickle gettz tzfile tzlocal tzoffset tzutc",
    "datetime": "datetime timedelta timezone tzinfo",
    "decimal": "Decimal",
    "numpy": "_frombuffer _reconstruct dtype ndarray scalar",
    "pandas": "ArrowStringArray ArrowStringArrayNumpySemantics BlockManager DataFrame DatetimeArray DatetimeIndex "
    "DatetimeTZDtype Float64Index Index Int64Index NAType NaTType RangeIndex StringArray StringArrayNumpySemantics "
    "StringDtype Timestamp UInt64Index __nat_unpickle __pyx_unpickle_NDArrayBacked NDArrayBacked _nat_unpickle "
    f"_new_DatetimeIndex _new_Index _unpickle_block _unpickle_timestamp new_block NA {_OFFSETS}",
    "pyarrow": "_restore_array chunked_array large_string py_buffer string type_for_alias",
    "pytz": "FixedOffset _FixedOffset _UTC _p",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
}
"""By package, as modules move from version to version."""
_MEANINGS = {package: frozenset(names.split()) for package, names in _KNOWN.items()}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_CURES = {
    **dict.fromkeys(["FloatingArray", "IntegerArray", "BooleanArray", "ArrowExtensionArray", "SparseArray"], "numbers"),
    **dict.fromkeys(["Categorical", "CategoricalIndex", "IntervalArray", "PeriodArray", "TimedeltaArray"], "numbers"),
    **dict.fromkeys(["MultiIndex", "PeriodIndex", "TimedeltaIndex", "IntervalIndex"], "index"),
    "Series": "frame",
}
"""What people have in frames, and what to make of it first."""
_ADVICE = {
    "numbers": "make its columns plain numbers (frame.astype('float64')), and pickle it again",
    "frame": "pickle a DataFrame with the columns of books",
    "index": "make its index one of times (frame.set_index('Request Time')), and pickle it again",
}


class _Name:
    """What a pickle names, as text."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        """Raises UnreadablePickle unless frames need it."""
        package = _PYTHON_2.get(module, module).split(".")[0]
        if name not in _MEANINGS.get(package, ()):
            if package == "pandas" and name in _CURES:
                raise UnreadablePickle(
                    f"is refused: it holds a pandas {name}, which is not read: {_ADVICE[_CURES[name]]}"
                )
            raise UnreadablePickle(f"is refused: a frame of books does not need {_shown(module)}.{_shown(name)}")
        self.module, self.name = module, name


class _Made:
    """What a pickle wants to be made: the call and its arguments, and the state set afterwards. It is never made."""

    __slots__ = ("arguments", "named", "state", "what")

    def __init__(self, what: "_Name | _Made", arguments: tuple[Any, ...], named: dict[str, Any] | None = None) -> None:
        self.what, self.arguments, self.named = what, arguments, named or {}
        self.state: Any = None

    @property
    def kind(self) -> str:
        """The name of the class or function, of a helper of pickle that of the class that it is called for."""
        if not isinstance(self.what, _Name):
            return ""
        if self.what.name in ("_reconstructor", "__newobj__", "__pyx_unpickle_NDArrayBacked") and self.arguments:
            what = self.arguments[0]
            return what.name if isinstance(what, _Name) else ""
        return self.what.name


def _kind(value: object) -> str:
    return value.kind if isinstance(value, _Made) else ""


def _shown(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:60])


# -------------------------------------------------------------------------------------------------- machine


class _Machine:
    """Runs the program of a pickle (see the module's docstring). Used once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._view = memoryview(content)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: list[Any] = []
        self._room = MOST_CONTAINERS

    def run(self) -> Any:
        """What is on top of the stack at the end."""
        content, stack, memo = self._content, self._stack, self._memo
        at = 0
        while True:
            code = content[at]
            at += 1
            # Text and what follows it are most of a frame of texts, so they come without a call.
            if code == 0x8C:
                end = at + 1 + content[at]
                stack.append(str(content[at + 1 : end], "utf-8", "surrogatepass"))
                at = end
            elif code == 0x94:
                memo.append(stack[-1])
            elif code == 0x68:
                stack.append(memo[content[at]])
                at += 1
            elif code == 0x2E:
                return stack[-1]
            else:
                do = _OPCODES.get(code)
                if do is None:
                    raise UnreadablePickle(f"is damaged, or no pickle: it has the opcode 0x{code:02x} at {at - 1}")
                at = do(self, at)

    # Arguments in the program

    def _take(self, at: int, size: int) -> bytes:
        if size < 0 or at + size > len(self._content):
            raise UnreadablePickle("is cut short: it ends within its data")
        return self._content[at : at + size]

    def _number(self, at: int, form: str) -> int:
        number: int = struct.unpack_from(form, self._content, at)[0]
        return number

    def _line(self, at: int) -> tuple[bytes, int]:
        end = self._content.index(b"\n", at)
        return self._content[at:end], end + 1

    def _sized(self, at: int, form: str) -> tuple[memoryview, int]:
        """What follows its own length, without a copy, and where it ends."""
        begin = at + struct.calcsize(form)
        end = begin + self._number(at, form)
        if not begin <= end <= len(self._content):
            raise UnreadablePickle("is cut short: it ends within its data")
        return self._view[begin:end], end

    # What is on the stack

    def _count(self) -> None:
        self._room -= 1
        if self._room < 0:
            raise UnreadablePickle(f"is refused: it has more than {MOST_CONTAINERS:,} lists, tuples and objects")

    def _since_mark(self) -> list[Any]:
        begin = self._marks.pop()
        items = self._stack[begin:]
        del self._stack[begin:]
        return items

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _call(self, what: Any, arguments: Any, named: Any = None) -> None:
        if not isinstance(what, _Name | _Made) or not isinstance(arguments, tuple):
            raise UnreadablePickle("is refused: it calls what is nothing to be called")
        if isinstance(what, _Name) and what.name == "getattr":
            of, name = arguments
            if not isinstance(of, _Name) or of.name != "ZoneInfo" or name != "_unpickle":
                raise UnreadablePickle("is refused: a frame of books does not need attributes of what it names")
        self._count()
        self._push(_Made(what, arguments, named if isinstance(named, dict) else None))

    def _into_dict(self, items: list[Any]) -> None:
        into = self._stack[-1]
        if type(into) is not dict:
            raise UnreadablePickle("is refused: it sets items of what is no dict")
        # Only what text names is read of a dict. Other keys could cost a lot: numbers that all collide, deep tuples.
        into.update({key: value for key, value in zip(items[::2], items[1::2], strict=True) if type(key) is str})

    def _into_list(self, items: list[Any]) -> None:
        into = self._stack[-1]
        if type(into) is not list:
            raise UnreadablePickle("is refused: it appends to what is no list")
        into.extend(items)

    def _into_memo(self, place: int) -> None:
        memo = self._memo
        if place < len(memo):
            memo[place] = self._stack[-1]
        elif place <= len(memo) + 1:  # Python 2 begins with 1
            memo.extend([self._stack[-1]] * (place + 1 - len(memo)))
        else:
            raise UnreadablePickle(f"is refused: it notes a part as number {place:,} after {len(memo):,}")

    # Opcodes: each gets where its argument begins and returns where the next opcode is.

    def _mark(self, at: int) -> int:
        self._count()
        self._marks.append(len(self._stack))
        return at

    def _pop(self, at: int) -> int:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()
        return at

    def _pop_mark(self, at: int) -> int:
        self._since_mark()
        return at

    def _dup(self, at: int) -> int:
        self._push(self._stack[-1])
        return at

    def _none(self, at: int) -> int:
        self._push(None)
        return at

    def _true(self, at: int) -> int:
        self._push(True)
        return at

    def _false(self, at: int) -> int:
        self._push(False)
        return at

    def _int_line(self, at: int) -> int:
        line, at = self._line(at)
        self._push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))
        return at

    def _long_line(self, at: int) -> int:
        line, at = self._line(at)
        self._push(int(line.removesuffix(b"L")))
        return at

    def _float_line(self, at: int) -> int:
        line, at = self._line(at)
        self._push(float(line))
        return at

    def _int4(self, at: int) -> int:
        self._push(self._number(at, "<i"))
        return at + 4

    def _int1(self, at: int) -> int:
        self._push(self._content[at])
        return at + 1

    def _int2(self, at: int) -> int:
        self._push(self._number(at, "<H"))
        return at + 2

    def _float8(self, at: int) -> int:
        self._push(struct.unpack_from(">d", self._content, at)[0])
        return at + 8

    def _long1(self, at: int) -> int:
        size = self._content[at]
        self._push(int.from_bytes(self._take(at + 1, size), "little", signed=True))
        return at + 1 + size

    def _long4(self, at: int) -> int:
        size = self._number(at, "<i")
        if not 0 <= size <= 255:  # as many digits as no time and no number of a book has
            raise UnreadablePickle(f"is refused: it has a whole number of {size:,} bytes")
        self._push(int.from_bytes(self._take(at + 4, size), "little", signed=True))
        return at + 4 + size

    def _string_line(self, at: int) -> int:
        line, at = self._line(at)
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"\"'":
            raise UnreadablePickle("is damaged: it has text without quotation marks")
        self._push(codecs.escape_decode(line[1:-1])[0].decode("latin1"))
        return at

    def _unicode_line(self, at: int) -> int:
        line, at = self._line(at)
        self._push(str(line, "raw-unicode-escape"))
        return at

    def _get_line(self, at: int) -> int:
        line, at = self._line(at)
        self._push(self._memo[_natural(int(line))])
        return at

    def _get4(self, at: int) -> int:
        self._push(self._memo[self._number(at, "<I")])
        return at + 4

    def _put_line(self, at: int) -> int:
        line, at = self._line(at)
        self._into_memo(_natural(int(line)))
        return at

    def _put1(self, at: int) -> int:
        self._into_memo(self._content[at])
        return at + 1

    def _put4(self, at: int) -> int:
        self._into_memo(self._number(at, "<I"))
        return at + 4

    def _empty_list(self, at: int) -> int:
        self._count()
        self._push([])
        return at

    def _empty_dict(self, at: int) -> int:
        self._count()
        self._push({})
        return at

    def _empty_tuple(self, at: int) -> int:
        self._push(())
        return at

    def _list(self, at: int) -> int:
        self._count()
        self._push(self._since_mark())
        return at

    def _dict(self, at: int) -> int:
        items = self._since_mark()
        self._empty_dict(at)
        self._into_dict(items)
        return at

    def _tuple(self, at: int) -> int:
        self._count()
        self._push(tuple(self._since_mark()))
        return at

    def _append(self, at: int) -> int:
        item = self._stack.pop()
        self._into_list([item])
        return at

    def _appends(self, at: int) -> int:
        self._into_list(self._since_mark())
        return at

    def _setitem(self, at: int) -> int:
        value, key = self._stack.pop(), self._stack.pop()
        self._into_dict([key, value])
        return at

    def _setitems(self, at: int) -> int:
        self._into_dict(self._since_mark())
        return at

    def _global(self, at: int) -> int:
        module, at = self._line(at)
        name, at = self._line(at)
        self._count()
        self._push(_Name(module.decode(), name.decode()))
        return at

    def _stack_global(self, at: int) -> int:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise UnreadablePickle("is refused: it names something by what is no text")
        self._count()
        self._push(_Name(module, name))
        return at

    def _reduce(self, at: int) -> int:
        arguments, what = self._stack.pop(), self._stack.pop()
        self._call(what, arguments)
        return at

    def _newobj_ex(self, at: int) -> int:
        named, arguments, what = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._call(what, arguments, named)
        return at

    def _inst(self, at: int) -> int:
        at = self._global(at)
        what = self._stack.pop()
        self._call(what, tuple(self._since_mark()))
        return at

    def _obj(self, at: int) -> int:
        what, *arguments = self._since_mark()
        self._call(what, tuple(arguments))
        return at

    def _build(self, at: int) -> int:
        state = self._stack.pop()
        if not isinstance(self._stack[-1], _Made):
            raise UnreadablePickle("is refused: it changes what it did not make")
        self._stack[-1].state = state
        return at

    def _protocol(self, at: int) -> int:
        if self._content[at] > 5:
            raise UnreadablePickle(f"has the pickle protocol {self._content[at]}; 0 to 5 are read")
        return at + 1

    def _frame(self, at: int) -> int:
        return at + 8  # how much to read at once: all is here

    def _refused(self, at: int) -> int:
        raise UnreadablePickle("is refused: it leads to things outside of the file")


def _natural(number: int) -> int:
    if number < 0:
        raise UnreadablePickle(f"is damaged: it notes a part as number {number}")
    return number


_Opcode = Callable[[_Machine, int], int]


def _text(form: str, encoding: str, errors: str = "strict") -> _Opcode:
    def take(machine: _Machine, at: int) -> int:
        data, end = machine._sized(at, form)
        machine._push(str(data, encoding, errors))
        return end

    return take


def _data(form: str) -> _Opcode:
    def take(machine: _Machine, at: int) -> int:
        data, end = machine._sized(at, form)
        machine._push(data)
        return end

    return take


def _tuple_of(count: int) -> _Opcode:
    def take(machine: _Machine, at: int) -> int:
        machine._count()
        items = tuple(machine._stack[-count:])
        if len(items) < count:
            raise UnreadablePickle("is damaged: it has a tuple of more than there is")
        machine._stack[-count:] = [items]
        return at

    return take


_OPCODES: dict[int, _Opcode] = {
    ord("("): _Machine._mark,
    ord("0"): _Machine._pop,
    ord("1"): _Machine._pop_mark,
    ord("2"): _Machine._dup,
    ord("F"): _Machine._float_line,
    ord("I"): _Machine._int_line,
    ord("J"): _Machine._int4,
    ord("K"): _Machine._int1,
    ord("L"): _Machine._long_line,
    ord("M"): _Machine._int2,
    ord("N"): _Machine._none,
    ord("P"): _Machine._refused,  # an object of the program that reads, by its number
    ord("Q"): _Machine._refused,
    ord("R"): _Machine._reduce,
    ord("S"): _Machine._string_line,
    ord("T"): _text("<i", "latin1"),  # Python 2's bytes, which are text as well
    ord("U"): _text("B", "latin1"),
    ord("V"): _Machine._unicode_line,
    ord("X"): _text("<I", "utf-8", "surrogatepass"),
    ord("a"): _Machine._append,
    ord("b"): _Machine._build,
    ord("c"): _Machine._global,
    ord("d"): _Machine._dict,
    ord("}"): _Machine._empty_dict,
    ord("e"): _Machine._appends,
    ord("g"): _Machine._get_line,
    ord("i"): _Machine._inst,
    ord("j"): _Machine._get4,
    ord("l"): _Machine._list,
    ord("]"): _Machine._empty_list,
    ord("o"): _Machine._obj,
    ord("p"): _Machine._put_line,
    ord("q"): _Machine._put1,
    ord("r"): _Machine._put4,
    ord("s"): _Machine._setitem,
    ord("t"): _Machine._tuple,
    ord(")"): _Machine._empty_tuple,
    ord("u"): _Machine._setitems,
    ord("G"): _Machine._float8,
    ord("B"): _data("<I"),
    ord("C"): _data("B"),
    0x80: _Machine._protocol,
    0x81: _Machine._reduce,  # NEWOBJ
    0x82: _Machine._refused,  # the registry of the program that reads
    0x83: _Machine._refused,
    0x84: _Machine._refused,
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    0x88: _Machine._true,
    0x89: _Machine._false,
    0x8A: _Machine._long1,
    0x8B: _Machine._long4,
    0x8D: _text("<Q", "utf-8", "surrogatepass"),
    0x8E: _data("<Q"),
    0x8F: _Machine._empty_list,  # sets: nothing that is read has any
    0x90: _Machine._appends,
    0x91: _Machine._tuple,
    0x92: _Machine._newobj_ex,
    0x93: _Machine._stack_global,
    0x95: _Machine._frame,
    0x96: _data("<Q"),
    0x97: _Machine._refused,  # buffers of the program that reads
    0x98: _Machine._refused,
}


# --------------------------------------------------------------------------------------------------- frames


_Block = tuple[Any, Sequence[int]]
"""Values, and the places of their columns."""


def _frame(made: Any, size: int) -> Plain:
    if _kind(made) != "DataFrame":
        what = _kind(made) or type(made).__name__
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
    block = None
    for number, (values, places) in enumerate(blocks):
        array = _array(values)
        by_column = array.reshape(1, -1) if array.ndim == 1 else array.T if called else array
        if len(by_column) != len(places):
            raise UnreadablePickle(f"is damaged: a part has {len(by_column)} columns, expected {len(places)}")
        if by_column.size > size:
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
    if rows * len(whole) > size:
        raise UnreadablePickle("is refused: it has more cells than bytes")
    return Plain(names, whole, index, index_name, block)


def _managed(manager: Any, size: int) -> tuple[list[_Block], list[Any]]:
    """Blocks, each with the places of its columns, and axes: columns and rows."""
    if _kind(manager) != "BlockManager":
        raise UnreadablePickle("is damaged, or of pandas before 0.25: its frame has no blocks")
    if isinstance(manager.state, tuple):  # until pandas 1.2
        state = manager.state[3]["0.14.1"]
        axes, pairs = state["axes"], [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    else:
        made, axes = manager.arguments[:2]
        if any(_kind(block) not in ("_unpickle_block", "new_block") for block in made):
            raise UnreadablePickle("is damaged: its blocks are none")
        pairs = [block.arguments[:2] for block in made]
    return [(values, _places(places, size)) for values, places in pairs], [axes[0], axes[1]]


def _places(made: Any, size: int) -> Sequence[int]:
    if _kind(made) == "slice":
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
    if _kind(made) in ("_new_Index", "_new_DatetimeIndex"):
        cls, named = made.arguments
        kind = cls.name if isinstance(cls, _Name) else ""
        data = named.get("data")
    else:  # a class called with its data, as data sets are written
        kind, named = _kind(made), getattr(made, "named", {})
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
        kind = _kind(made)
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
    raise UnreadablePickle(f"holds columns of the kind {_kind(made) or type(made).__name__}, which is not read")


def _held(made: _Made) -> Any:
    """The one array in the state of an array of pandas."""
    parts = list(made.state) if isinstance(made.state, tuple) else [made.state]
    for part in list(parts):
        parts += part.values() if isinstance(part, dict) else ()
    held = [part for part in parts if _kind(part) in ("_reconstruct", "_frombuffer", "DatetimeArray")]
    if len(held) != 1:
        raise UnreadablePickle("is damaged: an array of pandas holds no values")
    return held[0]


def _checked_array(shape: Any, dtype: Any, data: Any, by_column: bool) -> Array:
    sizes = [_natural(_whole(size)) for size in shape]
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
    if made in ("<f8", "<M8[ns]"):  # as data sets are written
        return _FLOATS if made == "<f8" else _TIMES
    if _kind(made) != "dtype":
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
        raise UnreadablePickle(f"is refused: it holds numbers of the type {_shown(str(code))} {_shown(str(unit))}")
    plain: np.dtype[Any] = np.dtype(f"{order}{code}")
    return plain


def _bytes(made: Any) -> bytes | memoryview:
    """Of what is bytes, or text that stands for them in protocols 0 to 2."""
    for _ in range(4):
        if isinstance(made, bytes | memoryview):
            return made
        if isinstance(made, str):
            return made.encode("latin1")
        if _kind(made) not in ("bytearray", "bytes", "encode", "py_buffer"):
            break
        if not made.arguments:
            return b""
        if made.arguments[1:] not in ((), ("latin1",), ("latin-1",)):
            raise UnreadablePickle("is refused: it has bytes in an encoding of its own")
        made = made.arguments[0]
    raise UnreadablePickle("is damaged: an array has no bytes")


def _whole(number: Any) -> int:
    """An int, also as numpy pickles one of its own."""
    if _kind(number) == "scalar":
        number = _scalar(number)
    if type(number) is not int or not -(1 << 63) <= number < 1 << 63:
        raise UnreadablePickle("is damaged: it has a size or a time that is no number")
    return number


def _scalar(made: _Made) -> Any:
    dtype, data = made.arguments
    return _checked_array((1,), dtype, data, False).tolist()[0]


def _arrow_texts(made: _Made) -> Array:
    """Text as pyarrow keeps it: where each one ends, and all of them together."""
    state = made.state
    chunks = [state["_pa_array"] if "_pa_array" in state else state["_data"]]
    if _kind(chunks[0]) == "chunked_array":
        chunks = chunks[0].arguments[0]
    return np.concatenate([np.empty(0, object), *map(_arrow_chunk, chunks)])


def _arrow_chunk(made: Any) -> Array:
    if _kind(made) != "_restore_array":
        raise UnreadablePickle("is damaged: text of pyarrow is none")
    ((type_made, length, _, offset, buffers, _, _),) = (arguments[:7] for arguments in made.arguments)
    named = type_made.arguments[0] if _kind(type_made) == "type_for_alias" else _kind(type_made)
    widths = {"string": "<i4", "large_string": "<i8"}
    if named not in widths:
        raise UnreadablePickle(f"holds pyarrow's {_shown(str(named))}, which is not read: {_ADVICE['numbers']}")
    valid, offsets, data = (b"" if buffer is None else _bytes(buffer) for buffer in buffers)
    first, stop = _natural(_whole(offset)), _natural(_whole(offset)) + _natural(_whole(length))
    if first == stop:
        return np.empty(0, object)
    numbers = np.frombuffer(offsets[: len(offsets) // 8 * 8], widths[named])
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
    if isinstance(cell, _Name) and cell.name == "NA":
        return None
    match _kind(cell):
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
    raise UnreadablePickle(f"has cells of the kind {_kind(cell) or type(cell).__name__}; expected numbers or text")


def _datetime_ns(made: _Made) -> int:
    fields = bytes(_bytes(made.arguments[0]))
    if len(fields) != 10:
        raise UnreadablePickle("is damaged: it has a time that is none")
    year, (month, day, hour, minute, second) = int.from_bytes(fields[:2], "big"), fields[2:7]
    at = datetime(year, month & 0x7F, day, hour, minute, second, int.from_bytes(fields[7:], "big"))
    zone = made.arguments[1] if len(made.arguments) > 1 else None
    return ((at - _ZERO) // timedelta(microseconds=1)) * 1000 - (0 if zone is None else _zone_ns(zone))


def _zone_ns(made: Any) -> int:
    """How far a zone of one offset is ahead of UTC; other zones are rules, which are not looked up."""
    match _kind(made):
        case "_UTC" | "tzutc":
            return 0
        case "timezone" if _kind(made.arguments[0]) == "timedelta":
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
