"""The simulated exchange inside its event loop: takes connections, answers HTTP, commits faults."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ingester.errors import SettingsError
from ingester.simulator.broadcast import Broadcast, SentLog
from ingester.simulator.faults import FRAME_KINDS, Fault, FaultBoard, FaultRequest, PlannedFault, fault_request
from ingester.simulator.markets import (
    MARKETS,
    AttemptRate,
    ExchangeLimits,
    Refusal,
    SimulatedMarket,
    WeightRate,
    parse_path,
)
from ingester.simulator.recording import Player
from ingester.simulator.rest_answers import (
    Answer,
    SimulatedListing,
    error_answer,
    json_answer,
    parse_request,
    rest_answer,
)
from ingester.simulator.session import GOING_AWAY, POLICY_VIOLATION, ClientProtocol, Session, answer_request, frame

CARE_SECONDS = 0.05
"""How often pings, life times and closings are looked after."""
CLOSE_TIMEOUT = 1.0
SLOW_BYTES_PER_SECOND = 1000.0
SHUTDOWN_SECONDS = 5.0


class ExchangeServer:
    """One run of the simulated exchange. All methods but `stats` belong to the event loop's thread."""

    def __init__(
        self,
        *,
        listing: SimulatedListing,
        players: list[Player],
        sent_log: SentLog | None,
        limits: ExchangeLimits | None,
        planned: Sequence[PlannedFault],
        speed: float,
        spread: bool,
    ) -> None:
        """`limits`: None for those of each market."""
        self.sessions: dict[int, Session] = {}
        self.stop = asyncio.Event()
        self._listing = listing
        self._players = players
        self._limits = {market.name: limits or market.limits for market in MARKETS}
        self._planned = planned
        self._board = FaultBoard()
        self._attempts = {name: AttemptRate(each) for name, each in self._limits.items()}
        self._weights = {name: WeightRate(each) for name, each in self._limits.items()}
        self._session_count = 0
        self._bytes_of_closed = 0
        self._closings: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._broadcast = Broadcast(
            sessions=self.sessions,
            board=self._board,
            listing=listing,
            players=players,
            sent_log=sent_log,
            speed=speed,
            spread=spread,
        )

    async def run(self, host: str, port: int, listening: Callable[[int], None]) -> None:
        """Serves until `stop` is set; calls `listening` with the port. Raises OSError where the port cannot be had."""
        # websockets would log a traceback for every client that hangs up in the middle of a handshake.
        quiet = logging.getLogger(f"{__name__}.websockets")
        quiet.setLevel(logging.CRITICAL)
        async with serve(
            self._attend, host, port, process_request=self._answer, create_connection=ClientProtocol, compression=None,
            ping_interval=None, close_timeout=CLOSE_TIMEOUT, logger=quiet, backlog=1024,
        ) as server:  # fmt: skip
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._broadcast.run_ticks()), group.create_task(self._keep_sessions())]
                tasks += [group.create_task(self._broadcast.play(player)) for player in self._players]
                timers = [self._loop.call_later(each.start, self.commit, each.request) for each in self._planned]
                listening(server.sockets[0].getsockname()[1])
                await self.stop.wait()
                for task in tasks:
                    task.cancel()
                for timer in timers:
                    timer.cancel()
            for session in self.sessions.values():
                if session.muted or session.backlog:
                    session.abort()

    def commit(self, request: FaultRequest) -> None:
        """Commits a fault now."""
        kind, options = request.kind, request.options
        now = self._loop.time()
        seconds = math.inf if request.seconds is None else request.seconds
        sessions = [each for each in self.sessions.values() if request.connection in (None, each.number)]
        fault = Fault(kind, request.symbol, request.connection, now + seconds, request.frames(), options)
        if kind in FRAME_KINDS or kind in ("refuse", "slow"):
            self._board.add(fault)
        match kind:
            case "drop":
                for session in sessions:
                    session.abort()
            case "half_open":
                for session in sessions:
                    session.mute(fault.until)
            case "stall":
                time.sleep(1.0 if request.seconds is None else request.seconds)
            case "slow":
                for session in sessions:
                    session.throttle(options.get("rate", SLOW_BYTES_PER_SECOND))
                if request.seconds is not None:
                    self._loop.call_later(request.seconds, self._throttle_sessions)
            case "shutdown":
                event = b'{"e":"serverShutdown","E":%d}' % (time.time() * 1000)
                wrapped = b'{"stream":"!serverShutdown","data":%b}' % event
                for session in sessions:
                    session.write([frame(wrapped if session.is_combined else event)])
                    close = (GOING_AWAY, "Server shutdown")
                    self._loop.call_later(options.get("after", SHUTDOWN_SECONDS), session.close_soon, *close)
            case "clear":
                self._board.clear()
                self._throttle_sessions()
                for session in sessions:
                    session.unmute()

    def stats(self) -> dict[str, Any]:
        """Counters so far, as `GET /simulator/stats` gives them."""
        sessions = list(self.sessions.values())
        return {
            "connections": [session.number for session in sessions],
            "connections_ever": self._session_count,
            "subscriptions": sum(len(session.subscribed) for session in sessions),
            "frames": self._broadcast.frames_sent,
            "bytes": self._bytes_of_closed + sum(session.bytes_sent for session in sessions),
            "backlog_bytes": sum(session.backlog for session in sessions),
            "skipped_ticks": self._broadcast.skipped_ticks,
            "cpu_seconds": time.process_time(),
            "recordings": {player.tape.name: player.finished.is_set() for player in self._players},
        }

    def _throttle_sessions(self) -> None:
        for session in self.sessions.values():
            slow = self._board.active("slow", self._loop.time(), session.number)
            session.throttle(slow.options.get("rate", SLOW_BYTES_PER_SECOND) if slow else None)

    async def _keep_sessions(self) -> None:
        while True:
            now = self._loop.time()
            for session in list(self.sessions.values()):
                session.keep_alive(now)
                if session.closing and session.number not in self._closings:
                    self._closings[session.number] = asyncio.create_task(session.connection.close(*session.closing))
            await asyncio.sleep(CARE_SECONDS)

    async def _attend(self, connection: ServerConnection) -> None:
        """Serves one websocket connection from the handshake to its end."""
        assert isinstance(connection, ClientProtocol)
        assert connection.request is not None
        path = parse_path(connection.request.path)
        assert path is not None
        self._session_count += 1
        session = Session(
            number=self._session_count,
            connection=connection,
            path=path,
            limits=self._limits[path.market.name],
            clock=self._loop.time,
        )
        connection.session = session
        self.sessions[session.number] = session
        self._throttle_sessions()
        try:
            self._subscriptions_changed(session)
            async for message in connection:
                session.write([frame(answer_request(message, session.subscribed))])
                self._subscriptions_changed(session)
        except ConnectionClosed:
            pass
        finally:
            del self.sessions[session.number]
            self._bytes_of_closed += session.bytes_sent
            self._board.forget(session.number)
            self._broadcast.subscriptions_changed()
            closing = self._closings.pop(session.number, None)
            if closing is not None:
                with contextlib.suppress(ConnectionClosed):
                    await closing

    def _subscriptions_changed(self, session: Session) -> None:
        if session.has_too_many_streams:
            session.close_soon(POLICY_VIOLATION, "Too many streams")
        self._broadcast.subscriptions_changed()

    async def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to an HTTP request, None where it is a websocket handshake that may go on."""
        address = str(connection.remote_address[0])
        if (path := parse_path(request.path)) is not None:
            answer = self._refused_upgrade(path.market, address)
            return None if answer is None else _response(answer)
        url = urlsplit(request.path)
        if url.path == "/simulator/stats":
            return _response(json_answer(self.stats()))
        if url.path == "/simulator/fault":
            return _response(self._fault_answer(dict(parse_qsl(url.query))))
        return _response(await self._rest_answer(request.path, address))

    async def _rest_answer(self, url: str, address: str) -> Answer:
        request, now = parse_request(url), self._loop.time()
        weights = self._weights[request.market.name]
        if (refusal := weights.refusal(address, now, request.weight)) is not None:
            return _refused(refusal)
        listing = self._listing.halted(self._board.halted(now, self._listing.symbols))
        # In a thread: making 1,500 tickers takes longer than a slot.
        answer = await asyncio.to_thread(rest_answer, listing, request, self._broadcast.tick(), self._broadcast.latest)
        return answer._replace(headers={"X-MBX-USED-WEIGHT-1M": str(weights.used(address, now))})

    def _refused_upgrade(self, market: SimulatedMarket, address: str) -> Answer | None:
        now = self._loop.time()
        fault = self._board.active("refuse", now)
        if fault is not None:
            left = 60 if fault.until == math.inf else math.ceil(fault.until - now)
            status = int(fault.options.get("status", 503))
            wait = int(fault.options.get("retry_after", left)) if status != 451 else None
            answer = error_answer(0, HTTPStatus(status).phrase, status)
            return answer if wait is None else answer._replace(headers={"Retry-After": str(wait)})
        refusal = self._attempts[market.name].refusal(address, now)
        return None if refusal is None else _refused(refusal)

    def _fault_answer(self, texts: dict[str, str]) -> Answer:
        try:
            request = fault_request(texts)
            request.check(self._listing.symbols)
        except SettingsError as error:
            return error_answer(-1100, str(error))
        self.commit(request)
        return json_answer({})


def _refused(refusal: Refusal) -> Answer:
    answer = error_answer(-1003, "Too many requests.", refusal.status)
    return answer._replace(headers={"Retry-After": str(refusal.retry_after)})


def _response(answer: Answer) -> Response:
    headers = Headers(
        {
            "Connection": "close",
            "Content-Type": "application/json;charset=UTF-8",
            "Content-Length": str(len(answer.body)),
            **answer.headers,
        }
    )
    return Response(answer.status, HTTPStatus(answer.status).phrase, headers, answer.body)
