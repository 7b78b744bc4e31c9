"""Reads pickles of frames with random damage and random malice, and watches what that does.

    python tests/support/pickle_mutations.py 1000000 --seed 1

Each is read or refused with the module's own error. It fails where reading imports, opens, compiles or calls something
(what Python's audit events tell), takes more memory than a file may cost, raises anything else, or changes how a
sound file is read afterwards. A crash ends the process.
"""

import argparse
import copyreg
import io
import os
import pickle
import pickletools
import random
import resource
import struct
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from ingester.datasets import pickle_machine, pickles
from ingester.datasets.formats import pickle_frame

SAMPLES = Path(__file__).parents[1] / "data" / "pickles.tar.xz"
ROOM = 512 << 20
"""Of address space: so much more than at the start may be taken."""
SLOWEST_SECONDS = 5.0
LARGEST_FILE = 1 << 16

NAMES = """os system|posix system|builtins eval|builtins exec|builtins getattr|builtins setattr|builtins __import__
|builtins bytearray|builtins object|builtins type|builtins slice|subprocess Popen|pickle loads|copyreg _reconstructor
|copyreg __newobj__|copyreg add_extension|_codecs encode|_codecs decode|numpy ndarray|numpy dtype|numpy load
|numpy.core.multiarray _reconstruct|numpy._core.multiarray scalar|numpy._core.numeric _frombuffer|numpy frombuffer
|numpy.lib.format open_memmap|pandas DataFrame|pandas read_pickle|pandas eval|pandas DatetimeIndex|pandas Timestamp
|pandas._libs.internals _unpickle_block|pandas.core.internals.blocks new_block
|pandas.core.internals.managers BlockManager
|pandas.core.indexes.base _new_Index|pandas.core.indexes.datetimes _new_DatetimeIndex|pandas.arrays DatetimeArray
|pandas.core.arrays.string_ StringArray|pandas.arrays ArrowStringArray|pandas RangeIndex|pandas StringDtype
|pandas._libs.arrays __pyx_unpickle_NDArrayBacked|pandas._libs.tslibs.timestamps _unpickle_timestamp|decimal Decimal
|datetime datetime|datetime timezone|datetime timedelta|zoneinfo ZoneInfo|pyarrow.lib _restore_array
|pyarrow.lib py_buffer|pyarrow.lib type_for_alias|pyarrow.lib chunked_array|pytz _p|pytz _UTC""".replace("\n", "")
TEXTS = [
    "O8",
    "f8",
    "M8",
    "V8",
    "S0",
    "U1000000000",
    "i8",
    "b1",
    "<f8",
    "<M8[ns]",
    "latin1",
    "utf-16",
    "ns",
    "<",
    ">",
    "",
    "_mgr",
    "_data",
    "data",
    "name",
    "__setstate__",
    "__class__",
    "__dict__",
    "touch made",
    "Bid_1",
    "\ud800",
    "é" * 9,
]
NUMBERS = [0, 1, -1, 2, 7, 8, 20, 255, 256, 65535, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63), 2**63]
LENGTHS = [0, 1, 2**16, 2**31 - 1, 2**32 - 1]
PLAIN_OPCODES = b"(.012NRabdelostu)]}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98PQ"


def samples() -> list[bytes]:
    """Pickles of real frames, of all versions, and one as data sets have them."""
    with tarfile.open(SAMPLES) as archive:
        files = [archive.extractfile(member) for member in archive if member.name.endswith(".pkl")]
        found = [file.read() for file in files if file is not None]
    written = io.BytesIO()
    pickle_frame(written, np.zeros(3, np.int64), np.zeros((3, 8)))
    return [*found, written.getvalue()]


def opcodes(content: bytes) -> list[bytes]:
    """A pickle cut into its instructions."""
    places = [place for _, _, place in pickletools.genops(content)]
    return [content[begin:end] for begin, end in zip(places, [*places[1:], len(content)], strict=True)]


class Mutator:
    """Makes pickles out of others, in the same way for the same seed."""

    def __init__(self, sound: list[bytes], seed: int) -> None:
        self._chance = random.Random(seed)
        self._sound = sound
        self._parts = [opcodes(each) for each in sound]
        self._names = [tuple(name.split()) for name in NAMES.split("|")]

    def pickle(self) -> bytes:
        chance = self._chance
        if chance.random() < 0.3:
            content = bytearray(chance.choice(self._sound))
            for _ in range(chance.choice([1, 1, 2, 5])):
                self._bytes(content)
            return bytes(content[:LARGEST_FILE])
        parts = [b"\x80\x04"] if chance.random() < 0.05 else list(chance.choice(self._parts))
        change = self._same_kind if chance.random() < 0.5 else self._instructions
        for _ in range(chance.choice([1, 1, 1, 2, 3, 8, 40])):
            change(parts)
        return b"".join(parts)[:LARGEST_FILE]

    def _bytes(self, content: bytearray) -> None:
        chance = self._chance
        at = chance.randrange(len(content) + 1)
        match chance.randrange(6):
            case 0 if at < len(content):
                content[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(content):
                content[at] = chance.randrange(256)
            case 2:
                content[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                del content[at : at + chance.choice([1, 2, 8, 100])]
            case 4:
                del content[at:]
                content += b"."
            case 5:
                other = chance.choice(self._sound)
                begin = chance.randrange(len(other))
                content[at:at] = other[begin : begin + chance.choice([1, 4, 50, 500])]

    def _instructions(self, parts: list[bytes]) -> None:
        chance = self._chance
        at = chance.randrange(len(parts) + 1)
        match chance.randrange(7):
            case 0 if at < len(parts):
                parts[at] = self._instruction()
            case 1:
                parts.insert(at, self._instruction())
            case 2 if at < len(parts):
                del parts[at]
            case 3 if at < len(parts):
                parts[at:at] = [parts[at]] * chance.choice([1, 2, 300])
            case 4 if at < len(parts):
                other = chance.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 5:
                other = chance.choice(self._parts)
                begin = chance.randrange(len(other))
                parts[at:at] = other[begin : begin + chance.choice([1, 3, 10, 60])]
            case 6:
                self._same_kind(parts)

    def _same_kind(self, parts: list[bytes]) -> None:
        """Another argument for some instruction: what keeps a pickle most nearly sound."""
        chance = self._chance
        kinds = [chance.choice([b"K", b"M", b"J", b"\x8a"]), chance.choice([b"\x8c", b"X"]), b"h", b"\x93"]
        kind = chance.choice(kinds)
        places = [place for place, part in enumerate(parts) if part[:1] == kind]
        if places:
            at = chance.choice(places)
            if kind in (b"\x8c", b"X"):
                parts[at] = _text(chance.choice(TEXTS))
            elif kind == b"h":
                parts[at] = b"h" + bytes([chance.randrange(256)])
            elif kind == b"\x93":
                module, name = chance.choice(self._names)
                parts[at] = b"00" + _text(module) + _text(name) + b"\x93"
            else:
                parts[at] = pickle.dumps(chance.choice(NUMBERS), 2)[2:-1]

    def _instruction(self) -> bytes:
        chance = self._chance
        module, name = chance.choice(self._names)
        length = chance.choice(LENGTHS)
        match chance.randrange(14):
            case 0 | 1 | 2:
                return bytes([chance.choice(PLAIN_OPCODES)])
            case 3:
                return _text(module) + _text(name) + b"\x93"
            case 4:
                return b"c" + f"{module}\n{name}\n".encode()
            case 5:
                return _text(chance.choice(TEXTS))
            case 6:
                return pickle.dumps(chance.choice(NUMBERS), 2)[2:-1]
            case 7:
                return chance.choice([b"h", b"q", b"\x82"]) + bytes([chance.randrange(256)])
            case 8:
                return chance.choice([b"j", b"r", b"\x84", b"B", b"X", b"T"]) + struct.pack("<I", length)
            case 9:
                return chance.choice([b"\x8e", b"\x8d", b"\x96", b"\x95"]) + struct.pack(
                    "<Q", length << chance.choice([0, 31])
                )
            case 10:
                return b"\x8b" + struct.pack("<I", length)
            case 11:
                return (
                    chance.choice([b"I", b"L", b"F", b"S", b"V", b"g", b"p", b"P", b"i"])
                    + chance.choice([b"1", b"-1", b"9" * 5000, b"1e999", b"'x'", b"'\\x", b"os\nsystem", b"nan"])
                    + b"\n"
                )
            case 12:  # a call of something with something
                return _text(module) + _text(name) + b"\x93" + _text("touch made") + b"\x85R"
            case _:  # a state for whatever is there
                return b"}" + _text(chance.choice(TEXTS)) + b"Nsb"


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(data)]) + data


class Watch:
    """What happens in this process while a file is read."""

    def __init__(self) -> None:
        self.watching = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.watching:
            self.seen.append(f"{event} {arguments!s:.100}")

    def read(self, content: bytes) -> pickles.PlainFrame:
        self.watching = True
        try:
            return pickles.read(content)
        finally:
            self.watching = False


def check(plain: pickles.PlainFrame) -> None:
    """Raises AssertionError unless what was read is plain."""
    assert len(plain.names) == len(plain.columns)
    assert all(type(name) is str for name in plain.names)
    for array in [plain.labels, *plain.columns]:
        assert type(array) is np.ndarray
        assert array.shape == (len(plain.labels),)
        assert array.dtype.kind in "iufbMO", array.dtype
        if array.dtype == object:
            assert {type(cell) for cell in array} <= {str, float, int, bool, type(None)}
        else:
            array.tobytes()  # all of its memory is there


def state() -> object:
    """What a pickle could leave behind."""
    classes = (
        pd.DataFrame,
        pd.DatetimeIndex,
        pd.Index,
        np.ndarray,
        np.dtype,
        pickle_machine.Made,
        pickle_machine.Name,
        pickle_machine.Machine,
    )
    return (
        [{name: id(value) for name, value in vars(each).items()} for each in classes],
        {name: id(value) for name, value in (vars(pickles) | vars(pickle_machine)).items()},
        set(sys.modules),
        dict(copyreg.dispatch_table),
        dict(copyreg._extension_registry),  # type: ignore[attr-defined]
        dict(os.environ),
    )


def contents(sound: list[bytes]) -> list[object]:
    found: list[object] = []
    for content in sound:
        try:
            plain = pickles.read(content)
            found.append([plain.names, [column.tolist() for column in plain.columns], plain.labels.tolist()])
        except pickle_machine.UnreadablePickle as error:
            found.append(str(error))
    return found


def run(count: int, seed: int) -> Counter[str]:
    """Reads so many. Raises AssertionError; what was refused for which reason otherwise."""
    sound = samples()
    before, held, watch = repr(contents(sound)), state(), Watch()
    mutator = Mutator(sound, seed)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    outcomes: Counter[str] = Counter()
    for number in range(count):
        content = mutator.pickle()
        refusal, began = None, time.perf_counter()
        try:
            check(watch.read(content))
            outcomes["read"] += 1
        except pickle_machine.UnreadablePickle as error:
            refusal = error
            outcomes[str(error).split(",")[0][:24]] += 1
        except BaseException:
            Path("case.pkl").write_bytes(content)
            raise
        assert len(str(refusal).splitlines()) == 1, refusal
        assert len(str(refusal)) < 400, refusal
        assert not isinstance(getattr(refusal, "__cause__", None), MemoryError), f"case {number}: too much memory"
        assert not watch.seen, f"case {number}: {watch.seen}"
        assert time.perf_counter() - began < SLOWEST_SECONDS, f"case {number} is slow"
        if number % 100_000 == 99_999:
            sys.stderr.write(f"{number + 1:,}" + "\n")
    assert repr(contents(sound)) == before, "sound files are read differently now"
    assert state() == held, "something was changed"
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    outcomes = run(options.count, options.seed)
    lines = [f"{sum(outcomes.values()):,} pickles, {outcomes['read']:,} of them read"]
    lines += [f"{count:10,} {outcome}" for outcome, count in outcomes.most_common(15)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
