"""Which order book leaves the simulator when, and to whom: synthetic ones by ticks, recorded ones by their times."""

import asyncio
import itertools
import operator
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple

import numpy as np

from ingester.exchange import lower_symbol
from ingester.simulator.books import BookBatch
from ingester.simulator.faults import FaultBoard
from ingester.simulator.markets import MARKETS, TICK_MS, BookStream, SimulatedMarket
from ingester.simulator.recording import Player, TapeBook
from ingester.simulator.rest_answers import SimulatedListing
from ingester.simulator.session import Session, frame, header

TICK_SECONDS = TICK_MS / 1000
SLOT_SECONDS = 0.005
MOST_BEHIND = 1.0
"""Seconds that the clock may lag and catch up; beyond, ticks are skipped and counted."""
UNREAD = 256 * 1024
"""Bytes waiting at a reader from which a recording without a clock waits for it."""
LINES_AT_ONCE = 64
PAUSE_SECONDS = 0.1
"""From the last book of a round to the first of the next."""

_HEADERS = [header(length) for length in range(4096)]
"""Frame heads by length; a wrapped book of 20 levels has some 2,000 bytes."""


class SentLog:
    """Update ids by market and symbol in the order of sending, each once however many connections got it.

    A sent frame was handed to the operating system or its buffer; a connection cut afterwards may still lose it.
    """

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], dict[int, None]] = {}

    def note(self, market: str, symbol: str, update_id: int) -> None:
        """Takes down that a sound frame with this update id is sent; called right before its write."""
        self._ids.setdefault((market, symbol), {})[update_id] = None

    def sent(self, market: str) -> dict[str, list[int]]:
        """Update ids by symbol."""
        # Copied first: the simulator's thread goes on adding.
        return {symbol: list(ids.copy()) for (name, symbol), ids in self._ids.copy().items() if name == market}


class Slots(NamedTuple):
    """A tick is cut into `number` slots; each symbol's frames leave in the same one of every tick."""

    number: int
    of: Mapping[str, int]

    def after_ms(self, symbol: str) -> int:
        """Milliseconds from the beginning of a tick to the symbol's slot."""
        return self.of[symbol] * TICK_MS // self.number


class LaneReader(NamedTuple):
    """A session and the places of its symbols within one slot of a lane."""

    session: Session
    places: list[int]
    pick: Callable[[list[bytes]], tuple[bytes, ...]] | None
    """Its frames out of those of the slot; None where it takes them all."""


class Lane:
    """All synthetic streams `<symbol>@<suffix>` of a market that somebody reads, for instance those at `depth5@100ms`.

    Payloads are computed once per tick and framed once per slot, whatever the number of sessions.
    """

    def __init__(
        self,
        *,
        market: SimulatedMarket,
        suffix: str,
        stream: BookStream,
        slots: Slots,
        readers: Mapping[Session, set[str]],
        listing: SimulatedListing,
    ) -> None:
        """`stream`: any one of them. `readers`: the symbols that each session reads."""
        self.is_due = stream.is_due
        self.symbols = sorted(set().union(*readers.values()), key=lambda symbol: (slots.of[symbol], symbol))
        self.names = [f"{lower_symbol(symbol)}@{suffix}" for symbol in self.symbols]
        self.ids: list[int] = []
        self.payloads: list[bytes] = []
        self.spans: dict[int, tuple[int, int]] = {}
        """First place and end of every slot that is not empty."""
        for place, symbol in enumerate(self.symbols):
            start, _ = self.spans.get(slots.of[symbol], (place, place))
            self.spans[slots.of[symbol]] = (start, place + 1)
        self.readers = {
            slot: [
                _reader(session, [place for place in range(start, end) if self.symbols[place] in symbols], start, end)
                for session, symbols in readers.items()
                if not symbols.isdisjoint(self.symbols[start:end])
            ]
            for slot, (start, end) in self.spans.items()
        }
        self._format = market.format
        self._tick_before = stream.tick_before
        self._after_ms = np.array([slots.after_ms(symbol) for symbol in self.symbols], np.int64)
        self._batch = BookBatch(
            listing.seed, self.symbols, stream.depth, market=market.name, format=market.format, thin=listing.thin
        )
        self._prefixes = [b'{"stream":"%b","data":' % name.encode() for name in self.names]
        self._extra = [len(prefix) + 1 for prefix in self._prefixes]

    def compute(self, tick: int) -> None:
        """Makes the books of all symbols at `tick`."""
        ids = self._batch.update_ids(tick)
        fields = {}
        if self._format.is_event:
            before = self._batch.update_ids(self._tick_before(tick))
            made_ms = np.full(len(ids), tick * TICK_MS)
            fields = {"T": made_ms, "E": made_ms + self._after_ms, "pu": before, "U": before + 1}
        self.payloads = self._batch.payloads(ids, fields)
        self.ids = ids.tolist()

    def text(self, place: int, is_combined: bool) -> bytes:
        """The text of a symbol's frame."""
        payload = self.payloads[place]
        return b"%b%b}" % (self._prefixes[place], payload) if is_combined else payload

    def frames(self, slot: int, is_combined: bool) -> list[bytes]:
        """The frames of all symbols of a slot."""
        start, end = self.spans[slot]
        payloads = self.payloads[start:end]
        if not is_combined:
            return [_HEADERS[len(payload)] + payload for payload in payloads]
        heads = zip(payloads, self._prefixes[start:end], self._extra[start:end], strict=True)
        return [_HEADERS[len(payload) + extra] + prefix + payload + b"}" for payload, prefix, extra in heads]


class Outbox:
    """Frames for one session that leave in one write."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.notes: list[tuple[str, int]] = []
        """(symbol, update id) of its sound frames, for the log of what was sent."""


class Broadcast:
    """Sends books to sessions. Everything here runs in the event loop's thread."""

    def __init__(
        self,
        *,
        sessions: Mapping[int, Session],
        board: FaultBoard,
        listing: SimulatedListing,
        players: list[Player],
        sent_log: SentLog | None,
        speed: float,
        spread: bool,
    ) -> None:
        """`speed` 0 plays recordings as fast as they are read, synthetic books at 1."""
        self.frames_sent = 0
        self.skipped_ticks = 0
        self._players = players
        self._sessions = sessions
        self._board = board
        self._listing = listing
        self._speed = speed
        self._period = TICK_SECONDS / (speed or 1.0)
        # Slots shorter than 5 ms would only wake the machine more often.
        count = max(1, round(self._period / SLOT_SECONDS)) if spread else 1
        played = {symbol for player in players for symbol in player.tape.symbols}
        synthetic = [each for each in listing.symbols if each not in played and listing.status(each) == "TRADING"]
        self._slots = Slots(count, {symbol: hash_slot(symbol, count) for symbol in synthetic})
        self._sent_log = sent_log
        self._lanes: list[Lane] = []
        self._lanes_are_stale = False
        self._recorded: dict[str, list[tuple[Session, str, BookStream]]] = {}
        self._last_played: dict[tuple[str, int], tuple[int, int]] = {}
        """By symbol and interval: the interval in which the last book was sent, and its update id."""
        wall = time.time()
        self._first_tick = int(wall / TICK_SECONDS) + 1
        self._begin = asyncio.get_running_loop().time() + self._first_tick * TICK_SECONDS - wall

    def subscriptions_changed(self) -> None:
        """To be called when a session came, went or changed its subscriptions."""
        self._lanes_are_stale = True
        self._recorded = {}
        for session in self._sessions.values():
            for name, stream in session.streams().items():
                self._recorded.setdefault(stream.symbol, []).append((session, name, stream))
        for player in self._players:
            if any(symbol in self._recorded for symbol in player.tape.symbols):
                player.started.set()

    def tick(self) -> int:
        """The tick at this moment."""
        now = asyncio.get_running_loop().time()
        return self._first_tick + int((now - self._begin) // self._period)

    def latest(self, symbol: str) -> TapeBook | None:
        """The book of a recorded symbol that was played last, None before the first and for synthetic ones."""
        return next((player.latest[symbol] for player in self._players if symbol in player.latest), None)

    async def run_ticks(self) -> None:
        """Sends synthetic books for ever."""
        clock = asyncio.get_running_loop().time
        number = 0
        while True:
            due = self._begin + number * self._period
            await asyncio.sleep(max(0.0, due - clock()))
            behind = clock() - due
            if behind > MOST_BEHIND:
                skipped = int(behind / self._period)
                self.skipped_ticks += skipped
                number += skipped
                due += skipped * self._period
            if self._lanes_are_stale:
                self._lanes_are_stale = False
                self._lanes = self._make_lanes()
            await self._run_tick(self._first_tick + number, due)
            number += 1

    def _make_lanes(self) -> list[Lane]:
        """The lanes for what the sessions have subscribed to."""
        streams: dict[tuple[str, str], BookStream] = {}
        readers: dict[tuple[str, str], dict[Session, set[str]]] = {}
        for session in self._sessions.values():
            for name, stream in session.streams().items():
                if stream.symbol in self._slots.of and session.market.lists(stream.symbol):
                    lane = session.market.name, name.partition("@")[2]
                    streams[lane] = stream
                    readers.setdefault(lane, {}).setdefault(session, set()).add(stream.symbol)
        markets = {market.name: market for market in MARKETS}
        return [
            Lane(
                market=markets[market],
                suffix=suffix,
                stream=stream,
                slots=self._slots,
                readers=readers[market, suffix],
                listing=self._listing,
            )
            for (market, suffix), stream in streams.items()
        ]

    async def _run_tick(self, tick: int, due: float) -> None:
        clock = asyncio.get_running_loop().time
        lanes = [lane for lane in self._lanes if lane.is_due(tick)]
        for lane in lanes:
            lane.compute(tick)
        for slot in sorted({slot for lane in lanes for slot in lane.spans}):
            if slot:
                await asyncio.sleep(max(0.0, due + slot * self._period / self._slots.number - clock()))
            self._send_slot(lanes, slot, tick, clock())

    def _send_slot(self, lanes: list[Lane], slot: int, tick: int, now: float) -> None:
        spoils = self._board.spoils_frames(now)
        boxes: dict[Session, Outbox] = {}
        for lane in lanes:
            framed: dict[bool, list[bytes]] = {}
            for session, places, pick in lane.readers.get(slot, ()):
                box = boxes.get(session) or boxes.setdefault(session, Outbox())
                if spoils:
                    for place in places:
                        text = lane.text(place, session.is_combined)
                        self._spoil(box, session, lane.symbols[place], lane.names[place], tick, text, lane.ids[place])
                    continue
                frames = framed.get(session.is_combined)
                if frames is None:
                    frames = framed[session.is_combined] = lane.frames(slot, session.is_combined)
                box.frames.extend(frames if pick is None else pick(frames))
                if self._sent_log is not None:
                    box.notes.extend((lane.symbols[place], lane.ids[place]) for place in places)
        self._send(boxes)

    def _spoil(
        self, box: Outbox, session: Session, symbol: str, name: str, tick: int, text: bytes, update_id: int
    ) -> None:
        for sent, sound in self._board.apply(session.number, symbol, name, tick, text, update_id):
            box.frames.append(frame(sent))
            if sound is not None:
                box.notes.append((symbol, sound))

    def _send(self, boxes: dict[Session, Outbox]) -> None:
        for session, box in boxes.items():
            if not box.frames or not session.writable:
                continue
            if self._sent_log is not None:
                # Before the write: who has received a frame must find it in the log.
                for symbol, update_id in box.notes:
                    self._sent_log.note(session.market.name, symbol, update_id)
            self.frames_sent += len(box.frames)
            session.write(box.frames)

    async def play(self, player: Player) -> None:
        """Plays a tape from its first subscription on."""
        await player.started.wait()
        played = -1
        while player.played > played and (not player.rounds or player.tape.loop):
            if player.rounds and self._speed:
                await asyncio.sleep(PAUSE_SECONDS / self._speed)
            played = player.played
            await self._play_round(player)
        player.finished.set()

    async def _play_round(self, player: Player) -> None:
        clock = asyncio.get_running_loop().time
        begin, first_ns, boxes = clock(), None, dict[Session, Outbox]()
        numbers = itertools.count()
        async with aclosing(player.round()) as batches:
            async for batch in batches:
                if first_ns is None:
                    begin, first_ns = clock(), batch[0].receive_ns
                for book, number in zip(batch, numbers, strict=False):
                    wait = begin + (book.receive_ns - first_ns) / 1e9 / self._speed - clock() if self._speed else 0.0
                    if wait > 0 or number % LINES_AT_ONCE == 0:
                        self._send(boxes)
                        boxes = {}
                        await asyncio.sleep(max(0.0, wait))
                        if not self._speed:
                            await self._until_read(player)
                    self._box_recorded(boxes, book, number, clock())
                    player.note(book)
                self._send(boxes)  # the next ones may take their time
                boxes = {}

    def _box_recorded(self, boxes: dict[Session, Outbox], book: TapeBook, number: int, now: float) -> None:
        readers = self._recorded.get(book.symbol, ())
        spoils = self._board.spoils_frames(now)
        before: dict[int, int] = {}  # by interval: the update id before, where a book is due
        for interval_ms in {stream.interval_ms for _, _, stream in readers}:
            part = book.receive_ns // (interval_ms * 10**6)
            last_part, last_id = self._last_played.get((book.symbol, interval_ms), (-1, book.update_id - 1))
            if interval_ms <= TICK_MS or part != last_part:  # recordings are of books every 100 ms
                before[interval_ms] = last_id
                self._last_played[book.symbol, interval_ms] = part, book.update_id
        texts: dict[tuple[str, int, int], bytes] = {}  # several connections get the same
        for session, name, stream in readers:
            if stream.interval_ms not in before:
                continue
            box = boxes.get(session) or boxes.setdefault(session, Outbox())
            key = session.market.name, stream.depth, stream.interval_ms
            text = texts.get(key)
            if text is None:
                text = texts[key] = _payload(session.market, book, stream.depth, before[stream.interval_ms])
            if session.is_combined:
                text = b'{"stream":"%b","data":%b}' % (name.encode(), text)
            if spoils:
                self._spoil(box, session, book.symbol, name, number, text, book.update_id)
            else:
                box.frames.append(frame(text))
                box.notes.append((book.symbol, book.update_id))

    async def _until_read(self, player: Player) -> None:
        while True:
            readers = {session for symbol in player.tape.symbols for session, _, _ in self._recorded.get(symbol, ())}
            if readers and all(session.backlog < UNREAD for session in readers):
                return
            await asyncio.sleep(0.002)


def hash_slot(symbol: str, slots: int) -> int:
    """The slot of a tick in which a symbol's frames leave; the same in every run."""
    return zlib.crc32(symbol.encode()) * slots >> 32


def _payload(market: SimulatedMarket, book: TapeBook, depth: int, before: int) -> bytes:
    """A recorded book as the market writes it."""
    fields: dict[str, int | str] = {market.format.id_field: book.update_id}
    if market.format.is_event:
        fields |= {"E": book.event_ms, "T": book.event_ms, "s": book.symbol, "U": before + 1, "pu": before}
    return market.format.payload(fields, *book.sides(depth))


def _reader(session: Session, places: list[int], start: int, end: int) -> LaneReader:
    if len(places) == end - start:
        return LaneReader(session, places, None)
    if len(places) == 1:
        first = places[0] - start
        return LaneReader(session, places, lambda frames: (frames[first],))
    return LaneReader(session, places, operator.itemgetter(*(place - start for place in places)))
