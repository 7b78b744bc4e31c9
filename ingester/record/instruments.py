"""Keeps what the exchange lists in the table `instruments`: a row of each pair whenever its listing changed.

No exchange sells the history of tick sizes. Changes are looked for at the start and once an hour, among all pairs that
the exchange lists. What the table has last is compared with, so a restart or a second recorder adds nothing.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from ingester.clock import Now
from ingester.errors import ExchangeError, StoreError
from ingester.exchange import Listing, ListingStatus, Venue, fetch_listings, stored_name
from ingester.questdb import QuestDB, instruments_now
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

LOOK_SECONDS = 3600.0
AGAIN_SECONDS = 60.0
"""The exchange is asked again so soon where it did not answer."""
TABLE_SECONDS = 1.0
"""The table is asked again so soon where it did not answer, as while QuestDB starts."""


class InstrumentWatcher:
    """One thread that looks; the feed thread takes what it has found."""

    def __init__(self, db: QuestDB, exchange: Venue, now: Now, look_seconds: float = LOOK_SECONDS) -> None:
        self._db = db
        self._exchange = exchange
        self._now = now
        self._look_seconds = look_seconds
        self._noted: dict[str, Listing] = {}  # perhaps not visible in the table yet
        self._found: deque[tuple[int, list[Listing]]] = deque()
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "instruments", self._stopping)

    def start(self) -> None:
        """Begins to look, at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends looking. Does not wait for an answer of the exchange."""
        self._stopping.set()

    def take(self) -> tuple[int, list[Listing]] | None:
        """Returns listings that changed and when this was seen (ns); None where there are none. From any thread."""
        try:
            return self._found.popleft()
        except IndexError:
            return None

    def give_back(self, found: tuple[int, list[Listing]]) -> None:
        """Puts back what could not be stored now."""
        self._found.appendleft(found)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._look_seconds if self._look() else AGAIN_SECONDS)

    def _look(self) -> bool:
        try:
            listed = fetch_listings(self._exchange)
        except ExchangeError as error:
            log.debug("the exchange cannot be asked what it lists: %s", error)
            return False
        while True:
            try:
                known = instruments_now(self._db, stored_name(self._exchange.name)) | self._noted
                break
            except StoreError as error:
                log.debug("the table cannot be asked what was listed before: %s", error)
            if self._stopping.wait(TABLE_SECONDS):
                return False
        if changed := changes(known, listed.values()):
            self._noted |= {each.symbol: each for each in changed}
            self._found.append((self._now(), changed))
        return True


def changes(known: Mapping[str, Listing], listed: Iterable[Listing]) -> list[Listing]:
    """Returns the listings that differ from the known ones; pairs that are gone have the status `not listed`."""
    now = {each.symbol: each for each in listed}
    gone = [
        msgspec.structs.replace(each, status=ListingStatus.NOT_LISTED)
        for each in known.values()
        if each.symbol not in now and each.status is not ListingStatus.NOT_LISTED
    ]
    return [each for each in now.values() if known.get(each.symbol) != each] + gone
