"""How everything is, as `ingester status` shows it: frozen values, and what of them is wrong."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from ingester.monitoring.alerts import AlertLimits, connecting_text, disk_problem, duration_text, way_out
from ingester.monitoring.report import Connecting, DiskReport, Problem, Report

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


class Table(msgspec.Struct, frozen=True):
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


class Server(msgspec.Struct, frozen=True):
    """The QuestDB."""

    state: ServerState
    url: str = ""
    managed: bool = False
    version: str = ""
    error: str = ""
    tables: list[Table] = []


class Unsent(msgspec.Struct, frozen=True):
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
    server: Server
    disk: DiskReport | None
    """The disk of the data folder; None where there is no such folder."""
    unsent: list[Unsent] = []
    """What waits in spools of recorders that do not run."""


def problems_of_all(
    recorders: Sequence[RecorderOverview],
    server: Server,
    disk: DiskReport | None,
    limits: AlertLimits,
    data_dir: str,
    unsent: Sequence[Unsent] = (),
) -> list[Problem]:
    """What is wrong, the critical first. What a recorder says of itself is taken as it says it."""
    found = [*_recorders(recorders, data_dir), *_server(server, recorders)]
    told = {each.collector for each in recorders if each.state == "dead"}  # how to have its rows sent is said there
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


def _server(server: Server, recorders: Sequence[RecorderOverview]) -> Iterator[Problem]:
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
