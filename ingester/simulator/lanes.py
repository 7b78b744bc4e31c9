"""Who gets which synthetic frames when: symbols of one kind of stream, in the order of their places within a tick."""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ingester.exchange import lower
from ingester.simulator.books import BookBatch
from ingester.simulator.session import Session, header, parse_stream

HEADERS = [header(length) for length in range(4096)]
"""Frame heads by length; a wrapped book of 20 levels has some 1,800 bytes."""


class LaneReader(NamedTuple):
    """A session and the places of its symbols within one slot of a lane."""

    session: Session
    places: list[int]
    pick: Callable[[list[bytes]], tuple[bytes, ...]] | None
    """Its frames out of those of the slot; None where it takes them all."""


class Lane:
    """All streams `<symbol>@<suffix>` that somebody reads, for instance those at `depth5@100ms`.

    Payloads are computed once per tick and framed once per slot, whatever the number of sessions.
    """

    def __init__(
        self,
        suffix: str,
        depth: int,
        every: int,
        slot_of: Mapping[str, int],
        readers: Mapping[Session, set[str]],
        seed: int,
        thin: Mapping[str, int],
    ) -> None:
        self.every = every
        """Ticks between two books of a stream."""
        union = set().union(*readers.values())
        self.symbols = sorted(union, key=lambda symbol: (slot_of[symbol], symbol))
        self.names = [f"{lower(symbol)}@{suffix}" for symbol in self.symbols]
        self.ids: list[int] = []
        self.payloads: list[bytes] = []
        self.spans: dict[int, tuple[int, int]] = {}
        """First place and end of every slot that is not empty."""
        for place, symbol in enumerate(self.symbols):
            start, _ = self.spans.get(slot_of[symbol], (place, place))
            self.spans[slot_of[symbol]] = (start, place + 1)
        self.readers = {
            slot: [
                _reader(session, [place for place in range(start, end) if self.symbols[place] in symbols], start, end)
                for session, symbols in readers.items()
                if not symbols.isdisjoint(self.symbols[start:end])
            ]
            for slot, (start, end) in self.spans.items()
        }
        self._batch = BookBatch(seed, self.symbols, depth, thin)
        self._prefixes = [b'{"stream":"%b","data":' % name.encode() for name in self.names]
        self._extra = [len(prefix) + 1 for prefix in self._prefixes]

    def compute(self, tick: int) -> None:
        """Make the books of all symbols at `tick`."""
        self.payloads, self.ids = self._batch.payloads(tick)

    def text(self, place: int, combined: bool) -> bytes:
        """What a frame says."""
        payload = self.payloads[place]
        return b"%b%b}" % (self._prefixes[place], payload) if combined else payload

    def frames(self, slot: int, combined: bool) -> list[bytes]:
        """The frames of all symbols of a slot."""
        start, end = self.spans[slot]
        payloads = self.payloads[start:end]
        if not combined:
            return [HEADERS[len(payload)] + payload for payload in payloads]
        heads = zip(payloads, self._prefixes[start:end], self._extra[start:end], strict=True)
        return [HEADERS[len(payload) + extra] + prefix + payload + b"}" for payload, prefix, extra in heads]


def lanes_of(sessions: Iterable[Session], slot_of: Mapping[str, int], seed: int, thin: Mapping[str, int]) -> list[Lane]:
    """The lanes for what the sessions have subscribed to; `slot_of` holds the symbols that have synthetic books."""
    wanted: dict[tuple[str, int, int], dict[Session, set[str]]] = {}
    for session in sessions:
        for name in session.subscribed:
            stream = parse_stream(name)
            if stream is not None and stream.symbol in slot_of:
                lane = name.partition("@")[2], stream.depth, stream.every
                wanted.setdefault(lane, {}).setdefault(session, set()).add(stream.symbol)
    return [Lane(*lane, slot_of, readers, seed, thin) for lane, readers in wanted.items()]


def _reader(session: Session, places: list[int], start: int, end: int) -> LaneReader:
    if len(places) == end - start:
        return LaneReader(session, places, None)
    if len(places) == 1:
        first = places[0] - start
        return LaneReader(session, places, lambda frames: (frames[first],))
    return LaneReader(session, places, operator.itemgetter(*(place - start for place in places)))
