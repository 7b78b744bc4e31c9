"""All symbols together: puts their gaps and states on record, has the exchange asked about those that stay silent."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.errors import ExchangeError
from ingester.events import CONNECTION_LOST, NOT_TAKEN_IN, PAIR_ADDED, PAIR_REMOVED, Event
from ingester.exchange import ListingStatus, StreamSpec, Venue, fetch_listings
from ingester.sequence.event_counts import longest_on
from ingester.sequence.gap_detector import RESOLUTION_NS, TRADING, Gap, GapDetector

log = logging.getLogger(__name__)

OPEN_AFTER_NS = 5 * SECOND
"""A gap that lasts this long is put on record before its end is known."""
ASK_NS, ASK_HALTED_NS = 60 * SECOND, 300 * SECOND
"""How often the exchange is asked about silent symbols, and about those of which it said that they do not trade."""


class StatusInquiry:
    """Asks the exchange which symbols trade, in a thread of its own, so that nothing waits for an answer."""

    def __init__(self, venue: Venue) -> None:
        self._venue = venue
        self._answers: deque[Mapping[str, ListingStatus]] = deque()

    def ask(self) -> None:
        """Has the exchange asked; `take` returns the answer once it is there."""
        threading.Thread(target=self._run, name="ask", daemon=True).start()

    def take(self) -> list[Mapping[str, ListingStatus]]:
        """The answers since the last call: the state of each symbol that the exchange lists."""
        return [self._answers.popleft() for _ in range(len(self._answers))]

    def _run(self) -> None:
        try:
            listed = fetch_listings(self._venue)
            self._answers.append({symbol: listing.status for symbol, listing in listed.items()})
        except ExchangeError as error:
            log.warning("the exchange cannot be asked about silent pairs: %s", error)
        except Exception:  # a bug: the next question is asked all the same
            log.exception("the exchange could not be asked about silent pairs")


class SequenceMonitor:
    """What is known of each symbol, by the name of its stream. Belongs to the feed thread."""

    def __init__(
        self,
        symbols: Sequence[str],
        streams: StreamSpec,
        *,
        note: Callable[[Event], None],
        inquiry: StatusInquiry,
    ) -> None:
        self._streams = streams
        self.detectors = {self.name(symbol): GapDetector(symbol) for symbol in symbols}
        self._note = note
        self._inquiry = inquiry
        self._ask_ns = 0  # when the exchange may be asked again
        self._ended: list[Gap] = []  # gaps since the last tick

    def name(self, symbol: str) -> bytes:
        """Of the stream of a symbol."""
        return self._streams.name(symbol)

    def add(self, name: bytes, symbol: str, now: int, why: str) -> GapDetector:
        """A symbol is recorded from now on."""
        detector = self.detectors[name] = GapDetector(symbol)
        detector.begin(now)
        self._note(Event(now, PAIR_ADDED, symbol, detail=why))
        return detector

    def remove(self, name: bytes, now: int, why: str) -> None:
        """A symbol is no longer recorded: that is no gap, but one that lasts ends with it."""
        detector = self.detectors.pop(name)
        if gap := detector.end(now):
            self._note(gap.event())
        self._note(Event(now, PAIR_REMOVED, detector.symbol, detail=why))

    def resume(self, last_ns: int, symbols: Container[str] | None = None) -> None:
        """An earlier run received until `last_ns`: these symbols, where it is known which."""
        for detector in self.detectors.values():
            if symbols is None or detector.symbol in symbols:
                detector.resume(last_ns)

    def begin(self, now: int) -> None:
        """The first subscriptions go out."""
        for detector in self.detectors.values():
            detector.begin(now)

    def miss_since(self, started_ns: int, names: Iterable[bytes]) -> None:
        """No connection is open for these streams: they are missing since the start, or since they were added.

        The gap of a restart ends with the start, for what follows has another reason.
        """
        for detector in map(self.detectors.__getitem__, names):
            if gap := detector.wait_since(started_ns):
                self._note(gap.event())

    def record(self, gap: Gap, detector: GapDetector) -> None:
        """A gap has ended."""
        self._ended.append(gap)
        self._note(gap.event())
        if detector.status != TRADING:
            self._set_status(detector, TRADING, gap.until_ns or gap.since_ns)

    def record_found(self, detector: GapDetector) -> None:
        """A gap has turned out that ended some time ago."""
        gap, detector.found = detector.found, None
        if gap is not None:
            self.record(gap, detector)

    def restarted(self, detector: GapDetector, update_id: int, at_ns: int) -> None:
        """A symbol's update ids go on below the last one."""
        log.warning("%s: update ids go on at %d after %d", detector.symbol, update_id, detector.update_id)
        detail = f"from {detector.update_id} to {update_id}"
        self._note(Event(at_ns, "update_ids_restarted", symbol=detector.symbol, detail=detail))
        detector.restart(update_id, at_ns)

    def clock_set(self, at_ns: int) -> None:
        """Receive times have leapt ahead, to `at_ns`."""
        for detector in self.detectors.values():
            detector.clock_set(at_ns)

    def not_taken_in(self, snapshots: Sequence[OrderBook]) -> None:
        """Books that passed could not be handed on: each symbol has a gap from the first to the last of them."""
        lost: dict[str, tuple[int, int]] = {}
        for snapshot in snapshots:
            since_ns, _ = lost.get(snapshot.symbol, (snapshot.receive_ns, 0))
            lost[snapshot.symbol] = since_ns, snapshot.receive_ns + RESOLUTION_NS
        for symbol, (since_ns, until_ns) in lost.items():
            gap = Gap(symbol, since_ns, until_ns, NOT_TAKEN_IN)
            self._ended.append(gap)
            self._note(gap.event())

    def suspect(self, payload: bytes, names: Iterable[bytes]) -> bool:
        """A frame that cannot be read was a snapshot of its symbol; False where it may have been of any of `names`."""
        name, update_id = self._streams.channel.salvage(payload)
        detector = self.detectors.get(name) if name is not None else None
        if detector is not None:
            detector.quarantine(update_id)
            return True
        for each in names:
            self.detectors[each].suspect()
        return False

    def lose(self, payload: bytes, names: Iterable[bytes]) -> None:
        """A frame was lost, perhaps after it had passed: its symbol has a gap; all of `names` where it names none."""
        name, _ = self._streams.channel.salvage(payload)
        for each in [name] if name in self.detectors else names:
            self.detectors[each].miss(NOT_TAKEN_IN)

    def tick(self, now: int, watched: bool, suspects: bool) -> None:
        """What time demands, about once a second; `suspects`: some stay silent though subscribed again."""
        for statuses in self._inquiry.take():
            for detector in self.detectors.values():
                status = statuses.get(detector.symbol, ListingStatus.NOT_LISTED)
                if detector.symbol not in statuses and not detector.silent(now, OPEN_AFTER_NS):
                    continue  # what flows is listed, whatever the answer lacks
                if status != detector.status:
                    self._set_status(detector, status, now)
        halted = False
        for detector in self.detectors.values():
            detector.trim()
            halted |= detector.status != TRADING
            if watched and detector.silent(now, OPEN_AFTER_NS) and (gap := detector.open()):
                self._note(gap.event())
        if (suspects or halted) and now >= self._ask_ns:
            self._ask_ns = now + (ASK_NS if suspects else ASK_HALTED_NS)
            self._inquiry.ask()
        self._tell()

    def miss_all(self) -> None:
        """Frames that arrived are not taken in, of unknown symbols: all symbols have a gap."""
        for detector in self.detectors.values():
            detector.miss(CONNECTION_LOST)

    def close(self, now: int) -> None:
        """Records the gaps that last while recording ends."""
        for detector in self.detectors.values():
            if gap := detector.end(now):
                self._note(gap.event())

    def _set_status(self, detector: GapDetector, status: ListingStatus, at_ns: int) -> None:
        log.warning("%s: %s (before: %s)", detector.symbol, status, detector.status)
        detector.status = status
        self._note(Event(at_ns, "status", symbol=detector.symbol, detail=status.value))

    def _tell(self) -> None:
        """Logs the gaps that ended, all of a reason in one line."""
        gaps, self._ended = self._ended, []
        for reason in dict.fromkeys(gap.reason for gap in gaps):
            alike = [(gap.length(), gap.symbol) for gap in gaps if gap.reason == reason]
            log.warning("gap of %s: %s", longest_on(alike), reason)
