"""Which links there are and which pairs each of them carries, also while pairs come and go.

All of this runs in the pump's thread. A pair that comes goes to connections that have room for it, new ones are opened
where none has; it begins at a full second, when its connections stand. A pair that goes is unsubscribed at once, and
what is still on its way is dropped. The pairs beside it stay where they are, and nobody notices; links without pairs
close.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from ingester.clock import SECOND, next_full_second
from ingester.connection.connection import Leg
from ingester.connection.grouping import place, split
from ingester.connection.slot import Link
from ingester.events import CONNECTION_LOST, NOT_CONNECTED
from ingester.sequence.gap_detector import Track
from ingester.sequence.monitor import Continuity

log = logging.getLogger(__name__)

PATIENCE_NS = 5 * SECOND
"""How long a pair waits for its connections to stand, or for its own farewell where it went just now."""

MakeLink = Callable[[str, list[bytes], list[Link]], Link]


class Wish(NamedTuple):
    """A pair that is to be recorded, since when and why."""

    symbol: str
    why: str
    since_ns: int


class Group:
    """Streams that the same links carry."""

    def __init__(self, names: list[bytes]) -> None:
        self.names = names
        """Shared with the links."""
        self.coming: dict[bytes, Wish] = {}
        """Streams that begin at the next full second."""
        self.links: list[Link] = []

    @property
    def size(self) -> int:
        return len(self.names) + len(self.coming)

    def stands(self) -> bool:
        """Whether pairs that come may begin: all links stand, or those do that carry pairs already."""
        standing = [link.leg.opened_ns is not None for link in self.links]
        return all(standing) or (any(standing) and bool(self.names))


class Roster:
    """All links, by groups of pairs. `make_link` is given a label, the group's streams and its links."""

    def __init__(self, continuity: Continuity, copies: int, make_link: MakeLink, legs: Callable[[], Iterable[Leg]]):
        """`copies`: links of each group. `legs` gives all connections, those that are about to end included."""
        self._continuity = continuity
        self._copies = copies
        self._make_link = make_link
        self._legs = legs
        self._count = 0  # groups there have ever been
        self._groups: list[Group] = []
        self._admit_ns = 0  # the next full second at which pairs may begin
        self.links: list[Link] = []
        for names in split(list(continuity.tracks)):
            self._new_group(names)

    def add(self, wishes: Mapping[str, str], now: int, begun: bool) -> None:
        """Has symbols recorded too, each for a reason; those that are already stay as they are.

        `begun`: whether the others were subscribed; else the new ones will be together with them.
        """
        coming = {name for group in self._groups for name in group.coming}
        known = coming | self._continuity.tracks.keys()
        names = {self._continuity.name(symbol): Wish(symbol, why, now) for symbol, why in wishes.items()}
        new = [name for name in names if name not in known]
        placed = place([group.size for group in self._groups], new)
        for _ in placed[len(self._groups) :]:
            self._new_group([])
        if not coming:  # else a second that is due stays so
            self._admit_ns = next_full_second(now)
        for group, here in zip(self._groups, placed, strict=True):
            group.coming.update((name, names[name]) for name in here)
            if here and not begun:
                self._begin(group, here, now)

    def remove(self, wishes: Mapping[str, str], now: int) -> None:
        """Has symbols no longer recorded, each for a reason; of unknown ones nothing happens."""
        reasons = {self._continuity.name(symbol): why for symbol, why in wishes.items()}
        symbols = {self._continuity.name(symbol): symbol for symbol in wishes}
        for group in self._groups:
            for name in [name for name in group.coming if name in reasons]:
                del group.coming[name]
            gone = [name for name in group.names if name in reasons]
            if not gone:
                continue
            for leg in self._legs():
                if leg.link in group.links:
                    leg.link.part(leg, gone)
            group.names[:] = [name for name in group.names if name not in reasons]
            for name in gone:
                self._continuity.remove(name, now, reasons[name])
            log.info("no longer recorded: %s", _some([symbols[name] for name in gone]))

    def tick(self) -> Collection[Link]:
        """Once a second: closes links without pairs, and gives them."""
        empty = [group for group in self._groups if not group.size]
        closed = [link for group in empty for link in group.links]
        if closed:
            for link in closed:
                link.close()
            self._groups = [group for group in self._groups if group.size]
            self.links = [link for group in self._groups for link in group.links]
        return closed

    def admit(self, now: int) -> None:
        """Subscribes the pairs that wait for it, at full seconds."""
        if now < self._admit_ns:
            return
        self._admit_ns = next_full_second(now)
        for group in self._groups:
            if group.coming:
                self._admit(group, now)

    def _admit(self, group: Group, now: int) -> None:
        stands = group.stands()
        parting = {name for leg in self._legs() for name in leg.parted}
        names = [
            name
            for name, wish in group.coming.items()
            if (stands and name not in parting) or now - wish.since_ns > PATIENCE_NS
        ]
        if names:
            tracks = self._begin(group, names, now)
            if not any(leg.subscribed_ns is not None for link in group.links for leg in link.legs()):
                stood = any(link.stood for link in group.links)
                for track in tracks:
                    track.miss(CONNECTION_LOST if stood else NOT_CONNECTED)

    def _begin(self, group: Group, names: list[bytes], now: int) -> list[Track]:
        wishes = [group.coming.pop(name) for name in names]
        tracks = [
            self._continuity.add(name, wish.symbol, now, wish.why) for name, wish in zip(names, wishes, strict=True)
        ]
        for link in group.links:
            for leg in link.legs():
                if leg.subscribed_ns is not None:
                    link.join(leg, names, now)
        group.names += names
        log.info("also recorded from now on: %s", _some([wish.symbol for wish in wishes]))
        return tracks

    def _new_group(self, names: list[bytes]) -> None:
        self._count += 1
        group = Group(names)
        self._groups.append(group)
        for copy in range(self._copies):
            label = f"{self._count}{chr(ord('a') + copy)}" if self._copies > 1 else str(self._count)
            group.links.append(self._make_link(label, group.names, group.links))
        self.links += group.links


def _some(symbols: list[str]) -> str:
    more = f" and {len(symbols) - 5} more" if len(symbols) > 5 else ""
    return ", ".join(symbols[:5]) + more
