"""`ingester start`: the main job."""

import contextlib
import dataclasses
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import click
from click.core import ParameterSource

from ingester import private
from ingester.cli.configuration import say_which_file
from ingester.cli.live import MOST_BOOKS, Live, LogLines, Unfailing
from ingester.cli.options import (
    data_options,
    exchange_at,
    exchange_options,
    exposed,
    hide,
    is_our_own,
    named_symbols,
    open_questdb,
    pair_options,
    pairs_file_option,
    watch_list,
)
from ingester.cli.retention import policy_of, retention_of, retention_options
from ingester.cli.terminal import say, stop_signals
from ingester.clock import check_clock
from ingester.config import Settings, default_collector, interval_ms, seconds
from ingester.datasets import RAW_FORMATS, ROOT
from ingester.errors import (
    ClockWrong,
    IngesterError,
    LevelsRefused,
    MigrationRefused,
    MixedData,
    NoAnswer,
    OperationError,
    PairsFileError,
    RegionRefused,
    ServerError,
    StoreError,
    Unreachable,
)
from ingester.events import PAIRS_REFUSED, Event
from ingester.exchange import (
    DEFAULT_QUOTE,
    Choice,
    Listing,
    Venue,
    choose_pairs,
    choose_watched_pairs,
    fetch_listings,
    listed_symbols,
    region_refused,
)
from ingester.live import LiveBuffer
from ingester.monitoring import (
    AlertLimits,
    Monitor,
    Observer,
    connecting,
    connecting_text,
    running_collectors,
    way_out,
)
from ingester.questdb import Endpoint, ManagedServer, QuestDB, schema, watch
from ingester.record import (
    PAIRS_FILE_NAME,
    LastRecorded,
    PairsFile,
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
from ingester.text import counted
from ingester.threads import beside

if TYPE_CHECKING:
    from ingester.datasets import Backup
    from ingester.monitoring import MonitoringServer, Webhook

log = logging.getLogger("ingester.start")

CLOCK_SECONDS = 60
"""How often it is logged that the machine's clock is wrong."""
CHECK_SECONDS = 5.0
"""How long the exchange may take to list its pairs; then recording starts, and they are checked meanwhile."""
PATIENCE_SECONDS = 6.0
"""How long a start waits for a QuestDB that it has used before; then rows go to the spool."""
FIRST_SECONDS = 120.0
"""How long the first start waits, which has to create the tables."""


ENDED_AT_ONCE = b"\x1b[?25h\nended at once; what QuestDB has not acknowledged waits in the spool for the next start\n"


class Late(NamedTuple):
    """Results that recording does not wait for."""

    check: Future[list[str]]
    watermark: Future[QuestDB]


def _hidden(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A webhook's address is a secret: on the command line every user could read it there."""
    if value and ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
        scheme, _, rest = value.partition("://")
        hidden = hide(f"{scheme}://" if rest else "", rest or value, "")
        log.warning(
            "the address in --alarm-webhook %s: give it by INGESTER_START_ALARM_WEBHOOK or the configuration file",
            exposed(hidden),
        )
    return value


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
@click.option(
    "--backup-every",
    type=click.IntRange(1, 24 * 60),
    metavar="MINUTES",
    help="Also write the rows to files, one for each pair and so many minutes of the clock.",
)
@click.option(
    "--backup-format", type=click.Choice(RAW_FORMATS), default="pkl", show_default=True, help="Of these files."
)
@click.option(
    "--backup-root",
    type=click.Path(file_okay=False, path_type=Path),
    default=ROOT,
    show_default=True,
    help="Folder in which they are kept.",
)
@retention_options
@click.option("--metrics", metavar="HOST:PORT", help="Serve /metrics for Prometheus, and /healthz: 127.0.0.1:9464.")
@click.option(
    "--metrics-host",
    metavar="NAME",
    multiple=True,
    help="Also accept requests for this host name; addresses, names without a dot and this machine's own name "
    "are always accepted. May be repeated.",
)
@click.option(
    "--alarm-webhook",
    metavar="URL",
    callback=_hidden,
    help="Post a message here when something is wrong, and when it is over. "
    "A secret: better given by variable or file.",
)
@click.option("--alarm-gap", default="30s", show_default=True, metavar="DURATION", help="A longer gap is wrong.")
@click.option(
    "--alarm-wait",
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="Rows that wait, and connections that are lost, for longer are wrong.",
)
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
    say_which_file()
    plan = planned(coins, quote, pairs, data_dir, pairs_file, exchange, collector)
    rotating = seconds(rotate_every, "--rotate-every")
    lasting = seconds(duration, "--for") if duration else None
    policy = policy_of(parquet_after, drop_after)
    limits = AlertLimits(gap=seconds(alarm_gap, "--alarm-gap"), wait=seconds(alarm_wait, "--alarm-wait"))
    with contextlib.ExitStack() as closing:
        metrics_server, webhook = _reporting(metrics, metrics_host, alarm_webhook, closing)
        source = _exchange(exchange, stream_url, rest_url, exchange_ca, plan.symbols, closing)
        every_ms = interval_ms(interval, source.books)
        settings = Settings(
            tuple(plan.symbols),
            source,
            depth=depth,
            interval_ms=every_ms,
            connections=connections,
            rotate_seconds=rotating,
            collector=collector,
        )
        private.data_folder(data_dir)
        _wait_for_clock()
        beside(lambda: _look_for_leftovers(data_dir, collector), "leftovers")  # reading much of them takes its time
        check = beside(
            lambda: listed_symbols(source, plan.symbols, plan.choose, stream_url_given=stream_url is not None),
            "pairs check",
        )
        settings = dataclasses.replace(settings, symbols=tuple(_checked(check, plan.symbols)))
        db, server, watermark = _reach(data_dir, questdb, settings)
        shown = LiveBuffer(settings.symbols[:MOST_BOOKS], depth=depth)
        recorder = RecorderService(settings, db, data_dir=data_dir, live=shown if sys.stderr.isatty() else None)
        backup = _backup(recorder, db, backup_every, backup_format, backup_root, closing)
        observer = Observer(
            recorder,
            data_dir=data_dir,
            questdb=db.endpoint.http_url,
            managed=server is not None,
            limits=limits,
            policy=policy,
        )
        monitor = closing.enter_context(Monitor(observer, tell=webhook.tell if webhook else None))
        if metrics_server is not None:
            metrics_server.show(monitor.latest, monitor.age)
        changing: list[_Beside] = [plan.watch(recorder)]
        if policy.is_active:
            changing.append(retention_of(recorder, db, server, policy))
        following = [backup] if backup is not None else []
        _record(recorder, db, server, lasting, monitor, changing, following, Late(check, watermark))


def _reporting(
    metrics: str | None, hosts: Sequence[str], alarm_webhook: str | None, closing: contextlib.ExitStack
) -> "tuple[MonitoringServer | None, Webhook | None]":
    """Opens the metrics port and the webhook, where they are wanted; `closing` closes them.

    They are imported here: a recorder should hold no libraries that it does not use.
    Raises SettingsError, and OperationError where the port is taken.
    """
    server = webhook = None
    if metrics:
        from ingester.monitoring import MonitoringServer

        server = MonitoringServer(metrics, hosts)
        closing.callback(server.close)
    if alarm_webhook:
        from ingester.monitoring import Webhook

        webhook = Webhook(alarm_webhook)
        closing.callback(webhook.close)
    return server, webhook


def _backup(
    recorder: RecorderService, db: QuestDB, every: int | None, form: str, root: Path, closing: contextlib.ExitStack
) -> "Backup | None":
    """Returns what writes raw backups, where that is wanted; its folder is locked until `closing` ends.

    Raises OperationError where the folder is in use or cannot be written.
    """
    if every is None:
        return None
    from ingester.datasets import Backup, run_folder  # 40 MB of libraries that recording alone does not need

    folder = closing.enter_context(run_folder(root, recorder.started_ns))
    return Backup(
        db,
        recorder.spool,
        recorder.settings,
        started_ns=recorder.started_ns,
        now=recorder.clock.now,
        folder=folder,
        every_minutes=every,
        format=form,
    )


def _look_for_leftovers(data_dir: Path, collector: str) -> None:
    """Logs rows that wait under other names, as after the host's name changed, and frees reserved disk space."""
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
    """Removes the pairs that a late check has found not to be listed."""
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
        # An error that QuestDB answers is for a person to repair before a recorder of this name has its first row.
        silent = isinstance(error, Unreachable | ServerError | MigrationRefused)  # each of them passes
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


class _Beside(Protocol):
    """What runs beside a recorder."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


def _record(
    recorder: RecorderService,
    db: QuestDB,
    server: ManagedServer | None,
    lasting: float | None,
    monitor: Monitor,
    changing: Sequence[_Beside],
    following: Sequence[_Beside],
    late: Late,
) -> None:
    """Records until it is stopped or `lasting` seconds have passed.

    What changes the recording is stopped before it, what follows it afterwards.
    """
    exchange = recorder.settings.exchange
    view = Unfailing(Live(recorder, db.endpoint) if sys.stderr.isatty() else LogLines(recorder))
    with stop_signals(_end_at_once) as stop, view:
        recorder.start()
        _when_late(late, recorder, db, server, stop)
        monitor.start()
        for each in (*changing, *following):
            each.start()
        ends = time.monotonic() + lasting if lasting is not None else float("inf")
        while time.monotonic() < ends and not stop.wait(min(view.seconds, max(0.0, ends - time.monotonic()))):
            view.show()
            if recorder.metrics.feed.region_refused and not recorder.metrics.feed.snapshots:
                recorder.stop()
                raise RegionRefused(region_refused(exchange, exchange.stream_url))
        stop.set()
        for each in changing:
            each.stop()
        complete = recorder.stop()
        for each in following:
            each.stop()
    say(recorder.summary())
    if not complete:
        log.warning(
            "QuestDB has not shown all rows (%s); %s keeps them, the next start sends what is missing",
            recorder.metrics.store.last_failure or "it has not applied them yet",
            recorder.spool.folder,
        )
    require_rows(recorder, lasting)


def require_rows(recorder: RecorderService, lasting: float | None) -> None:
    """Raises OperationError where a run that was to last so long has received nothing that could be stored."""
    if lasting is None or recorder.metrics.store.rows.received:
        return
    waiting = connecting(recorder)
    if waiting is None:
        raise OperationError(
            f"Nothing was stored: {recorder.spool.folder} took no row, the log says why. `ingester doctor` looks at "
            "the disk."
        )
    way = way_out(recorder.settings.exchange.name, waiting)
    raise OperationError(f"Nothing was stored: {connecting_text(waiting)}. What to try: {way}.")


def _when_late(
    late: Late, recorder: RecorderService, db: QuestDB, server: ManagedServer | None, stop: threading.Event
) -> None:
    """Uses the late results; a managed server is watched once nobody is starting it any more."""
    failed_before = late.watermark.done()

    def watermark(done: Future[QuestDB]) -> None:
        error = done.exception()
        if error is None and done.result() is not db:
            db.endpoint = done.result().endpoint  # perhaps at another port
            log.info("QuestDB is ready at %s", db.endpoint.http_url)
        elif error is not None and not failed_before:
            log.warning("QuestDB is still not ready, it is tried again: %s", error)
        if server is not None:
            watch(server, stop, recorder.server_restarted)

    late.watermark.add_done_callback(watermark)
    late.check.add_done_callback(lambda done: _take_out(done, recorder))


def _end_at_once() -> None:
    with contextlib.suppress(OSError):
        os.write(2, ENDED_AT_ONCE)
    os._exit(130)


class Plan(NamedTuple):
    """The pairs to begin with; `file` is to be followed, None where options name the pairs."""

    symbols: list[str]
    named: bool
    """Whether options name them."""
    file: PairsFile | None = None
    from_file: bool = False
    before: frozenset[str] = frozenset()
    """What a recorder of this name was to record before, where options name the pairs."""

    def choose(self, listed: Mapping[str, Listing]) -> Choice:
        """Which of them to record, of those that the exchange lists."""
        if self.from_file:
            return choose_watched_pairs(self.symbols, listed)
        return choose_pairs(self.symbols, self.named, listed, self.before)

    def watch(self, recorder: RecorderService) -> PairsWatcher:
        """Returns what follows the file while recording. A first start makes the file: it is edited later."""
        known: Sequence[str] = self.symbols
        if self.file is not None and not self.from_file:
            known = recorder.settings.symbols  # those of the default list that are listed
            try:
                self.file.create(known, "The pairs that are recorded, one a line; see `ingester pairs --help`.")
            except PairsFileError as error:
                log.warning("pairs cannot be changed while recording: %s", error)
        return PairsWatcher(
            self.file,
            known=known,
            change=recorder.change,
            record=recorder.record,
            now=recorder.clock.now,
            recorded=lambda: recorder.wanted,
            listed=lambda: fetch_listings(recorder.settings.exchange),
        )


def planned(
    coins: str | None,
    quote: str,
    pairs: str | None,
    data_dir: Path,
    pairs_file: Path | None,
    exchange: str,
    collector: str,
) -> Plan:
    """Returns the pairs that `ingester start` is to record: from options, else from the file, else the default list.

    A file that cannot be used does not keep a recorder from starting that has recorded before: it goes on with what it
    was watching then. Raises PairsFileError where it never has, UsageError for options that cannot be used.
    """
    file = watch_list(data_dir, pairs_file, exchange)
    last = LastRecorded(spool_folder(data_dir, collector))
    symbols, named = named_symbols(coins, quote, pairs)
    if named or quote.upper() != DEFAULT_QUOTE:
        if file.exists():
            log.info("the pairs are those that the options name; %s is left alone and not followed", file.path)
        return Plan(symbols, named, before=frozenset(last.ever()))
    if not file.exists():
        # An earlier version had one file for all exchanges: what a recorder has followed goes on in its own.
        is_own = pairs_file is None and file.path.name != PAIRS_FILE_NAME
        return Plan((last.read() if is_own else None) or symbols, False, file)
    try:
        return Plan(list(file.read().pairs), False, file, from_file=True)
    except PairsFileError as error:
        before = last.read()
        if before is None:
            raise
        log.error("%s Recording goes on with the %s watched before.", error, counted(len(before), "pair"))
        return Plan(before, False, file, from_file=True)
