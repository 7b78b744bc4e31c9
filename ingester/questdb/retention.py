"""Retention: decides when a day becomes Parquet and when it is dropped, and does it.

`plan` decides without a server. `RetentionWorker` takes the steps that are due, one day at a time and no day that
somebody reads; each step becomes an event. `RetentionThread` does that once an hour beside a recorder.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ingester.clock import SECOND, Now
from ingester.errors import SettingsError, StoreError
from ingester.events import Event
from ingester.questdb import partitions
from ingester.questdb.client import QuestDB
from ingester.questdb.leases import HeldRange, changing, holds, is_kept
from ingester.questdb.partitions import DAY, Partition
from ingester.questdb.query import between
from ingester.questdb.tables import ORDERBOOK
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

HOUR = 3600 * SECOND
CONVERT, DROP = "convert", "drop"
SPARE_BYTES = 512 << 20
"""Must be free in addition to what a conversion writes, as a full disk ends QuestDB."""
WRITTEN_SHARE = 0.5
"""A day as Parquet needs less than this share of its native bytes; both exist for a moment."""
STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Policy:
    """The times in ns from the end of a day until it becomes Parquet and until it is dropped; None: never.

    Raises SettingsError if they would drop a day too soon, or convert it in vain.
    """

    parquet_after_ns: int | None = None
    drop_after_ns: int | None = None

    def __post_init__(self) -> None:
        parquet, drop = self.parquet_after_ns, self.drop_after_ns
        if parquet is not None and parquet < HOUR:
            raise SettingsError("--parquet-after is less than 1h; rows of the day may still be on their way.")
        if drop is not None and drop < DAY:
            raise SettingsError("--drop-after is less than 1d; what is dropped does not come back. Write 1d or more.")
        if parquet is not None and drop is not None and drop <= parquet:
            raise SettingsError(
                f"--drop-after ({drop / DAY:g}d) is not later than --parquet-after ({parquet / DAY:g}d): days would be "
                "converted only to be dropped. Leave --parquet-after out, or make --drop-after longer."
            )

    @property
    def is_active(self) -> bool:
        """Whether days are converted or dropped at all."""
        return self.parquet_after_ns is not None or self.drop_after_ns is not None


class Step(NamedTuple):
    """The next step for a day."""

    partition: Partition
    action: str = ""
    """CONVERT, DROP, or empty for no step."""
    due_ns: int = 0
    """The time of the action."""
    hindrance: str = ""
    """Why a step that is due cannot be taken now; empty if it can."""

    def is_due(self, now_ns: int) -> bool:
        """Returns whether its time has come."""
        return bool(self.action) and self.due_ns <= now_ns


class RetentionState(NamedTuple):
    """What a decision depends on besides the day and the policy."""

    now_ns: int
    rows_before: Mapping[str, int] | None = None
    """The rows of each day at an earlier look; None if there was none."""
    waits_since_ns: int | None = None
    """The receive time of the oldest row that is not in the table yet; None if there is none, or it is not known."""
    free_bytes: int | None = None
    """Free bytes on the server's disk; None if not known."""
    suspended: str | None = None
    """Why QuestDB has suspended the table; None if it has not."""


def plan(days: Sequence[Partition], policy: Policy, state: RetentionState) -> list[Step]:
    """Returns the next step of each day, in the order of days. A step that is due and not hindered can be taken now."""
    return [_hindered(_next(day, policy, state.now_ns), state) for day in days]


def _next(partition: Partition, policy: Policy, now_ns: int) -> Step:
    drop = convert = None
    if policy.drop_after_ns is not None:
        drop = Step(partition, DROP, partition.end_ns + policy.drop_after_ns)
    if policy.parquet_after_ns is not None and not partition.is_parquet:
        convert = Step(partition, CONVERT, partition.end_ns + policy.parquet_after_ns)
    if drop and (convert is None or drop.is_due(now_ns)):  # a day that is dropped now is not converted first
        return drop
    return convert or Step(partition)


def _hindered(step: Step, state: RetentionState) -> Step:
    return step._replace(hindrance=_hindrance(step, state)) if step.is_due(state.now_ns) else step


def _hindrance(step: Step, state: RetentionState) -> str:
    day = step.partition
    if day.is_active:
        return "it is the newest day"
    if day.is_read_only:
        return "the server holds it read-only"
    if state.suspended is not None:
        return f"QuestDB has suspended the table: {state.suspended}"
    if state.waits_since_ns is not None and state.waits_since_ns < day.end_ns:
        return "rows of it wait in the spool"
    if state.rows_before is not None and state.rows_before.get(day.day, day.rows) != day.rows:
        return "rows still come in"
    needed = round(day.bytes * WRITTEN_SHARE) + SPARE_BYTES
    if step.action == CONVERT and state.free_bytes is not None and state.free_bytes < needed:
        return f"{needed / 1e9:.1f} GB are needed on the server's disk, {state.free_bytes / 1e9:.1f} GB are free"
    return ""


class Done(NamedTuple):
    """A step that was carried out."""

    step: Step
    after: Partition | None
    """The day after the step; None if it was dropped."""
    seconds: float
    columns: int = 0
    """The number of the table's columns then."""

    def event(self, at_ns: int) -> Event:
        """Returns the event about the step; `datasets/dropped.py` reads it."""
        day, after = self.step.partition, self.after
        if after is None:
            return Event(at_ns, "partition_dropped", detail=f"{day.day}: {day.rows} rows, {day.bytes} bytes")
        detail = partitions.converted(day, after, self.seconds, self.columns)
        return Event(at_ns, "partition_converted", detail=detail)


@dataclass(frozen=True)
class Surroundings:
    """What a retention worker cannot ask the server: functions that return it, or None if it is not known."""

    waits_since_ns: Callable[[], int | None] = lambda: None
    """Returns the receive time of the oldest row that is not in the table yet."""
    free_bytes: Callable[[], int | None] = lambda: None
    """Returns the free bytes on the server's disk."""


class RetentionWorker:
    """Carries out a policy. Any number of processes may do so for a table: the first with a lease works on the day."""

    def __init__(self, db: QuestDB, policy: Policy, *, now: Now, around: Surroundings | None = None) -> None:
        self.policy = policy
        self._db = db
        self._now = now
        self._around = around or Surroundings()
        self._rows_before: dict[str, int] | None = None

    def planned_steps(self) -> list[Step]:
        """Returns the next step of every day, with what hinders it. Raises StoreError."""
        held = holds(self._db) if is_kept(self._db) else []
        return [self._with_holds(step, held) for step in self._plan()]

    def settle(self) -> None:
        """Counts the rows of each day: `work` does not change a day whose count has changed. Raises StoreError."""
        self._rows_before = {each.day: each.rows for each in partitions.list_partitions(self._db)}

    def work(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[Done]:
        """Takes all steps that are due, the oldest day first, and yields each one after it. Raises StoreError."""
        for step in self._plan():
            if stopped():
                return
            if not step.is_due(self._now()):
                continue
            if not step.hindrance:
                step, done = self._take(step, stopped)
                if done is not None:
                    yield done
            if step.hindrance:
                log.info("retention leaves %s as it is: %s", step.partition.day, step.hindrance)

    def _take(self, step: Step, stopped: Callable[[], bool]) -> tuple[Step, Done | None]:
        day = step.partition
        with changing(self._db, day.start_ns, day.end_ns) as others:
            found = next((each for each in self._plan() if each.partition.day == day.day), None)  # its present state
            if found is None or found.action != step.action:
                return step, None  # somebody else has done it
            found = self._with_holds(found, others)
            if found.hindrance:
                return found, None
            begun, columns = time.monotonic(), len(partitions.column_names(self._db))
            act = partitions.drop if step.action == DROP else partitions.convert
            if not act(self._db, day.day, stopped):
                return step, None
            after = partitions.find(self._db, day.day)
            if after is not None:
                self._compare(found.partition, after)
            return step, Done(found, after, time.monotonic() - begun, columns)

    def _plan(self) -> list[Step]:
        stuck = partitions.suspension(self._db)
        state = RetentionState(
            self._now(),
            self._rows_before,
            self._around.waits_since_ns(),
            self._around.free_bytes(),
            stuck.reason if stuck else None,
        )
        return plan(partitions.list_partitions(self._db), self.policy, state)

    def _with_holds(self, step: Step, held: Sequence[HeldRange]) -> Step:
        day = step.partition
        others = [hold for hold in held if hold.overlaps(day.start_ns, day.end_ns)]
        if not step.is_due(self._now()) or step.hindrance or not others:
            return step
        return step._replace(hindrance=f"in use by {others[0].purpose} ({others[0].holder})")

    def _compare(self, before: Partition, after: Partition) -> None:
        where = between(before.start_ns, before.end_ns)
        ((rows,),) = self._db.sql(f"SELECT count() FROM {ORDERBOOK} WHERE {where}").rows
        if min(rows, after.rows) < before.rows:
            log.error("%s had %d rows before it became Parquet and has %d now", before.day, before.rows, rows)


class RetentionThread:
    """A thread that carries out the policy once an hour; no error in it ends the recording."""

    def __init__(
        self,
        retention_worker: RetentionWorker,
        *,
        now: Now,
        on_event: Callable[[Event], None],
        first_seconds: float = 60.0,
        every_seconds: float = 3600.0,
    ) -> None:
        """`first_seconds`: the time until the first look, as rows of an earlier run are sent before."""
        self._first_seconds = first_seconds
        self._every_seconds = every_seconds
        self._retention_worker = retention_worker
        self._now = now
        self._on_event = on_event
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "retention", self._stopping)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread without waiting for a server that does not answer. A conversion continues in the server."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        waits = self._first_seconds
        while True:
            self._try(self._retention_worker.settle)
            if self._stopping.wait(waits * random.uniform(0.9, 1.1)):  # several recorders look at different times
                return
            self._try(self._work)
            waits = self._every_seconds

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except StoreError as error:
            log.warning("retention tries again at its next look: %s", error)
        except Exception:  # a bug must not end the thread
            log.exception("retention tries again at its next look")

    def _work(self) -> None:
        for done in self._retention_worker.work(self._stopping.is_set):
            event = done.event(self._now())
            log.info("retention %s %s", event.kind.removeprefix("partition_"), event.detail)
            self._on_event(event)
