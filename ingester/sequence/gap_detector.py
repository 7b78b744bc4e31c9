"""What the feed knows of one symbol: which snapshots are stored, how often they come, and when one was missing.

Which snapshots pass (are stored), by update id:

* Greater than the last one: passes.
* Equal: a copy, from another connection or because the exchange repeats itself. It is counted and does not pass.
* Smaller: late, from a connection that lags. It is counted and does not pass, except where the count goes on from it:
  - `CONTRADICTED_AFTER` rising ids in a row from the connection that had brought the last one, between the last two
    that passed: the last one was wrong. A connection is never out of order.
  - `RESTART_AFTER` rising ids in a row from one connection: between the last two that passed, where a second
    connection agrees or no connection can lag so far; or smaller than all of the last `FLOOR_NS`; or from the
    connection that had brought the last one. The last one was wrong, or the exchange has restarted its count.

Two kinds of ids are held back although they are greater (quarantined, and a gap): one that was found wrong, when it
comes again; and one from `HIGHEST_ID` on, which no exchange reaches, unless a greater one follows before a smaller one
passes. After a restart, connections that lag still bring the count before it: that does not pass again.

Receive times of what passes rise strictly, by at least the table's resolution of a microsecond.

What is guaranteed: a snapshot that a connection brought is stored once, or a gap is on record where it is missing.
A wrong id cannot be recognised when it comes, so one that is a little too large is stored, and what follows below it is
lost until it is refuted. Three signs show that something was lost or is wrong, and each of them is recorded as a gap,
whatever the cause turns out to be:

* The ids of a connection fall. The gap lasts from the last one that passed to the next.
* An id between the last two that passed has never passed itself. The gap is the same.
* An older one has never passed. The gap is the time between its two neighbours.

So an odd id may cost a gap in which nothing is missing, but no snapshot is lost without one. The limits of this: an id
that is older than the last `REMEMBERED` counts as a copy. A wrong id that equals the right id of another snapshot is
taken for that one. Where the exchange restarts its count within the last `REMEMBERED` ids, and a connection joins while
another still lags before the restart, the new count looks like copies of the old one, until ids fall on a connection.

What is a gap: the time between two snapshots that passed, where

* it is longer than the symbol's own rhythm allows (`gap_rule.py`; reason: exchange silent), or
* no connection delivered the symbol for a moment, however short (connection lost; exchange silent where it was open;
  not connected where none has been open since the start), or
* a frame in between was quarantined and no sound copy of it came, or
* the recorder did not run (restart), or its process was paused (process paused), or
* the wall clock was set far ahead, and receive times with it (clock set), or
* one of the signs above was seen (update ids restarted; connection lost between two older neighbours).

Connections lag behind each other. Where one joins that is ahead of the others, its first snapshot passes, and what the
others have not brought by then comes too late. The time between that first one and the one before it is a gap
(connection lost) if something late comes that lies in between, or if a connection ends before it has come so far.
"""

from bisect import bisect_left
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
from ingester.exchange import ListingStatus
from ingester.sequence.gap_rule import LONGEST_INTERVAL_NS, RHYTHM_INTERVALS, SHORTEST_GAP_NS, gap_limit_ns
from ingester.sequence.previous_count import Belongs, PreviousCount

HIGHEST_ID = 2**53
"""Binance has come to 2^37 in nine years; an exchange that counts a million updates a second needs 285 years."""
RESTART_AFTER = 20
CONTRADICTED_AFTER = 3
FLOOR_NS = 300 * SECOND
"""So far (to twice so far) a connection may lag behind another without being taken for a new count."""
REMEMBERED = 100
"""At least so many ids of each symbol are remembered: 10 s at Binance's shortest interval."""
RESOLUTION_NS = 1_000
FIRST_LIMIT_NS = 5 * SECOND
"""Where none comes for so long after the begin, that is a gap."""
LATE_INTERVALS = 1.6
"""A snapshot that comes after so many mean intervals is late: one may be missing before it."""
TRADING = ListingStatus.TRADING


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
    """What one connection brings below the last id that passed."""

    first_id: int
    """The smallest."""
    rises: int
    """How many ids in a row were greater than the one before it."""
    brought_last: bool
    """Whether it had brought the last id that passed just before it fell below it."""


class GapDetector:
    """The continuity of one symbol. `receive_ns` is the time of the last snapshot that passed, or of the begin."""

    __slots__ = (
        "_below",
        "_floor",
        "_floor_ns",
        "_floor_since_ns",
        "_handover_before",
        "_handover_since_ns",
        "_handover_until_ns",
        "_held_after",
        "_held_id",
        "_highest_id",
        "_hole_ns",
        "_ids",
        "_leap_ns",
        "_missing_id",
        "_next_floor",
        "_next_since_ns",
        "_open",
        "_out_of_turn",
        "_previous",
        "_reason",
        "_suspect",
        "_times",
        "_wrong_id",
        "before_id",
        "ceiling",
        "count",
        "found",
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
        """An id from this one on is checked before it passes: see `outdated` and `held`."""
        self.count = 0
        """Snapshots that passed."""
        self.limit_ns = SHORTEST_GAP_NS
        """How long after the last one the next is surely no gap; negative where something is known to be missing."""
        self.status = TRADING
        """What the exchange said last, where it was asked."""
        self.found: Gap | None = None
        """A gap in the past that an id below the last one has shown. `SequenceMonitor.record_found` clears it."""
        self.handover_id = -1
        """The first update id that a connection brought which joined the others."""
        self._handover_before = -1  # the last id before it
        self._handover_since_ns = self._handover_until_ns = 0  # receive times of both
        self._below: dict[Hashable, _Below] = {}  # connections that do not follow the last id, since it passed
        self._ids: list[int] = []  # that passed last, rising
        self._times: list[int] = []  # their receive times
        self._hole_ns = -1  # where the gap begins that was found last
        self._out_of_turn = False  # whether the last id came from a connection that had not brought the one before
        self._wrong_id = -1  # one that passed, and was wrong
        self._highest_id = HIGHEST_ID  # from here on an id has to be confirmed
        self._previous: PreviousCount | None = None  # the count before a restart, while it may still come
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
        """Whether the count goes on from an id that is smaller than the last one. It may show a gap: see `found`.

        `before_id`: what its connection had brought before it, -1 for nothing.
        """
        if before_id < update_id == self.before_id and not self._below:  # a copy, the most frequent one
            return False
        ids = self._ids
        place = bisect_left(ids, update_id)
        if place and ids[place] == update_id and before_id < update_id and not self._below:
            return False
        below = self._below.get(connection) if before_id >= 0 else None
        if self._handover_before < update_id < self.handover_id:
            self.found = self._handover_gap()
        elif place and ids[place] != update_id != self._wrong_id:
            self._never_passed(place)
        elif below is None and before_id <= update_id and update_id >= self._floor:  # a copy
            return False
        if before_id > update_id:
            self._fell(connection, before_id)
            below = _Below(update_id, 1, before_id == self.update_id or (below is not None and below.brought_last))
        elif below is not None:
            below = _Below(below.first_id, below.rises + (update_id > before_id), below.brought_last)
        else:
            below = _Below(update_id, 1, False)
        self._below[connection] = below
        if update_id < self._floor and self.before_id >= 0 and self._out_of_reach(update_id):
            self.miss(IDS_RESTARTED)
        return self._goes_on(update_id, below)

    def _goes_on(self, update_id: int, below: _Below) -> bool:
        """Whether what a connection brings below the last id shows that the count goes on there."""
        if below.brought_last and below.rises >= CONTRADICTED_AFTER and update_id > self.before_id >= 0:
            return True
        if below.rises < RESTART_AFTER:
            return False
        if update_id < self._floor or self.before_id < 0:
            return True
        if update_id <= self.before_id:
            return below.brought_last and not self._out_of_turn
        agreed = sum(each.rises >= CONTRADICTED_AFTER for each in self._below.values()) > 1
        # One that joined may be ahead of others that lag, and end before they have come so far.
        return (agreed and self.handover_id != self.update_id) or self._out_of_reach(update_id)

    def _fell(self, connection: Hashable, before_id: int) -> None:
        """The ids of a connection fell: this one, or the one before it, is wrong, or the exchange has restarted."""
        if self._previous is None or not self._previous.fell(connection, before_id):
            self.miss(IDS_RESTARTED)

    def _never_passed(self, place: int) -> None:
        """An id below the last one is new: there is a gap before the id at `place`, or since the last one."""
        since_ns, until_ns = self._times[place - 1], self._times[place]
        if place == len(self._ids) - 1:
            self.miss(IDS_RESTARTED)
        elif since_ns != self._hole_ns:
            self._hole_ns = since_ns
            self.found = Gap(self.symbol, since_ns, until_ns, CONNECTION_LOST)

    def _out_of_reach(self, update_id: int) -> bool:
        """Whether an id is further behind the last one than a connection can lag, at the pace of the ids before."""
        ids, span = self.before_id - self._floor, self.receive_ns - self._floor_since_ns
        if ids <= 0 or span <= 0:
            return self.handover_id != self.update_id
        return (self.update_id - update_id) * span > FLOOR_NS * ids

    def restart(self, update_id: int, receive_ns: int) -> None:
        """The count goes on from `update_id`, which is about to pass: what came below the last one is missing."""
        if 0 <= self.before_id < update_id:  # so the last one was wrong
            self._wrong_id = self.update_id
            self.ceiling = min(self.ceiling, self.update_id)
            self.update_id = self.before_id
            self._floor, self._next_floor = min(self._floor, self.update_id), min(self._next_floor, self.update_id)
            del self._ids[-1:], self._times[-1:]
        else:
            past = [connection for connection, below in self._below.items() if below.brought_last]
            self._previous = PreviousCount(self._ids, self.update_id, receive_ns + FLOOR_NS, past)
            self._ids, self._times, self.ceiling = [], [], update_id
            self.update_id = -1
            self._raise_floor(receive_ns, min((each.first_id for each in self._below.values()), default=update_id))
            self._floor, self._floor_since_ns = self._next_floor, receive_ns
        self.handover_id = -1
        self.miss(IDS_RESTARTED)

    def outdated(self, update_id: int, connection: Hashable, before_id: int, now: int) -> bool:
        """Whether an id from the ceiling on is of the count before this one. If that is uncertain, it is a gap."""
        if self._previous is None:
            return False
        if now > self._previous.until_ns:
            self._previous = None
            self.ceiling = self._wrong_id if self._wrong_id > self.update_id else self._highest_id
            return False
        belongs = self._previous.belongs(update_id, self.update_id, connection, before_id)
        if belongs is Belongs.UNCERTAIN:
            self.miss(IDS_RESTARTED)
        return belongs is not Belongs.NEW

    def held(self, update_id: int) -> bool:
        """Whether an id from the ceiling on is to be held back.

        It is where it was found wrong before, and from `HIGHEST_ID` on unless it confirms the one held back before.
        """
        if update_id == self._wrong_id:
            return True
        if update_id < self._highest_id:
            if self._wrong_id < update_id and self._previous is None:  # the count has come so far by itself
                self.ceiling = self._highest_id
            return False
        confirmed = self._held_after == self.count and 0 <= self._held_id < update_id < self._held_id + HIGHEST_ID
        self._held_id, self._held_after = update_id, self.count
        if confirmed:
            self._highest_id = self.ceiling = 2**63
        return not confirmed

    def accept(self, receive_ns: int, update_id: int) -> Gap | None:
        """Takes in a snapshot that passes; returns the gap that it ends, if there is one."""
        if receive_ns < self.receive_ns + RESOLUTION_NS:
            receive_ns = self.receive_ns + RESOLUTION_NS
        gap = self._end(receive_ns, update_id) if receive_ns - self.receive_ns > self.limit_ns else None
        if receive_ns > self._floor_ns:
            self._raise_floor(receive_ns, update_id)
        self.before_id = self.update_id
        self.update_id, self.receive_ns = update_id, receive_ns
        self._ids.append(update_id)
        self._times.append(receive_ns)
        if self._below:
            self._below = {}
        self._out_of_turn = False
        self.count += 1
        return gap

    def out_of_turn(self, before_id: int, before_ns: int, gap: Gap | None) -> None:
        """What passed last came from a connection that had not brought the one before, which came at `before_ns`.

        `before_id`: what that connection had brought instead, -1 where it has joined. `gap`: what ended with it.
        """
        self._out_of_turn = True
        if before_id < 0 and gap is None and self.count > 1:
            self.handover_id, self._handover_before = self.update_id, self.before_id
            self._handover_since_ns, self._handover_until_ns = before_ns, self.receive_ns

    def left(self, watermark: int) -> Gap | None:
        """Returns the gap at the handover where the connection that ended had not yet delivered up to it, or None."""
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
        self._missing_id = update_id if update_id is not None and update_id < self._highest_id else -1

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
        if self._below:  # nobody will know any more which ones were wrong
            self.miss(IDS_RESTARTED)
        if self.limit_ns >= 0 and now - self.receive_ns <= self.longest_ns():
            return None
        return Gap(self.symbol, self.receive_ns, now, self._why())

    def trim(self) -> None:
        """Forgets ids and times that are no longer needed; called about once a second."""
        if len(self._ids) > REMEMBERED:
            del self._ids[:-REMEMBERED], self._times[:-REMEMBERED]

    def interval_ns(self) -> float:
        """Mean time between two snapshots; infinite where it is not known."""
        intervals, total_ns = self._rhythm()
        return total_ns / intervals if intervals else float("inf")

    def longest_ns(self) -> int:
        """How long a pause its rhythm allows, or how long the first one may take to come."""
        return gap_limit_ns(*self._rhythm()) if self._times else FIRST_LIMIT_NS

    def _rhythm(self) -> tuple[int, int]:
        """How many intervals are known, and their sum in ns, as the rule counts them."""
        times = self._times[-RHYTHM_INTERVALS - 1 :]
        if len(times) < 2:
            return 0, 0
        total_ns = times[-1] - times[0]
        if total_ns > LONGEST_INTERVAL_NS:  # so one of them may be longer
            total_ns = sum(min(after - before, LONGEST_INTERVAL_NS) for before, after in pairwise(times))
        return len(times) - 1, total_ns

    def _raise_floor(self, receive_ns: int, update_id: int) -> None:
        first = self._next_floor < 0
        self._floor = update_id if first else self._next_floor
        self._floor_since_ns = receive_ns if first else self._next_since_ns
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
