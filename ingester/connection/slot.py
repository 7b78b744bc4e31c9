"""One place in the feed for a connection that carries a group of streams: watched for silence, replaced before its end.

Other links may carry the same streams. All of this runs in the pump's thread; times are nanoseconds.

* What counts as life is an update id that moves: not pings, not answers, not the same book again and again.
* A connection without data for `SILENT_NS` (or what its pairs' rhythm demands) is closed and made anew. Where that does
  not help, the patience doubles, so that an exchange at rest is not stormed.
* A symbol that is silent on a connection that lives is subscribed anew, with growing pauses, and the feed asks the
  exchange whether it trades; one that stays silent has the connection replaced.
* A connection is replaced make-before-break: at `rotate_ns` (before the exchange ends it at 24 h), when its shutdown is
  announced, or for a symbol's sake. The old one goes when the new one has delivered every symbol that the old one still
  does; where it does not within `RELIEF_NS`, the new one goes and is tried again later.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from ingester.clock import SECOND
from ingester.connection.connection import LONGEST_PATIENCE_NS, Leg
from ingester.connection.websocket import Stream
from ingester.events import CONNECTION_LOST, EXCHANGE_SILENT, Event
from ingester.metrics import FeedMetrics
from ingester.sequence.gap_detector import LIMIT_INTERVALS, TRADING, Track

log = logging.getLogger(__name__)

SILENT_NS = 5 * SECOND
DOUBTS = 2
"""After so many resubscriptions the exchange is asked whether the symbol trades."""
DESPAIRS = 4
"""After so many the connection is replaced."""
SETTLE_NS = 10 * SECOND
"""So long a new connection waits for symbols that were silent on both."""
RELIEF_NS = 60 * SECOND
NOTICE_NS = SECOND
"""How much later than it happened a move of an update id may be noticed."""


class Link:
    """`leg` is the connection that serves; `successor` the one that is to replace it, if any."""

    def __init__(
        self,
        label: str,
        names: Sequence[bytes],
        twins: Sequence["Link"],
        tracks: Mapping[bytes, Track],
        open_leg: Callable[["Link"], Leg],
        request: Callable[[str, Stream, Sequence[bytes]], Mapping[bytes, int]],
        life_ns: Callable[[], int],
        metrics: FeedMetrics,
        on_event: Callable[[Event], None],
    ) -> None:
        """`names` and `twins` may change later: the streams that all twins carry, this link among them.

        `life_ns`: how old a connection may become, drawn anew for each. `request` asks the exchange, and gives the
        number of the request for each stream.
        """
        self.label = label
        self.names = names
        self.twins = twins
        self._tracks = tracks
        self._open_leg = open_leg
        self._request = request
        self._life_ns = life_ns
        self._metrics = metrics
        self._on_event = on_event
        self._rotate_ns: int | None = None  # when the leg is too old
        self._not_before_ns = 0  # for another try, where a successor was no good
        self._why = ""  # a successor is wanted
        self.closed = False
        self.stood = False
        """Whether it has ever had a connection."""
        self.failures = 0
        """Attempts in a row that made no connection."""
        self.failure = ""
        """Why the last of them did not."""
        self.successor: Leg | None = None
        self.leg = open_leg(self)

    def legs(self) -> Iterator[Leg]:
        """The one that serves, and its successor."""
        yield self.leg
        if self.successor is not None:
            yield self.successor

    def opened(self, leg: Leg, now: int) -> None:
        """A connection stands."""
        leg.open(now)
        self.stood, self.failures = True, 0
        if leg is self.leg:
            self._rotate_ns = now + self._life_ns()

    def subscribe(self, leg: Leg, now: int) -> None:
        """Asks for all streams on a connection that stands."""
        self._request("SUBSCRIBE", leg.stream, self.names)
        leg.subscribe(now)

    def join(self, leg: Leg, names: Sequence[bytes], now: int) -> None:
        """Asks for more streams on a connection that is subscribed; they are not among the link's yet."""
        if not self.names:
            leg.data_ns = now  # it could bring nothing before
        self._request("SUBSCRIBE", leg.stream, names)
        leg.join(names, now)

    def part(self, leg: Leg, names: Sequence[bytes]) -> None:
        """Asks for streams no longer, where they were asked for."""
        if leg.subscribed_ns is not None:
            leg.parted.update(self._request("UNSUBSCRIBE", leg.stream, names))
        leg.forget(names)

    def close(self) -> None:
        """Ends its connections for good."""
        self.closed = True
        for leg in self.legs():
            leg.stream.stop()

    def lost(self, leg: Leg, now: int, why: str = "") -> None:
        """A connection is gone: what no other one delivers is missing from now on. `why`: the reason of these gaps."""
        reason = why or (EXCHANGE_SILENT if leg.ending else CONNECTION_LOST)
        others = [other for twin in self.twins for other in twin.legs() if other is not leg]
        if leg.subscribed_ns is not None:
            for name in self.names:
                track, reached = self._tracks[name], leg.ids.get(name)
                if not any(name in other.ids for other in others):
                    track.miss(reason)
                elif reached is not None and (gap := track.left(reached)):
                    self._on_event(gap.event())
        leg.reset()
        if leg is self.leg and self.successor is not None and self.successor.opened_ns is not None:
            self._promote("the old one was lost", now)

    def failed(self, reason: str) -> bool:
        """An attempt made no connection; whether to say so: a new reason, and the 2nd, 4th, 8th, … in a row."""
        new = reason != self.failure or not self.failures
        self.failures, self.failure = self.failures + 1, reason
        return new or self.failures & (self.failures - 1) == 0

    def rotate(self, reason: str, now: int) -> None:
        """Begins to replace the connection that serves."""
        if self.successor is None and now >= self._not_before_ns:
            log.info("connection %s is being replaced: %s", self.label, reason)
            self._why = reason
            self.successor = self._open_leg(self)

    def shutdown_announced(self, leg: Leg, now: int) -> None:
        """The exchange will close this connection soon."""
        if leg is self.leg:
            self._not_before_ns = now
            self.rotate("the exchange announced its shutdown", now)
        else:
            leg.stream.renew("the exchange announced its shutdown")

    def tick(self, now: int) -> None:
        """What time demands, about once a second."""
        for leg in self.legs():
            leg.notice(now)
        if self.successor is not None:
            self._relieve(self.successor, now)
        elif self.leg.opened_ns is not None and self._rotate_ns is not None and now >= self._rotate_ns:
            self.rotate(f"it is {_age(now - self.leg.opened_ns)} old", now)
        for leg in self.legs():
            if leg.subscribed_ns is not None and not leg.ending:
                self._watch(leg, now)

    def doubtful(self) -> Iterator[Track]:
        """Symbols that stay silent although they were subscribed anew."""
        for leg in self.legs():
            for name, tries in leg.tries.items():
                if tries >= DOUBTS and self._tracks[name].status == TRADING:
                    yield self._tracks[name]

    def _relieve(self, new: Leg, now: int) -> None:
        """The old connection goes where the new one delivers what it does."""
        if new.subscribed_ns is None:
            return
        waited = now - new.subscribed_ns
        missing = [name for name in self.names if name not in new.ids and self._tracks[name].status == TRADING]
        delivered = (self.leg.moved.get(name, 0) > new.subscribed_ns + NOTICE_NS for name in missing)
        if not missing or (waited > SETTLE_NS and not any(delivered)):
            self._promote(self._why, now)
        elif waited > RELIEF_NS:
            log.warning("the replacement of connection %s lacks %d streams; it goes", self.label, len(missing))
            self.successor = None
            self._not_before_ns = now + RELIEF_NS
            new.stream.stop()

    def _promote(self, why: str, now: int) -> None:
        old, new = self.leg, self.successor
        assert new is not None
        assert new.opened_ns is not None
        self.leg, self.successor = new, None
        self._rotate_ns = new.opened_ns + self._life_ns()
        self._metrics.rotations += 1
        old.stream.stop()
        log.info("connection %s was replaced: %s", self.label, why)
        self._on_event(Event(now, "rotated", connection=self.label, detail=why))

    def _watch(self, leg: Leg, now: int) -> None:
        silence = now - leg.data_ns
        if silence > SILENT_NS:
            if silence > self._patience(leg):
                leg.ending = f"no data for {silence / SECOND:.1f} s"
                leg.fruitless += 1
                leg.stream.renew(leg.ending)
            return
        silent = []
        for name in self.names:
            since = leg.silent_since(name)
            if now - since > SILENT_NS:
                track = self._tracks[name]
                patience = max(SILENT_NS, 2 * track.longest_ns())
                if now - since > patience and track.status == TRADING and leg.try_again(name, now):
                    silent.append(name)
                    detail = f"silent for {(now - since) / SECOND:.0f} s"
                    self._on_event(Event(now, "resubscribed", track.symbol, self.label, detail))
        if silent:
            log.warning("connection %s: %s silent, subscribed anew", self.label, symbols_text(silent, self._tracks))
            self._request("UNSUBSCRIBE", leg.stream, silent)
            self._request("SUBSCRIBE", leg.stream, silent)
        if leg is self.leg and any(leg.tries[name] == DESPAIRS for name in silent):
            self.rotate(f"{symbols_text(silent, self._tracks)} silent", now)

    def _patience(self, leg: Leg) -> int:
        """How long this connection may bring nothing."""
        trading = [track for track in map(self._tracks.__getitem__, self.names) if track.status == TRADING]
        if not trading:
            return LONGEST_PATIENCE_NS
        known = min((track.interval_ns() for track in trading), default=0)
        rhythm = 0 if known == float("inf") else int(LIMIT_INTERVALS * known)
        return min(LONGEST_PATIENCE_NS, max(SILENT_NS, rhythm) << min(leg.fruitless, 10))


def symbols_text(names: Sequence[bytes], tracks: Mapping[bytes, Track]) -> str:
    """A few symbols by name, the others by number."""
    text = ", ".join(tracks[name].symbol for name in names[:3])
    return text if len(names) <= 3 else f"{text} and {len(names) - 3} more"


def _age(age_ns: int) -> str:
    seconds = age_ns / SECOND
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"
