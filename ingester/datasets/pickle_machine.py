"""The opcode machine that runs pickles. It makes inert values of them and calls nothing.

A pickle is a program. These invariants hold for every pickle:

1. The machine makes only None, numbers, text, bytes, tuples, lists, dicts with text as keys, `Name` and `Made`. A
   `Name` is a module and a name as text. A `Made` records a call: the function, its arguments, and the state that was
   set afterwards. Nothing is imported, looked up, called or changed for a pickle.
2. `_KNOWN` lists the names that a frame of books needs. A pickle with any other name is refused.
3. The size of the pickle bounds memory: a length that the pickle states allocates nothing, and containers are counted.
   No value is traversed, so depth and cycles do not matter. No state is kept between pickles.
4. Time is bounded, too: opcodes are counted, because a few compressed bytes can become hundreds of millions of opcodes.
"""

import struct
from collections.abc import Callable
from itertools import repeat
from typing import Any

from ingester.errors import OperationError

MOST_CONTAINERS = 5_000_000
"""Limit of lists, dicts, tuples, calls, names, bytes and marks. Each takes up to 200 bytes for one or two opcodes."""


class UnreadablePickle(OperationError):
    """A pickle is damaged, holds no frame, or has a name or an opcode that a frame does not need."""


_KNOWN = {
    "_codecs": "encode",
    "builtins": "bytearray bytes getattr object slice",
    "copyreg": "__newobj__ _reconstructor",
    "dateutil": "_unpickle gettz tzfile tzlocal tzoffset tzutc",
    "datetime": "date datetime time timedelta timezone tzinfo",
    "decimal": "Decimal",
    "numpy": "_frombuffer _reconstruct dtype ndarray scalar",
    "pandas": "ArrowStringArray ArrowStringArrayNumpySemantics BlockManager DataFrame DatetimeArray DatetimeIndex "
    "DatetimeTZDtype Float64Index Index Int64Index NAType NaTType RangeIndex StringArray StringArrayNumpySemantics "
    "StringDtype Timestamp UInt64Index __nat_unpickle __pyx_unpickle_NDArrayBacked NDArrayBacked _nat_unpickle "
    "_new_DatetimeIndex _new_Index _unpickle_block _unpickle_timestamp new_block NA "
    "Nano Micro Milli Second Minute Hour Day",
    "pyarrow": "_restore_array chunked_array large_string py_buffer string type_for_alias",
    "pytz": "FixedOffset _FixedOffset _UTC _p",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
}
"""Names by package, because they move between modules from version to version."""
_MEANINGS = {package: frozenset(names.split()) for package, names in _KNOWN.items()}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_UNREAD = frozenset(
    "ArrowExtensionArray BooleanArray Categorical CategoricalIndex FloatingArray IntegerArray IntervalArray MultiIndex "
    "IntervalIndex PeriodArray PeriodIndex Series SparseArray TimedeltaArray TimedeltaIndex".split()
)
"""Classes of pandas that are not read, for a better message."""
ADVICE = (
    "make it a frame of plain numbers (frame.astype('float64')) with an index of times "
    "(frame.set_index('Request Time')), and pickle it again"
)


class Name:
    """A module and a name in it, as text."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        """Raises UnreadablePickle if a frame does not need this name."""
        package = _PYTHON_2.get(module, module).split(".")[0]
        if name not in _MEANINGS.get(package, ()):
            if package == "pandas" and name in _UNREAD:
                raise UnreadablePickle(f"is refused: it holds a pandas {name}, which is not read: {ADVICE}")
            raise UnreadablePickle(f"is refused: a frame of books does not need {shown(module)}.{shown(name)}")
        self.module, self.name = module, name


class Made:
    """A call that a pickle asks for: function, arguments, and the state set afterwards. It is recorded, never made."""

    __slots__ = ("arguments", "named", "state", "what")

    def __init__(self, what: "Name | Made", arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.what, self.arguments, self.named = what, arguments, named
        self.state: Any = None

    @property
    def kind(self) -> str:
        """The name of the called class or function. For a helper of pickle: the name of the class that it makes."""
        if not isinstance(self.what, Name):
            return ""
        if self.what.name in ("_reconstructor", "__newobj__", "__pyx_unpickle_NDArrayBacked") and self.arguments:
            what = self.arguments[0]
            return what.name if isinstance(what, Name) else ""
        return self.what.name


def kind_of(value: object) -> str:
    """Returns the `kind` of a `Made`; empty for any other value."""
    return value.kind if isinstance(value, Made) else ""


def shown(text: str) -> str:
    """Returns the first 60 characters for a message, with `?` for those that cannot be printed."""
    return "".join(each if each.isprintable() else "?" for each in text[:60])


_WIDTHS = {"B": 1, "<i": 4, "<I": 4, "<Q": 8}


class Machine:
    """Runs one pickle, with the invariants in the docstring of this module."""

    def __init__(self, content: bytes, most_opcodes: int) -> None:
        self.content = content
        self._most_opcodes = most_opcodes
        self._view = memoryview(content)
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self.memo: list[Any] = []
        self._room = MOST_CONTAINERS

    def run(self) -> Any:
        """Returns the value on top of the stack at the end. Raises UnreadablePickle and the errors of damaged bytes."""
        content, stack, memo = self.content, self.stack, self.memo
        at = 0
        for _ in repeat(None, self._most_opcodes):
            code = content[at]
            at += 1
            # The most frequent opcodes of a frame of texts are handled here, without a call.
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
        raise UnreadablePickle(
            f"is refused: it unpacks to more than {self._most_opcodes:,} instructions; expected a frame of plain "
            f"numbers. If it is sound, {ADVICE}, or unpack it and import that"
        )

    # Arguments after an opcode

    def number(self, at: int, form: str) -> Any:
        return struct.unpack_from(form, self.content, at)[0]

    def line(self, at: int) -> str:
        return str(self.content[at : self.after_line(at) - 1], "raw-unicode-escape")

    def after_line(self, at: int) -> int:
        return self.content.index(b"\n", at) + 1

    def sized(self, at: int, form: str) -> tuple[memoryview, int]:
        """Returns the data after a length field, without a copy, and the offset of its end."""
        begin = at + _WIDTHS[form]
        end = begin + self.number(at, form)
        if not begin <= end <= len(self.content):
            raise UnreadablePickle("is cut short: it ends within its data")
        return self._view[begin:end], end

    # The opcodes. Each gets the offset of the next opcode, `after`, and returns it.

    def push(self, value: Any, after: int) -> int:
        self.stack.append(value)
        return after

    def push_counted(self, value: Any, after: int) -> int:
        self.count()
        self.stack.append(value)
        return after

    def count(self) -> None:
        self._room -= 1
        if self._room < 0:
            raise UnreadablePickle(f"is refused: it has more than {MOST_CONTAINERS:,} lists, dicts, tuples and objects")

    def push_last(self, count: int, after: int) -> int:
        """Replaces the last `count` values by a tuple of them."""
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise UnreadablePickle("is damaged: it has a tuple of more than there is")
        del self.stack[-count:]
        return self.push_counted(items, after)

    def mark(self, after: int) -> int:
        self.count()
        self._marks.append(len(self.stack))
        return after

    def since_mark(self) -> list[Any]:
        begin = self._marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def pop(self, after: int) -> int:
        if self._marks and self._marks[-1] == len(self.stack):
            self._marks.pop()
        else:
            self.stack.pop()
        return after

    def last(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def call(self, after: int, what: Any, arguments: Any, named: Any = None) -> int:
        if not isinstance(what, Name | Made) or not isinstance(arguments, tuple):
            raise UnreadablePickle("is refused: it calls what is nothing to be called")
        if isinstance(what, Name) and what.name == "getattr":
            of, name = arguments
            if not isinstance(of, Name) or of.name != "ZoneInfo" or name != "_unpickle":
                raise UnreadablePickle("is refused: a frame of books does not need attributes of what it names")
        return self.push_counted(Made(what, arguments, named if isinstance(named, dict) else {}), after)

    def build(self, after: int) -> int:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Made):
            raise UnreadablePickle("is refused: it changes what it did not make")
        self.stack[-1].state = state
        return after

    def name(self, after: int, module: Any, name: Any) -> int:
        if type(name) is not str or type(module) is not str:
            raise UnreadablePickle("is refused: it names something by what is no text")
        return self.push_counted(Name(module, name), after)

    def extend(self, items: list[Any], after: int) -> int:
        if type(self.stack[-1]) is not list:
            raise UnreadablePickle("is refused: it appends to what is no list")
        self.stack[-1].extend(items)
        return after

    def update(self, items: list[Any], after: int) -> int:
        """Sets items of a dict, only those with text as key: others are never read, and their hashes may collide."""
        if type(self.stack[-1]) is not dict:
            raise UnreadablePickle("is refused: it sets items of what is no dict")
        pairs = zip(items[::2], items[1::2], strict=True)
        self.stack[-1].update({key: value for key, value in pairs if type(key) is str})
        return after

    def note(self, place: int, after: int) -> int:
        memo = self.memo
        if 0 <= place < len(memo):
            memo[place] = self.stack[-1]
        elif len(memo) <= place <= len(memo) + 1:  # Python 2 begins with 1
            memo.extend([self.stack[-1]] * (place + 1 - len(memo)))
        else:
            raise UnreadablePickle(f"is refused: it notes a part as number {place:,} after {len(memo):,}")
        return after

    def long(self, form: str, at: int) -> int:
        digits, after = self.sized(at, form)
        if len(digits) > 255:
            raise UnreadablePickle(f"is refused: it has a whole number of {len(digits):,} bytes")
        return self.push(int.from_bytes(digits, "little", signed=True), after)

    def text(self, form: str, encoding: str, at: int) -> int:
        data, after = self.sized(at, form)
        return self.push(str(data, encoding, "surrogatepass"), after)

    def data(self, form: str, at: int) -> int:
        return self.push_counted(*self.sized(at, form))

    def outside(self, at: int) -> int:
        raise UnreadablePickle("is refused: it leads to things outside of the file")


_OPCODES: dict[int, Callable[[Machine, int], int]] = {
    # values
    ord("N"): lambda m, at: m.push(None, at),
    0x88: lambda m, at: m.push(True, at),
    0x89: lambda m, at: m.push(False, at),
    ord("I"): lambda m, at: m.push(int(m.line(at)), m.after_line(at)),
    ord("L"): lambda m, at: m.push(int(m.line(at).removesuffix("L")), m.after_line(at)),
    ord("F"): lambda m, at: m.push(float(m.line(at)), m.after_line(at)),
    ord("J"): lambda m, at: m.push(m.number(at, "<i"), at + 4),
    ord("K"): lambda m, at: m.push(m.content[at], at + 1),
    ord("M"): lambda m, at: m.push(m.number(at, "<H"), at + 2),
    ord("G"): lambda m, at: m.push(m.number(at, ">d"), at + 8),
    0x8A: lambda m, at: m.long("B", at),
    0x8B: lambda m, at: m.long("<i", at),
    ord("V"): lambda m, at: m.push(m.line(at), m.after_line(at)),
    ord("X"): lambda m, at: m.text("<I", "utf-8", at),
    0x8D: lambda m, at: m.text("<Q", "utf-8", at),
    ord("T"): lambda m, at: m.text("<i", "latin1", at),  # bytes of Python 2, which are text too
    ord("U"): lambda m, at: m.text("B", "latin1", at),
    ord("C"): lambda m, at: m.data("B", at),
    ord("B"): lambda m, at: m.data("<I", at),
    0x8E: lambda m, at: m.data("<Q", at),
    0x96: lambda m, at: m.data("<Q", at),
    # containers; sets become lists, because a frame has no sets
    ord("("): Machine.mark,
    ord(")"): lambda m, at: m.push((), at),
    ord("t"): lambda m, at: m.push_counted(tuple(m.since_mark()), at),
    0x85: lambda m, at: m.push_last(1, at),
    0x86: lambda m, at: m.push_last(2, at),
    0x87: lambda m, at: m.push_last(3, at),
    0x91: lambda m, at: m.push_counted(tuple(m.since_mark()), at),
    ord("]"): lambda m, at: m.push_counted([], at),
    0x8F: lambda m, at: m.push_counted([], at),
    ord("l"): lambda m, at: m.push_counted(m.since_mark(), at),
    ord("a"): lambda m, at: m.extend(m.last(1), at),
    ord("e"): lambda m, at: m.extend(m.since_mark(), at),
    0x90: lambda m, at: m.extend(m.since_mark(), at),
    ord("}"): lambda m, at: m.push_counted({}, at),
    ord("d"): lambda m, at: m.update(m.since_mark(), m.push_counted({}, at)),
    ord("s"): lambda m, at: m.update(m.last(2), at),
    ord("u"): lambda m, at: m.update(m.since_mark(), at),
    # the stack and the memo
    ord("0"): Machine.pop,
    ord("1"): lambda m, at: (m.since_mark(), at)[1],
    ord("2"): lambda m, at: m.push(m.stack[-1], at),
    ord("g"): lambda m, at: m.push(m.memo[int(m.line(at))], m.after_line(at)),
    ord("j"): lambda m, at: m.push(m.memo[m.number(at, "<I")], at + 4),
    ord("p"): lambda m, at: m.note(int(m.line(at)), m.after_line(at)),
    ord("q"): lambda m, at: m.note(m.content[at], at + 1),
    ord("r"): lambda m, at: m.note(m.number(at, "<I"), at + 4),
    # names and calls
    ord("c"): lambda m, at: m.name(m.after_line(m.after_line(at)), m.line(at), m.line(m.after_line(at))),
    0x93: lambda m, at: m.name(at, *m.last(2)),
    ord("R"): lambda m, at: m.call(at, *m.last(2)),
    0x81: lambda m, at: m.call(at, *m.last(2)),
    0x92: lambda m, at: m.call(at, *m.last(3)),
    ord("b"): Machine.build,
    # framing
    0x80: lambda m, at: at + 1,  # the protocol
    0x95: lambda m, at: at + 8,  # the length of a frame; all frames are in memory
    # persistent objects, extension registry, out-of-band buffers
    **dict.fromkeys([ord("P"), ord("Q"), 0x82, 0x83, 0x84, 0x97, 0x98], Machine.outside),
}
