"""The thread that looks at the file of watched pairs, and has a recorder follow it.

It also asks the exchange again for pairs that were left out because it did not list them: its list may lack some for a
while, and a pair may be listed later.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ingester.clock import SECOND, Now, backoff
from ingester.errors import ExchangeError, PairsFileError
from ingester.events import PAIRS_REFUSED, Event
from ingester.record.pairs_file import PairsFile, PairsFileEntries
from ingester.threads import SupervisedThread

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
    """Follows a file until `stop`. What cannot be used changes nothing; it is said once, and put on record."""

    def __init__(
        self,
        file: PairsFile | None,
        known: Iterable[str],
        change: Callable[[Reasons, Reasons], None],
        record: Callable[[Event], None],
        now: Now,
        recorded: Callable[[], Collection[str]] | None = None,
        listed: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`file`: None where options name the pairs. `known`: the pairs that are to be recorded at the beginning.

        `change` has the recorder add and remove pairs, `recorded` gives those that it records, all where None.
        `listed` asks the exchange which it lists, and raises ExchangeError.
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
        """Reads the file where it has changed, and has the difference carried out."""
        if self._file is None:
            return
        try:
            state = self._file.signature()
            # What is written in place may be half written: wait until it rests. What was replaced is whole.
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

    def ask_again(self) -> None:
        """Asks the exchange where pairs are left out and it is time to; nothing here waits for its answer."""
        if not self._left_out():
            self._waits = None
            return
        now = self._now()
        if self._waits is None:
            self._waits = backoff(FIRST_ASK_SECONDS, LAST_ASK_SECONDS)
            self._ask_ns = now + int(next(self._waits) * SECOND)
        if now >= self._ask_ns and (self._asking is None or not self._asking.is_alive()):
            self._ask_ns = now + int(next(self._waits) * SECOND)
            self._asking = threading.Thread(target=self._ask, name="listing", daemon=True)
            self._asking.start()

    def _ask(self) -> None:
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
