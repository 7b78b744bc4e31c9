"""Compares what the tables show with what was sent, resumes suspended tables, and sends missing rows again.

`SentCounts` counts the rows of each symbol by the minute in which they were received, as the spool takes them.
`Reconciler` looks for these rows in the table.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import NamedTuple

from ingester.book import OrderBook
from ingester.clock import SECOND, Now, backoff
from ingester.errors import StoreError
from ingester.events import Event
from ingester.metrics import StoreMetrics
from ingester.questdb.client import QuestDB
from ingester.questdb.damage import Inspection
from ingester.questdb.query import quoted
from ingester.questdb.schema import EVENTS, ORDERBOOK
from ingester.spool import Spool
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

MINUTE = 60 * SECOND
KEPT_MINUTES = 16
"""Minutes that can be looked at again: as long as the spool retains what was acknowledged, and one more."""
SLACK_NS = 5 * SECOND
"""Rows may go into the spool out of the order in which they were received, by at most this time."""
MAX_RESENDS = 2
"""Rows that are still missing after this number of resends are given up."""
NAMED_SYMBOLS = 3
"""A message about missing rows names at most this number of symbols."""
_STATES = (
    "SELECT w.name, t.id, w.suspended, w.writerTxn, w.sequencerTxn, w.errorTag, w.errorMessage "
    f"FROM wal_tables() w JOIN tables() t ON t.table_name = w.name WHERE w.name IN ('{ORDERBOOK}', '{EVENTS}')"
)
_symbol, _receive_ns = itemgetter(0), itemgetter(1)


@dataclass(eq=False, slots=True)
class SentSpan:
    """Counts of the rows received in [start_ns, end_ns): how many were sent, and how many the table shows."""

    start_ns: int
    end_ns: int
    rows: Counter[str] = field(default_factory=Counter)
    """Rows by symbol. Rows of an earlier run are all under the empty name, as their symbols are not known."""
    aside: Counter[str] = field(default_factory=Counter)
    """Of these, the dead letters. Another thread counts them."""
    settled: int = -1
    """The number of expected rows at the last comparison with the table; -1 if another one is needed."""
    visible: int = 0
    """Rows that the table showed at the last look."""
    missing: int = 0
    """Rows that the table did not show then."""
    resends: int = 0
    """How often missing rows were sent again since all rows were visible."""
    given_up: bool = False
    """Whether an event says that the missing rows are given up."""

    def expected(self) -> Counter[str]:
        """Returns the rows that the table should hold, by symbol."""
        expected = Counter(dict(self.rows))  # a dict is copied in one step
        expected.subtract(dict(self.aside))
        return expected

    @property
    def is_settled(self) -> bool:
        """Whether the rows were compared with the table, and no row was added since."""
        return self.settled == self.expected().total()


class SentCounts:
    """The counts of a run, without locks: the feed thread adds, the writer removes, the reconciler does the rest."""

    def __init__(self) -> None:
        self._minutes: dict[int, SentSpan] = {}
        self._earlier: SentSpan | None = None
        self.first_ns = 0
        """The earliest receive time of this run; 0 before the first row."""
        self.forgotten_sent = 0
        self.forgotten_visible = 0
        """Rows of this run in minutes that are no longer kept, and how many of them the table showed."""

    def add(self, snapshots: Sequence[OrderBook]) -> None:
        """Counts rows that were appended to the spool; costs 0.1 µs a row if all were received in one minute."""
        times = list(map(_receive_ns, snapshots))
        first = min(times)
        if not self.first_ns or first < self.first_ns:
            self.first_ns = first
        minute = first // MINUTE
        if max(times) // MINUTE == minute:
            self._rows(minute).update(map(_symbol, snapshots))
        else:
            for snapshot in snapshots:
                self._rows(snapshot.receive_ns // MINUTE)[snapshot.symbol] += 1

    def _rows(self, minute: int) -> Counter[str]:
        span = self._minutes.get(minute)
        if span is None:
            span = self._minutes[minute] = SentSpan(minute * MINUTE, (minute + 1) * MINUTE)
        return span.rows

    def remove(self, symbol: str, receive_ns: int) -> None:
        """Counts a row as a dead letter, which the table does not hold."""
        for span in self.spans():
            if span.start_ns <= receive_ns < span.end_ns:
                span.aside["" if span is self._earlier else symbol] += 1
                return

    def expect_earlier(self, rows: int, first_ns: int, last_ns: int) -> None:
        """Adds the rows of an earlier run, received between these times, as one span without symbols."""
        self._earlier = SentSpan(first_ns, last_ns + 1, Counter({"": rows}))

    def spans(self) -> list[SentSpan]:
        """Returns all spans in the order of time; the span of an earlier run comes first."""
        minutes = sorted(self._minutes.copy().values(), key=lambda span: span.start_ns)
        return [self._earlier, *minutes] if self._earlier else minutes

    def sent(self) -> tuple[int, int]:
        """Returns the number of rows of this run that the table should hold, and how many of them it showed."""
        own = self._minutes.copy().values()
        sent = self.forgotten_sent + sum(span.expected().total() for span in own)
        return sent, self.forgotten_visible + sum(span.visible for span in own)

    def trim(self) -> None:
        """Removes spans older than KEPT_MINUTES; one that is not settled is merged into the next one."""
        if self._earlier and self._earlier.is_settled and len(self._minutes) > KEPT_MINUTES:
            self._earlier = None
        while len(self._minutes) > KEPT_MINUTES:
            key, following = sorted(self._minutes)[:2]
            oldest, after = self._minutes[key], self._minutes[following]
            if oldest.is_settled:
                self.forgotten_sent += oldest.expected().total()
                self.forgotten_visible += oldest.visible
            else:
                after.rows.update(oldest.rows)
                after.aside.update(oldest.aside)
                after.start_ns, after.settled = oldest.start_ns, -1
                after.resends = max(after.resends, oldest.resends)
            del self._minutes[key]


@dataclass(frozen=True, kw_only=True)
class StoreContext:
    """What the writer and the reconciler of a recorder share."""

    db: QuestDB
    spool: Spool
    now: Now
    metrics: StoreMetrics
    on_event: Callable[[Event], None]
    sent_counts: SentCounts = field(default_factory=SentCounts)


class TableState(NamedTuple):
    """How far a table has applied what it has acknowledged, by transaction numbers."""

    name: str
    id: int
    suspended: bool
    applied: int
    acknowledged: int
    error_tag: str
    error: str


class SuspendedTable:
    """A table that acknowledges rows and does not apply them. It is resumed with backoff."""

    def __init__(self, state: TableState, waits: Iterator[float]) -> None:
        self._stuck = state.applied
        self._waits = waits
        self._next = -float("inf")

    def over(self, state: TableState) -> bool:
        """Returns whether the table applies rows again."""
        return not state.suspended and (state.applied > self._stuck or state.applied >= state.acknowledged)

    def resume(self, db: QuestDB, state: TableState) -> None:
        """Makes the table try the failed transaction again, if it is time for that. No transaction is skipped."""
        if not state.suspended or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + next(self._waits)
        try:
            db.sql(f"ALTER TABLE {state.name} RESUME WAL")
        except StoreError as error:
            log.error("%s cannot be resumed: %s", state.name, error)


class AcknowledgedState(NamedTuple):
    """What was acknowledged at one moment. It is visible when the tables have applied these transactions."""

    acknowledged: int
    """The spool's sequence number of the last acknowledged record."""
    transactions: dict[str, int]
    expected: list[tuple[SentSpan, Counter[str]]] | None
    """The rows to look for then; None if it is not time for that."""

    def is_applied(self, states: dict[str, TableState]) -> bool:
        """Returns whether all of it is visible."""
        return all(not state.suspended and state.applied >= self.transactions[state.name] for state in states.values())


class Reconciler:
    """A thread that compares the table with what was sent; no other thread waits for it.

    After a failed request, a new table or a start, everything that was sent before is suspect: all rows that are still
    counted are looked for, and the spool keeps them until they are found.
    """

    def __init__(
        self,
        context: StoreContext,
        *,
        collector: str,
        exchange: str | None,
        every_seconds: float = 60.0,
        look_seconds: float = 5.0,
        waits: Callable[[], Iterator[float]] = lambda: backoff(10.0, 300.0),
    ) -> None:
        """`exchange`: only rows of this exchange are looked for; None: rows of all. `every_seconds`: the least time
        between two comparisons with the table. `look_seconds`: the time between two looks at what is applied. `waits`:
        the times between attempts to resume a suspended table."""
        self._db = context.db
        self._spool = context.spool
        self._now = context.now
        self._metrics = context.metrics
        self._on_event = context.on_event
        self._sent_counts = context.sent_counts
        own = f"collector = {quoted([collector])}"
        self._of_the_recorder = own
        self._of_this_run = f"{own} AND exchange = {quoted([exchange])}" if exchange else own
        self._every_seconds = every_seconds
        self._look_seconds = look_seconds
        self._files = Inspection(context.db, context.metrics)
        self._waits = waits
        self._tables: dict[str, TableState] = {}  # as at the last look
        self._suspensions: dict[str, SuspendedTable] = {}
        self._mark: AcknowledgedState | None = None
        self._is_suspect = True
        self._failures = context.metrics.failures
        self._reconciled_at = -float("inf")
        self._deadline = 0.0
        self._expected = False  # whether the rows of an earlier run are counted
        self._complete = False  # whether the last look found all rows
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "reconciler", self._stopping)

    def start(self) -> None:
        """Starts the thread, which first looks for rows of an earlier run that the spool still has.

        The spool must be open.
        """
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Ends the thread after a last look; returns whether all rows of this run are visible.

        Everything must have been sent before. It takes at most `timeout` + 1 seconds, even if QuestDB hangs.
        """
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._thread.join(timeout + 1.0)
        if self._thread.is_alive():
            log.warning("QuestDB did not answer in time: what this run sent was not looked for a last time")
            return False
        return self._complete

    def final(self, timeout: float) -> bool:
        """Looks for all rows of this run, those of the current minute too; returns whether all are visible.

        It takes at most `timeout` seconds. Missing rows are put back into the spool; the next start sends them.
        """
        deadline = time.monotonic() + timeout
        self._suspect_all()
        done = False
        while not (done := self._try(final=True)) and time.monotonic() < deadline:
            time.sleep(min(0.1, self._look_seconds))
        (sent, visible), waiting = self._sent_counts.sent(), self._spool.rows_waiting
        complete = done and sent == visible and not waiting
        level = logging.INFO if complete else logging.WARNING
        unsure = "" if done else " at an earlier look, QuestDB did not show all in time"
        if sent or visible or not complete:  # a run that received nothing logs nothing
            log.log(level, "%d rows sent, %d visible%s, %d wait in the spool", sent, visible, unsure, waiting)
        return complete

    def _run(self) -> None:
        while True:
            self._files.look()
            self._try()
            if self._stopping.wait(self._look_seconds):
                break
        self._complete = self.final(self._deadline - time.monotonic())

    def _expect_earlier(self) -> bool:
        """Counts the rows of an earlier run; returns False if they cannot be read now."""
        if self._expected:
            return True
        try:
            retained = self._spool.retained()
        except OSError as error:
            log.debug("what an earlier run sent cannot be counted now: %s", error)
            return False
        self._expected = True
        if retained.rows:
            self._sent_counts.expect_earlier(*retained)
        return True

    def _try(self, final: bool = False) -> bool:
        try:
            return self._look(final)
        except StoreError as error:
            log.debug("QuestDB cannot be asked what it has: %s", error)
        except Exception:  # a bug must not end the thread
            log.exception("QuestDB could not be asked what it has")
        return False

    def _look(self, final: bool) -> bool:
        """Looks at the tables once; returns True if rows were looked for and no further look is needed."""
        if not self._expect_earlier():
            return False
        if self._metrics.failures != self._failures:
            self._failures = self._metrics.failures
            self._suspect_all()
        # In this order: so all rows before `oldest` are acknowledged, and all acknowledged rows are in a transaction.
        oldest, acknowledged = self._spool.oldest_ns, self._spool.acknowledged
        states = {row[0]: TableState(*row) for row in self._db.sql(_STATES).rows}
        self._notice(states)
        if len(states) < 2:
            return False
        if self._mark is None:
            expected = self._due(oldest, final)
            self._mark = AcknowledgedState(acknowledged, {s.name: s.acknowledged for s in states.values()}, expected)
        mark = self._mark
        if not mark.is_applied(states):
            return False
        self._mark = None
        if mark.expected is not None:
            self._is_suspect = self._reconcile(mark.expected)
        if not self._is_suspect:
            self._spool.verify(mark.acknowledged)
        return mark.expected is not None and (final or not self._is_suspect)

    def _notice(self, states: dict[str, TableState]) -> None:
        for state in states.values():
            before = self._tables.get(state.name)
            if before and (state.id != before.id or state.acknowledged < before.acknowledged):
                log.warning("%s is another table than before, or lost what it had acknowledged", state.name)
                self._suspect_all()
            self._watch(state)
        self._tables |= states
        self._metrics.suspended = bool(self._suspensions)

    def _watch(self, state: TableState) -> None:
        name, error = state.name, f"{state.error_tag} {state.error}".strip() or "no reason given"
        suspension = self._suspensions.get(name)
        if suspension is None and state.suspended:
            log.error("QuestDB has suspended %s: rows are acknowledged and do not become visible (%s)", name, error)
            self._on_event(Event(self._now(), "table_suspended", detail=f"{name}: {error}"))
            suspension = self._suspensions[name] = SuspendedTable(state, self._waits())
        if suspension is None:
            return
        if suspension.over(state):
            log.warning("QuestDB applies rows to %s again", name)
            self._on_event(Event(self._now(), "table_resumed", detail=name))
            del self._suspensions[name]
        else:
            suspension.resume(self._db, state)

    def _suspect_all(self) -> None:
        self._is_suspect = True
        self._mark = None

    def _due(self, oldest: int | None, final: bool) -> list[tuple[SentSpan, Counter[str]]] | None:
        """Returns the acknowledged spans to look for; None if it is not time. `oldest`: of the rows that wait."""
        time_for_it = time.monotonic() - self._reconciled_at >= self._every_seconds
        if not (self._is_suspect or time_for_it) or (oldest is None and self._spool.rows_waiting):
            return None
        self._reconciled_at = time.monotonic()
        self._sent_counts.trim()
        until = self._now() if oldest is None else oldest
        settled = [
            span for span in self._sent_counts.spans() if (final and oldest is None) or span.end_ns + SLACK_NS <= until
        ]
        return [(span, span.expected()) for span in settled if self._is_suspect or not span.is_settled]

    def _reconcile(self, wanted: list[tuple[SentSpan, Counter[str]]]) -> bool:
        """Looks for rows and sends missing ones again; returns whether some of these have to be looked for again."""
        missing: dict[SentSpan, Counter[str]] = {}
        for span, expected in wanted:
            if lacking := self._lacking(span, expected):
                missing[span] = lacking
            else:
                span.resends, span.given_up = 0, False
            span.settled = expected.total()
        again = {span: lacking for span, lacking in missing.items() if span.resends < MAX_RESENDS}
        resent = self._spool.resend(min(span.start_ns for span in again)) if again else 0
        if resent:
            self._metrics.rows.resent += resent
            self._report(again, "sent again")
            for span in again:
                span.resends += 1
                span.settled = -1
        lost = {span: lacking for span, lacking in missing.items() if span.is_settled and not span.given_up}
        if lost:
            self._report(lost, "given up, for sending them again did not help or they are not retained")
            for span in lost:
                span.given_up = True
        self._count()
        return any(span.resends and not span.is_settled for span in self._sent_counts.spans())

    def _lacking(self, span: SentSpan, expected: Counter[str]) -> Counter[str]:
        """Returns the rows of a span that the table does not show, by symbol."""
        whole = "" in expected
        since = span.start_ns if whole else max(span.start_ns, self._sent_counts.first_ns)
        of = self._of_the_recorder if whole else self._of_this_run
        rows = self._db.sql(
            f"SELECT {'' if whole else 'symbol, '}count() FROM {ORDERBOOK} WHERE {of} "
            f"AND timestamp >= {since // 1000} AND timestamp < {-(-span.end_ns // 1000)}"
        ).rows
        visible = Counter({"": rows[0][0]} if whole else dict(rows))
        lacking = expected - visible
        span.missing = lacking.total()
        span.visible = expected.total() - span.missing
        surplus = (visible - span.expected()).total() if not whole else 0
        if surplus:
            self._metrics.rows.surplus += surplus
            log.error("%d rows received in the minute from %s are visible and were never sent", surplus, _time(since))
        return lacking

    def _report(self, missing: dict[SentSpan, Counter[str]], what_now: str) -> None:
        lacking = sum(missing.values(), Counter[str]())
        total, expected = lacking.total(), sum(span.expected().total() for span in missing)
        worst = ", ".join(f"{symbol} {rows}" for symbol, rows in lacking.most_common(NAMED_SYMBOLS) if symbol)
        symbols = f" of {len(lacking)} symbols ({worst})" if worst else ""
        since, until = min(span.start_ns for span in missing), max(span.end_ns for span in missing)
        text = (
            f"{total} of {expected} rows{symbols} received from {_time(since)} to {_time(until)} are not visible "
            f"though acknowledged; {what_now}"
        )
        log.error("%s", text)
        self._on_event(Event(self._now(), "rows_missing", detail=text))

    def _count(self) -> None:
        spans = self._sent_counts.spans()
        self._metrics.rows.missing = sum(span.missing for span in spans)
        open_since = next((span.start_ns for span in spans if not span.is_settled), None)
        known = open_since if open_since is not None else max((span.end_ns for span in spans), default=0)
        self._metrics.reconciled_ns = max(self._metrics.reconciled_ns, min(known, self._now()))


def _time(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // SECOND, UTC):%Y-%m-%d %H:%M:%S}"
