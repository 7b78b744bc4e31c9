"""The file of the pairs that are to be recorded: one a line, in the data folder, to be read and written by people too.

    # 44 well-known coins
    BTCUSDT
    SUIUSDT    # added 2026-11-25 10:30 by alice
    # EDUUSDT removed 2026-11-25 10:31 by alice

Text behind a `#` is a remark; `ingester pairs` writes those of the last two kinds, which say why a pair was added or
removed. All other lines stay as they are. The file is replaced as a whole, so that a reader finds the old
one or the new one, and two writers take turns.

A recorder follows the file: `PairsWatcher` looks at it several times a second. It also asks the exchange again for
pairs that were left out because it did not list them: its list may lack some for a while, and a pair may be listed
later.
"""

import contextlib
import logging
import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ingester import private
from ingester.clock import SECOND, Now, backoff
from ingester.errors import ExchangeError, PairsFileError
from ingester.events import PAIRS_REFUSED, Event
from ingester.exchange import SIMULATOR, is_pair_name, normal_symbol, stored_name
from ingester.private import take_lock
from ingester.spool import replace_durably
from ingester.text import path_part
from ingester.threads import SupervisedThread

PAIRS_FILE_NAME = "pairs.txt"
LOCK_SECONDS = 10.0
MOST_BYTES = 1 << 20
"""A list of every pair that there ever was is far smaller."""

_REMOVED = re.compile(r"#\s*(\w+)\s+(removed\b.*)")


def pairs_file_name(exchange: str) -> str:
    """Returns `pairs.txt` for Binance's spot market and the simulator, `pairs-NAME.txt` for another exchange."""
    market = stored_name(exchange)
    return PAIRS_FILE_NAME if market in ("binance", SIMULATOR) else f"pairs-{path_part(market)}.txt"


class PairsFileEntries(NamedTuple):
    """What a file says."""

    pairs: dict[str, str]
    """The pairs to record, in the order of the file, with the remark behind each."""
    removed: dict[str, str]
    """Pairs that were removed, with the remark on each."""


def parse(text: str, path: Path) -> PairsFileEntries:
    """What the text of a file says. Raises PairsFileError, naming the line."""
    pairs: dict[str, str] = {}
    removed: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if match := _REMOVED.fullmatch(line.strip()):
            removed[match[1]] = match[2]
            continue
        words, _, remark = line.partition("#")
        if not words.strip():
            continue
        symbol = normal_symbol(words.strip())
        if not is_pair_name(symbol) or len(words.split()) > 1:
            raise PairsFileError(
                f"{path}, line {number}: {words.strip()[:60]!r} is not a pair. Write one pair a line, such as BTCUSDT; "
                "what follows a # is a remark."
            )
        pairs.setdefault(symbol, remark.strip())
    if not pairs:
        raise PairsFileError(f"{path} names no pair. Write one a line, such as BTCUSDT, or use `ingester pairs add`.")
    return PairsFileEntries(pairs, removed)


def edited(text: str, added: Mapping[str, str], removed: Mapping[str, str]) -> str:
    """The text with pairs added and removed, each with its remark; all else stays as it is."""
    changed = {*added, *removed}
    lines = []
    for line in text.splitlines():
        words = line.partition("#")[0].strip()
        match = _REMOVED.fullmatch(line.strip())
        if (normal_symbol(words) if words else match[1] if match else "") not in changed:
            lines.append(line)
    lines += [f"{symbol}    # {remark}" if remark else symbol for symbol, remark in added.items()]
    lines += [f"# {symbol} {remark}" for symbol, remark in removed.items()]
    return "\n".join(lines) + "\n"


class PairsFile:
    """The file at `path`, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether there is one. Raises PairsFileError where that cannot be seen now."""
        try:
            return self.signature() is not None
        except OSError as error:
            raise PairsFileError(f"{self.path} cannot be looked at ({error.strerror}).") from error

    def signature(self) -> tuple[int, int, int] | None:
        """Changes when the file (or who may read it) does: inode, time of change, size; None where there is none.

        Raises OSError.
        """
        try:
            state = os.stat(self.path)
        except FileNotFoundError:
            return None
        return state.st_ino, state.st_ctime_ns, state.st_size

    def read(self) -> PairsFileEntries:
        """What it says. Raises PairsFileError."""
        return parse(self._text(), self.path)

    def create(self, symbols: Sequence[str], heading: str) -> None:
        """Makes the file with a first line that says where it comes from. Raises PairsFileError; an existing one
        stays."""
        with self._locked():
            if not self.exists():
                self._write("\n".join([f"# {heading}", *symbols]) + "\n")

    @contextlib.contextmanager
    def changing(self) -> Iterator["PairsChange"]:
        """What it says, for a change that is written at the end, while nobody else writes. Raises PairsFileError."""
        with self._locked():
            text = self._text() if self.exists() else ""
            change = PairsChange(parse(text, self.path) if text else PairsFileEntries({}, {}))
            yield change
            if change.added or change.removed:
                new = edited(text, change.added, change.removed)
                parse(new, self.path)  # at least one is left
                self._write(new)

    def _text(self) -> str:
        try:
            with self.path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            text = content.decode("utf-8-sig")
        except FileNotFoundError as error:
            raise PairsFileError(f"{self.path} is not there. `ingester pairs add BTC ETH` makes it.") from error
        except OSError as error:
            raise PairsFileError(f"{self.path} cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise PairsFileError(f"{self.path}, line {line}: no text in UTF-8. Write one pair a line.") from error
        if len(content) > MOST_BYTES or "\0" in text:
            raise PairsFileError(f"{self.path} is no list of pairs: it is too long, or holds bytes that are no text.")
        return text

    def _write(self, text: str) -> None:
        try:
            path = private.resolved(self.path)
            mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else private.FILE
            replace_durably(path, text.encode(), mode)
        except OSError as error:
            raise PairsFileError(
                f"{self.path} cannot be written ({error.strerror}); what it said before still holds."
            ) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = private.resolved(self.path)
        lock = path.with_name(path.name + ".lock")
        try:
            if not path.parent.is_dir():
                private.folder(path.parent)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, private.FILE)
        except OSError as error:
            raise PairsFileError(f"{lock} cannot be made ({error.strerror}).") from error
        try:
            if not take_lock(descriptor, LOCK_SECONDS):
                raise PairsFileError(f"another program has held {lock} for {LOCK_SECONDS:g} s; end it, or try again.")
            yield
        finally:
            os.close(descriptor)


class PairsChange:
    """A change of the file: pairs `added` and `removed` with their remarks; `now` is what the file says before it."""

    def __init__(self, now: PairsFileEntries) -> None:
        self.now = now
        self.added: dict[str, str] = {}
        self.removed: dict[str, str] = {}


class LastRecorded:
    """Which pairs a recorder of this name was to record when it was last heard of; kept beside its spool.

    A start tells from it what changed meanwhile, and which pairs have a gap since then.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "watched.txt"
        self._ever = folder / "ever-watched.txt"

    def read(self) -> list[str] | None:
        """The symbols; None where there is no note of them. Raises OSError where it cannot be read now."""
        return _lines(self._path) or None

    def ever(self) -> set[str]:
        """All symbols that it was ever to record, as far as they can be read."""
        return {*_noted(self._ever), *_noted(self._path)}

    def write(self, symbols: Collection[str]) -> None:
        """Notes them durably. Raises OSError, also where what was noted before cannot be read: it is not replaced."""
        ever = {*_lines(self._ever), *_lines(self._path)}
        if not ever.issuperset(symbols):
            _note(self._ever, sorted(ever.union(symbols)))
        _note(self._path, symbols)


def _noted(path: Path) -> list[str]:
    try:
        return _lines(path)
    except OSError:
        return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (FileNotFoundError, UnicodeDecodeError):
        return []


def _note(path: Path, symbols: Iterable[str]) -> None:
    replace_durably(path, "".join(f"{symbol}\n" for symbol in symbols).encode(), private.FILE)


log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""With the next full second, at which a pair begins, a change is in force within two."""

FIRST_ASK_SECONDS, LAST_ASK_SECONDS = 4.0, 600.0
"""How long it waits before it asks the exchange again which pairs it lists: at first, and after many attempts."""

Reasons = Mapping[str, str]


def differences(before: Iterable[str], now: PairsFileEntries, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Pairs to add and to remove, each with its reason, as far as the file says one."""
    old = set(before)
    added = {symbol: f"{name}: {remark or 'edited'}" for symbol, remark in now.pairs.items() if symbol not in old}
    gone = old - now.pairs.keys()
    return added, {symbol: f"{name}: {now.removed.get(symbol, 'edited')}" for symbol in sorted(gone)}


class PairsWatcher:
    """Follows a file until `stop`. A file that cannot be used changes nothing; that is logged once, and an event."""

    def __init__(
        self,
        file: PairsFile | None,
        *,
        known: Iterable[str],
        change: Callable[[Reasons, Reasons], None],
        record: Callable[[Event], None],
        now: Now,
        recorded: Callable[[], Collection[str]] | None = None,
        listed: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`file`: None where options name the pairs. `known`: the pairs that are to be recorded at the beginning.

        `change` adds pairs to the recorder and removes others, `record` puts an event on record. `recorded` returns
        the pairs that are recorded now; without it all are. `listed` asks the exchange which pairs it lists, and raises
        ExchangeError.
        """
        self._file = file
        self._known = set(known)
        self._change = change
        self._record = record
        self._now = now
        self._recorded = recorded
        self._listed = listed
        self._waits: Iterator[float] | None = None  # before each further question, while pairs are left out
        self._ask_ns = 0  # when the next one is due
        self._asking: threading.Thread | None = None
        self._said = ""  # what was wrong at the last look
        self._followed: object = ()  # state of the file that was read last
        self._seen: object = ()  # at the last look
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "watch", self._stopping)

    def start(self) -> None:
        """Starts looking; first at what changed since the pairs were read."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; does not wait for a disk that hangs."""
        self._stopping.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self.look()
                self.ask_again()
            except Exception:  # a bug must not end the watch: say it and look again
                log.exception("the list of pairs could not be looked at")

    def look(self) -> None:
        """Reads the file where it has changed, and adds and removes pairs accordingly."""
        if self._file is None:
            return
        try:
            state = self._file.signature()
            # A file that is written in place may be half written: wait until it rests. A replaced file is complete.
            rests = state == self._seen or (state and self._seen and state[0] != self._seen[0])  # type: ignore[index]
            self._seen = state
            if state == self._followed or not rests:
                return
            watched = self._file.read()
            self._followed = state
        except OSError as error:
            self._refuse(f"{self._file.path} cannot be looked at ({error.strerror}).")
            return
        except PairsFileError as error:
            self._followed = self._seen
            self._refuse(str(error))
            return
        if self._said:
            log.info("%s can be used again", self._file.path)
            self._said = ""
        added, removed = differences(self._known, watched, self._file.path.name)
        if added or removed:
            self._known = set(watched.pairs)
            self._change(added, removed)

    def ask_again(self) -> threading.Thread | None:
        """Asks the exchange where pairs are left out and it is time to; returns the thread that does so."""
        if not self._left_out():
            self._waits = None
            return None
        now = self._now()
        if self._waits is None:
            self._waits = backoff(FIRST_ASK_SECONDS, LAST_ASK_SECONDS)
            self._ask_ns = now + int(next(self._waits) * SECOND)
        if now >= self._ask_ns and (self._asking is None or not self._asking.is_alive()):
            self._ask_ns = now + int(next(self._waits) * SECOND)
            self._asking = threading.Thread(target=self.ask, name="listing", daemon=True)
            self._asking.start()
            return self._asking
        return None

    def ask(self) -> None:
        """Asks the exchange which pairs it lists, and has those recorded that were left out and are listed now."""
        try:
            listed = self._listed()
        except ExchangeError as error:
            log.info("the exchange cannot be asked again which pairs it lists: %s", error)
            return
        except Exception:  # a bug: the next question is asked all the same
            log.exception("the exchange could not be asked again which pairs it lists")
            return
        joining = sorted(self._left_out().intersection(listed))
        if joining and not self._stopping.is_set():
            log.info("recorded from now on, because the exchange lists them now: %s", ", ".join(joining))
            self._change(dict.fromkeys(joining, "listed by the exchange now"), {})

    def _left_out(self) -> set[str]:
        return self._known.difference(self._recorded()) if self._recorded is not None else set()

    def _refuse(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            log.error("the recorded pairs stay as they are: %s", problem)
            self._record(Event(self._now(), PAIRS_REFUSED, detail=problem))
