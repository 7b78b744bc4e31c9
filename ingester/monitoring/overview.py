"""How everything is, as `ingester status` shows it: read from the reports in the data folder and from QuestDB.

Nothing here starts or writes anything.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
import urllib3

from ingester.config import default_data_dir
from ingester.errors import AccessRefused, QueryError, StoreError
from ingester.exchange import stored_name
from ingester.monitoring.alerts import AlertLimits, connecting_text, disk_problem, way_out
from ingester.monitoring.monitor import row_bytes
from ingester.monitoring.report import (
    Connecting,
    DiskReport,
    Problem,
    Published,
    Report,
    published_reports,
    running_collectors,
)
from ingester.questdb import EVENTS, IMPORTED, ORDERBOOK, Endpoint, ManagedServer, QuestDB, find_damage
from ingester.record import leftovers
from ingester.text import duration_text
from ingester.threads import within

STALE_SECONDS = 15.0
"""A running recorder publishes its state every second; one that is so late hangs."""
SILENT_SECONDS = 60.0
"""A recorder elsewhere whose newest row is older brings nothing."""
BEHIND = 200
"""So many transactions that a table has not applied are more than a busy minute's."""

RecorderState = Literal["recording", "connecting", "hanging", "dead", "stopped", "elsewhere", "silent"]
ServerState = Literal["answers", "does not answer", "refuses the password", "not asked", "stopped", "dead", "none"]
"""`not asked`: a recorder names it, and nobody gave its password; `dead`: managed, and gone without a goodbye."""


class DayOfGaps(msgspec.Struct, frozen=True):
    """Gaps of the last 24 hours; seconds are summed over pairs."""

    gaps: int
    seconds: float
    longest_seconds: float | None
    """None where that is not known, for QuestDB could not be asked."""
    reasons: dict[str, int] = {}


class RecorderOverview(msgspec.Struct, frozen=True):
    """One recorder: of this data folder, with its report; or one elsewhere that writes into the same table."""

    collector: str
    state: RecorderState
    """`elsewhere` and `silent`: known by its rows and events only."""
    seen_seconds: float | None
    """Age of its report, or of its newest row where it is elsewhere; None: no row within the last hour."""
    rows_per_second: float | None = None
    day: DayOfGaps | None = None
    report: Report | None = None
    file: str | None = None
    """Where its report is."""
    exchange: str | None = None
    """The exchange as its rows name it; None where that is not known."""


class TableOverview(msgspec.Struct, frozen=True):
    """A table of QuestDB."""

    name: str
    suspended: bool
    behind: int
    """Transactions acknowledged and not applied yet."""
    error: str
    rows: int | None = None
    partitions: int | None = None
    parquet: int | None = None
    """Partitions that are Parquet already."""
    size_bytes: int | None = None
    """On the server's disk; the newest partition takes room ahead of its rows."""
    row_bytes: float | None = None
    """Per row, of partitions that are complete; None where there are none."""


class ServerOverview(msgspec.Struct, frozen=True):
    """The QuestDB."""

    state: ServerState
    url: str = ""
    managed: bool = False
    version: str = ""
    error: str = ""
    tables: list[TableOverview] = []


class UnsentRows(msgspec.Struct, frozen=True):
    """Rows that wait in the spool of a recorder that does not run, so that nobody sends them."""

    collector: str
    rows: int
    text: str
    mend: str


class Overview(msgspec.Struct, frozen=True):
    """Everything at one moment."""

    at: datetime
    data_dir: str
    ok: bool
    problems: list[Problem]
    recorders: list[RecorderOverview]
    server: ServerOverview
    disk: DiskReport | None
    """The disk of the data folder; None where there is no such folder."""
    unsent: list[UnsentRows] = []
    """What waits in spools of recorders that do not run."""


def problems_of_all(
    recorders: Sequence[RecorderOverview],
    server: ServerOverview,
    disk: DiskReport | None,
    limits: AlertLimits,
    data_dir: str,
    unsent: Sequence[UnsentRows] = (),
) -> list[Problem]:
    """Returns what is wrong, critical problems first; those that a recorder reports of itself are taken over."""
    found = [*_recorders(recorders, data_dir), *_server(server, recorders)]
    told = {
        each.collector for each in recorders if each.state == "dead"
    }  # their problem says already how to send the rows
    found += [Problem("rows_unsent", "warning", each.text, each.mend) for each in unsent if each.collector not in told]
    own = {problem.kind for problem in found}
    if disk is not None and "disk_full" not in own:
        found += disk_problem(disk.free_bytes, disk.days_left, limits)
    return sorted(found, key=lambda problem: problem.severity)


def _recorders(recorders: Sequence[RecorderOverview], data_dir: str) -> Iterator[Problem]:
    if not any(each.state != "stopped" for each in recorders):
        yield _nobody(recorders, data_dir)
    several = len(recorders) > 1
    for each in recorders:
        report, name = each.report, each.collector
        if each.state == "dead" and report is not None:
            yield Problem(
                "recorder_dead",
                "critical",
                f"the recorder {name} ended without a goodbye, last heard of at {_minute(report.at)}",
                f"ingester start --collector {name} --data-dir '{data_dir}' records again and stores what waits; "
                f"if it is not to come back: rm '{each.file}'",
            )
        elif each.state == "hanging" and report is not None:
            yield Problem(
                "recorder_hanging",
                "critical",
                f"the recorder {name} (process {report.pid}) runs, and has not told of itself for "
                f"{duration_text(each.seen_seconds or 0.0)}",
                "its disk may be full or hang: look at its log, then stop and start it",
            )
        elif each.state == "silent":
            age = "an hour" if each.seen_seconds is None else duration_text(each.seen_seconds)
            yield Problem(
                "recorder_silent",
                "critical",
                f"the recorder {name}, elsewhere, has brought no row for {age} and did not say goodbye",
                f"ingester status on the machine of {name} tells more; after 7 days it is no longer missed",
            )
        elif each.state in ("recording", "connecting") and report is not None:
            problems = report.problems
            if report.connecting is not None and not any(each.kind == "nothing_received" for each in problems):
                problems = [_connecting(report, report.connecting), *problems]
            for problem in problems:
                yield msgspec.structs.replace(problem, text=f"{name}: {problem.text}") if several else problem


def _connecting(report: Report, connecting: Connecting) -> Problem:
    """Nothing has been recorded yet; soon after the start that is as it should be, and yet it is not well."""
    since = duration_text((report.at - report.started).total_seconds())
    text = f"{connecting_text(connecting)}; started {since} ago, nothing is recorded yet"
    return Problem("connecting", "warning", text, way_out(report.exchange, connecting))


def _nobody(recorders: Sequence[RecorderOverview], data_dir: str) -> Problem:
    stopped = [each for each in recorders if each.report is not None]
    if not stopped:
        return Problem(
            "no_recorder",
            "critical",
            f"no recorder has ever run here, in {data_dir}",
            "ingester start records; --data-dir and --questdb say where, if it is elsewhere",
        )
    last = max((each.report for each in stopped if each.report), key=lambda report: report.at)
    return Problem(
        "no_recorder",
        "critical",
        f"no recorder runs; {last.collector} was stopped at {_minute(last.at)}",
        f"ingester start --collector {last.collector}, with the options as before",
    )


def _server(server: ServerOverview, recorders: Sequence[RecorderOverview]) -> Iterator[Problem]:
    if server.state == "stopped" and not any(
        each.state in ("recording", "connecting", "hanging") for each in recorders
    ):
        return  # as it should be: someone stopped both
    if server.state in ("stopped", "dead", "does not answer"):
        mend = (
            "ingester server start" if server.managed else "look at that server; ingester doctor checks the way to it"
        )
        text = f"QuestDB at {server.url} " + ("is stopped" if server.state == "stopped" else "does not answer")
        yield Problem("server_away", "critical", text, f"{mend}; until then rows wait in the spool")
    if server.state == "refuses the password":
        yield Problem(
            "server_refuses",
            "warning",
            f"QuestDB at {server.url} does not accept user and password, so its tables were not looked at",
            "give them: --questdb http://user:password@host:9000, or the variable INGESTER_QUESTDB",
        )
    if server.state == "answers" and server.error:
        yield Problem(
            "table_damaged",
            "critical",
            f"QuestDB at {server.url} answers, and cannot read all of its tables: {server.error.splitlines()[0]}",
            "restore the table from a backup, or drop the damaged days; see docs/deployment.md, Power cuts",
        )
    for table in server.tables:
        if table.suspended:
            yield Problem(
                "table_suspended",
                "critical",
                f"QuestDB has suspended {table.name}: what is written does not become visible ({table.error})",
                "mend the reason (a full disk, most often); a running recorder resumes the table by itself, "
                f'or: ingester sql "ALTER TABLE {table.name} RESUME WAL"',
            )
        elif table.behind > BEHIND:
            yield Problem(
                "table_behind",
                "warning",
                f"{table.name} has yet to apply {table.behind:,} transactions that it acknowledged",
                "it catches up by itself unless the server has too little of disk or processor",
            )


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


TIMEOUT = urllib3.Timeout(connect=3.0, read=10.0)
ASK_SECONDS = 15.0
"""All questions together take no longer."""
FORGET = timedelta(days=7)
"""A recorder that was stopped, or heard of elsewhere, so long ago is not shown."""

UNEXPLAINED = "unexplained"

_BUILD = "SELECT build()"
_TABLES = (
    "SELECT name, suspended, sequencerTxn - writerTxn, errorTag, errorMessage FROM wal_tables() "
    f"WHERE name IN ('{ORDERBOOK}', '{EVENTS}') ORDER BY name DESC"
)
_MANY_ROWS = 100_000
"""A day of fewer does not tell what a row takes: its files are as large as the least piece of disk."""
_PARTITIONS = f"SELECT numRows, diskSize, active, isParquet FROM table_partitions('{ORDERBOOK}')"
_COLLECTORS = (
    "SELECT collector, max(CASE WHEN kind = 'stopped' THEN timestamp END), "
    "max(CASE WHEN kind IN ('started', 'connected', 'rotated') THEN timestamp END) "
    f"FROM {EVENTS} WHERE timestamp > dateadd('d', -{FORGET.days}, now())"
)
_COLUMNS = f"SELECT \"column\" FROM table_columns('{EVENTS}')"
_EXCHANGES = f"SELECT collector, last(exchange) FROM {EVENTS} WHERE timestamp > dateadd('d', -{FORGET.days}, now())"
_GAPS = (
    "SELECT collector, detail, count(), sum(until - timestamp) / 1e6, max(until - timestamp) / 1e6 "
    f"FROM {EVENTS} WHERE timestamp > dateadd('d', -31, now()) AND kind = 'gap' AND until > dateadd('d', -1, now())"
)


def status(*, data_dir: Path | None = None, questdb: Endpoint | str | None = None) -> Overview:
    """Returns how everything is now: recorders, QuestDB, disk, and what is wrong with them. It starts nothing.

    `data_dir`: by default the platform's folder for user data. `questdb`: a server to ask, as an address or an
    endpoint; by default the managed server of the folder, or the one that a recorder of the folder writes to.
    Takes some seconds at most, also where QuestDB hangs. Raises SettingsError where the address is none.
    """
    data_dir = default_data_dir() if data_dir is None else Path(data_dir)
    if questdb is not None:
        endpoint = Endpoint.parse(questdb) if isinstance(questdb, str) else questdb
        return build_overview(data_dir, QuestDB(endpoint, TIMEOUT), None)
    server = ManagedServer(data_dir)
    if server.alive():
        try:
            found = server.last_endpoint()
        except PermissionError:  # another user's folder: the password is not for us
            found = Endpoint(server.status().http)
        return build_overview(data_dir, QuestDB(found, TIMEOUT) if found else None, server)
    elsewhere = next((each.report.questdb for each in published_reports(data_dir) if not each.report.managed), None)
    if elsewhere and not server.password_file.exists():
        return build_overview(data_dir, QuestDB(Endpoint.parse(elsewhere), TIMEOUT), None, guessed=True)
    return build_overview(data_dir, None, server)


def build_overview(data_dir: Path, db: QuestDB | None, server: ManagedServer | None, guessed: bool = False) -> Overview:
    """Returns how everything is now. `db`: the QuestDB to ask; `server`: the managed one of this folder, if it is that.

    `guessed`: nobody named that QuestDB; where it wants a password, it is not asked.
    """
    own = [each for each in published_reports(data_dir) if not _is_forgotten(each)]
    names = {each.report.collector for each in own}
    try:
        state, days, others = within(ASK_SECONDS, lambda: _ask(db, server, names, guessed), "ask QuestDB")
    except TimeoutError:
        url = db.endpoint.http_url if db else ""
        silent = f"QuestDB at {url} does not answer: not everything was answered within {ASK_SECONDS:.0f} s"
        state, days, others = ServerOverview("does not answer", url, server is not None, error=silent), None, []
    recorders = [_recorder(each, days) for each in own] + others
    disk = _disk(data_dir, own, state)
    unsent = [
        UnsentRows(each.collector, each.rows, each.text, each.mend(data_dir))
        for each in leftovers(data_dir, running_collectors(data_dir))
    ]
    problems = problems_of_all(recorders, state, disk, AlertLimits(), str(data_dir), unsent)
    return Overview(datetime.now(UTC), str(data_dir), not problems, problems, recorders, state, disk, unsent)


def _is_forgotten(published: Published) -> bool:
    return published.report.stopped and published.age_seconds > FORGET.total_seconds()


def _recorder(published: Published, days: dict[str, DayOfGaps] | None) -> RecorderOverview:
    report, age = published.report, published.age_seconds
    state: RecorderState
    if report.stopped:
        state = "stopped"
    elif not published.alive:
        state = "dead"
    else:
        state = "hanging" if age > STALE_SECONDS else "connecting" if report.connecting else "recording"
    if days is None:
        day = DayOfGaps(report.gaps.day, report.gaps.day_seconds, None)
    else:
        day = days.get(report.collector, DayOfGaps(0, 0.0, 0.0))
    per_second = report.rows.per_second if state in ("recording", "connecting") else 0.0
    exchange = stored_name(report.exchange)
    return RecorderOverview(report.collector, state, age, per_second, day, report, str(published.path), exchange)


def _ask(
    db: QuestDB | None, server: ManagedServer | None, own: set[str], guessed: bool
) -> tuple[ServerOverview, dict[str, DayOfGaps] | None, list[RecorderOverview]]:
    """The server, gaps of the last day by collector (None: not known), and recorders elsewhere."""
    managed = server is not None
    url = db.endpoint.http_url if db else ""
    if server is not None and not server.alive():
        if not server.password_file.exists():  # there never was one
            return ServerOverview("none", managed=True), None, []
        return ServerOverview("stopped" if server.stopped() else "dead", server.status().http, True), None, []
    if db is None:
        return ServerOverview("none"), None, []
    version = ""
    try:
        db.ping()
        version = str(db.sql(_BUILD).rows[0][0]).removeprefix("Build Information: ").split(",")[0]
        damaged = find_damage(db)
        tables = tables_of(db)
        days = _gaps(db) if EVENTS in tables else {}
        others = _others(db, own, days) if len(tables) == 2 else []
    except AccessRefused as error:
        return (
            ServerOverview("not asked" if guessed else "refuses the password", url, managed, error=str(error)),
            None,
            [],
        )
    except QueryError as error:  # a server of another age
        return ServerOverview("answers", url, managed, version, str(error)), None, []
    except StoreError as error:
        return ServerOverview("does not answer", url, managed, error=str(error)), None, []
    return ServerOverview("answers", url, managed, version, damaged, list(tables.values())), days, others


def tables_of(db: QuestDB) -> dict[str, TableOverview]:
    """The tables that are there, by name. Raises StoreError."""
    found = {}
    for name, suspended, behind, tag, message in db.sql(_TABLES).rows:
        table = TableOverview(name, suspended, behind, f"{tag} {message}".strip() or "no reason given")
        if name == ORDERBOOK:
            table = _with_partitions(table, db.sql(_PARTITIONS).rows)
        found[name] = table
    return found


def _with_partitions(table: TableOverview, partitions: Sequence[Sequence[int]]) -> TableOverview:
    complete = [(rows, size) for rows, size, active, _ in partitions if not active and rows >= _MANY_ROWS]
    rows, size = sum(rows for rows, _ in complete), sum(size for _, size in complete)
    return msgspec.structs.replace(
        table,
        rows=sum(each[0] for each in partitions),
        partitions=len(partitions),
        parquet=sum(bool(each[3]) for each in partitions),
        size_bytes=sum(each[1] for each in partitions),
        row_bytes=size / rows if rows else None,
    )


def _gaps(db: QuestDB) -> dict[str, DayOfGaps]:
    days: dict[str, DayOfGaps] = {}
    for collector, detail, count, seconds, longest in (row for row in db.sql(_GAPS).rows if row[0]):
        before = days.get(collector, DayOfGaps(0, 0.0, 0.0))
        days[collector] = DayOfGaps(
            before.gaps + count,
            before.seconds + seconds,
            max(before.longest_seconds or 0.0, longest),
            before.reasons | {detail or UNEXPLAINED: count},
        )
    return days


def _others(db: QuestDB, own: set[str], days: dict[str, DayOfGaps]) -> list[RecorderOverview]:
    """Recorders that write into the same table from elsewhere."""
    found = []
    # A table of an earlier version does not name the exchange.
    names_exchange = ["exchange"] in [list(row) for row in db.sql(_COLUMNS).rows]
    exchanges = dict(db.sql(_EXCHANGES).rows) if names_exchange else {}
    for collector, stopped, begun in sorted(row for row in db.sql(_COLLECTORS).rows if row[0] and (row[1] or row[2])):
        if collector in own or collector == IMPORTED:
            continue
        day = days.get(collector, DayOfGaps(0, 0.0, 0.0))
        if stopped is not None and stopped >= (begun or ""):
            found.append(RecorderOverview(collector, "stopped", None, 0.0, day, exchange=exchanges.get(collector)))
            continue
        name = collector.replace("'", "''")
        age, per_second = None, 0.0
        for minutes in (1, 60):  # all of a long time takes long to count
            rows, age = db.sql(
                f"SELECT count(), (now() - max(timestamp)) / 1e6 FROM {ORDERBOOK} "
                f"WHERE collector = '{name}' AND timestamp > dateadd('m', -{minutes}, now())"
            ).rows[0]
            per_second = rows / 60 if minutes == 1 else 0.0
            if rows:
                break
        silent = age is None or age > SILENT_SECONDS
        state: RecorderState = "silent" if silent else "elsewhere"
        exchange = exchanges.get(collector)
        found.append(RecorderOverview(collector, state, age, per_second, day, exchange=exchange))
    return found


def _disk(data_dir: Path, own: Sequence[Published], server: ServerOverview) -> DiskReport | None:
    try:
        state = os.statvfs(data_dir)
    except OSError:
        return None
    measured = next((table.row_bytes for table in server.tables if table.row_bytes), None)
    per_day = [
        each.report.rows.per_second * 86_400 * (measured or row_bytes(each.report.depth))
        for each in own
        if each.report.managed and each.alive and not each.report.stopped
    ]
    return DiskReport(
        state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize, sum(per_day) if per_day else None
    )
