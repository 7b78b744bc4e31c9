"""A connection of a slot, and what came over it. All of this runs in the feed thread; times are nanoseconds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ingester.clock import SECOND
from ingester.connection.websocket import WebSocketThread

if TYPE_CHECKING:
    from ingester.connection.slot import ConnectionSlot

LONGEST_STALENESS_NS = 300 * SECOND
RESUBSCRIBE_NS = 10 * SECOND
"""From the first resubscription of a symbol to the second; then it doubles up to `LONGEST_STALENESS_NS`."""
STRAGGLERS_NS = SECOND
"""So long after it has agreed to send no more of a stream the exchange may do so all the same."""


class Connection:
    """`slot` is the place that it has in the feed."""

    def __init__(self, slot: "ConnectionSlot", stream: WebSocketThread) -> None:
        self.slot = slot
        self.stream = stream
        self.ids: dict[bytes, int] = {}
        """Last update id of each stream since the subscription."""
        self.opened_ns: int | None = None
        """Since when it is open."""
        self.subscribed_ns: int | None = None
        self.data_ns = 0
        """When a tick last saw that it had brought something, or it was subscribed."""
        self.empty_reconnects = 0
        """Reconnects in a row after which no book came."""
        self.garbled = 0
        """Frames of an unknown symbol in this second that could not be read."""
        self.shutting_down = False
        """Whether the exchange has announced its end."""
        self.ending = ""
        """Why it is being reconnected; empty where it is not."""
        self.tries: dict[bytes, int] = {}  # resubscriptions of silent streams
        self._next_try: dict[bytes, int] = {}
        self._seen: dict[bytes, int] = {}  # ids at the last tick
        self.moved: dict[bytes, int] = {}  # at which tick an id was last seen to have moved
        self._joined: dict[bytes, int] = {}  # streams asked for later than the others, when
        self.unsubscribing: dict[bytes, int] = {}
        """Streams no longer wanted, of which something may still be on its way: by the request that ends them."""
        self._answered: dict[int, int] = {}  # when those requests were acknowledged

    def open(self, now: int) -> None:
        """The connection is open, and nothing has arrived over it yet."""
        self.reset()
        self.opened_ns = now

    def subscribe(self, now: int) -> None:
        """The slot's streams were asked for."""
        self.subscribed_ns = self.data_ns = now

    def join(self, names: Sequence[bytes], now: int) -> None:
        """More streams were asked for."""
        self._joined.update(dict.fromkeys(names, now))

    def forget(self, names: Sequence[bytes]) -> None:
        """Streams are no longer wanted."""
        for memory in (self.ids, self._seen, self.moved, self._joined, self.tries, self._next_try):
            for name in names:
                memory.pop(name, None)

    def remembered(self) -> set[bytes]:
        """The streams of which it knows something."""
        return {*self.ids, *self._seen, *self.moved, *self._joined, *self.tries, *self._next_try, *self.unsubscribing}

    def acknowledged(self, request: int, now: int) -> None:
        """The exchange took a request; a moment later nothing more comes of streams that were to end."""
        if self.unsubscribing:
            self._answered[request] = now

    def reset(self) -> None:
        """The connection is gone."""
        self.opened_ns = self.subscribed_ns = None
        self.ending = ""
        self.shutting_down = False
        for memory in (self.ids, self._seen, self.moved, self._joined, self.tries, self._next_try):
            memory.clear()
        self.unsubscribing, self._answered = {}, {}

    def notice(self, now: int) -> None:
        """Notes which ids have moved since the last call."""
        seen, moved, tries = self._seen, self.moved, self.tries
        for name, update_id in self.ids.items():
            if seen.get(name) != update_id:
                seen[name], moved[name] = update_id, now
                self.data_ns, self.empty_reconnects = now, 0
                if tries:
                    tries.pop(name, None)
        self.garbled = 0
        over = {request for request, at_ns in self._answered.items() if now - at_ns > STRAGGLERS_NS}
        if over:
            self.unsubscribing = {name: request for name, request in self.unsubscribing.items() if request not in over}
            self._answered = {request: at_ns for request, at_ns in self._answered.items() if request not in over}

    def last_data_ns(self, name: bytes) -> int:
        """Since when a stream has brought nothing new."""
        return self.moved.get(name) or self._joined.get(name) or self.subscribed_ns or 0

    def try_again(self, name: bytes, now: int) -> bool:
        """Whether a silent stream is to be subscribed again now; counts it."""
        tries = self.tries.get(name, 0)
        if tries and now < self._next_try[name]:
            return False
        self.tries[name] = tries + 1
        self._next_try[name] = now + min(LONGEST_STALENESS_NS, RESUBSCRIBE_NS << tries)
        return True
