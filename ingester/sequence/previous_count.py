"""The count that an exchange has restarted: connections that lag still bring its ids for a while.

An id that is greater than the last one of the new count may belong to either. What its connection brought before tells.
"""

from collections.abc import Collection, Hashable
from enum import Enum


class Belongs(Enum):
    """To which count an id belongs."""

    NEW = "new"
    OLD = "old"
    UNCERTAIN = "uncertain"


class PreviousCount:
    """The last ids of the count before this one, and the connections that are past it."""

    def __init__(self, ids: Collection[int], last_id: int, until_ns: int, past: Collection[Hashable]) -> None:
        """`ids`: the last that passed, up to `last_id`. `until_ns`: when no connection can bring them any more.

        `past`: connections that have come to the new count already.
        """
        self.until_ns = until_ns
        self._ids = frozenset(ids)
        self._oldest_id, self._last_id = min(ids), last_id
        self._past = set(past)

    def fell(self, connection: Hashable, before_id: int) -> bool:
        """Whether a connection whose ids fell after `before_id` has just come to the new count."""
        if before_id != self._last_id:
            return False
        self._past.add(connection)
        return True

    def belongs(self, update_id: int, newest_id: int, connection: Hashable, before_id: int) -> Belongs:
        """Where an id belongs that is greater than `newest_id`, the last one of the new count.

        `before_id`: what its connection brought before it, -1 for nothing.
        """
        if connection in self._past:
            return Belongs.NEW
        if before_id == newest_id and before_id not in self._ids:
            self._past.add(connection)
            return Belongs.NEW
        lags = max(self._oldest_id, newest_id + 1) <= before_id and update_id <= self._last_id
        if not lags and update_id not in self._ids:
            return Belongs.NEW
        apart = newest_id < self._oldest_id <= before_id  # the new count has not reached the ids of the old one
        return Belongs.OLD if apart else Belongs.UNCERTAIN
