"""The thread that looks at the file of watched pairs, and has a recorder follow it."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from ingester.capture.watchlist import Watched, WatchList
from ingester.clock import Now
from ingester.errors import PairsFileError
from ingester.events import PAIRS_REFUSED, Event
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""With the next full second, at which a pair begins, a change is in force within two."""

Reasons = Mapping[str, str]


def differences(before: Iterable[str], now: Watched, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Pairs to add and to remove, each with its reason, as far as the file says one."""
    old = set(before)
    added = {symbol: f"{name}: {remark or 'edited'}" for symbol, remark in now.pairs.items() if symbol not in old}
    gone = old - now.pairs.keys()
    return added, {symbol: f"{name}: {now.removed.get(symbol, 'edited')}" for symbol in sorted(gone)}


class Watch:
    """Follows a file until `stop`. What cannot be used changes nothing; it is said once, and put on record."""

    def __init__(
        self,
        file: WatchList,
        known: Iterable[str],
        change: Callable[[Reasons, Reasons], None],
        record: Callable[[Event], None],
        now: Now,
    ) -> None:
        """`known`: the pairs of the file that the recorder began with. `change` has it add and remove pairs."""
        self._file = file
        self._known = set(known)
        self._change = change
        self._record = record
        self._now = now
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
            except Exception:  # a bug must not end the watch: say it and look again
                log.exception("the list of pairs could not be looked at")

    def look(self) -> None:
        """Reads the file where it has changed, and has the difference carried out."""
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

    def _refuse(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            log.error("the recorded pairs stay as they are: %s", problem)
            self._record(Event(self._now(), PAIRS_REFUSED, detail=problem))
