"""Carries out what retention decides: one day at a time, never one that someone reads, each step on record."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ingester.clock import Now
from ingester.errors import StoreError
from ingester.events import Event
from ingester.questdb import partitions
from ingester.questdb.client import QuestDB
from ingester.questdb.leases import HeldRange, changing, holds, is_kept
from ingester.questdb.partitions import Partition
from ingester.questdb.query import between
from ingester.questdb.retention import DROP, Policy, RetentionState, Step, plan
from ingester.questdb.schema import ORDERBOOK
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0


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

    def __init__(self, db: QuestDB, policy: Policy, now: Now, around: Surroundings | None = None) -> None:
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
