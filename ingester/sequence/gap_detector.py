"""What the feed remembers of one symbol: which snapshots pass, in which rhythm they come, and when one was missing.

Which snapshots pass, by update id:

* greater than the last one: passes. An exception is an id from `HIGHEST_ID` on, which no exchange reaches: it is held
  back, and passes only if a greater one follows before a smaller one passes.
* equal: a copy (from another connection, or the exchange repeating itself). It is counted, not passed on.
* smaller: late, from a connection that lags. It is counted, not passed on, except where the ids show that the count
  goes on from there. Then there is a gap (update ids restarted), and that one passes. This is so
  - after `RESTART_AFTER` in a row that are smaller than anything of the last `FLOOR_NS`: the exchange has restarted its
    count;
  - where ids lie between the last two that passed and rise on each connection: the last one to pass was wrong. It takes
    `CONTRADICTED_AFTER` on the connection that had brought that one, for a connection is never out of order; or
    `RESTART_AFTER` on another one, where a second connection agrees, or where they are further behind than a connection
    can lag.
  A greater id that passes meanwhile confirms the last one; where the connection that had brought that one has gone on
  below it, what did not pass is a gap. An id that was found wrong is held back when it comes again,
  like those from `HIGHEST_ID` on.

Receive times of what passes rise strictly, by at least the table's resolution of a microsecond.

What is a gap: the time between two snapshots that passed, where

* it is longer than the symbol's own rhythm allows (`gap_rule.py`; reason: exchange silent), or
* meanwhile no connection delivered the symbol, however shortly (connection lost, or exchange silent where it stood, or
  not connected where none has stood since the start), or
* a frame in between was quarantined and no sound copy of it came, or
* the recorder did not run (restart), or its process was paused (process paused), or
* the wall clock was set far ahead, and receive times with it (clock set), or
* update ids went on below the last one (update ids restarted).

Connections lag behind each other. Where one joins that is ahead of those that deliver already, its first snapshot
passes, and what they have not brought by then comes too late. So the time between the last snapshot before and that
first one, the joint, turns out to be a gap if something late comes that lies in between, or a connection ends before it
has come so far.
"""

from collections import deque
from collections.abc import Hashable
from itertools import pairwise
from typing import NamedTuple

from ingester.clock import SECOND
from ingester.events import (
    CLOCK_SET,
    CONNECTION_LOST,
    EXCHANGE_SILENT,
    IDS_RESTARTED,
    NOT_CONNECTED,
    QUARANTINED,
    RESTART,
    Event,
)
from ingester.sequence.gap_rule import LONGEST_INTERVAL_NS, RHYTHM_INTERVALS, SHORTEST_GAP_NS, gap_limit_ns

HIGHEST_ID = 2**53
"""Binance has come to 2^37 in nine years; an exchange that counts a million updates a second needs 285 years."""
RESTART_AFTER = 20
CONTRADICTED_AFTER = 3
FLOOR_NS = 300 * SECOND
"""So far (to twice so far) a connection may lag behind another without being taken for a new count."""
RESOLUTION_NS = 1_000
FIRST_LIMIT_NS = 5 * SECOND
"""Where none comes for so long after the begin, that is a gap."""
LATE_INTERVALS = 1.6
"""A snapshot that comes after so many mean intervals is late: one may be missing before it."""
TRADING = "TRADING"


class Gap(NamedTuple):
    """A time without snapshots of one symbol: between the receive times of the last one before and the first after."""

    symbol: str
    since_ns: int
    until_ns: int | None
    reason: str

    def length(self) -> float:
        """Seconds; infinite where it is not over."""
        return float("inf") if self.until_ns is None else (self.until_ns - self.since_ns) / SECOND

    def event(self) -> Event:
        """As it is recorded; a gap that is still open has no end yet, and the same key once it has."""
        return Event(self.since_ns, "gap", self.symbol, detail=self.reason, until_ns=self.until_ns)


class _Below(NamedTuple):
    """What one connection has brought below the last id, since that passed."""

    last_id: int
    rises: int
    """How many ids in a row were greater than the one before."""
    brought_it: bool
    """Whether the connection had brought the last id itself."""


class GapDetector:
    """The continuity of one symbol. `receive_ns` is the time of the last snapshot that passed, or of the begin."""

    __slots__ = (
        "_backward",
        "_below",
        "_floor",
        "_floor_ns",
        "_floor_since_ns",
        "_handover_before",
        "_handover_since_ns",
        "_handover_until_ns",
        "_held_after",
        "_held_id",
        "_leap_ns",
        "_missing_id",
        "_next_floor",
        "_next_since_ns",
        "_open",
        "_reason",
        "_suspect",
        "_times",
        "before_id",
        "ceiling",
        "count",
        "handover_id",
        "limit_ns",
        "receive_ns",
        "status",
        "symbol",
        "update_id",
    )

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.update_id = -1
        self.receive_ns = 0
        self.before_id = -1
        """Of the one that passed before the last."""
        self.ceiling = HIGHEST_ID
        """From this id on one has to be confirmed: see `held`."""
        self.count = 0
        """Snapshots that passed."""
        self.limit_ns = SHORTEST_GAP_NS
        """How long after the last one the next is surely no gap; negative where something is known to be missing."""
        self.status = TRADING
        """What the exchange said last, where it was asked."""
        self.handover_id = -1
        """The first update id that a connection brought which joined the others."""
        self._handover_before = -1  # the last id before it
        self._handover_since_ns = self._handover_until_ns = 0  # receive times of both
        self._backward = 0  # ids in a row that are smaller than all of late
        self._below: dict[Hashable, _Below] | None = None  # by connection, since the last one passed
        self._held_id = -1  # the last one that was held back
        self._held_after = 0  # how many had passed before it
        self._floor = -1  # first id of late
        self._floor_since_ns = 0  # when that passed
        self._next_floor = -1  # the floor from `_floor_ns` on
        self._next_since_ns = 0
        self._floor_ns = 0
        self._leap_ns = 0  # the first receive time after a leap of the clock, until the gap around it has ended
        self._reason = ""  # why something is missing
        self._missing_id = -1  # of a quarantined frame
        self._suspect = False  # whether that frame may have been of another symbol
        self._open = False  # whether the present gap is on record already
        self._times: deque[int] = deque(maxlen=RHYTHM_INTERVALS + 1)  # receive times of the last ones that passed

    def resume(self, last_ns: int) -> None:
        """An earlier run received until `last_ns`: this one begins with a gap."""
        self.receive_ns = last_ns
        self.miss(RESTART)

    def begin(self, now: int) -> None:
        """From now on snapshots may come."""
        if not self._reason or self.receive_ns > now:  # the clock was set back between two runs
            self.receive_ns = now

    def wait_since(self, started_ns: int) -> Gap | None:
        """Nothing could come since the start: a gap of its own; returns the one that the start has ended, if any."""
        before = Gap(self.symbol, self.receive_ns, started_ns, RESTART) if self._reason == RESTART else None
        self._reason = ""
        self.receive_ns = max(self.receive_ns, started_ns)
        self.miss(NOT_CONNECTED)
        return before if before and before.since_ns < started_ns else None

    def restarted(self, update_id: int, connection: Hashable, before_id: int) -> bool:
        """Whether the count goes on from an id that is smaller than the last one.

        `before_id`: what its connection had brought before it, -1 for nothing.
        """
        if update_id < self._floor:
            self._backward += 1
            if self._backward >= RESTART_AFTER:
                return True
        if self.before_id < 0:
            return False
        brought_it = before_id == self.update_id
        if update_id <= self.before_id:
            if brought_it:  # a copy of what passed before the last one
                self._below = {**(self._below or {}), connection: _Below(update_id, 0, True)}
            return False
        below = self._below = self._below or {}
        last_id, rises, brought_it = below.get(connection) or (-1, 0, brought_it)
        rises = rises + 1 if update_id > last_id else 1
        below[connection] = _Below(update_id, rises, brought_it)
        if brought_it and rises >= CONTRADICTED_AFTER:
            return True
        if rises < RESTART_AFTER:
            return False
        agreed = sum(each.rises >= CONTRADICTED_AFTER for each in below.values()) > 1
        # One that joined may be ahead of others that lag, and end before they have come so far.
        return (agreed and self.handover_id != self.update_id) or self._out_of_reach(update_id)

    def _contradicted(self) -> bool:
        """Whether the connection that had brought the last one went on with ids below it that have not passed."""
        return any(each.brought_it and each.rises for each in (self._below or {}).values())

    def _out_of_reach(self, update_id: int) -> bool:
        """Whether an id is further behind the last one than a connection can lag, at the pace of the ids before."""
        ids, span = self.before_id - self._floor, self.receive_ns - self._floor_since_ns
        if ids <= 0 or span <= 0:
            return self.handover_id != self.update_id
        return (self.update_id - update_id) * span > FLOOR_NS * ids

    def restart(self, update_id: int, receive_ns: int) -> None:
        """The count goes on from `update_id`, which is about to pass: what came below the last one is missing."""
        if 0 <= self.before_id < update_id:  # so the last one was wrong
            self.ceiling = min(self.ceiling, self.update_id)
        self.handover_id = -1
        if receive_ns > self.receive_ns + RESOLUTION_NS:
            self.miss(IDS_RESTARTED)

    def held(self, update_id: int) -> bool:
        """Whether an id from the ceiling on is to be held back: it is, unless it confirms the one held back before."""
        confirmed = self._held_after == self.count and 0 <= self._held_id < update_id < self._held_id + HIGHEST_ID
        self._held_id, self._held_after = update_id, self.count
        if confirmed:
            self.ceiling = 2**63
        return not confirmed

    def accept(self, receive_ns: int, update_id: int) -> Gap | None:
        """Takes in a snapshot that passes; returns the gap that it ends, if there is one."""
        if receive_ns < self.receive_ns + RESOLUTION_NS:
            receive_ns = self.receive_ns + RESOLUTION_NS
        if self._below and self._contradicted() and receive_ns > self.receive_ns + RESOLUTION_NS:
            self.miss(IDS_RESTARTED)
        gap = self._end(receive_ns, update_id) if receive_ns - self.receive_ns > self.limit_ns else None
        if receive_ns > self._floor_ns or update_id < self.update_id:
            self._raise_floor(receive_ns, update_id)
        self.before_id = self.update_id
        self.update_id, self.receive_ns, self._backward = update_id, receive_ns, 0
        self._times.append(receive_ns)
        self._below = None
        self.count += 1
        return gap

    def join(self, before_ns: int) -> None:
        """What passed last was the first of a connection; the one before had come at `before_ns`."""
        self.handover_id, self._handover_before = self.update_id, self.before_id
        self._handover_since_ns, self._handover_until_ns = before_ns, self.receive_ns

    def late(self, update_id: int) -> Gap | None:
        """The joint, where it is a gap because this one came too late."""
        return self._handover_gap() if self._handover_before < update_id < self.handover_id else None

    def left(self, watermark: int) -> Gap | None:
        """The joint, where it is a gap because a connection ended that had come only so far."""
        return self._handover_gap() if self._handover_before <= watermark < self.handover_id else None

    def _handover_gap(self) -> Gap:
        self.handover_id = -1
        return Gap(self.symbol, self._handover_since_ns, self._handover_until_ns, CONNECTION_LOST)

    def miss(self, reason: str) -> None:
        """From the last snapshot to the next one something is missing, however shortly, for this reason."""
        if not self._reason or self._reason == QUARANTINED:
            self._reason = reason
        self._missing_id, self._suspect = -1, False
        self.limit_ns = -1

    def quarantine(self, update_id: int | None) -> None:
        """A frame (of this update id, where that could be read) was not stored: missing unless a sound copy comes."""
        if (self._reason and not self._suspect) or (update_id is not None and update_id <= self.update_id):
            return
        self._reason, self._suspect, self.limit_ns = QUARANTINED, False, -1
        # What is so far ahead was not read right: nothing that comes will ever be it.
        self._missing_id = update_id if update_id is not None and update_id < self.ceiling else -1

    def suspect(self) -> None:
        """A frame that was not stored may have been of this symbol: missing if the next one comes late."""
        if not self._reason:
            self.quarantine(None)
            self._suspect = True

    def clock_set(self, at_ns: int) -> None:
        """Receive times have leapt ahead: what comes at `at_ns` or later was received after that."""
        self._leap_ns, self.limit_ns = at_ns, -1
        if not self._reason or self._reason == QUARANTINED:
            self._reason = CLOCK_SET
        self._missing_id, self._suspect = -1, False

    def silent(self, now: int, patience_ns: int) -> bool:
        """Whether nothing passed for longer than both the symbol's rhythm and `patience_ns` allow."""
        pause_ns = now - self.receive_ns
        return pause_ns > patience_ns and pause_ns > self.longest_ns()

    def open(self) -> Gap | None:
        """The gap that lasts, once: for the record before its end is known."""
        if self._open:
            return None
        self._open, self.limit_ns = True, -1
        self._reason = self._reason or EXCHANGE_SILENT
        return Gap(self.symbol, self.receive_ns, None, self._why())

    @property
    def has_open_gap(self) -> bool:
        """Whether a gap that is on record lasts."""
        return self._open

    def end(self, now: int) -> Gap | None:
        """The gap that lasts while recording ends at `now`; what came after that is no longer part of it."""
        if not self.receive_ns or now <= self.receive_ns:
            return None
        if self._backward or self._contradicted():  # nobody will know any more which ones were wrong
            self.miss(IDS_RESTARTED)
        if self.limit_ns >= 0 and now - self.receive_ns <= self.longest_ns():
            return None
        return Gap(self.symbol, self.receive_ns, now, self._why())

    def interval_ns(self) -> float:
        """Mean time between two snapshots; infinite where it is not known."""
        intervals, total_ns = self._rhythm()
        return total_ns / intervals if intervals else float("inf")

    def longest_ns(self) -> int:
        """How long a pause its rhythm allows, or how long the first one may take to come."""
        return gap_limit_ns(*self._rhythm()) if self._times else FIRST_LIMIT_NS

    def _rhythm(self) -> tuple[int, int]:
        """How many intervals are known, and their sum in ns, as the rule counts them."""
        times = self._times
        if len(times) < 2:
            return 0, 0
        total_ns = times[-1] - times[0]
        if total_ns > LONGEST_INTERVAL_NS:  # so one of them may be longer
            total_ns = sum(min(after - before, LONGEST_INTERVAL_NS) for before, after in pairwise(times))
        return len(times) - 1, total_ns

    def _raise_floor(self, receive_ns: int, update_id: int) -> None:
        again = update_id < self.update_id or self._next_floor < 0
        self._floor = update_id if again else self._next_floor
        self._floor_since_ns = receive_ns if again else self._next_since_ns
        self._next_floor, self._next_since_ns, self._floor_ns = update_id, receive_ns, receive_ns + FLOOR_NS

    def _why(self) -> str:
        reason = self._reason or EXCHANGE_SILENT
        return reason if self.status == TRADING else f"{reason} ({self.status})"

    def _end(self, until_ns: int, update_id: int) -> Gap | None:
        if not self.receive_ns or until_ns < self._leap_ns:
            return None
        silent = until_ns - self.receive_ns > self.longest_ns()
        if not silent and not self._reason:
            return None
        if self._reason == QUARANTINED and update_id <= self._missing_id and not silent:
            if update_id == self._missing_id:  # the sound copy
                self._whole()
            return None
        interval_ns = self.interval_ns() if self._suspect else 0.0
        if self._suspect and interval_ns < float("inf") and until_ns - self.receive_ns < LATE_INTERVALS * interval_ns:
            self._whole()
            return None
        gap = Gap(self.symbol, self.receive_ns, until_ns, self._why())
        self._whole()
        return gap

    def _whole(self) -> None:
        self._reason, self._missing_id, self._suspect, self._open, self._leap_ns = "", -1, False, False, 0
        self.limit_ns = SHORTEST_GAP_NS
