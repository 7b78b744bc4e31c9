"""When which order book leaves the simulator: synthetic ones tick by tick, recorded ones by their receive times."""

import asyncio
import itertools
import time
import zlib
from collections.abc import Mapping
from contextlib import aclosing

from ingester.simulator.faults import FaultBoard
from ingester.simulator.lanes import Lane, lanes_of
from ingester.simulator.player import Player
from ingester.simulator.sent_log import SentLog
from ingester.simulator.session import Session, frame, parse_stream
from ingester.simulator.tape import TapeBook

TICK_SECONDS = 0.1
SLOT_SECONDS = 0.005
MOST_BEHIND = 1.0
"""Seconds that the clock may lag and catch up; beyond, ticks are skipped and counted."""
UNREAD = 256 * 1024
"""Bytes waiting at a reader from which a recording without a clock waits for it."""
LINES_AT_ONCE = 64
PAUSE_SECONDS = 0.1
"""From the last book of a round to the first of the next."""


class Outbox:
    """Frames for one session that leave in one write."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.notes: list[tuple[str, int]] = []
        """(symbol, update id) of its sound frames, for the ledger."""


class Broadcast:
    """Sends books to sessions. Everything here runs in the event loop's thread."""

    def __init__(
        self,
        sessions: Mapping[int, Session],
        board: FaultBoard,
        *,
        seed: int,
        symbols: list[str],
        thin: Mapping[str, int],
        speed: float,
        spread: bool,
        players: list[Player],
        ledger: SentLog | None,
    ) -> None:
        """`symbols` have synthetic books; `speed` 0 plays recordings as fast as they are read, synthetic books at 1."""
        self.frames_sent = 0
        self.skipped_ticks = 0
        self.players = players
        self._sessions = sessions
        self._board = board
        self._seed = seed
        self._thin = thin
        self._speed = speed
        self._period = TICK_SECONDS / (speed or 1.0)
        # Slots shorter than 5 ms would only wake the machine more often.
        self._slots = max(1, round(self._period / SLOT_SECONDS)) if spread else 1
        self._slot_of = {symbol: hash_slot(symbol, self._slots) for symbol in symbols}
        self._ledger = ledger
        self._lanes: list[Lane] = []
        self._recorded: dict[str, list[tuple[Session, str, int, int]]] = {}
        self._stale = False
        wall = time.time()
        self._first_tick = int(wall / TICK_SECONDS) + 1
        self._begin = asyncio.get_running_loop().time() + self._first_tick * TICK_SECONDS - wall

    def subscriptions_changed(self) -> None:
        """To be called when a session came, went or changed its subscriptions."""
        self._stale = True
        self._recorded = {}
        for session in self._sessions.values():
            for name in session.subscribed:
                stream = parse_stream(name)
                if stream is not None:
                    reader = (session, name, stream.depth, stream.every)
                    self._recorded.setdefault(stream.symbol, []).append(reader)
        for player in self.players:
            if any(symbol in self._recorded for symbol in player.tape.symbols):
                player.started.set()

    def tick(self) -> int:
        """The tick at this moment."""
        now = asyncio.get_running_loop().time()
        return self._first_tick + int((now - self._begin) // self._period)

    def latest(self, symbol: str, depth: int) -> bytes | None:
        """The payload of a recorded symbol that was played last, None before the first and for synthetic ones."""
        book = next((player.latest[symbol] for player in self.players if symbol in player.latest), None)
        return book.cut(depth) if book else None

    async def run_ticks(self) -> None:
        """Send synthetic books for ever."""
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
            if self._stale:
                self._stale = False
                self._lanes = lanes_of(self._sessions.values(), self._slot_of, self._seed, self._thin)
            await self._run_tick(self._first_tick + number, due)
            number += 1

    async def _run_tick(self, tick: int, due: float) -> None:
        clock = asyncio.get_running_loop().time
        lanes = [lane for lane in self._lanes if tick % lane.every == 0]
        for lane in lanes:
            lane.compute(tick)
        for slot in sorted({slot for lane in lanes for slot in lane.spans}):
            if slot:
                await asyncio.sleep(max(0.0, due + slot * self._period / self._slots - clock()))
            self._send_slot(lanes, slot, tick, clock())
        if self._ledger is not None:
            self._ledger.flush()

    def _send_slot(self, lanes: list[Lane], slot: int, tick: int, now: float) -> None:
        spoils = self._board.spoils_frames(now)
        boxes: dict[Session, Outbox] = {}
        for lane in lanes:
            framed: dict[bool, list[bytes]] = {}
            for session, places, pick in lane.readers.get(slot, ()):
                box = boxes.get(session) or boxes.setdefault(session, Outbox())
                if spoils:
                    for place in places:
                        text = lane.text(place, session.combined)
                        self._spoil(box, session, lane.symbols[place], lane.names[place], tick, text, lane.ids[place])
                    continue
                frames = framed.get(session.combined)
                if frames is None:
                    frames = framed[session.combined] = lane.frames(slot, session.combined)
                box.frames.extend(frames if pick is None else pick(frames))
                if self._ledger is not None:
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
            if self._ledger is not None:
                # Before the write: who has received a frame must find it in the ledger.
                for symbol, update_id in box.notes:
                    self._ledger.note(symbol, update_id)
            self.frames_sent += len(box.frames)
            session.write(box.frames)

    async def play(self, player: Player) -> None:
        """Play a tape from its first subscription on."""
        await player.started.wait()
        played = -1
        while player.played > played and (not player.rounds or player.loop):
            if player.rounds and self._speed:
                await asyncio.sleep(PAUSE_SECONDS / self._speed)
            played = player.played
            await self._play_round(player)
        player.finished.set()

    async def _play_round(self, player: Player) -> None:
        clock = asyncio.get_running_loop().time
        begin, first_ns, boxes = clock(), None, dict[Session, Outbox]()
        numbers = itertools.count()
        seconds: dict[str, int] = {}
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
                    second = book.receive_ns // 10**9
                    self._box_recorded(boxes, book, number, seconds.get(book.symbol) != second, clock())
                    seconds[book.symbol] = second
                    player.note(book)
                self._send(boxes)  # the next ones may take their time
                boxes = {}
        if self._ledger is not None:
            self._ledger.flush()

    def _box_recorded(
        self, boxes: dict[Session, Outbox], book: TapeBook, number: int, new_second: bool, now: float
    ) -> None:
        spoils = self._board.spoils_frames(now)
        texts: dict[int, bytes] = {}  # by depth: several connections get the same
        for session, name, depth, every in self._recorded.get(book.symbol, ()):
            if every > 1 and not new_second:
                continue
            box = boxes.get(session) or boxes.setdefault(session, Outbox())
            text = texts.get(depth) or texts.setdefault(depth, book.cut(depth))
            if session.combined:
                text = b'{"stream":"%b","data":%b}' % (name.encode(), text)
            if spoils:
                self._spoil(box, session, book.symbol, name, number, text, book.update_id)
            else:
                box.frames.append(frame(text))
                box.notes.append((book.symbol, book.update_id))

    async def _until_read(self, player: Player) -> None:
        while True:
            readers = {reader[0] for symbol in player.tape.symbols for reader in self._recorded.get(symbol, ())}
            if readers and all(session.backlog < UNREAD for session in readers):
                return
            await asyncio.sleep(0.002)


def hash_slot(symbol: str, slots: int) -> int:
    """The slot of a tick in which a symbol's frames leave; the same in every run."""
    return zlib.crc32(symbol.encode()) * slots >> 32
