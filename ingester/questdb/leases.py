"""Leases on ranges of time, so that retention does not change days that are read, imported or migrated.

A lease is a row of the table `range_holds`, which every client of the server can read. Its holder renews it; without
that it expires after two minutes, so a killed export leaves no lease behind. Retention takes a lease on the day that it
changes, and an export that begins meanwhile waits. Both write their row first and read the others' rows then, so at
least one of them sees the other.
"""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psutil

from ingester.errors import QueryError, StoreError
from ingester.questdb.client import QuestDB
from ingester.questdb.query import quoted
from ingester.questdb.tables import statement
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

HOLDS = "range_holds"
EXPORT, IMPORT, PLAYBACK, RETENTION = "export", "import", "playback", "retention"
LEASE_SECONDS = 120
RENEW_SECONDS = 30.0
VISIBLE_SECONDS = 10.0
"""The time within which a lease must be visible to others. A server that is busy or suspended takes longer."""
LOOK_SECONDS = 0.2
ALWAYS_NS = 1 << 62
"""The end of a range without end: a time in the year 2116."""


class HeldRange(NamedTuple):
    """A lease: a range [since, until) in ns that somebody works on."""

    holder: str
    purpose: str
    since_ns: int
    until_ns: int

    def overlaps(self, start_ns: int, end_ns: int) -> bool:
        """Returns whether it overlaps [start, end)."""
        return self.since_ns < end_ns and self.until_ns > start_ns


def is_kept(db: QuestDB) -> bool:
    """Returns whether the server has the table of leases. Raises StoreError."""
    return bool(db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{HOLDS}'").rows)


def holds(db: QuestDB) -> list[HeldRange]:
    """Returns the leases that have not expired. Raises StoreError."""
    rows = db.sql(
        f"SELECT holder, purpose, cast(since AS LONG), cast(until AS LONG) FROM {HOLDS} WHERE expires > now()"
    ).rows
    return [HeldRange(holder, purpose, since * 1000, until * 1000) for holder, purpose, since, until in rows]


@contextlib.contextmanager
def holding(db: QuestDB, purpose: str, start_ns: int, end_ns: int) -> Iterator[None]:
    """Holds a lease on a range while the block runs, after retention has finished its work there.

    If the server does not take the lease, a warning is logged, and the block runs all the same. Raises StoreError if
    the server cannot be reached.
    """
    lease = Lease(db, purpose, start_ns, end_ns)
    try:
        try:
            if not lease.begin():
                log.warning("retention does not know of this %s: QuestDB does not show in time who reads", purpose)
            lease.wait_for_retention()
        except QueryError as error:
            log.warning("retention does not know of this %s: %s", purpose, str(error).splitlines()[0])
        yield
    finally:
        lease.end()


@contextlib.contextmanager
def changing(db: QuestDB, start_ns: int, end_ns: int) -> Iterator[Sequence[HeldRange]]:
    """Holds retention's lease on a day while the block runs, and gives it the leases of others on this day.

    Retention must not change the day if there are any. Raises StoreError, also if the lease does not become visible.
    """
    lease = Lease(db, RETENTION, start_ns, end_ns)
    try:
        if not lease.begin():
            raise StoreError(
                f"the table {HOLDS} does not show what was written into it; see SELECT * FROM wal_tables()"
            )
        yield lease.others()
    finally:
        lease.end()


_active: set[str] = set()
"""The leases of this process that have not ended."""


def is_over(hold: HeldRange) -> bool:
    """Returns whether the holder has ended without ending its lease: it was killed, or the server was down.

    For a holder on another machine that is not known, and the result is False.
    """
    host, _, rest = hold.holder.partition(" ")
    number = rest.split(" ")[0]
    if host != socket.gethostname() or not number.isdigit():
        return False
    return hold.holder not in _active if int(number) == os.getpid() else not psutil.pid_exists(int(number))


class Lease:
    """A lease of this process. A thread renews it between `begin` and `end`."""

    def __init__(self, db: QuestDB, purpose: str, start_ns: int, end_ns: int) -> None:
        self.holder = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._db = db
        self._purpose = purpose
        self._start_ns, self._end_ns = start_ns, end_ns
        self._begun_us = 0  # by the server's clock; 0 before `begin`
        self._ending = threading.Event()
        self._thread = SupervisedThread(self._renew, "hold", self._ending)

    def begin(self) -> bool:
        """Writes the lease; returns whether it is visible to others. Raises StoreError."""
        self._db.sql(statement(HOLDS))
        self._begun_us = self._db.sql("SELECT cast(now() AS LONG)").rows[0][0]
        _active.add(self.holder)
        self._write(LEASE_SECONDS)
        self._thread.start()
        patience = time.monotonic() + VISIBLE_SECONDS
        while not any(hold.holder == self.holder for hold in holds(self._db)):
            if time.monotonic() > patience:
                return False
            time.sleep(0.02)
        return True

    def others(self) -> list[HeldRange]:
        """Returns the leases of others that overlap this range. Raises StoreError."""
        return [
            hold
            for hold in holds(self._db)
            if hold.holder != self.holder and hold.overlaps(self._start_ns, self._end_ns)
        ]

    def wait_for_retention(self) -> None:
        """Waits until retention has no lease on this range; one of a process that was killed does not count.

        Raises StoreError.
        """
        is_logged = False
        while working := [hold for hold in self.others() if hold.purpose == RETENTION and not is_over(hold)]:
            if not is_logged:
                log.info("waiting for retention, which works on a day of this range (%s)", working[0].holder)
            is_logged = True
            time.sleep(LOOK_SECONDS)

    def end(self) -> None:
        """Ends the lease. If the server is down, the lease expires by itself."""
        _active.discard(self.holder)
        if not self._begun_us:
            return
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(StoreError):
            self._write(0)

    def _renew(self) -> None:
        while not self._ending.wait(RENEW_SECONDS):
            try:
                self._write(LEASE_SECONDS)
            except StoreError as error:
                log.debug("a hold was not renewed: %s", error)

    def _write(self, seconds: int) -> None:
        self._db.sql(
            f"INSERT INTO {HOLDS} VALUES ({self._begun_us}, {quoted([self.holder])}, '{self._purpose}', "
            f"{self._start_ns // 1000}, {-(-self._end_ns // 1000)}, dateadd('s', {seconds}, now()))"
        )
