"""`ingester start`: the main job."""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from ingester.capture.collector import Collector, spool_folder
from ingester.capture.practice import refuse_mixing, refuse_mixing_unasked
from ingester.capture.record import Record
from ingester.capture.source import simulated_symbols
from ingester.capture.watch import Watch
from ingester.cli.backup import backup_of, backup_options
from ingester.cli.configured import say_which
from ingester.cli.exchanges import exchange_at, exchange_options, is_our_own
from ingester.cli.live import Live, LogLines, View
from ingester.cli.options import data_options, open_questdb, pair_options
from ingester.cli.prices import MOST_BOOKS
from ingester.cli.retention import policy_of, retention_options, watch_of
from ingester.cli.watched import pairs_file_option, planned
from ingester.cli.watching import Watching, watching_options
from ingester.errors import LevelsRefused, MixedData, RegionRefused, StoreError
from ingester.exchange import binance
from ingester.exchange.pairs import listed_symbols
from ingester.exchange.simulated.simulator import Simulator
from ingester.settings import Settings, default_collector, interval_ms, seconds
from ingester.store import schema
from ingester.store.endpoint import Endpoint
from ingester.store.questdb import QuestDB
from ingester.store.server import ManagedServer, watch
from ingester.words import counted

if TYPE_CHECKING:
    from ingester.datasets.backup import Backup
    from ingester.store.keeper import Watch as Retention

log = logging.getLogger("ingester.start")


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
        watching = closing.enter_context(Watching(metrics, alarm_webhook, alarm_gap, alarm_wait))
        source = _exchange(exchange, stream_url, rest_url, plan.symbols, closing)
        settings = Settings(tuple(plan.symbols), source, depth, interval_ms(interval), connections, rotating, collector)
        listed = listed_symbols(source, plan.symbols, plan.choose, told=stream_url is not None)
        settings = dataclasses.replace(settings, symbols=tuple(listed))
        db, server = _reach(data_dir, questdb, settings)
        shown = Record(settings.symbols[:MOST_BOOKS], depth)
        recorder = Collector(settings, db, data_dir, shown if sys.stderr.isatty() else None)
        backup = backup_of(recorder, db, backup_every, backup_format, backup_root, closing)
        watching.of(recorder, data_dir, server is not None, db.endpoint.http_url, policy)
        beside = [plan.watch(recorder), watch_of(recorder, db, server, policy)]
        _record(recorder, db, server, lasting, backup, watching, [each for each in beside if each is not None])


def _exchange(
    name: str, stream_url: str | None, rest_url: str | None, symbols: list[str], closing: contextlib.ExitStack
) -> binance.Exchange:
    if is_our_own(name, stream_url, rest_url):
        simulator = closing.enter_context(Simulator(pairs=simulated_symbols(symbols)))
        stream_url, rest_url = stream_url or simulator.stream_url, rest_url or simulator.rest_url
    return exchange_at(name, stream_url, rest_url)


def _reach(data_dir: Path, questdb: Endpoint | None, settings: Settings) -> tuple[QuestDB, ManagedServer | None]:
    """The QuestDB to record into. A first start needs it to be ready; any later one records, and waits for it."""
    try:
        db, server = open_questdb(data_dir, questdb)
        refuse_mixing(db, settings.exchange.name, data_dir)
        if days := schema.days_to_rewrite(db, settings.depth):
            log.warning(
                "rows wait in the spool while QuestDB rewrites %s, as orderbook got more levels",
                counted(len(days), "Parquet day"),
            )
        else:
            schema.ensure(db, settings.depth)
        return db, server
    except (LevelsRefused, MixedData):
        raise
    except StoreError as error:
        server = ManagedServer(data_dir) if questdb is None else None
        endpoint = server.last_endpoint() if server else questdb
        if endpoint is None or not spool_folder(data_dir, settings.collector).is_dir():
            raise
        refuse_mixing_unasked(endpoint, settings.exchange.name, data_dir)
        log.warning("QuestDB is not ready, rows wait in the spool until it is: %s", error)
        return QuestDB(endpoint), server


def _record(
    collector: Collector,
    db: QuestDB,
    server: ManagedServer | None,
    lasting: float | None,
    backup: "Backup | None",
    watching: Watching,
    beside: Sequence["Watch | Retention"],
) -> None:
    exchange = collector.settings.exchange
    view: View = Live(collector, db.endpoint) if sys.stderr.isatty() else LogLines(collector)
    with _signals() as stop, view:
        if server is not None:
            watch(server, stop, collector.server_restarted)
        collector.start()
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
                raise RegionRefused(binance.region_refused(exchange.name, exchange.stream_url))
        stop.set()
        for each in beside:
            each.stop()
        complete = collector.stop()
        if backup is not None:
            backup.stop()
    click.echo(collector.summary())
    if not complete:
        log.warning(
            "QuestDB has not shown all rows (%s); %s keeps them, the next start sends what is missing",
            collector.metrics.store.last_failure or "it has not applied them yet",
            collector.spool.folder,
        )


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM, or a closed terminal) sets; the second ends the process at once."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT and asked:
            os.write(
                2,
                b"\x1b[?25h\nended at once; what QuestDB has not acknowledged waits in the spool for the next start\n",
            )
            os._exit(130)
        asked.append(number)
        stop.set()

    asked: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
