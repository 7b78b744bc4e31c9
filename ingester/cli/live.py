"""What a person sees of a running recorder: a live table on a terminal, a line every ten seconds elsewhere."""

import logging
import math
import time
from collections.abc import Callable
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.logging import RichHandler
from rich.text import Text

from ingester.cli.prices import Prices
from ingester.cli.tables import TextTable
from ingester.clock import SECOND
from ingester.metrics import StoreMetrics
from ingester.monitoring import connecting, connecting_text, way_out
from ingester.questdb import Endpoint
from ingester.record import RecorderService
from ingester.text import PlainLines
from ingester.throttle import exchange_lines
from ingester.words import counted

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
            store.stored,
            self._collector.spool.rows_waiting,
            seconds_text(store.lag.quantile(0.5)),
            seconds_text(store.lag.quantile(0.99)),
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
        row("rows", f"{number(store.stored)} stored, {number(waiting)} on the way", store.refused > 0)
        row("lag", f"p50 {seconds_text(lag.quantile(0.5))}, p99 {seconds_text(lag.quantile(0.99))}, receive to stored")
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
        if store.dead_letters or store.rows_missing or store.rows_surplus:
            row(
                "trouble",
                f"{number(store.dead_letters)} rows refused and set aside, {number(store.rows_missing)} missing, "
                f"{number(store.rows_surplus)} too many",
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


def seconds_text(seconds: float) -> str:
    """`0.42 s`, `12 ms`, or `-` before there is any."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def duration_text(seconds: float) -> str:
    """`3 d 04:05:06` or `04:05:06`."""
    days, rest = divmod(int(seconds), 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock
