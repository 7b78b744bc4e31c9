"""Which slots there are and which pairs each of them carries, also while pairs come and go.

All of this runs in the feed thread. A pair that is added goes to connections that have room for it; new ones are
opened where none has. It begins at a full second, when its connections are open. A pair that is removed is unsubscribed
at once, and what still arrives of it is dropped. Other pairs stay on their connections and miss nothing. Slots without
pairs close.
"""

import heapq
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ingester.clock import SECOND, next_full_second
from ingester.connection.pool import ConnectionPool, FeedConfig, FeedContext
from ingester.connection.slot import ConnectionSlot
from ingester.events import CONNECTION_LOST, NOT_CONNECTED
from ingester.sequence import GapDetector, SequenceMonitor

log = logging.getLogger(__name__)

PATIENCE_NS = 5 * SECOND
"""How long a pair waits until its connections are open, or until its own unsubscription just before is acknowledged."""


class PairRequest(NamedTuple):
    """A pair that is to be recorded, since when and why."""

    symbol: str
    why: str
    since_ns: int


class SubscriptionGroup:
    """Streams that the same slots carry."""

    def __init__(self, names: list[bytes]) -> None:
        self.names = names
        """Shared with the slots."""
        self.pending_pairs: dict[bytes, PairRequest] = {}
        """Streams that begin at the next full second."""
        self.slots: list[ConnectionSlot] = []

    @property
    def size(self) -> int:
        return len(self.names) + len(self.pending_pairs)

    def is_open(self) -> bool:
        """Whether pairs that are added may begin: all connections are open, or at least one that carries pairs."""
        states = [slot.connection.opened_ns is not None for slot in self.slots]
        return all(states) or (any(states) and bool(self.names))


class SubscriptionManager:
    """All slots, by groups of pairs."""

    def __init__(
        self, *, monitor: SequenceMonitor, pool: ConnectionPool, config: FeedConfig, context: FeedContext
    ) -> None:
        self._monitor = monitor
        self._pool = pool
        self._config = config
        self._context = context
        self._at_most = config.venue.limits.streams_per_connection
        self._count = 0  # groups there have ever been
        self.groups: list[SubscriptionGroup] = []
        self._admit_ns = 0  # the next full second at which pairs may begin
        self.slots: list[ConnectionSlot] = []
        for names in split_streams(list(monitor.detectors), self._at_most):
            self._new_group(names)

    def add(self, requested: Mapping[str, str], now: int, begun: bool) -> None:
        """Has symbols recorded too, each for a reason; those that are already stay as they are.

        `begun`: whether the others were subscribed; else the new ones will be together with them.
        """
        pending_pairs = {name for group in self.groups for name in group.pending_pairs}
        known = pending_pairs | self._monitor.detectors.keys()
        names = {self._monitor.name(symbol): PairRequest(symbol, why, now) for symbol, why in requested.items()}
        new = [name for name in names if name not in known]
        placed = place_streams([group.size for group in self.groups], new, self._at_most)
        for _ in placed[len(self.groups) :]:
            self._new_group([])
        if not pending_pairs:  # else a second that is due stays so
            self._admit_ns = next_full_second(now)
        for group, here in zip(self.groups, placed, strict=True):
            group.pending_pairs.update((name, names[name]) for name in here)
            if here and not begun:
                self._begin(group, here, now)

    def remove(self, requested: Mapping[str, str], now: int) -> None:
        """Has symbols no longer recorded, each for a reason; of unknown ones nothing happens."""
        reasons = {self._monitor.name(symbol): why for symbol, why in requested.items()}
        symbols = {self._monitor.name(symbol): symbol for symbol in requested}
        for group in self.groups:
            for name in [name for name in group.pending_pairs if name in reasons]:
                del group.pending_pairs[name]
            gone = [name for name in group.names if name in reasons]
            if not gone:
                continue
            for connection in self._pool.connections.values():
                if connection.slot in group.slots:
                    connection.slot.part(connection, gone)
            group.names[:] = [name for name in group.names if name not in reasons]
            for name in gone:
                self._monitor.remove(name, now, reasons[name])
            log.info("no longer recorded: %s", _some([symbols[name] for name in gone]))

    def tick(self) -> Collection[ConnectionSlot]:
        """Once a second: closes slots without pairs, and gives them."""
        empty = [group for group in self.groups if not group.size]
        closed = [slot for group in empty for slot in group.slots]
        if closed:
            for slot in closed:
                slot.close()
            self.groups = [group for group in self.groups if group.size]
            self.slots = [slot for group in self.groups for slot in group.slots]
        return closed

    def admit(self, now: int) -> None:
        """Subscribes the pairs that wait for it, at full seconds."""
        if now < self._admit_ns:
            return
        self._admit_ns = next_full_second(now)
        for group in self.groups:
            if group.pending_pairs:
                self._admit(group, now)

    def _admit(self, group: SubscriptionGroup, now: int) -> None:
        is_open = group.is_open()
        parting = {name for connection in self._pool.connections.values() for name in connection.unsubscribing}
        names = [
            name
            for name, request_ in group.pending_pairs.items()
            if (is_open and name not in parting) or now - request_.since_ns > PATIENCE_NS
        ]
        if names:
            detectors = self._begin(group, names, now)
            if not any(
                connection.subscribed_ns is not None for slot in group.slots for connection in slot.connections()
            ):
                was_open = any(slot.was_open for slot in group.slots)
                for detector in detectors:
                    detector.miss(CONNECTION_LOST if was_open else NOT_CONNECTED)

    def _begin(self, group: SubscriptionGroup, names: list[bytes], now: int) -> list[GapDetector]:
        requested = [group.pending_pairs.pop(name) for name in names]
        detectors = [
            self._monitor.add(name, request_.symbol, now, request_.why)
            for name, request_ in zip(names, requested, strict=True)
        ]
        for slot in group.slots:
            for connection in slot.connections():
                if connection.subscribed_ns is not None:
                    slot.join(connection, names, now)
        group.names += names
        log.info("also recorded from now on: %s", _some([request_.symbol for request_ in requested]))
        return detectors

    def _new_group(self, names: list[bytes]) -> None:
        self._count += 1
        group = SubscriptionGroup(names)
        self.groups.append(group)
        copies = self._config.connections_per_pair
        for copy in range(copies):
            slot = ConnectionSlot(
                f"{self._count}{chr(ord('a') + copy)}" if copies > 1 else str(self._count),
                names=group.names,
                peers=group.slots,
                detectors=self._monitor.detectors,
                pool=self._pool,
                config=self._config,
                context=self._context,
            )
            group.slots.append(slot)
        self.slots += group.slots


def _some(symbols: list[str]) -> str:
    more = f" and {len(symbols) - 5} more" if len(symbols) > 5 else ""
    return ", ".join(symbols[:5]) + more


def place_streams(sizes: Sequence[int], names: Sequence[bytes], at_most: int) -> list[list[bytes]]:
    """The new names of each group: of the present ones, which hold so many, then of as many others as are needed.

    The smallest group with room takes the next name; what finds no room goes into as few new groups as possible, all
    of nearly the same size.
    """
    placed: list[list[bytes]] = [[] for _ in sizes]
    room = [(size, group) for group, size in enumerate(sizes) if size < at_most]
    heapq.heapify(room)
    left = iter(names)
    while room and (name := next(left, None)) is not None:
        size, group = room[0]
        placed[group].append(name)
        if size + 1 < at_most:
            heapq.heapreplace(room, (size + 1, group))
        else:
            heapq.heappop(room)
    rest = list(left)
    count = -(-len(rest) // at_most)
    return placed + [rest[number::count] for number in range(count)]


def split_streams(names: Sequence[bytes], at_most: int) -> list[list[bytes]]:
    """As few groups as possible of at most `at_most` names, all of nearly the same size."""
    return place_streams((), names, at_most)
