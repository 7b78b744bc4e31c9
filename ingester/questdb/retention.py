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
"""Has to be free beside what a conversion writes: a full disk ends QuestDB."""
WRITTEN_SHARE = 0.5
"""A day as Parquet needs less than this share of its native bytes, and they lie side by side for a moment."""
STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Policy:
    """After how many ns, counted from a day's end, it becomes Parquet, and is dropped; None: never.

    Raises SettingsError on what would drop a day too soon, or convert it in vain.
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
        """Whether anything is to be done at all."""
        return self.parquet_after_ns is not None or self.drop_after_ns is not None


class Step(NamedTuple):
    """What is to become of one day next."""

    partition: Partition
    action: str = ""
    """CONVERT, DROP, or nothing ever."""
    due_ns: int = 0
    """When, where there is an action."""
    hindrance: str = ""
    """Why a step that is due is not taken now."""

    def is_due(self, now_ns: int) -> bool:
        """Whether its time has come."""
        return bool(self.action) and self.due_ns <= now_ns


class RetentionState(NamedTuple):
    """What else a decision depends on."""

    now_ns: int
    rows_before: Mapping[str, int] | None = None
    """Rows of each day at an earlier look; None where there was none."""
    waits_since_ns: int | None = None
    """The receive time of the oldest row that is on its way to the table; None where there is none, or not known."""
    free_bytes: int | None = None
    """On the server's disk; None where not known."""
    suspended: str | None = None
    """QuestDB's words where it does not apply rows."""


def plan(days: Sequence[Partition], policy: Policy, state: RetentionState) -> list[Step]:
    """Returns the next step of each day, in the order of days. A step that is due and not hindered can be taken now."""
    return [_hindered(_next(day, policy, state.now_ns), state) for day in days]


def _next(partition: Partition, policy: Policy, now_ns: int) -> Step:
    drop = convert = None
    if policy.drop_after_ns is not None:
        drop = Step(partition, DROP, partition.end_ns + policy.drop_after_ns)
    if policy.parquet_after_ns is not None and not partition.is_parquet:
        convert = Step(partition, CONVERT, partition.end_ns + policy.parquet_after_ns)
    if drop and (convert is None or drop.is_due(now_ns)):  # to convert first what is to be dropped now would be in vain
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
    """A step that was taken."""

    step: Step
    after: Partition | None
    """The day as it is now; None where it is gone."""
    seconds: float
    columns: int = 0
    """Those that the table had."""

    def event(self, at_ns: int) -> Event:
        """What goes on record; `datasets/dropped.py` reads it."""
        day, after = self.step.partition, self.after
        if after is None:
            return Event(at_ns, "partition_dropped", detail=f"{day.day}: {day.rows} rows, {day.bytes} bytes")
        detail = partitions.converted(day, after, self.seconds, self.columns)
        return Event(at_ns, "partition_converted", detail=detail)


@dataclass(frozen=True)
class Surroundings:
    """What a retention worker may know beyond the server."""

    waits_since_ns: Callable[[], int | None] = lambda: None
    """The receive time of the oldest row that is on its way to the table."""
    free_bytes: Callable[[], int | None] = lambda: None
    """On the server's disk."""


class RetentionWorker:
    """One for a server's table. Any number of processes may have one: the first to hold a day works on it."""

    def __init__(self, db: QuestDB, policy: Policy, *, now: Now, around: Surroundings | None = None) -> None:
        self.policy = policy
        self._db = db
        self._now = now
        self._around = around or Surroundings()
        self._rows_before: dict[str, int] | None = None

    def planned_steps(self) -> list[Step]:
        """Every day with what is to become of it next, and what hinders that; changes nothing. Raises StoreError."""
        held = holds(self._db) if is_kept(self._db) else []
        return [self._with_holds(step, held) for step in self._plan()]

    def settle(self) -> None:
        """Notes how many rows each day has: one that has others at the next look is left alone. Raises StoreError."""
        self._rows_before = {each.day: each.rows for each in partitions.list_partitions(self._db)}

    def work(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[Done]:
        """Takes all steps that are due, the oldest day first, and gives each when it is taken. Raises StoreError."""
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
            found = next((each for each in self._plan() if each.partition.day == day.day), None)  # as it is by now
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
    """One thread that looks once an hour; no error in it ends the recording."""

    def __init__(
        self,
        retention_worker: RetentionWorker,
        *,
        now: Now,
        on_event: Callable[[Event], None],
        first_seconds: float = 60.0,
        every_seconds: float = 3600.0,
    ) -> None:
        """`first_seconds`: until the first look, for rows of an earlier run come before."""
        self._first_seconds = first_seconds
        self._every_seconds = every_seconds
        self._retention_worker = retention_worker
        self._now = now
        self._on_event = on_event
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "retention", self._stopping)

    def start(self) -> None:
        """Begins to look, soon."""
        self._thread.start()

    def stop(self) -> None:
        """Ends looking; a server that does not answer is not waited for. A conversion goes on in the server."""
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
