"""What recording costs: the ingester and two other recorders, one after the other, same load, into a real QuestDB.

    python benchmarks/ingest.py --seconds 60 --rates 440,15000 --modes burst,spread

Prints the machine and a Markdown table per rate and mode: absolute figures, and ratios to the ingester of the same run.
Nothing is asserted: figures belong to a machine and an hour.
"""

import argparse
import contextlib
import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from load import symbols, tick
from platformdirs import user_cache_path
from processes import (
    HERE,
    Child,
    Database,
    cpu_by_thread,
    cpu_seconds,
    given_database,
    machine,
    managed_database,
    peak_mb,
    rivals_python,
    tcp_database,
)
from report import BOOKS_PER_SECOND, RECORDERS, Recorder, table, versions

from ingester.errors import QueryError, StoreError
from ingester.questdb import QuestDB, launch

SUBSCRIBED_SECONDS = 60.0
"""How long a recorder may take to ask for all its pairs."""
GRACE_SECONDS = 15.0
"""How long rows received within the window may take to become visible after it."""
STILL_SECONDS = 6.0
"""Nothing new for so long: nothing more will come."""
MARKER = "<!-- benchmarks/ingest.py -->"


class Sample(NamedTuple):
    """What has been counted until one moment."""

    at_ns: int
    frames: int
    skipped_ticks: int
    recorder: float
    simulator: float
    questdb: float
    threads: dict[str, float]


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything below is cleaned up
    logging.getLogger("ingester").setLevel(logging.ERROR)  # that port 9000 is taken is no matter here
    python = options.rival_python
    if python is None and ("cryptofeed" in options.rivals or options.profile):
        python = rivals_python(HERE / "rivals" / "requirements.txt", user_cache_path("ingester") / "benchmark-rivals")
    about = f"{machine()}; {versions(python)}; QuestDB {launch.VERSION}"
    print(f"{MARKER}\n{about}; {options.seconds:g} s each, depth {options.depth}.", flush=True)
    results: list[dict[str, Any]] = []
    try:
        for rate in options.rates:
            for mode in options.modes:
                group: list[dict[str, Any]] = []
                for name in options.rivals:
                    try:
                        group.append(measure(name, rate, mode, options, python))
                    except (RuntimeError, StoreError) as error:
                        print(f"{name} at {rate}/s {mode} failed: {error}", file=sys.stderr)
                print("\n" + table(rate, mode, group), flush=True)
                results += group
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if options.json and results:
            options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))
    print(MARKER)


def parse() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="measured window of each recorder")
    parser.add_argument("--warmup", type=float, default=5.0, help="seconds before it, not measured")
    parser.add_argument("--rates", type=numbers, default=[440, 15000], help="rows a second; a tenth as many pairs")
    parser.add_argument("--modes", type=words, default=["burst", "spread"], help="frames at once or over the 100 ms")
    parser.add_argument("--depth", type=int, default=5, choices=(5, 10, 20))
    parser.add_argument("--rivals", type=words, default=list(RECORDERS), help=f"of {','.join(RECORDERS)}")
    parser.add_argument("--questdb", metavar="URL", help="instead of a fresh one for each run; its rows stay there")
    parser.add_argument("--rival-python", metavar="PATH", help="Python with rivals/requirements.txt installed")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="py-spy's stacks of each recorder go there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    options = parser.parse_args()
    if unknown := set(options.rivals) - set(RECORDERS):
        parser.error(f"--rivals {','.join(unknown)}: there are {', '.join(RECORDERS)}")
    if unknown := set(options.modes) - {"burst", "spread"}:
        parser.error(f"--modes {','.join(unknown)}: there are burst and spread")
    return options


def measure(name: str, rate: int, mode: str, options: argparse.Namespace, python: str | None) -> dict[str, Any]:
    """One recorder on one load, from a fresh server to its end."""
    recorder, pairs = RECORDERS[name], symbols(rate // BOOKS_PER_SECOND)
    with contextlib.ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="ingester-benchmark-"))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        if recorder.tcp:
            database = closing.enter_context(tcp_database(folder / "questdb"))
        elif options.questdb:
            database = closing.enter_context(given_database(options.questdb))
        else:
            database = closing.enter_context(managed_database(folder / "questdb"))
        simulator = Child(sys.executable, "load", str(len(pairs)), mode, log=folder / "simulator.log")
        closing.callback(simulator.end, 10.0)
        task = simulator.ask() | {
            "symbols": pairs,
            "depth": options.depth,
            "name": f"bench-{time.time_ns()}",
            "http_url": database.endpoint.http_url,
            "user": database.endpoint.user,
            "password": database.endpoint.password,
            "tcp_port": database.tcp_port,
        }
        own_python = python if recorder.own_python and python else sys.executable
        child = Child(own_python, recorder.module, json.dumps(task), log=folder / "recorder.log")
        closing.callback(child.end, 5.0)
        subscribed = await_subscribed(simulator, child, len(pairs))
        time.sleep(options.warmup)
        names = child.try_to_ask("begin").get("threads", {})
        before = sample(simulator, child, database, names, len(pairs))
        if options.profile:
            profile(child.pid, options.seconds, python, options.profile / f"{name}-{rate}-{mode}.txt")
        time.sleep(max(0.0, options.seconds - (time.time_ns() - before.at_ns) / 1e9))
        after = sample(simulator, child, database, names, len(pairs))
        report, peak = child.try_to_ask("report"), peak_mb(child.pid)
        rows = stored_rows(QuestDB(database.endpoint), recorder, before, after)
        result = figures(before, after, rows) | {"recorder": name, "rate": rate, "mode": mode, "depth": options.depth}
        result |= {"peak_mb": peak, "lag": report.get("lag"), "subscribed": subscribed}
        if name == "ingester":
            result["whole_run"] = whole_run(child, QuestDB(database.endpoint), task["name"])
        return result


def await_subscribed(simulator: Child, child: Child, count: int) -> int:
    """Waits until the recorder has asked for all its pairs, but not for ever; returns for how many it has."""
    deadline = time.monotonic() + SUBSCRIBED_SECONDS
    while True:
        subscribed = int(simulator.ask("report")["subscriptions"])
        if subscribed >= count or time.monotonic() > deadline or not child.runs():
            return subscribed
        time.sleep(0.2)


def sample(simulator: Child, child: Child, database: Database, names: dict[str, str], pairs: int) -> Sample:
    """What was sent and spent so far; a recorder that has several connections receive each pair is sent it once."""
    time.sleep((0.19 - time.time() % 0.1) % 0.1)  # bursts are sent at full tenths: the last one has arrived
    sent = simulator.ask("report")
    return Sample(
        sent["at_ns"],
        sent["frames"] // max(1, round(sent["subscriptions"] / pairs)),
        sent["skipped_ticks"],
        cpu_seconds(child.pid),
        cpu_seconds(simulator.pid),
        cpu_seconds(database.pid),
        cpu_by_thread(child.pid, names),
    )


def stored_rows(db: QuestDB, recorder: Recorder, before: Sample, after: Sample) -> int:
    """Rows received within the window, as the table shows them once no more appear."""
    between = " AND ".join(
        f"{recorder.time_column} {sign} cast({at_ns // 1000} AS timestamp)"
        for sign, at_ns in ((">=", before.at_ns), ("<", after.at_ns))
    )
    rows, deadline = -1, time.monotonic() + GRACE_SECONDS
    changed = time.monotonic()
    while time.monotonic() < min(deadline, changed + STILL_SECONDS):
        try:
            now = int(db.sql(f"SELECT count() FROM '{recorder.table}' WHERE {between}").rows[0][0])
        except QueryError:  # it has not stored anything yet, so there is no table
            now = 0
        if now != rows:
            rows, changed = now, time.monotonic()
        if rows >= after.frames - before.frames:
            break
        time.sleep(0.25)
    return rows


def whole_run(child: Child, db: QuestDB, collector: str) -> dict[str, int]:
    """Stops the ingester in order, and counts the books missing in the table between each pair's first and last."""
    child.end_soon()
    acknowledged = int(child.ask(timeout=60.0)["stored"])
    statement = f"""SELECT symbol, count(), min(last_update_id), max(last_update_id)
        FROM orderbook WHERE collector = '{collector}'"""
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        counts = db.sql(statement).rows
        rows = sum(count for _, count, _, _ in counts)
        if rows >= acknowledged or time.monotonic() > deadline:
            break
        time.sleep(0.25)
    sent = sum(tick(symbol, last) - tick(symbol, first) + 1 for symbol, _, first, last in counts)
    return {"acknowledged": acknowledged, "rows": rows, "missing": sent - rows}


def figures(before: Sample, after: Sample, rows: int) -> dict[str, Any]:
    seconds, sent = (after.at_ns - before.at_ns) / 1e9, after.frames - before.frames
    per_row = 1e6 / max(1, rows)
    return {
        "seconds": seconds,
        "sent": sent,
        "rows": rows,
        "skipped_ticks": after.skipped_ticks - before.skipped_ticks,
        "cpu_per_million": (after.recorder - before.recorder) * per_row if rows else None,
        "threads": {
            name: (spent - before.threads.get(name, 0.0)) * per_row for name, spent in sorted(after.threads.items())
        }
        if rows
        else {},
        "cores": {
            "recorder": (after.recorder - before.recorder) / seconds,
            "simulator": (after.simulator - before.simulator) / seconds,
            "questdb": (after.questdb - before.questdb) / seconds,
        },
    }


def profile(pid: int, seconds: float, python: str | None, to: Path) -> None:
    """py-spy's stacks by thread (`py-spy record -f raw`) and the lines that held Python's lock for most of the time."""
    beside = Path(python).parent / "py-spy" if python else None
    command = str(beside) if beside and beside.exists() else shutil.which("py-spy")
    if command is None:
        print("py-spy is not installed; only the CPU of each thread is shown", file=sys.stderr)
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    how = ["-d", str(max(1, int(seconds) - 2)), "-r", "200", "-f", "raw", "--gil", "--threads", "-o", str(to)]
    subprocess.run([command, "record", "-p", str(pid), *how], check=False, capture_output=True)
    own: Counter[str] = Counter()
    for line in to.read_text().splitlines() if to.exists() else ():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[f"{frames[0].partition(': ')[2] or frames[0]}: {frames[-1]}"] += int(count)
    total = sum(own.values())
    for where, count in own.most_common(25):
        print(f"  {count / total:6.1%}  {where}", file=sys.stderr)


if __name__ == "__main__":
    main()
