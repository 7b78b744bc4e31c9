"""The newest books and events in memory, for readers in this process.

The feed thread writes (`take`, `note`, `watermark`), any other thread reads, and no thread waits for another. Each pair
has a ring of rows, or, which costs next to nothing, only its newest book. Books of pairs that were not added are not
kept.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice

from ingester.book import OrderBook
from ingester.errors import UnknownPair, UsageError
from ingester.events import Event
from ingester.exchange import normal_symbol
from ingester.live.ring import Ring, Row
from ingester.sequence import Gap
from ingester.text import nearest_text

KEPT_EVENTS = 10_000
"""So many of the latest events are kept."""

NOTIFY_ROWS = 1_000
"""Readers that wait for rows are woken when all that arrived is in, and after so many at the latest: in a burst, they
would take turns with the feed thread, which would take in everything later."""


class Notifier:
    """Wakes threads that wait for something."""

    def __init__(self) -> None:
        self.count = 0
        """Notifications so far: a reader sees by it whether something came since it last looked."""
        self._waiting: tuple[threading.Event, ...] = ()
        self._lock = threading.Lock()

    def notify(self) -> None:
        """Wakes all that wait. For one thread at a time."""
        self.count += 1
        for event in self._waiting:
            event.set()

    def add(self, event: threading.Event) -> Callable[[], None]:
        """Has an event set at each notification from now on; returns the function that ends this."""
        with self._lock:
            self._waiting = (*self._waiting, event)

        def remove() -> None:
            with self._lock:
                self._waiting = tuple(each for each in self._waiting if each is not event)

        return remove


class LiveBuffer:
    """The last rows, or newest books, of its pairs, and the last events."""

    def __init__(self, symbols: Iterable[str], *, depth: int, rows: int = 0) -> None:
        """`rows`: how many are kept of each pair; with 0 only its `newest` book is."""
        self.depth = depth
        self.closed = threading.Event()
        """Set while nothing more will come."""
        self.closed.set()
        # Both are replaced as a whole when pairs come and go, so that readers need no lock.
        self.pairs: tuple[str, ...] = ()
        self.rings: Mapping[str, Ring] = {}
        """The rows of each pair; empty with `rows` 0."""
        self.on_rows, self.on_events, self.on_progress = Notifier(), Notifier(), Notifier()
        """Notify when rows have come, events have been noted, `until_ns` has risen; and all at the end."""
        self.events_noted = 0
        self.until_ns = 0
        """The watermark: all that was received before this time is in; `FeedLoop` sets it."""
        self._rows = rows
        self._unannounced = 0  # rows since the last notification
        self._newest: dict[str, OrderBook | None] = {}  # where there are no rings; books that stay cost more than rows
        self._events: deque[tuple[int, Event]] = deque(maxlen=KEPT_EVENTS)
        self._hidden: dict[str, int] = {}  # rows before this number were cleared
        self.add(symbols)

    # what the feed thread calls

    def take(self, snapshots: Sequence[OrderBook]) -> None:
        """Takes in books. Readers that wait are woken by `watermark`, or after `NOTIFY_ROWS`."""
        if self._rows:
            rings = self.rings
            for snapshot in snapshots:
                ring = rings.get(snapshot[0])
                if ring is not None:
                    ring.put(snapshot)
        else:
            newest = self._newest
            for snapshot in snapshots:
                if snapshot[0] in newest:
                    newest[snapshot[0]] = snapshot
        self._unannounced += len(snapshots)
        if self._unannounced >= NOTIFY_ROWS:
            self._notify()

    def note(self, events: Sequence[Event]) -> bool:
        """Takes in events; returns True, for there is always room for the latest."""
        for event in events:
            self._events.append((self.events_noted, event))
            self.events_noted += 1
        self.on_events.notify()
        return True

    def changed(self, added: Collection[str], removed: Collection[str]) -> None:
        """Adds and removes pairs."""
        self.remove(removed)
        self.add(added)

    def watermark(self, until_ns: int) -> None:
        """All that was received before `until_ns` is in, and nothing more is waiting."""
        if self._unannounced:
            self._notify()
        self.until_ns = until_ns
        self.on_progress.notify()

    def tick(self, now: int) -> None:
        """Nothing here depends on the time."""

    def _notify(self) -> None:
        self._unannounced = 0
        self.on_rows.notify()

    def open(self) -> None:
        """Marks the buffer as running: rows may come from now on."""
        self.closed.clear()

    def close(self) -> None:
        """Marks the end: nothing more comes until `open`. Wakes all readers that wait."""
        self.closed.set()
        for notifier in (self.on_rows, self.on_events, self.on_progress):
            notifier.notify()

    # pairs

    def add(self, symbols: Iterable[str]) -> None:
        """Keeps the rows of these pairs, too, from now on."""
        new = [symbol for symbol in dict.fromkeys(symbols) if symbol not in self.pairs]
        if not self._rows:
            self._newest |= dict.fromkeys(new)
        else:
            self.rings = {**self.rings, **{symbol: Ring(self.depth, self._rows) for symbol in new}}
        self.pairs = (*self.pairs, *new)

    def remove(self, symbols: Iterable[str]) -> None:
        """Forgets pairs; iterations that hold them get no more rows of them."""
        gone = set(symbols)
        self.pairs = tuple(symbol for symbol in self.pairs if symbol not in gone)
        self.rings = {symbol: ring for symbol, ring in self.rings.items() if symbol not in gone}
        for symbol in gone:
            self._newest.pop(symbol, None)
            self._hidden.pop(symbol, None)

    def symbol(self, pair: str) -> str:
        """A pair as it is recorded here. Raises UnknownPair with the nearest names."""
        if pair in self.rings:
            return pair
        symbol = normal_symbol(pair)
        if symbol not in self.pairs:
            hint = nearest_text(symbol, self.pairs, f"It records {', '.join(self.pairs[:5])}, …")
            raise UnknownPair(f"This recorder has no pair {pair!r}. {hint}")
        return symbol

    # what readers call

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return not self.closed.is_set()

    def newest(self, symbol: str) -> OrderBook | None:
        """The newest book of a pair, where no rows are kept; None before the first."""
        return self._newest.get(symbol)

    def latest(self, symbol: str) -> Row | None:
        """The newest book of a pair as a row; None before the first."""
        ring, start = self.ring(symbol), self.start_of(symbol)
        while ring.count > start:
            _, (times, values) = ring.read(ring.count - 1)
            if len(times):  # else it was overtaken meanwhile, so there is a newer one
                return Row(int(times[-1]), values[-1])
        return None

    def ring(self, symbol: str) -> Ring:
        """The rows of a pair. Raises UsageError where none are kept."""
        if not self._rows:
            raise UsageError("Only the newest book of each pair is kept here. Make the buffer with rows.")
        return self.rings[symbol]

    def start_of(self, symbol: str) -> int:
        """The number of the first row of a pair that was not cleared."""
        return self._hidden.get(symbol, 0)

    def clear(self, symbols: Iterable[str]) -> None:
        """Hides what these pairs have so far from all readers but those that iterate over a grid."""
        for symbol in symbols:
            self._hidden[symbol] = self.ring(symbol).count

    def events(self, first: int = 0) -> list[tuple[int, Event]]:
        """The events that are kept, from number `first` on, each with its number, in the order of their coming."""
        kept = self._events.copy()
        wanted = kept[-1][0] + 1 - first if kept else 0
        return list(islice(reversed(kept), max(0, wanted)))[::-1]

    def gaps(self, symbol: str | None = None) -> list[Gap]:
        """Gaps among the events that are kept, by their begin; `until_ns` is None where one is not over."""
        latest = {(event.symbol, event.at_ns): event for _, event in self.events() if event.kind == "gap"}
        gaps = [Gap(event.symbol, event.at_ns, event.until_ns, event.detail) for event in latest.values()]
        return sorted((gap for gap in gaps if symbol in (None, gap.symbol)), key=lambda gap: (gap.since_ns, gap.symbol))
