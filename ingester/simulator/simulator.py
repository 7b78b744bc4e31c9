"""An exchange that speaks Binance's protocol, in a thread: synthetic books or recordings, and faults on demand."""

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self

from ingester import threads
from ingester.errors import OperationError, SettingsError
from ingester.simulator.exchange_server import SimulatedExchange
from ingester.simulator.faults import FaultRequest, PlannedFault
from ingester.simulator.limits import ExchangeLimits
from ingester.simulator.listing import SimulatedListing
from ingester.simulator.player import Player
from ingester.simulator.sent_log import SentLog
from ingester.simulator.tape import Tape, tape_of_file


class Simulator:
    """A simulated exchange; `start` and `stop`, or a `with` block. Public methods may be called from any thread."""

    def __init__(
        self,
        pairs: Sequence[str] = (),
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        assets: Mapping[str, tuple[str, str]] | None = None,
        statuses: Mapping[str, str] | None = None,
        thin: Mapping[str, int] | None = None,
        files: Sequence[str | PathLike[str]] = (),
        tapes: Sequence[Tape] = (),
        loop: bool = False,
        speed: float = 1.0,
        spread: bool = True,
        limits: ExchangeLimits | None = None,
        faults: Sequence[PlannedFault] = (),
        ledger: bool = False,
        ledger_path: str | PathLike[str] | None = None,
    ) -> None:
        """
        `pairs`: symbols with synthetic books; `assets`: (base, quote) of those whose name does not tell.
        `statuses`: states other than TRADING, whose symbols are listed but silent. `thin`: symbols with few levels.
        `port` 0 takes a free one. `files`, `tapes`: recordings; their symbols take the place of synthetic ones.
        `loop`: recordings start again at their end, with update ids that go on rising.
        `speed`: multiplies the pace of ticks and recordings; 0 plays recordings as fast as they are read. Update ids
        rise within a run at any speed, over a restart at speed 1 (each run begins with the wall clock's).
        `spread`: frames leave spread over the 100 ms of a tick, else all at its start.
        `ledger`, `ledger_path`: keep (in a file, too) what was sent.
        Raises SettingsError for a recording that cannot be read or a fault of an unlisted symbol.
        """
        if speed < 0:
            raise SettingsError(f"speed is {speed}, expected 0 (as fast as it is read) or more")
        self.host = host
        self.port = port
        self._tapes = [*(tape_of_file(Path(file)) for file in files), *tapes]
        self._loops = loop
        played = sorted({symbol for tape in self._tapes for symbol in tape.symbols})
        symbols = tuple(dict.fromkeys([*pairs, *played]))
        self._listing = SimulatedListing(seed, symbols, assets or {}, statuses or {}, thin or {})
        self._speed, self._spread = speed, spread
        self._limits = limits or ExchangeLimits()
        self._planned = list(faults)
        for planned in faults:
            planned.request.check(symbols)
        self._keeps_ledger = ledger or ledger_path is not None
        self._ledger_path = Path(ledger_path) if ledger_path is not None else None
        self._ledger: SentLog | None = None
        self._players = self._fresh_players()
        self._venue: SimulatedExchange | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def stream_url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    @property
    def rest_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """All listed symbols, recorded ones included."""
        return self._listing.symbols

    @property
    def connections(self) -> list[int]:
        """Numbers of the open connections; the first ever is 1."""
        return list(self._venue.sessions) if self._venue else []

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
        """Wait until all recordings have been played; False where `timeout` seconds were not enough."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return all(
            player.finished.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            for player in self._players
        )

    @property
    def sent(self) -> dict[str, list[int]]:
        """Update ids of the sound frames sent, by symbol in the order of sending, each once. Needs `ledger=True`."""
        return self._ledger.sent() if self._ledger else {}

    def start(self) -> Self:
        """Listen, from now on with fresh connections, recordings and ledger. Raises OperationError where it cannot."""
        self._ready.clear()
        self._players = self._fresh_players()
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self.stop()
        return self

    def stop(self) -> None:
        """Close all connections and stop listening. Raises what had ended the simulator before, if anything did."""
        if self._thread is None:
            return
        if self._loop is not None and self._venue is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._venue.stop.set)
        self._thread.join()
        self._thread = None
        failure, self._failure = self._failure, None
        if isinstance(failure, OSError):
            reason = failure.strerror or failure
            raise OperationError(
                f"the simulator cannot listen on {self.host}:{self.port} ({reason}); choose another port"
            ) from failure
        if failure is not None:
            raise failure

    def serve_forever(self, stop_event: threading.Event) -> None:
        """Serve until `stop_event` is set, or raise what ended the simulator."""
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
        """Commit a fault (see `faults.py`); it is in force when this returns. Raises SettingsError.

        `symbol`, `connection`: None means all. `seconds`: how long; `count`: how many frames.
        """
        request = FaultRequest(kind, symbol, seconds, count, connection, options)
        request.check(self.symbols)
        if self._loop is None or self._venue is None:
            raise OperationError(f"fault {kind!r} was asked of a simulator that is not running; start it first")
        venue = self._venue
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def commit() -> None:
            try:
                venue.commit(request)
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(commit)
        done.result(10)

    def stats(self) -> dict[str, Any]:
        """Counters: connections, frames, bytes, skipped ticks, CPU seconds of the process, finished recordings."""
        return self._venue.stats() if self._venue else {}

    def _fresh_players(self) -> list[Player]:
        return [Player(tape, self._loops) for tape in self._tapes]

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
        ledger = self._ledger = SentLog(self._ledger_path) if self._keeps_ledger else None
        self._loop = asyncio.get_running_loop()
        self._venue = SimulatedExchange(
            self._listing, self._players, ledger, self._limits, self._planned, speed=self._speed, spread=self._spread
        )
        try:
            await self._venue.run(self.host, self.port, self._listening)
        finally:
            if ledger is not None:
                ledger.close()

    def _listening(self, port: int) -> None:
        self.port = port
        self._ready.set()
