"""Keeps one connection of a group of streams alive: watches it for staleness, replaces it before its end.

Other slots may carry the same streams. All of this runs in the feed thread; times are nanoseconds.

* Only an update id that changes counts as data: not pings, not answers, not the same book again and again.
* A connection without data for `STALE_AFTER_NS` (longer where its pairs are slow) is stale: it is closed and
  reconnected. Where that does not help, the limit doubles, so that an exchange at rest is not stormed.
* A symbol that is silent on a connection that lives is subscribed again, with growing pauses, and the feed asks the
  exchange whether it trades; one that stays silent has the connection replaced.
* A connection is replaced make-before-break: at `rotate_ns` (before the exchange ends it at 24 h), when its shutdown is
  announced, or for a symbol's sake. The old one goes when the new one has delivered every symbol that the old one still
  does; where it does not within `HANDOVER_TIMEOUT_NS`, the new one goes and is tried again later.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence

from ingester.clock import SECOND
from ingester.connection.connection import LONGEST_STALENESS_NS, Connection
from ingester.connection.pool import ConnectionPool, FeedConfig, FeedContext
from ingester.events import CONNECTION_LOST, EXCHANGE_SILENT, Event
from ingester.exchange import Method
from ingester.sequence import GAP_INTERVALS, TRADING, GapDetector

log = logging.getLogger(__name__)

STALE_AFTER_NS = 5 * SECOND
ASK_AFTER_RESUBSCRIPTIONS = 2
"""After so many resubscriptions the exchange is asked whether the symbol trades."""
REPLACE_AFTER_RESUBSCRIPTIONS = 4
"""After so many the connection is replaced."""
HANDOVER_SETTLE_NS = 10 * SECOND
"""So long a new connection waits for symbols that were silent on both."""
HANDOVER_TIMEOUT_NS = 60 * SECOND
NOTICE_NS = SECOND
"""How much later than it happened a move of an update id may be noticed."""


class ConnectionSlot:
    """`connection` is the connection that serves; `successor` the one that is to replace it, if any."""

    def __init__(
        self,
        label: str,
        *,
        names: Sequence[bytes],
        peers: Sequence["ConnectionSlot"],
        detectors: Mapping[bytes, GapDetector],
        pool: ConnectionPool,
        config: FeedConfig,
        context: FeedContext,
    ) -> None:
        """`names` and `peers` may change later: the streams that all peers carry, this slot among them."""
        self.label = label
        self.names = names
        self.peers = peers
        self._detectors = detectors
        self._pool = pool
        self._life_ns = config.life_ns
        self._context = context
        self._rotate_ns: int | None = None  # when the connection is too old
        self._not_before_ns = 0  # for another try, where a successor was no good
        self._why = ""  # a successor is wanted
        self.closed = False
        self.was_open = False
        """Whether it has ever had an open connection."""
        self.failures = 0
        """Attempts in a row that made no connection."""
        self.failure = ""
        """Why the last of them did not."""
        self.successor: Connection | None = None
        self.connection = pool.open(self)

    def connections(self) -> Iterator[Connection]:
        """The one that serves, and its successor."""
        yield self.connection
        if self.successor is not None:
            yield self.successor

    def opened(self, connection: Connection, now: int) -> None:
        """A connection is open."""
        connection.open(now)
        self.was_open, self.failures = True, 0
        if connection is self.connection:
            self._rotate_ns = now + self._life_ns()

    def subscribe(self, connection: Connection, now: int) -> None:
        """Subscribes all streams on an open connection."""
        self._pool.request(Method.SUBSCRIBE, connection, self.names)
        connection.subscribe(now)

    def join(self, connection: Connection, names: Sequence[bytes], now: int) -> None:
        """Asks for more streams on a connection that is subscribed; they are not among the slot's yet."""
        if not self.names:
            connection.data_ns = now  # it could bring nothing before
        self._pool.request(Method.SUBSCRIBE, connection, names)
        connection.join(names, now)

    def part(self, connection: Connection, names: Sequence[bytes]) -> None:
        """Asks for streams no longer, where they were asked for."""
        if connection.subscribed_ns is not None:
            connection.unsubscribing.update(self._pool.request(Method.UNSUBSCRIBE, connection, names))
        connection.forget(names)

    def close(self) -> None:
        """Ends its connections for good."""
        self.closed = True
        for connection in self.connections():
            connection.stream.stop()

    def lost(self, connection: Connection, now: int, why: str = "") -> None:
        """A connection is gone: what no other one delivers is missing from now on. `why`: the reason of these gaps."""
        reason = why or (EXCHANGE_SILENT if connection.ending else CONNECTION_LOST)
        others = [other for peer in self.peers for other in peer.connections() if other is not connection]
        if connection.subscribed_ns is not None:
            for name in self.names:
                detector, watermark = self._detectors[name], connection.ids.get(name)
                if not any(name in other.ids for other in others):
                    detector.miss(reason)
                elif watermark is not None and (gap := detector.left(watermark)):
                    self._context.note(gap.event())
        connection.reset()
        if connection is self.connection and self.successor is not None and self.successor.opened_ns is not None:
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
            self.successor = self._pool.open(self)

    def shutdown_announced(self, connection: Connection, now: int) -> None:
        """The exchange will close this connection soon."""
        if connection is self.connection:
            self._not_before_ns = now
            self.rotate("the exchange announced its shutdown", now)
        else:
            connection.stream.renew("the exchange announced its shutdown")

    def tick(self, now: int) -> None:
        """What time demands, about once a second."""
        for connection in self.connections():
            connection.notice(now)
        if self.successor is not None:
            self._hand_over(self.successor, now)
        elif self.connection.opened_ns is not None and self._rotate_ns is not None and now >= self._rotate_ns:
            self.rotate(f"it is {_age(now - self.connection.opened_ns)} old", now)
        for connection in self.connections():
            if connection.subscribed_ns is not None and not connection.ending:
                self._check_staleness(connection, now)

    def suspects(self) -> Iterator[GapDetector]:
        """Symbols that stay silent although they were subscribed again."""
        for connection in self.connections():
            for name, tries in connection.tries.items():
                if tries >= ASK_AFTER_RESUBSCRIPTIONS and self._detectors[name].status == TRADING:
                    yield self._detectors[name]

    def _hand_over(self, new: Connection, now: int) -> None:
        """The old connection goes where the new one delivers what it does."""
        if new.subscribed_ns is None:
            return
        waited = now - new.subscribed_ns
        missing = [name for name in self.names if name not in new.ids and self._detectors[name].status == TRADING]
        delivered = (self.connection.moved.get(name, 0) > new.subscribed_ns + NOTICE_NS for name in missing)
        if not missing or (waited > HANDOVER_SETTLE_NS and not any(delivered)):
            self._promote(self._why, now)
        elif waited > HANDOVER_TIMEOUT_NS:
            log.warning("the replacement of connection %s lacks %d streams; it goes", self.label, len(missing))
            self.successor = None
            self._not_before_ns = now + HANDOVER_TIMEOUT_NS
            new.stream.stop()

    def _promote(self, why: str, now: int) -> None:
        old, new = self.connection, self.successor
        assert new is not None
        assert new.opened_ns is not None
        self.connection, self.successor = new, None
        self._rotate_ns = new.opened_ns + self._life_ns()
        self._context.metrics.rotations += 1
        old.stream.stop()
        log.info("connection %s was replaced: %s", self.label, why)
        self._context.note(Event(now, "rotated", connection=self.label, detail=why))

    def _check_staleness(self, connection: Connection, now: int) -> None:
        silence = now - connection.data_ns
        if silence > STALE_AFTER_NS:
            if silence > self._patience(connection):
                connection.ending = f"no data for {silence / SECOND:.1f} s"
                connection.empty_reconnects += 1
                connection.stream.renew(connection.ending)
            return
        silent = []
        for name in self.names:
            since = connection.last_data_ns(name)
            if now - since > STALE_AFTER_NS:
                detector = self._detectors[name]
                patience = max(STALE_AFTER_NS, 2 * detector.longest_ns())
                if now - since > patience and detector.status == TRADING and connection.try_again(name, now):
                    silent.append(name)
                    detail = f"silent for {(now - since) / SECOND:.0f} s"
                    self._context.note(Event(now, "resubscribed", detector.symbol, self.label, detail))
        if silent:
            log.warning("connection %s: %s silent, subscribed again", self.label, symbols_text(silent, self._detectors))
            self._pool.request(Method.UNSUBSCRIBE, connection, silent)
            self._pool.request(Method.SUBSCRIBE, connection, silent)
        if connection is self.connection and any(
            connection.tries[name] == REPLACE_AFTER_RESUBSCRIPTIONS for name in silent
        ):
            self.rotate(f"{symbols_text(silent, self._detectors)} silent", now)

    def _patience(self, connection: Connection) -> int:
        """How long this connection may bring nothing."""
        trading = [detector for detector in map(self._detectors.__getitem__, self.names) if detector.status == TRADING]
        if not trading:
            return LONGEST_STALENESS_NS
        known = min((detector.interval_ns() for detector in trading), default=0)
        rhythm = 0 if known == float("inf") else int(GAP_INTERVALS * known)
        return min(LONGEST_STALENESS_NS, max(STALE_AFTER_NS, rhythm) << min(connection.empty_reconnects, 10))


def symbols_text(names: Sequence[bytes], detectors: Mapping[bytes, GapDetector]) -> str:
    """A few symbols by name, the others by number."""
    text = ", ".join(detectors[name].symbol for name in names[:3])
    return text if len(names) <= 3 else f"{text} and {len(names) - 3} more"


def _age(age_ns: int) -> str:
    seconds = age_ns / SECOND
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"
