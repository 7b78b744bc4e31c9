"""An exchange in a thread that speaks Binance's protocols: synthetic books or recordings, and faults on demand."""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from ingester import threads
from ingester.errors import OperationError, SettingsError
from ingester.simulator.books import FUTURES, SPOT
from ingester.simulator.broadcast import SentLog
from ingester.simulator.exchange_server import ExchangeServer
from ingester.simulator.faults import FaultRequest, PlannedFault
from ingester.simulator.markets import ExchangeLimits
from ingester.simulator.recording import Player, Tape
from ingester.simulator.rest_answers import SimulatedListing, SimulatedPair

HOST = "127.0.0.1"


class Simulator:
    """A simulated exchange; `start` and `stop`, or a `with` block. Public methods may be called from any thread."""

    def __init__(
        self,
        pairs: Sequence[str | SimulatedPair] = (),
        *,
        seed: int = 0,
        port: int = 0,
        tapes: Sequence[Tape] = (),
        speed: float = 1.0,
        spread: bool = True,
        limits: ExchangeLimits | None = None,
        faults: Sequence[PlannedFault] = (),
        keep_sent: bool | SentLog = False,
    ) -> None:
        """
        `pairs`: listed symbols; all have synthetic books but those of `tapes`, which are listed as well.
        `port`: 0 takes a free one.
        `speed`: multiplies the pace of ticks and recordings; 0 plays recordings as fast as they are read. Update ids
        rise within a run at any speed, over a restart at speed 1 (each run begins with the wall clock's).
        `spread`: frames leave spread over the 100 ms of a tick, else all at its start.
        `limits`: on both markets; by default each has Binance's.
        `keep_sent`: keep what was sent, for `sent`.
        Raises SettingsError for a fault of an unlisted symbol.
        """
        if speed < 0:
            raise SettingsError(f"speed is {speed}, expected 0 (as fast as it is read) or more")
        self.port = port
        self._tapes = list(tapes)
        listed = [pair if isinstance(pair, SimulatedPair) else SimulatedPair(pair) for pair in pairs]
        played = sorted({symbol for tape in tapes for symbol in tape.symbols})
        listing = {pair.symbol: pair for pair in listed}
        self._listing = SimulatedListing(
            seed, listing | {each: SimulatedPair(each) for each in played if each not in listing}
        )
        self._speed, self._spread = speed, spread
        self._limits = limits
        self._planned = list(faults)
        for planned in faults:
            planned.request.check(self._listing.pairs)
        self._keep_sent = keep_sent
        self._sent_log: SentLog | None = None
        self._players = self._fresh_players()
        self._server: ExchangeServer | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def stream_url(self) -> str:
        return f"ws://{HOST}:{self.port}"

    @property
    def rest_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """All listed symbols, recorded ones included."""
        return tuple(self._listing.pairs)

    @property
    def connections(self) -> list[int]:
        """Numbers of the open connections; the first ever is 1."""
        return list(self._server.sessions) if self._server else []

    @property
    def failed(self) -> bool:
        """Whether it has ended by itself; `stop` raises what ended it."""
        return self._failure is not None

    @property
    def played(self) -> int:
        """Books of recordings so far."""
        return sum(player.played for player in self._players)

    @property
    def position_ns(self) -> int:
        """How far recordings were played: when the last book was received; 0 before the first."""
        return max((player.position_ns for player in self._players), default=0)

    @property
    def rounds(self) -> int:
        """How often all recordings have come to their end."""
        return min((player.rounds for player in self._players), default=0)

    @property
    def finished(self) -> bool:
        """Whether all recordings have been played to their end."""
        return all(player.finished.is_set() for player in self._players)

    def wait_finished(self, timeout: float | None = None) -> bool:
        """Waits until all recordings have been played; False where `timeout` seconds were not enough."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return all(
            player.finished.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            for player in self._players
        )

    @property
    def sent(self) -> dict[str, list[int]]:
        """Update ids of the sound spot frames sent, by symbol in the order of sending, each once. Needs `keep_sent`."""
        return self._sent_log.sent(SPOT) if self._sent_log else {}

    @property
    def sent_futures(self) -> dict[str, list[int]]:
        """The same of futures frames."""
        return self._sent_log.sent(FUTURES) if self._sent_log else {}

    def start(self) -> Self:
        """Listens, with new connections, recordings and log of what is sent. Raises OperationError where it cannot."""
        self._ready.clear()
        self._players = self._fresh_players()
        self._sent_log = (
            self._keep_sent if isinstance(self._keep_sent, SentLog) else SentLog() if self._keep_sent else None
        )
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self.stop()
        return self

    def stop(self) -> None:
        """Closes all connections and stops listening. Raises what had ended the simulator before, if anything did."""
        if self._thread is None:
            return
        if self._loop is not None and self._server is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._server.stop.set)
        self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        if isinstance(failure, OSError):
            reason = failure.strerror or failure
            raise OperationError(
                f"the simulator cannot listen on {HOST}:{self.port} ({reason}); choose another port"
            ) from failure
        if failure is not None:
            raise failure

    def serve_forever(self, stop_event: threading.Event) -> None:
        """Serves until `stop_event` is set; raises what ended the simulator."""
        with self:
            while not self.failed and not stop_event.wait(0.2):
                pass

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fault(
        self,
        kind: str,
        symbol: str | None = None,
        seconds: float | None = None,
        count: int | None = None,
        connection: int | None = None,
        **options: float,
    ) -> None:
        """Commits a fault (see `faults.py`); it is in force when this returns. Raises SettingsError.

        `symbol`, `connection`: None means all. `seconds`: how long; `count`: how many frames.
        """
        request = FaultRequest(kind, symbol, seconds, count, connection, options)
        request.check(self.symbols)
        if self._loop is None or self._server is None:
            raise OperationError(f"fault {kind!r} was asked of a simulator that is not running; start it first")
        server = self._server
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def commit() -> None:
            try:
                server.commit(request)
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(commit)
        done.result(10)

    def stats(self) -> dict[str, Any]:
        """Counters: connections, frames, bytes, skipped ticks, CPU seconds of the process, finished recordings."""
        return self._server.stats() if self._server else {}

    def _fresh_players(self) -> list[Player]:
        return [Player(tape) for tape in self._tapes]

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # raised again in the thread that calls start or stop
            self._failure = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            if self._ready.is_set():  # else `start` says so; what it has played cannot be played on after a restart
                threads.died("simulator", self._failure, restarted=False)
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = ExchangeServer(
            listing=self._listing,
            players=self._players,
            sent_log=self._sent_log,
            limits=self._limits,
            planned=self._planned,
            speed=self._speed,
            spread=self._spread,
        )
        await self._server.run(HOST, self.port, self._listening)

    def _listening(self, port: int) -> None:
        self.port = port
        self._ready.set()
