"""`ingester start`: the main job."""

import contextlib
import dataclasses
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ingester import private
from ingester.cli.backup import backup_of, backup_options
from ingester.cli.configured import say_which
from ingester.cli.exchanges import exchange_at, exchange_options, is_our_own
from ingester.cli.live import Live, LogLines, Unfailing
from ingester.cli.options import data_options, open_questdb, pair_options
from ingester.cli.prices import MOST_BOOKS
from ingester.cli.retention import policy_of, retention_options, watch_of
from ingester.cli.signals import stop_signals
from ingester.cli.standard_streams import say
from ingester.cli.watched import pairs_file_option, planned
from ingester.cli.watching import Watching, watching_options
from ingester.clock import check_clock
from ingester.config import Settings, default_collector, interval_ms, seconds
from ingester.deadline import beside
from ingester.errors import (
    ClockWrong,
    IngesterError,
    LevelsRefused,
    MixedData,
    NoAnswer,
    OperationError,
    RegionRefused,
    ServerError,
    StoreError,
    Unreachable,
)
from ingester.events import PAIRS_REFUSED, Event
from ingester.exchange import Venue, listed_symbols, region_refused
from ingester.live import LiveBuffer
from ingester.monitoring import connecting, connecting_text, running_collectors, way_out
from ingester.questdb import Endpoint, ManagedServer, QuestDB, schema, watch
from ingester.record import (
    PairsWatcher,
    RecorderService,
    give_back_reserves,
    leftovers,
    refuse_mixing,
    refuse_mixing_unasked,
    simulated_symbols,
    spool_folder,
)
from ingester.simulator import Simulator

if TYPE_CHECKING:
    from ingester.datasets import Backup
    from ingester.questdb import RetentionThread as Retention

log = logging.getLogger("ingester.start")

CLOCK_SECONDS = 60
"""So often it is said that the machine's clock is wrong."""
CHECK_SECONDS = 5.0
"""So long the exchange may take to list its pairs, all in all; then recording starts and they are checked beside."""
PATIENCE_SECONDS = 6.0
"""So long a start waits for a QuestDB into which was recorded before; then rows go to the spool."""
FIRST_SECONDS = 120.0
"""So long the first start waits, which has to see that the tables can be made."""


ENDED_AT_ONCE = b"\x1b[?25h\nended at once; what QuestDB has not acknowledged waits in the spool for the next start\n"


class Late(NamedTuple):
    """What recording need not wait for; it may have come about already."""

    check: Future[list[str]]
    watermark: Future[QuestDB]


@click.command(short_help="Record order books until Ctrl-C.")
@pair_options("what `ingester pairs` keeps; at first 44 well-known ones")
@pairs_file_option
@click.option("--depth", type=int, default=5, show_default=True, help="Levels a side: 5, 10 or 20.")
@click.option("--interval", default="100ms", show_default=True, help="Keep a snapshot this often: 100ms, 200ms, 1s, …")
@exchange_options("Whose books; 'simulator' runs an artificial exchange in the process.")
@data_options
@click.option("--connections", type=int, default=2, show_default=True, help="Connections that receive each pair.")
@click.option(
    "--rotate-every",
    default="23h",
    show_default=True,
    help="Replace each connection at this age, without a gap; Binance ends it at 24h.",
)
@click.option("--collector", default=default_collector, show_default="host name", help="This recorder's name.")
@backup_options
@retention_options
@watching_options
@click.option("--for", "duration", metavar="DURATION", help="Stop by itself after 60s, 5m, 2h, …")
def start(
    coins: str | None,
    quote: str,
    pairs: str | None,
    pairs_file: Path | None,
    depth: int,
    interval: str,
    exchange: str,
    stream_url: str | None,
    exchange_ca: Path | None,
    rest_url: str | None,
    data_dir: Path,
    questdb: Endpoint | None,
    connections: int,
    rotate_every: str,
    collector: str,
    backup_every: int | None,
    backup_format: str,
    backup_root: Path,
    parquet_after: str | None,
    drop_after: str | None,
    metrics: str | None,
    metrics_host: Sequence[str],
    alarm_webhook: str | None,
    alarm_gap: str,
    alarm_wait: str,
    duration: str | None,
) -> None:
    """Records order books until Ctrl-C, into a QuestDB that it fetches and starts itself.

    Without --coins and --pairs it records what the file of watched pairs says, and follows it while it runs: see
    `ingester pairs`. The first start makes that file, of 44 well-known coins.

    \b
    Examples:
      ingester start                                     44 well-known coins in USDT
      ingester start --coins BTC,ETH --quote USDC --depth 20
      ingester start --exchange simulator --for 60s      without the internet
      ingester start --questdb https://db:9000 --questdb-user admin --questdb-password-file FILE
      ingester start --backup-every 30                   files of the rows as well
      ingester start --parquet-after 3d --drop-after 90d
    """
    say_which()
    plan = planned(coins, quote, pairs, data_dir, pairs_file, collector)
    rotating = seconds(rotate_every, "--rotate-every")
    lasting = seconds(duration, "--for") if duration else None
    policy = policy_of(parquet_after, drop_after)
    with contextlib.ExitStack() as closing:
        watching = closing.enter_context(Watching(metrics, alarm_webhook, alarm_gap, alarm_wait, metrics_host))
        source = _exchange(exchange, stream_url, rest_url, exchange_ca, plan.symbols, closing)
        every_ms = interval_ms(interval, source.books)
        settings = Settings(tuple(plan.symbols), source, depth, every_ms, connections, rotating, collector)
        private.data_folder(data_dir)
        _wait_for_clock()
        beside(lambda: _look_for_leftovers(data_dir, collector), "leftovers")  # reading much of them takes its time
        check = beside(
            lambda: listed_symbols(source, plan.symbols, plan.choose, told=stream_url is not None), "pairs check"
        )
        settings = dataclasses.replace(settings, symbols=tuple(_checked(check, plan.symbols)))
        db, server, watermark = _reach(data_dir, questdb, settings)
        shown = LiveBuffer(settings.symbols[:MOST_BOOKS], depth=depth)
        recorder = RecorderService(settings, db, data_dir, shown if sys.stderr.isatty() else None)
        backup = backup_of(recorder, db, backup_every, backup_format, backup_root, closing)
        watching.of(recorder, data_dir, server is not None, db.endpoint.http_url, policy)
        others = [plan.watch(recorder), watch_of(recorder, db, server, policy)]
        late = Late(check, watermark)
        _record(recorder, db, server, lasting, backup, watching, [each for each in others if each is not None], late)


def _look_for_leftovers(data_dir: Path, collector: str) -> None:
    """Names rows that wait under other names, as after the host's name changed, and frees what was kept for them."""
    running = {collector, *running_collectors(data_dir)}
    for each in leftovers(data_dir, running):
        log.warning("%s; %s", each.text, each.mend(data_dir))
    give_back_reserves(data_dir, running)


def _wait_for_clock() -> None:
    """Waits for NTP on a machine that has just started without a clock of its own: all times would be wrong."""
    for waited in itertools.count():
        try:
            check_clock(time.time_ns())
            return
        except ClockWrong as error:
            if waited % CLOCK_SECONDS == 0:
                log.warning("recording begins as soon as the clock is right. %s", error)
            time.sleep(1.0)


def _exchange(
    name: str,
    stream_url: str | None,
    rest_url: str | None,
    ca_file: Path | None,
    symbols: list[str],
    closing: contextlib.ExitStack,
) -> Venue:
    if is_our_own(name, stream_url, rest_url):
        simulator = closing.enter_context(Simulator(pairs=simulated_symbols(symbols)))
        stream_url, rest_url = stream_url or simulator.stream_url, rest_url or simulator.rest_url
    return exchange_at(name, stream_url, rest_url, ca_file)


def _checked(check: Future[list[str]], symbols: list[str]) -> list[str]:
    """The pairs to begin with: as the exchange lists them, or all where it takes too long to say."""
    try:
        return check.result(CHECK_SECONDS)
    except TimeoutError:
        log.warning(
            "the exchange did not list its pairs within %.0f s; recording starts anyway, and the "
            "pairs are checked meanwhile",
            CHECK_SECONDS,
        )
        return symbols


def _take_out(check: Future[list[str]], recorder: RecorderService) -> None:
    """Takes out the pairs that are not to be recorded, as a check found that came after recording began."""
    try:
        listed = check.result()
    except IngesterError as error:
        log.error("some of the recorded pairs are not usable: %s", error)
        recorder.record(Event(recorder.clock.now(), PAIRS_REFUSED, detail=str(error)))
        return
    gone = [symbol for symbol in recorder.settings.symbols if symbol not in listed]
    if gone:
        log.warning("no longer recorded, because the exchange does not list them: %s", ", ".join(gone))
        recorder.change({}, dict.fromkeys(gone, "not listed by the exchange"))


def _reach(
    data_dir: Path, questdb: Endpoint | None, settings: Settings
) -> tuple[QuestDB, ManagedServer | None, Future[QuestDB]]:
    """The QuestDB to record into, and what makes it ready.

    The first start in a folder waits until it is ready. Any later one waits a few seconds, then records into the spool.
    """
    server = ManagedServer(data_dir) if questdb is None else None

    def ready() -> QuestDB:
        db, _ = open_questdb(data_dir, questdb, new=True)
        refuse_mixing(db, settings.exchange.name, data_dir)
        if work := schema.work_before(db, settings.depth):
            log.warning("rows wait in the spool while QuestDB %s", work)
        else:
            schema.ensure(db, settings.depth)
        return db

    endpoint = server.last_endpoint() if server and server.has_data() else questdb
    used = endpoint is not None and any((data_dir / "spool").glob("*/"))
    watermark = beside(ready, "reach QuestDB")
    try:
        return _in_time(watermark, PATIENCE_SECONDS if used else FIRST_SECONDS), server, watermark
    except (LevelsRefused, MixedData):
        raise
    except StoreError as error:
        # One that says no is for a person to mend before a recorder of this name has its first row.
        silent = isinstance(error, Unreachable | ServerError)
        if endpoint is None or not used or not (silent or spool_folder(data_dir, settings.collector).is_dir()):
            raise
        refuse_mixing_unasked(endpoint, settings.exchange.name, data_dir)
        log.warning("QuestDB is not ready, rows wait in the spool until it is: %s", error)
        return QuestDB(endpoint), server, watermark


def _in_time(watermark: Future[QuestDB], seconds: float) -> QuestDB:
    """The QuestDB once it is ready. Raises StoreError, also where it takes longer than `seconds`."""
    try:
        return watermark.result(min(seconds, PATIENCE_SECONDS))
    except TimeoutError:
        if seconds <= PATIENCE_SECONDS:
            raise NoAnswer(f"it has not answered within {seconds:.0f} s") from None
    log.info("QuestDB is needed for a first start, and is not ready yet; waiting %.0f s at most", seconds)
    try:
        return watermark.result(seconds - PATIENCE_SECONDS)
    except TimeoutError:
        raise NoAnswer(
            f"QuestDB was not ready within {seconds:.0f} s. `ingester doctor` says what is wrong with it. "
            "Later starts do not wait; the first one has to create the tables."
        ) from None


def _record(
    collector: RecorderService,
    db: QuestDB,
    server: ManagedServer | None,
    lasting: float | None,
    backup: "Backup | None",
    watching: Watching,
    beside: Sequence["PairsWatcher | Retention"],
    late: Late,
) -> None:
    exchange = collector.settings.exchange
    view = Unfailing(Live(collector, db.endpoint) if sys.stderr.isatty() else LogLines(collector))
    with stop_signals(_end_at_once) as stop, view:
        collector.start()
        _when_late(late, collector, db, server, stop)
        watching.start()
        for each in beside:
            each.start()
        if backup is not None:
            backup.start()
        ends = time.monotonic() + lasting if lasting is not None else float("inf")
        while time.monotonic() < ends and not stop.wait(min(view.seconds, max(0.0, ends - time.monotonic()))):
            view.show()
            if collector.metrics.feed.region_refused and not collector.metrics.feed.snapshots:
                collector.stop()
                raise RegionRefused(region_refused(exchange, exchange.stream_url))
        stop.set()
        for each in beside:
            each.stop()
        complete = collector.stop()
        if backup is not None:
            backup.stop()
    say(collector.summary())
    if not complete:
        log.warning(
            "QuestDB has not shown all rows (%s); %s keeps them, the next start sends what is missing",
            collector.metrics.store.last_failure or "it has not applied them yet",
            collector.spool.folder,
        )
    _require_rows(collector, lasting)


def _require_rows(collector: RecorderService, lasting: float | None) -> None:
    """Raises OperationError where a run that was to last so long has received nothing that could be stored."""
    if lasting is None or collector.metrics.store.received:
        return
    waiting = connecting(collector)
    if waiting is None:
        raise OperationError(
            f"Nothing was stored: {collector.spool.folder} took no row, the log says why. `ingester doctor` looks at "
            "the disk."
        )
    way = way_out(collector.settings.exchange.name, waiting)
    raise OperationError(f"Nothing was stored: {connecting_text(waiting)}. What to try: {way}.")


def _when_late(
    late: Late, collector: RecorderService, db: QuestDB, server: ManagedServer | None, stop: threading.Event
) -> None:
    """Follows what is known only after the start; a managed server is watched once nobody is starting it any more."""
    failed_before = late.watermark.done()

    def watermark(done: Future[QuestDB]) -> None:
        error = done.exception()
        if error is None and done.result() is not db:
            db.endpoint = done.result().endpoint  # perhaps at another port
            log.info("QuestDB is ready at %s", db.endpoint.http_url)
        elif error is not None and not failed_before:
            log.warning("QuestDB is still not ready, it is tried again: %s", error)
        if server is not None:
            watch(server, stop, collector.server_restarted)

    late.watermark.add_done_callback(watermark)
    late.check.add_done_callback(lambda done: _take_out(done, collector))


def _end_at_once() -> None:
    with contextlib.suppress(OSError):
        os.write(2, ENDED_AT_ONCE)
    os._exit(130)
