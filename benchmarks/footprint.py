"""What recording takes from a machine: memory, cores and disk, so that a small one can be chosen.

    python benchmarks/footprint.py --pairs 44,1500 --seconds 180

`ingester start` with its managed QuestDB records the simulator's books; then a table of each depth is filled from the
recorded BTCUSDT books and weighed. Prints two Markdown tables. Nothing is asserted.
"""

import argparse
import contextlib
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from load import symbols
from processes import Child, cpu_seconds, machine, managed_database
from report import BOOKS_PER_SECOND
from table import fill, recorded_books

from ingester import __version__
from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.exchange import VENUES
from ingester.questdb import QuestDB, RowEncoder, launch, schema
from ingester.questdb.server import HEAP, ManagedServer

MARKER = "<!-- benchmarks/footprint.py -->"
SAMPLE_SECONDS = 1.0
DAY = 86_400
FILL_HOURS = 24.1
"""A whole day of one pair, and the beginning of the next."""
SIZED_PAIRS = (10, 44, 200, 1500)


class Memory(NamedTuple):
    """The most that one process held at a time, in MB."""

    own: float
    """What only this process has (RssAnon): it has to fit into the machine."""
    mapped: float
    """Mapped pages of files (RssFile), which the kernel takes back as it needs them."""


class Footprint(NamedTuple):
    """One run of a recorder with its server."""

    pairs: int
    rows_per_second: float
    recorder: Memory
    server: Memory
    recorder_cores: float
    server_cores: float
    wal_mb: float
    """The most that QuestDB's write-ahead log took on disk at a time."""


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything below is cleaned up
    logging.getLogger("ingester").setLevel(logging.ERROR)  # that port 9000 is taken is no matter here
    what = f"ingester {__version__}; QuestDB {launch.VERSION}, heap {HEAP}"
    print(f"{MARKER}\n{machine()}; {what}; {options.seconds:g} s each.")
    print(recording([recorded(pairs, options.seconds, options.warmup) for pairs in options.pairs]), flush=True)
    print(sizing({depth: row_bytes(depth) for depth in VENUES["binance"].books.depths}))
    print(MARKER.replace("benchmarks", "end of benchmarks"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=lambda text: [int(each) for each in text.split(",")], default=[44, 1500])
    parser.add_argument("--seconds", type=float, default=180.0, help="measured window of each recorder")
    parser.add_argument("--warmup", type=float, default=15.0, help="seconds before it, for which only memory counts")
    return parser.parse_args()


@contextlib.contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """A folder for what is recorded, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"ingester-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def recorded(pairs: int, seconds: float, warmup: float) -> Footprint:
    """Records so many pairs at depth 5 into a fresh server, and looks at both processes every second."""
    with folder_of("footprint") as folder, contextlib.ExitStack() as closing:
        data = folder / "data"
        simulator = Child(sys.executable, "load", str(pairs), "spread", log=folder / "simulator.log")
        closing.callback(simulator.end, 10.0)
        urls = simulator.ask()
        server = ManagedServer(data)
        closing.callback(server.stop)
        db = QuestDB(server.ensure())
        pid = server.status().pid
        command = [sys.executable, "-m", "ingester", "start", "--pairs", ",".join(symbols(pairs))]
        command += ["--stream-url", urls["stream_url"], "--rest-url", urls["rest_url"], "--data-dir", str(data)]
        with (folder / "recorder.log").open("wb") as log:
            recorder = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        closing.callback(end, recorder)
        looks: list[tuple[Memory, Memory, float]] = []
        begun, at = time.monotonic(), (0.0, 0.0, 0.0)
        while time.monotonic() < begun + warmup + seconds:
            time.sleep(SAMPLE_SECONDS)
            if recorder.poll() is not None:
                raise RuntimeError(f"the recorder ended:\n{(folder / 'recorder.log').read_text()[-2000:]}")
            if not at[0] and time.monotonic() > begun + warmup:
                at = time.monotonic(), cpu_seconds(recorder.pid), cpu_seconds(pid)
            looks.append((memory(recorder.pid), memory(pid), wal_bytes(data)))
        lasted = time.monotonic() - at[0]
        cores = [(cpu_seconds(each) - before) / lasted for each, before in ((recorder.pid, at[1]), (pid, at[2]))]
        end(recorder)
        db.sql(f"SELECT wait_wal_table('{schema.ORDERBOOK}')")
        rows, first, last = db.sql(
            f"SELECT count(), cast(min(timestamp) AS long), cast(max(timestamp) AS long) FROM {schema.ORDERBOOK}"
        ).rows[0]
        return Footprint(
            pairs,
            rows / ((last - first) / 1e6),
            peak([each for each, _, _ in looks]),
            peak([each for _, each, _ in looks]),
            cores[0],
            cores[1],
            max(each for _, _, each in looks) / 1e6,
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    """Stops a recorder in order, if it runs still."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(40)
    process.kill()
    process.wait()


def memory(pid: int | None) -> Memory:
    """What a process holds now."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    held = {line[0]: int(line[1]) / 1024 for line in lines if line and line[0] in ("RssAnon:", "RssFile:", "RssShmem:")}
    return Memory(held["RssAnon:"], held["RssFile:"] + held["RssShmem:"])


def peak(looks: list[Memory]) -> Memory:
    """The most of each kind; not necessarily at the same moment."""
    return Memory(max(each.own for each in looks), max(each.mapped for each in looks))


def wal_bytes(data: Path) -> float:
    """What the write-ahead logs of all tables take on disk."""
    return sum(on_disk(folder) for folder in (data / "questdb" / "root" / "db").glob("*/wal*"))


def on_disk(folder: Path) -> float:
    """Bytes of the blocks that files below a folder have; one that vanishes meanwhile has none."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_blocks * 512
    return total


def row_bytes(depth: int) -> float:
    """What a row of this depth takes on disk in a day that is over; that of an open day is allocated in large pages."""
    with folder_of("sizing") as folder, managed_database(folder) as database:
        db = QuestDB(database.endpoint)
        fill(db, 1, FILL_HOURS, depth)
        rows, size = db.sql(f"SELECT numRows, diskSize FROM table_partitions('{schema.ORDERBOOK}')").rows[0]
        return float(size / rows)


def spool_row_bytes(depth: int) -> float:
    """What a row of this depth takes in the spool: its ILP, as sent to QuestDB."""
    levels = recorded_books(depth)[:1000].reshape(-1, 2, depth, 2).tolist()
    books = [OrderBook("BTCUSDT", at * SECOND, 10**10 + at, *sides) for at, sides in enumerate(levels, 1)]
    return len(RowEncoder(depth=depth, exchange="binance", collector="recorder").snapshots(books)) / len(books)


def recording(runs: list[Footprint]) -> str:
    """Memory and cores as Markdown."""
    lines = [
        "",
        "| pairs | rows/s | recorder MB: own + files | QuestDB MB: own + files | cores: recorder + QuestDB | QuestDB's own log at most |",  # noqa: E501
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {run.pairs:,} | {run.rows_per_second:,.0f} | {run.recorder.own:.0f} + {run.recorder.mapped:.0f} "
        f"| {run.server.own:.0f} + {run.server.mapped:.0f} | {run.recorder_cores:.2f} + {run.server_cores:.2f} "
        f"| {run.wal_mb:,.0f} MB |"
        for run in runs
    ]
    return "\n".join(lines)


def sizing(bytes_by_depth: dict[int, float]) -> str:
    """Disk by pairs and depth as Markdown, for pairs that change every 100 ms."""
    heads = [f"depth {depth}: {each:.0f} bytes/row" for depth, each in bytes_by_depth.items()]
    spooled = ", ".join(f"{spool_row_bytes(depth):.0f} at depth {depth}" for depth in bytes_by_depth)
    lines = [
        "",
        f"A row in the spool takes {spooled} (bytes).",
        "",
        f"| pairs | million rows/day | {' | '.join(heads)} |",
        "|---|---|" + "---|" * len(heads),
    ]
    for pairs in SIZED_PAIRS:
        rows = pairs * BOOKS_PER_SECOND * DAY
        sizes = [
            f"{rows * each / 1e9:,.1f} GB/day, {30 * rows * each / 1e9:,.0f} GB/month"
            for each in bytes_by_depth.values()
        ]
        lines.append(f"| {pairs:,} | {rows / 1e6:,.1f} | {' | '.join(sizes)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
