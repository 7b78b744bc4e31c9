"""What a person sees of a running recorder: a live table on a terminal, a line every ten seconds elsewhere."""

import logging
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.logging import RichHandler
from rich.text import Text

from ingester.cli.tables import TextTable
from ingester.clock import SECOND
from ingester.live import LiveBuffer
from ingester.metrics import StoreMetrics
from ingester.monitoring import connecting, connecting_text, way_out
from ingester.questdb import Endpoint
from ingester.record import RecorderService
from ingester.text import PlainLines, counted, duration_text, exchange_lines

log = logging.getLogger("ingester.start")


LOG_LINES = 5
"""Of the terminal's, that stay for what was logged last."""


class View(Protocol):
    """A way to show a recorder, as context manager; `show` is to be called every `seconds`."""

    seconds: float

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def show(self) -> None:
        """Shows how the recorder is now."""


class Unfailing:
    """A view of which nothing is shown any more once that fails: on a closed terminal, or a full disk."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._failed = False
        self.seconds = view.seconds

    def __enter__(self) -> Self:
        self._try(self._view.__enter__)
        return self

    def __exit__(self, *exception: object) -> None:
        self._try(lambda: self._view.__exit__(*exception))

    def show(self) -> None:
        """Shows how the recorder is now."""
        if not self._failed:
            self._try(self._view.show)

    def _try(self, do: Callable[[], object]) -> None:
        try:
            do()
        except (OSError, ValueError) as error:  # ValueError: the stream was closed
            log.warning("the display has stopped, recording continues: %s", error)
            self._failed = True


class _Rate:
    """Rows per second, over the time between two calls."""

    def __init__(self) -> None:
        self._count, self._at = 0, time.monotonic()
        self._rate = 0.0

    def update(self, count: int) -> float:
        now = time.monotonic()
        if now - self._at >= 1.0:
            self._rate = (count - self._count) / (now - self._at)
            self._count, self._at = count, now
        return self._rate


class LogLines:
    """One log line every ten seconds."""

    seconds = 10.0

    def __init__(self, collector: RecorderService) -> None:
        self._collector = collector
        self._rate = _Rate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def show(self) -> None:
        """Logs the line."""
        if (waiting := connecting(self._collector)) is not None:
            exchange = self._collector.settings.exchange.name
            log.warning("%s; nothing is recorded yet. %s", connecting_text(waiting), way_out(exchange, waiting))
            return
        feed, store = self._collector.metrics.feed, self._collector.metrics.store
        log.info(
            "%s, %.0f rows/s, %d stored, %d waiting, lag p50 %s p99 %s, %d of %d connections, gaps: %s; %d bad frames",
            counted(self._collector.feed.pairs, "pair"),
            self._rate.update(feed.snapshots),
            store.rows.stored,
            self._collector.spool.rows_waiting,
            duration_text(store.lag.quantile(0.5)),
            duration_text(store.lag.quantile(0.99)),
            self._collector.feed.connected,
            self._collector.feed.connections,
            _gaps_text(self._collector),
            feed.malformed,
        )


class Live:
    """A table that stays in place at the bottom of the terminal, log lines above it."""

    seconds = 0.5

    def __init__(self, collector: RecorderService, endpoint: Endpoint) -> None:
        self._collector = collector
        self._endpoint = endpoint
        self._rate = _Rate()
        self._console = Console(stderr=True)
        self._prices = Prices(collector.live)
        self._live = RichLive(console=self._console, auto_refresh=False, transient=False)
        self._logger = logging.getLogger("ingester")
        self._handlers = self._logger.handlers[:]

    def __enter__(self) -> Self:
        handler = RichHandler(console=self._console, show_path=False, log_time_format="%H:%M:%S", markup=False)
        for each in (exchange_lines(), PlainLines()):
            handler.addFilter(each)
        self._logger.handlers[:] = [handler]
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                self.show()  # with what the end has stored
        finally:
            try:
                self._live.stop()
            finally:
                self._logger.handlers[:] = self._handlers

    def show(self) -> None:
        """Redraws the table."""
        table = self._table()
        room = self._console.height - table.row_count - LOG_LINES
        prices = self._prices.table(self._collector.clock.now(), room, self._collector.feed.pairs)
        self._live.update(Group(table, "", prices) if prices else table, refresh=True)

    def _table(self) -> TextTable:
        collector = self._collector
        feed, store, lag = collector.metrics.feed, collector.metrics.store, collector.metrics.store.lag
        settings = collector.settings
        running = duration_text((collector.clock.now() - collector.started_ns) / SECOND)
        table = TextTable(show_header=False, box=None, padding=(0, 2), pad_edge=False)
        table.add_column(style="dim", min_width=11)
        table.add_column(min_width=60)

        def row(name: str, text: str, alarm: bool = False) -> None:
            table.add_row(name, Text(text, style="bold red" if alarm else ""))

        def number(count: int) -> str:
            return f"{count:,}"

        waiting = collector.spool.rows_waiting
        what = f"{settings.exchange.name}, depth {settings.depth}, every {settings.interval_ms} ms"
        waiting_for = connecting(collector)
        row(
            "connecting" if waiting_for else "recording",
            f"{counted(collector.feed.pairs, 'pair')} from {what}, for {running}",
        )
        row("rows/s", f"{self._rate.update(feed.snapshots):,.0f}")
        row("rows", f"{number(store.rows.stored)} stored, {number(waiting)} on the way", store.rows.lost > 0)
        row(
            "lag", f"p50 {duration_text(lag.quantile(0.5))}, p99 {duration_text(lag.quantile(0.99))}, receive to stored"
        )
        if waiting_for is not None:
            row("state", f"{connecting_text(waiting_for)}; nothing is recorded yet", True)
            row("", way_out(settings.exchange.name, waiting_for))
        if deaths := collector.deaths().counts:
            died = ", ".join(f"{name} {count}" for name, count in sorted(deaths.items()))
            row("threads", f"died and restarted: {died}; the log says why", True)
        missing = collector.feed.connections - collector.feed.connected
        row(
            "connections",
            f"{collector.feed.connected} of {collector.feed.connections} stand, "
            f"{number(feed.reconnects)} lost and back, {number(feed.rotations)} replaced in time",
            missing > 0,
        )
        row("gaps", _gaps_text(collector))
        if feed.malformed or feed.refused:
            row(
                "not stored",
                f"{number(feed.malformed)} bad frames, {number(feed.refused)} refused requests",
                True,
            )
        row("server", _server_text(store), store.failing or store.suspended)
        if store.dead_letters or store.rows.missing or store.rows.surplus:
            row(
                "trouble",
                f"{number(store.dead_letters)} rows refused and set aside, {number(store.rows.missing)} missing, "
                f"{number(store.rows.surplus)} too many",
                True,
            )
        row("console", f"{self._endpoint.http_url}  (ingester server console tells the password)")
        return table


def _gaps_text(collector: RecorderService) -> str:
    """Gaps that are over, and how many pairs have one now."""
    lasting = sum(detector.has_open_gap for detector in list(collector.feed.monitor.detectors.values()))
    now = f"; open now: {counted(lasting, 'pair')}" if lasting else ""
    return f"{collector.event_counts.gaps_text()}{now}"


def _server_text(store: StoreMetrics) -> str:
    if store.failing:
        return f"rows wait: {store.last_failure}"
    if store.suspended:
        return "the table is suspended: rows are acknowledged, kept, and not visible yet"
    return "takes rows"


HEAD_LINES = 2
"""The empty line and the names above the books."""
MOST_BOOKS = 10
OLD_SECONDS = 5.0
"""An age that is worth a look."""


class Prices:
    """Shows the newest books of the first pairs in the order in which they are recorded."""

    def __init__(self, record: LiveBuffer) -> None:
        self._record = record
        self._places: dict[str, int] = {}  # decimal places that a pair's prices were seen to have

    def table(self, now: int, room: int, count: int) -> TextTable | None:
        """A table that takes at most `room` lines with the empty one above it; None where there is nothing to show.

        `count`: pairs that are recorded, shown or not.
        """
        if not self._record.running:
            return None
        pairs = self._record.pairs[: min(MOST_BOOKS, max(0, room - HEAD_LINES))]
        if not pairs:
            return None
        table = TextTable(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
        name = f"{len(pairs)} of {count}" if len(pairs) < count else "pair"
        table.add_column(name, min_width=11)
        for name, width in (("bid", 13), ("ask", 13), ("spread", 10), ("age", 7)):
            table.add_column(name, justify="right", min_width=width)
        for pair in pairs:
            table.add_row(pair, *self._row(pair, now))
        return table

    def _row(self, pair: str, now: int) -> list[Text | str]:
        newest = self._record.newest(pair)
        if newest is None:
            return ["-"] * 4
        bid, ask = newest.bids[0][0] if newest.bids else None, newest.asks[0][0] if newest.asks else None
        age = max(0.0, (now - newest.receive_ns) / SECOND)
        return [
            self._price(pair, bid),
            self._price(pair, ask),
            "-" if bid is None or ask is None else f"{spread_bps(bid, ask):.2f} bp",
            Text(duration_text(age), style="bold red" if age > OLD_SECONDS else ""),
        ]

    def _price(self, pair: str, price: float | None) -> str:
        if price is None:
            return "-"
        exponent = Decimal(repr(price)).normalize().as_tuple().exponent
        places = self._places[pair] = max(self._places.get(pair, 2), -int(exponent))
        return f"{price:,.{places}f}"


def spread_bps(bid: float, ask: float) -> float:
    """The spread in basis points of the mid, as in the view `spread`."""
    return 20_000 * (ask - bid) / (ask + bid)
