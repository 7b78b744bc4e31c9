"""`Recorder`: live order books in this process, without a database. The public live interface."""

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

from ingester.clock import SECOND, Clock, check_clock
from ingester.config import FILLS, Settings, interval_ms, seconds
from ingester.connection import AttemptLimit
from ingester.errors import NotRunning, SettingsError, UsageError, named_as_arguments
from ingester.events import Event
from ingester.exchange import (
    DEFAULT_COINS,
    DEFAULT_QUOTE,
    SIMULATOR,
    Venue,
    choose_pairs,
    listed_symbols,
    normal_symbol,
    rightly_named,
    simulator_at,
    symbols_of,
    venue_named,
)
from ingester.feed import FeedLoop
from ingester.grid import as_frame
from ingester.live import Consumer, LiveBuffer, OnEvent, OnSnapshot, RingRows, Row, Subscribers, SynchronousRows
from ingester.metrics import FeedMetrics
from ingester.sequence import Gap
from ingester.simulator import Simulator

MILLISECOND = SECOND // 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

OnSnapshotT = TypeVar("OnSnapshotT", bound=OnSnapshot)
OnEventT = TypeVar("OnEventT", bound=OnEvent)


class Recorder:
    """Receives order books and keeps the newest in memory, for any number of readers in this process.

    It receives them as `ingester start` does: each pair over several connections that are watched and replaced, the
    first copy wins, every gap is on record (`gaps`). Times are receive times in ns since 1970 (UTC), whole microseconds
    as the table has them; values are float64, in the order `Bid_1, BidV_1, … Ask_1, AskV_1, …` of a data set. Methods
    may be called from any thread, and none holds up the recording: readers get copies, of whole rows only. What was
    received stays readable after `stop`; a new `start` goes on from there, with a gap (reason: restart) between.

    Callbacks run in threads of their own. What they raise is logged (the 1st, 2nd, 4th, 8th, … time) and counted
    (`callback_failures`), and they are called again with the next; a slow one misses rows and delays nobody.
    """

    def __init__(
        self,
        pairs: Sequence[str] | str,
        depth: int = 5,
        interval: str = "100ms",
        exchange: str | Venue = "binance",
        *,
        keep: str = "10min",
        connections: int = 2,
        stream_url: str | None = None,
        rest_url: str | None = None,
        linger: str | None = None,
    ) -> None:
        """
        `pairs`: as Binance writes them. `depth`: levels a side, 5, 10 or 20. `interval`: keep a snapshot this often.
        `exchange`: a name as `ingester start --exchange` takes ("simulator" runs an artificial one), or a `Venue`.
        `keep`: so many rows of each pair are kept as come in this time at the interval; a row takes 8 + 32 x depth
        bytes, so that 44 pairs of depth 5 take 45 MB for ten minutes. `connections`: over how many each pair comes.
        `stream_url`, `rest_url`: instead of the exchange's own addresses.
        `linger`: after an arrival, wait so long for more before it is looked at: costs latency, saves wake-ups.
        Raises SettingsError.
        """
        symbols = tuple(named_symbols(pairs))
        with named_as_arguments():
            self._exchange = exchange_of(exchange, stream_url, rest_url)
            every_ms = interval_ms(interval, self._exchange.books)
            self._settings = Settings(
                symbols, self._exchange, depth=depth, interval_ms=every_ms, connections=connections
            )
        self._simulator = None if self._exchange.stream_url != OWN else Simulator(pairs=simulated_symbols(symbols))
        self._told = stream_url is not None
        self._batch_delay = seconds(linger, "linger") if linger else 0.0
        rows = round(seconds(keep, "keep") * 1000 / self._settings.interval_ms)
        self._record = LiveBuffer(symbols, depth=depth, rows=max(1, rows))
        self.metrics = FeedMetrics()
        """Counters: snapshots, copies, losses, reconnects, …"""
        self._clock = Clock()
        self._limit = AttemptLimit(self._settings.exchange.limits)
        self._intake: FeedLoop | None = None
        self._started_ns = 0
        self._running_lock = threading.Lock()
        self._audience = Subscribers(self._record)

    @property
    def pairs(self) -> list[str]:
        """What it records."""
        return list(self._record.pairs)

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._record.running

    def start(self) -> Self:
        """Begins to receive, and returns before the first book is there; `ready` waits for it.

        Raises UnknownPair with the nearest names, RegionRefused, NotRunning where it runs already, and ClockWrong.
        """
        check_clock(self._clock.now())
        with self._running_lock:
            if self.running:
                raise NotRunning("This recorder runs already. Stop it before it is started again.")
            source = self._exchange
            if self._simulator is not None:
                self._simulator.start()
                source = source.at(stream_url=self._simulator.stream_url, rest_url=self._simulator.rest_url)
            try:
                symbols = self._listed(source, self.pairs)
            except BaseException:
                self._stop_simulator()
                raise
            settings = dataclasses.replace(self._settings, symbols=tuple(symbols), exchange=source)
            intake = FeedLoop(settings, self._record, self._clock, self.metrics, self._limit, self._batch_delay)
            if self._intake is not None:
                intake.monitor.resume(self._record.until_ns)
            self._intake, self._started_ns = intake, self._clock.now()
            self._record.open()
            self._audience.start()
            intake.start(self._started_ns)
        return self

    def stop(self) -> None:
        """Takes in what is on the way and ends; what was received stays readable. Raises NotRunning."""
        with self._running_lock:
            if not self.running or self._intake is None:
                raise NotRunning("This recorder does not run: it was not started, or was stopped already.")
            self._intake.stop()
            self._record.close()
            self._audience.finish()
            self._stop_simulator()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        if self.running:
            self.stop()

    def add(self, pairs: Sequence[str] | str) -> None:
        """Records more pairs from the next full second on; nothing happens to the others.

        Raises NotRunning, and UnknownPair with the nearest names.
        """
        with self._running_lock:
            intake = self._running_intake()
            new = [symbol for symbol in named_symbols(pairs) if symbol not in self._record.rings]
            added = self._listed(intake.settings.exchange, new) if new else []
            intake.change(dict.fromkeys(added, "added"), {})
            self._await(lambda: all(symbol in self._record.rings for symbol in added))

    def remove(self, pairs: Sequence[str] | str) -> None:
        """Records pairs no longer, and forgets their books. Raises NotRunning, and UnknownPair.

        Raises UsageError where none would be left.
        """
        with self._running_lock:
            intake = self._running_intake()
            gone = {self._record.symbol(symbol) for symbol in named_symbols(pairs)}
            if gone >= set(self._record.rings):
                raise UsageError("No pair would be left. Stop the recorder instead.")
            intake.change({}, dict.fromkeys(gone, "removed"))
            self._await(lambda: not gone & self._record.rings.keys())

    def ready(self, timeout: float | None = None) -> bool:
        """Waits until every pair has a book of this run; False where `timeout` seconds were not enough."""
        record = self._begun()

        def silent(symbol: str) -> bool:
            latest = record.latest(symbol)
            return latest is None or latest.time < self._started_ns

        deadline = None if timeout is None else time.monotonic() + timeout
        bell = threading.Event()
        silence = record.on_rows.add(bell)
        try:
            while any(map(silent, record.pairs)):
                left = None if deadline is None else deadline - time.monotonic()
                if not record.running or (left is not None and left <= 0) or not bell.wait(left):
                    return False
                bell.clear()
            return True
        finally:
            silence()

    def latest(self, pair: str) -> Row | None:
        """The newest book: `Row(time, values)` with values (4 x depth,); None before the first."""
        record = self._begun()
        return record.latest(record.symbol(pair))

    def window(self, pair: str, n: int) -> RingRows:
        """The last `n` books, fewer where there are not so many: `RingRows(times (n,), values (n, 4 x depth))`."""
        if n < 1:
            raise UsageError(f"A window of {n} rows is empty. Ask for 1 or more.")
        return self._rows(pair, n)

    def since(self, pair: str, time: int | datetime) -> RingRows:
        """The books that are kept and were received at `time` (ns since 1970, or a datetime, UTC) or later."""
        record = self._begun()
        symbol = record.symbol(pair)
        ring = record.ring(symbol)
        return ring.read(ring.number_at(_ns(time), record.start_of(symbol)))[1]

    def frame(self, pair: str, n: int | None = None) -> Any:
        """All books that are kept, or the last `n`, as a DataFrame with the index and columns of a data set."""
        return as_frame(*(self._rows(pair, None) if n is None else self.window(pair, n)))

    def clear(self, pair: str | None = None) -> None:
        """Forgets the books of a pair, or of all, received so far. Grids (`synchronous`) and gaps do not change."""
        record = self._begun()
        record.clear(self.pairs if pair is None else [record.symbol(pair)])

    def gaps(self, pair: str | None = None) -> list[Gap]:
        """Gaps of a pair, or of all, since the start: (symbol, since_ns, until_ns or None while it lasts, reason).

        Found among the last 10,000 events.
        """
        record = self._begun()
        return record.gaps(None if pair is None else record.symbol(pair))

    def events(self) -> list[Event]:
        """What else happened since the start, oldest first: connections, gaps, …; the last 10,000."""
        return [event for _, event in self._begun().events()]

    # readers

    def subscribe(self, name: str, pairs: Sequence[str] | None = None) -> Consumer:
        """A consumer of all pairs, or some, to whom everything is new that comes from now on.

        Raises UnknownPair, and UsageError where the name is in use.
        """
        return self._audience.subscribe(name, pairs)

    def on_snapshot(self, function: OnSnapshotT, pairs: Sequence[str] | None = None) -> OnSnapshotT:
        """Calls `function(pair, row)` for each book of all pairs, or some, from now on; also as a decorator.

        Within a pair in the order of time; see the class for what becomes of errors and of slow functions.
        """
        self._audience.on_snapshot(function, pairs)
        return function

    def on_event(self, function: OnEventT) -> OnEventT:
        """Calls `function(event)` for whatever else happens from now on; also as a decorator."""
        self._audience.on_event(function)
        return function

    @property
    def callback_failures(self) -> int:
        """How often callbacks have raised something."""
        return self._audience.failures

    def synchronous(
        self, pairs: Sequence[str] | None = None, every: str = "100ms", max_age: str = "1s", fill: str = "none"
    ) -> SynchronousRows:
        """Iterates over rows of all pairs, or some, at whole multiples of `every` since 1970, beginning now.

        Gives `Row(time, values)` with values (pairs, 4 x depth), the very rows that `export --every` makes of the same
        books with the same `max_age` and `fill`: each pair's last book received at or before `time`, NaN where that is
        older than `max_age`, except with `fill="forward"`. A row comes as soon as it is certain that all that was
        received up to its time is in. No row is left out: who iterates too slowly gets the missed ones as fast as he
        takes them, and FellBehind where the record no longer holds what they need (`keep`). Ends at `stop`.
        """
        record = self._begun()
        symbols = self.pairs if pairs is None else [record.symbol(pair) for pair in pairs]
        every_ns, max_age_ns = (round(seconds(*each) * SECOND) for each in ((every, "every"), (max_age, "max_age")))
        if every_ns % MILLISECOND:
            raise UsageError(f"every {every!r} is not a whole number of milliseconds, such as 100ms.")
        if fill not in FILLS:
            raise UsageError(f"fill {fill!r} is not one of {', '.join(FILLS)}.")
        return SynchronousRows(
            record,
            symbols,
            every_ns=every_ns,
            max_age_ns=max_age_ns,
            fill=fill,
            now=self._clock.now,
            wake=self._wake,
        )

    def _listed(self, source: Venue, symbols: Sequence[str]) -> list[str]:
        return listed_symbols(
            source, symbols, lambda listed: choose_pairs(symbols, True, listed), stream_url_given=self._told
        )

    def _running_intake(self) -> FeedLoop:
        if not self.running or self._intake is None:
            raise NotRunning("This recorder does not run: pairs come and go only while it does.")
        return self._intake

    def _await(self, done: Callable[[], bool]) -> None:
        """Until the feed thread has taken a change in."""
        bell = threading.Event()
        silence = self._record.on_progress.add(bell)
        try:
            while not done():
                bell.clear()
                self._wake()
                bell.wait(0.1)
        finally:
            silence()

    def _begun(self) -> LiveBuffer:
        """What was recorded. Raises NotRunning before the first start."""
        if self._intake is None:
            raise NotRunning(
                "This recorder was never started. Use it as `with Recorder(…) as recorder:`, or start() it."
            )
        return self._record

    def _rows(self, pair: str, n: int | None) -> RingRows:
        record = self._begun()
        symbol = record.symbol(pair)
        ring, start = record.ring(symbol), record.start_of(symbol)
        return ring.read(start if n is None else max(start, ring.count - n))[1]

    def _wake(self) -> None:
        if self._intake is not None:
            self._intake.wake()

    def _stop_simulator(self) -> None:
        if self._simulator is not None:
            self._simulator.stop()


def _ns(time: int | datetime) -> int:
    if isinstance(time, datetime):
        at = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return -(-(at - _EPOCH) // timedelta(microseconds=1)) * 1000
    return int(time)


OWN = "ws://127.0.0.1:1"
"""Stands for the address of our own simulator."""


def named_symbols(pairs: Sequence[str] | str) -> list[str]:
    """Pairs as Binance writes them. Raises SettingsError where there are none."""
    names = pairs.split(",") if isinstance(pairs, str) else pairs
    symbols = list(dict.fromkeys(normal_symbol(name) for name in names))
    if not symbols:
        raise SettingsError("pairs is empty. Name some as Binance writes them, such as ['BTCUSDT', 'ETHUSDT'].")
    return symbols


def simulated_symbols(symbols: Sequence[str]) -> list[str]:
    """What our own simulator lists: well-known pairs too, so that they can be added later."""
    return list(dict.fromkeys([*symbols, *symbols_of(DEFAULT_COINS, DEFAULT_QUOTE)]))


def exchange_of(exchange: str | Venue, stream_url: str | None, rest_url: str | None) -> Venue:
    """The exchange that is meant; the addresses of a simulator of our own are `OWN` until it runs."""
    if isinstance(exchange, Venue):
        known = exchange
    elif exchange == SIMULATOR:
        known = simulator_at(OWN, "http://127.0.0.1:1")
        if bool(stream_url) != bool(rest_url):
            raise SettingsError("Of stream_url and rest_url only one is given. A simulator elsewhere needs both.")
    else:
        known = venue_named(exchange)
    return rightly_named(known.at(stream_url=stream_url, rest_url=rest_url))
