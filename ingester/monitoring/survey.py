"""Gathers how everything is: reports in the data folder, tables of the QuestDB. Starts nothing, writes nothing."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import urllib3

from ingester.deadline import within
from ingester.errors import AccessRefused, QueryError, StoreError
from ingester.monitoring.alerts import AlertLimits
from ingester.monitoring.observer import row_bytes
from ingester.monitoring.overview import (
    SILENT_SECONDS,
    STALE_SECONDS,
    DayOfGaps,
    Overview,
    RecorderOverview,
    RecorderState,
    Server,
    Table,
    Unsent,
    problems_of_all,
)
from ingester.monitoring.report import DiskReport
from ingester.monitoring.state_file import Published, read_all, running_collectors
from ingester.questdb import EVENTS, IMPORTED, ORDERBOOK, ManagedServer, QuestDB, find_damage
from ingester.record import leftovers

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
_GAPS = (
    "SELECT collector, detail, count(), sum(until - timestamp) / 1e6, max(until - timestamp) / 1e6 "
    f"FROM {EVENTS} WHERE timestamp > dateadd('d', -31, now()) AND kind = 'gap' AND until > dateadd('d', -1, now())"
)


def survey_recorders(
    data_dir: Path, db: QuestDB | None, server: ManagedServer | None, guessed: bool = False
) -> Overview:
    """How everything is now. `db`: the QuestDB to ask, if any; `server`: the managed one of this folder, if it is that.

    `guessed`: nobody named that QuestDB; where it wants a password, it is not asked. Takes some seconds at most, also
    where QuestDB hangs.
    """
    own = [each for each in read_all(data_dir) if not _is_forgotten(each)]
    names = {each.report.collector for each in own}
    try:
        state, days, others = within(ASK_SECONDS, lambda: _ask(db, server, names, guessed), "ask QuestDB")
    except TimeoutError:
        url = db.endpoint.http_url if db else ""
        silent = f"QuestDB at {url} does not answer: not everything was answered within {ASK_SECONDS:.0f} s"
        state, days, others = Server("does not answer", url, server is not None, error=silent), None, []
    recorders = [_recorder(each, days) for each in own] + others
    disk = _disk(data_dir, own, state)
    unsent = [
        Unsent(each.collector, each.rows, each.text, each.mend(data_dir))
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
    return RecorderOverview(report.collector, state, age, per_second, day, report, str(published.path))


def _ask(
    db: QuestDB | None, server: ManagedServer | None, own: set[str], guessed: bool
) -> tuple[Server, dict[str, DayOfGaps] | None, list[RecorderOverview]]:
    """The server, gaps of the last day by collector (None: not known), and recorders elsewhere."""
    managed = server is not None
    url = db.endpoint.http_url if db else ""
    if server is not None and not server.alive():
        if not server.password_file.exists():  # there never was one
            return Server("none", managed=True), None, []
        return Server("stopped" if server.stopped() else "dead", server.status().http, True), None, []
    if db is None:
        return Server("none"), None, []
    version = ""
    try:
        db.ping()
        version = str(db.sql(_BUILD).rows[0][0]).removeprefix("Build Information: ").split(",")[0]
        damaged = find_damage(db)
        tables = tables_of(db)
        days = _gaps(db) if EVENTS in tables else {}
        others = _others(db, own, days) if len(tables) == 2 else []
    except AccessRefused as error:
        return Server("not asked" if guessed else "refuses the password", url, managed, error=str(error)), None, []
    except QueryError as error:  # a server of another age
        return Server("answers", url, managed, version, str(error)), None, []
    except StoreError as error:
        return Server("does not answer", url, managed, error=str(error)), None, []
    return Server("answers", url, managed, version, damaged, list(tables.values())), days, others


def tables_of(db: QuestDB) -> dict[str, Table]:
    """The tables that are there, by name. Raises StoreError."""
    found = {}
    for name, suspended, behind, tag, message in db.sql(_TABLES).rows:
        table = Table(name, suspended, behind, f"{tag} {message}".strip() or "no reason given")
        if name == ORDERBOOK:
            table = _with_partitions(table, db.sql(_PARTITIONS).rows)
        found[name] = table
    return found


def _with_partitions(table: Table, partitions: Sequence[Sequence[int]]) -> Table:
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
    for collector, stopped, begun in sorted(row for row in db.sql(_COLLECTORS).rows if row[0] and (row[1] or row[2])):
        if collector in own or collector == IMPORTED:
            continue
        day = days.get(collector, DayOfGaps(0, 0.0, 0.0))
        if stopped is not None and stopped >= (begun or ""):
            found.append(RecorderOverview(collector, "stopped", None, 0.0, day))
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
        found.append(RecorderOverview(collector, "silent" if silent else "elsewhere", age, per_second, day))
    return found


def _disk(data_dir: Path, own: Sequence[Published], server: Server) -> DiskReport | None:
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
