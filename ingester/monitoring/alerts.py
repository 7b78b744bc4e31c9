"""What is wrong with a recorder, and when to report it: pure decisions, the same for `status`, `/healthz` and webhook.

| kind | severity | when |
|---|---|---|
| nothing_received | critical | no connection stands for longer than `wait` |
| connection_lost | warning | some connections do not stand, or deliver nothing, for longer than `wait` |
| gap_open | warning; critical: all pairs | pairs that trade have had no books for longer than `gap` |
| gap | warning | a gap longer than `gap` has ended within the last five minutes |
| rows_waiting | critical | QuestDB takes no rows, or one waits, for longer than `wait` |
| rows_lost | critical | the spool has no room, so rows that come are lost |
| rows_missing | warning | rows were acknowledged and are not in the table |
| table_suspended | critical | QuestDB acknowledges rows and does not show them |
| table_damaged | critical | files of the table are damaged, so that some of it cannot be read |
| dead_letter | warning | QuestDB refused rows for good within the last day |
| disk_full | warning | less than `low_bytes` free (critical: `critical_bytes`), or `days` at the present rate |
| spool_full | warning | what waits takes more than `spool_share` of the spool |
| disk_failing | critical | the last sync of the spool failed |
| thread_died | warning; critical: it does not run | a thread died by an error within the last hour |
| clock | warning | the wall clock is further than `clock` from the receive times |

`status.py` finds recorders whose process is gone or hangs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from ingester.events import RESTART
from ingester.exchange import SIMULATOR, VENUES
from ingester.monitoring.report import Connecting, ConnectionReport, Problem, RecentGaps, Report
from ingester.text import counted, duration_text

GIB = 1 << 30
RECENT_SECONDS = 300.0
"""How long a gap that is over is worth an alarm."""
DEAD_LETTER_SECONDS = 86_400.0
THREAD_SECONDS = 3600.0
"""How long a thread that died and runs again is worth an alarm."""


@dataclass(frozen=True)
class AlertLimits:
    """Thresholds for alerts, in seconds and bytes."""

    wait: float = 60.0
    gap: float = 30.0
    days: float = 3.0
    low_bytes: int = 5 * GIB
    critical_bytes: int = GIB
    spool_share: float = 0.5
    clock: float = 1.0


def problems_of(report: Report, limits: AlertLimits) -> list[Problem]:
    """Returns what is wrong with a recorder by its report, critical problems first."""
    found = [*_connections(report, limits), *_gaps(report, limits), *_rows(report, limits), *_disk(report, limits)]
    found += _threads(report)
    return sorted(found, key=lambda problem: problem.severity)


def _connections(report: Report, limits: AlertLimits) -> Iterator[Problem]:
    places, age = report.connections, (report.at - report.started).total_seconds()
    if report.gaps.halted_pairs >= report.pairs:  # then an open connection cannot deliver anything
        places = [msgspec.structs.replace(each, silent_seconds=None) if each.age_seconds else each for each in places]
    # A place that never stood has been down since the start.
    down = [(each.label, age if each.silent_seconds is None else each.silent_seconds) for each in places if _down(each)]
    late = [label for label, seconds in down if seconds > limits.wait]
    if not late:
        return
    longest = duration_text(max(seconds for _, seconds in down))
    standing = sum(each.age_seconds is not None for each in places)
    if not standing:
        text = f"no connection to {report.exchange} stands, the first is down for {longest}: nothing is recorded"
        if report.connecting is not None:
            text += f" ({connecting_text(report.connecting)})"
        yield Problem("nothing_received", "critical", text, way_out(report.exchange, report.connecting))
        return
    yield Problem(
        "connection_lost",
        "warning",
        f"{len(late)} of {len(places)} connections ({_some(late)}) down or silent for up to {longest}",
        "the log has the reasons; connecting is tried again and again. ingester doctor checks the way to the exchange",
    )


def _way(exchange: str) -> str:
    """The options that lead to an exchange; one that is no preset is called by its address."""
    return (
        f"--exchange {exchange}"
        if exchange in (*VENUES, SIMULATOR)
        else "with the --stream-url and --rest-url of the recorder"
    )


def _down(connection: ConnectionReport) -> bool:
    return connection.age_seconds is None or connection.silent_seconds is not None


def _gaps(report: Report, limits: AlertLimits) -> Iterator[Problem]:
    gaps = report.gaps
    if gaps.open_pairs and gaps.open_seconds > limits.gap:
        whole = gaps.open_pairs + gaps.halted_pairs >= report.pairs
        yield Problem(
            "gap_open",
            "critical" if whole else "warning",
            f"{gaps.open_pairs} of {report.pairs} pairs ({_some(gaps.open_named, gaps.open_pairs)}) bring no books, "
            f"for up to {duration_text(gaps.open_seconds)}",
            "look whether the exchange trades them; they are subscribed again by themselves",
        )
    long = [each for each in gaps.recent if each.longest_seconds > limits.gap and not _is_meant(each, report)]
    if long:
        texts = [
            f"{duration_text(each.longest_seconds)} on {counted(each.pairs, 'pair')} ({each.reason})" for each in long
        ]
        yield Problem(
            "gap",
            "warning",
            f"a gap of {', '.join(texts)} is over",
            "SELECT * FROM reported_gaps shows all; a second recorder on another machine fills such gaps",
            mark=max(each.last_end for each in long).isoformat(),
        )


def _is_meant(gap: RecentGaps, report: Report) -> bool:
    """Whether somebody stopped the recorder in order and started it again: that is a note, nothing that went wrong."""
    return gap.reason == RESTART and report.stopped_before is not None


def _threads(report: Report) -> Iterator[Problem]:
    threads = report.threads
    if threads.last_at is None:
        return
    if not threads.down and (report.at - threads.last_at).total_seconds() > THREAD_SECONDS:
        return
    total = sum(threads.deaths.values())
    now = f"{_some(threads.down)} does not run" if threads.down else "it runs again"
    yield Problem(
        "thread_died",
        "critical" if threads.down else "warning",
        f"the thread {threads.last} died at {threads.last_at:%H:%M:%S} UTC ({threads.last_error}); {now}"
        + (f"; {total} such deaths since the start" if total > 1 else ""),
        "this is a bug: please report it with the traceback in the log; restarting the recorder is safe",
        mark=str(total),
    )


def connecting_text(connecting: Connecting) -> str:
    """Says how connecting goes, before the first book."""
    if connecting.standing:
        return f"connected to {connecting.host}, no book has come yet"
    attempts = f"{counted(connecting.failed, 'attempt')} failed" if connecting.failed else "no answer yet"
    last = f", the last: {connecting.last_failure}" if connecting.last_failure else ""
    return f"connecting to {connecting.host}: {attempts}{last}"


def way_out(exchange: str, connecting: Connecting | None) -> str:
    """Says what to try where no connection succeeds."""
    failure = connecting.last_failure if connecting else ""
    look = f"ingester doctor {_way(exchange)} shows which step of connecting fails"
    for words, hint in _HINTS.items():
        if words in failure:
            return f"{hint}; {look}"
    return look


_HINTS = {
    "proxy": "look at HTTPS_PROXY, ALL_PROXY and NO_PROXY",
    "cannot be resolved": "does DNS work on this machine? is the address right (--exchange, --stream-url)?",
    "HTTP 451": "this region is not served: choose another --exchange",
    "HTTP 429": "this address has tried too often: wait, and end other programs that use the exchange",
    "HTTP 418": "this address is banned for a while: wait, and end other programs that use the exchange",
    "upgrade refused with HTTP": "something other than the exchange answers: a captive portal? another address?",
    "certificate": "is the clock right? are the system's certificates installed (ca-certificates)?",
    "did not complete": "a firewall may swallow the connection",
    "refused the connection": "nothing listens there, or a firewall refuses: is the address right?",
}
"""What to try, by words in the reason of the last failure; the first that fits."""


def _rows(report: Report, limits: AlertLimits) -> Iterator[Problem]:
    storing, spool, rows = report.storing, report.spool, report.rows
    failing = storing.failing_seconds or 0.0
    waiting = max(failing, spool.oldest_seconds or 0.0)
    if spool.full:
        yield Problem(
            "rows_lost",
            "critical",
            f"the spool takes no more rows, what comes is lost ({rows.lost:,} rows so far)",
            "make room on the disk of the data folder, and bring QuestDB back so that the spool empties",
        )
    if waiting > limits.wait:
        reason = f": {storing.last_failure}" if failing else " though QuestDB answers"
        yield Problem(
            "rows_waiting",
            "critical",
            f"{spool.rows:,} rows wait for QuestDB, the oldest for {duration_text(waiting)}{reason}",
            "ingester doctor checks the server; nothing is lost while the spool has room",
        )
    if storing.suspended:
        yield Problem(
            "table_suspended",
            "critical",
            "QuestDB has suspended a table: rows are acknowledged and do not become visible",
            'it is resumed by itself; ingester sql "SELECT * FROM wal_tables()" tells why it was suspended',
        )
    if storing.damage:
        yield Problem(
            "table_damaged",
            "critical",
            f"QuestDB cannot read all of the table: {storing.damage}",
            "restore it from a backup, or drop the damaged days: see docs/deployment.md, Power cuts",
        )
    if rows.missing:
        yield Problem(
            "rows_missing",
            "warning",
            f"{rows.missing:,} rows were acknowledged and are not in the table",
            "they are sent again while the spool has them; the event rows_missing tells which they are",
        )
    last = storing.last_dead_letter
    if last is not None and (report.at - last).total_seconds() < DEAD_LETTER_SECONDS:
        yield Problem(
            "dead_letter",
            "warning",
            f"QuestDB refused {storing.dead_letters:,} rows for good, the last at {last:%Y-%m-%d %H:%M} UTC",
            f"dead-letter/{report.collector}/ in the data folder holds them, each with QuestDB's reason",
            mark=str(storing.dead_letters),
        )


def _disk(report: Report, limits: AlertLimits) -> Iterator[Problem]:
    spool = report.spool
    if spool.sync_failing:
        yield Problem(
            "disk_failing",
            "critical",
            "the disk does not sync the spool: what was received last may not survive a power cut",
            "look at the disk (dmesg), and at the recorder's log",
        )
    yield from disk_problem(report.disk.free_bytes, report.disk.days_left, limits)
    if spool.bytes > limits.spool_share * spool.limit_bytes:
        yield Problem(
            "spool_full",
            "warning",
            f"what waits for QuestDB takes {spool.bytes / spool.limit_bytes:.0%} of the spool",
            "bring QuestDB back before the spool is full",
        )
    if abs(report.clock_offset_seconds) > limits.clock:
        yield Problem(
            "clock",
            "warning",
            f"the wall clock is {report.clock_offset_seconds:+.1f} s away from the receive times, which follow slowly",
            "let chrony or systemd-timesyncd keep the clock",
        )


def disk_problem(free_bytes: int, days_left: float | None, limits: AlertLimits) -> Iterator[Problem]:
    """Whether the disk of a data folder is nearly full."""
    soon = days_left is not None and days_left < limits.days
    if not soon and free_bytes >= limits.low_bytes:
        return
    when = f", {days_left:.1f} days at the present rate" if days_left is not None else ""
    yield Problem(
        "disk_full",
        "critical" if free_bytes < limits.critical_bytes else "warning",
        f"{free_bytes / 1e9:.1f} GB are free on the disk of the data folder{when}",
        "make room, or drop old days: ALTER TABLE orderbook DROP PARTITION LIST '2024-08-08'",
    )


# When it is reported.

TELL_SECONDS = 300.0
"""A kind is reported at most this often; repetitions are counted meanwhile."""
CALM_SECONDS = 60.0
"""Something is over when it was not seen for so long."""
SETTLE_SECONDS = 10.0
"""What happens to many pairs does not happen to all in the same moment."""
REMIND_SECONDS = 6 * 3600.0
INCIDENTS = frozenset({"gap", "dead_letter", "thread_died"})
"""These have happened and are not undone: no word when they are no longer worth an alarm."""

State = Literal["raised", "lasts", "recovered", "information"]


class Notice(NamedTuple):
    """One message to whoever is alerted."""

    kind: str
    state: State
    severity: str
    text: str
    mend: str = ""
    times: int = 1
    """How often it happened since the last message of its kind."""
    seconds: float = 0.0
    """How long it has lasted, or lasted."""


@dataclass
class _Course:
    """The state of one kind of problem; times are those of the calls."""

    problem: Problem
    since: float
    seen: float
    changed: float
    count: int = 1
    """How often it happened since it was reported."""
    told: float = -float("inf")
    owed: bool = False
    """Whether its end is to be reported."""


@dataclass
class AlertTracker:
    """Knows what was reported of each kind, and what to report next. Times are seconds of a monotonic clock."""

    _courses: dict[str, _Course] = field(default_factory=dict)

    def news(self, problems: Sequence[Problem], now: float) -> list[Notice]:
        """Returns what to report now. Call it about once a second with everything that is wrong."""
        for problem in problems:
            course = self._courses.get(problem.kind)
            if course is None:
                self._courses[problem.kind] = _Course(problem, now, now, now)
                continue
            if course.problem.mark != problem.mark or now - course.seen > CALM_SECONDS:
                if not course.count:
                    course.since, course.count = now, 1
                elif now - course.changed > SETTLE_SECONDS:
                    course.count += 1
                course.changed = now
            course.problem, course.seen = problem, now
        notices = [notice for course in self._courses.values() for notice in _due(course, now)]
        self._courses = {kind: course for kind, course in self._courses.items() if not _is_past(course, now)}
        return notices


def _due(course: _Course, now: float) -> Iterator[Notice]:
    problem, over = course.problem, now - course.seen > CALM_SECONDS
    incident = problem.kind in INCIDENTS
    lasted = course.seen - course.since
    notice = Notice(problem.kind, "raised", problem.severity, problem.text, problem.mend, course.count, lasted)
    end = notice._replace(state="recovered", mend="")
    if course.count:
        settled = not incident or now - course.since >= SETTLE_SECONDS
        if settled and now - course.told >= TELL_SECONDS:
            past = over and not incident
            course.told, course.count, course.owed = now, 0, not incident and not over
            yield end if past else notice
    elif course.owed and over:
        course.owed = False
        yield end._replace(times=1)
    elif course.owed and now - course.told >= REMIND_SECONDS:
        course.told = now
        yield notice._replace(state="lasts", times=1)


def _is_past(course: _Course, now: float) -> bool:
    return now - max(course.seen, course.told) > TELL_SECONDS and not course.count and not course.owed


def _some(names: Sequence[str], total: int | None = None) -> str:
    total = len(names) if total is None else total
    return ", ".join(names[:3]) + (f" and {total - 3} more" if total > 3 else "")
