"""Ten minutes of everything at once: 44 pairs at ten times their speed while exchange and QuestDB break at random.

    python benchmarks/soak.py --minutes 10

The simulated exchange commits a random fault every few seconds, the managed QuestDB is killed every two minutes.
Prints what memory, descriptors and threads of the recorder did, and what became of the books. Exits 1 where a book was
lost or doubled, or where one of the three grows.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ingester.errors import StoreError
from ingester.questdb import ManagedServer, QuestDB
from ingester.simulator import ExchangeLimits, Simulator

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in ("support", "faults")]

from evidence import Evidence, due_of, events_in, gaps_among, stored_in  # noqa: E402
from trial import COINS44, Managed, eventually  # noqa: E402

SETTLE_SECONDS = 60.0
"""What the first minute takes is no growth; of a shorter run the first third."""
GROWTH = {"memory": 24.0, "descriptors": 8.0, "threads": 4.0}
"""How much the median of the last quarter may exceed that of the first: MB, and counts."""


class Sample(NamedTuple):
    """What the recorder holds at one moment."""

    seconds: float
    memory: float
    """Resident, MB."""
    descriptors: float
    threads: float


def main() -> int:
    options = parse()
    chance, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="ingester-soak-"))
    server = ManagedServer(folder)
    try:
        # Ten seconds of the exchange pass in one, so that its buffers fill ten times as fast.
        with (
            Simulator(
                COINS44, keep_sent=True, speed=options.speed, limits=ExchangeLimits(ping_interval=5)
            ) as simulator,
            Managed(simulator, server, "soak") as trial,
        ):
            samples, counts = soak(trial, server, simulator, chance, 60 * options.minutes, options)
            evidence = end(trial, simulator)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return judge(samples, counts, evidence, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--speed", type=float, default=10.0, help="of the exchange; 1 brings 440 rows a second")
    parser.add_argument("--seed", type=int, default=1, help="of the faults")
    parser.add_argument("--fault-every", type=float, default=6.0, metavar="SECONDS", help="on average")
    parser.add_argument("--kill-every", type=float, default=120.0, metavar="SECONDS", help="QuestDB, with kill -9")
    return parser.parse_args()


def soak(
    trial: Managed,
    server: ManagedServer,
    simulator: Simulator,
    chance: random.Random,
    lasting: float,
    options: argparse.Namespace,
) -> tuple[list[Sample], dict[str, int]]:
    """Breaks things for so many seconds; gives samples of the recorder, and how often each thing was broken."""
    recorder = psutil.Process(trial.recorder.process.pid)
    begun = time.monotonic()
    next_sample, next_fault, next_kill = begun, begun + options.fault_every, begun + options.kill_every
    samples, counts = [], dict[str, int]()
    while (now := time.monotonic()) < begun + lasting:
        if now >= next_sample:
            samples.append(look(recorder, now - begun))
            next_sample += 5.0
        if now >= next_fault:
            kind = commit(simulator, chance)
            counts[kind] = counts.get(kind, 0) + 1
            next_fault += options.fault_every * chance.uniform(0.5, 1.5)
        if now >= next_kill and (pid := server.status().pid):
            psutil.Process(pid).kill()
            counts["QuestDB killed"] = counts.get("QuestDB killed", 0) + 1
            next_kill += options.kill_every
        time.sleep(0.1)
    samples.append(look(recorder, lasting))
    return samples, counts


def look(recorder: psutil.Process, seconds: float) -> Sample:
    return Sample(seconds, recorder.memory_info().rss / 2**20, recorder.num_fds(), recorder.num_threads())


def commit(simulator: Simulator, chance: random.Random) -> str:
    """One random fault of the exchange, on one or all connections or symbols; gives its kind."""
    connection = chance.choice([None, *simulator.connections])
    symbol = chance.choice([None, *COINS44])
    seconds = chance.uniform(0.5, 8.0)
    match kind := chance.choice(
        "drop half_open silence malformed duplicate out_of_order crossed empty repeat shutdown refuse slow".split()
    ):
        case "drop":
            simulator.fault(kind, connection=connection)
        case "shutdown":
            simulator.fault(kind, connection=connection, after=seconds)
        case "half_open":
            simulator.fault(kind, connection=connection, seconds=seconds)
        case "slow":
            simulator.fault(kind, connection=connection, seconds=seconds, rate=100_000)
        case "refuse":
            simulator.fault(kind, seconds=seconds, status=503, retry_after=2)
        case "silence" | "repeat":
            simulator.fault(kind, symbol, seconds=seconds)
        case _:
            simulator.fault(kind, symbol, count=chance.randint(1, 50))
    return kind


def end(trial: Managed, simulator: Simulator) -> Evidence:
    """Lets all faults end and all rows arrive, then ends the recorder."""
    simulator.fault("clear")
    trial.recovered(time.time(), seconds=180)
    trial.flows(ticks=20)
    sent = simulator.sent
    code, output = trial.recorder.stop(timeout=120)
    if code or "Traceback" in output:
        sys.exit(f"the recorder ended with {code}:\n{output}")
    db = trial.db
    eventually(lambda: answers(db), what="QuestDB")
    stored, events = stored_in(db, "soak"), events_in(db, "soak")
    return Evidence(due_of(sent, 0), sent, {}, stored, gaps_among(events, stored), 0, events)


def answers(db: QuestDB) -> bool:
    try:
        return bool(db.sql("SELECT 1").rows)
    except StoreError:
        return False


def judge(samples: list[Sample], counts: dict[str, int], evidence: Evidence, options: argparse.Namespace) -> int:
    """Prints the result; gives the exit code."""
    steady = [each for each in samples if each.seconds >= min(SETTLE_SECONDS, samples[-1].seconds / 3)]
    print(f"{options.minutes:g} minutes at {options.speed:g}x, seed {options.seed}, {os.cpu_count()} cores")
    print("faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    print("\n| | start | median | end | slope per hour |\n| --- | ---: | ---: | ---: | ---: |")
    grown = []
    for name, allowed in GROWTH.items():
        values = [getattr(each, name) for each in steady]
        slope = 3600 * statistics.linear_regression([each.seconds for each in steady], values).slope
        quarter = max(1, len(values) // 4)
        if statistics.median(values[-quarter:]) - statistics.median(values[:quarter]) > allowed:
            grown.append(name)
        figures = [values[0], statistics.median(values), values[-1], slope]
        print(f"| {name}{' (MB)' * (name == 'memory')} | " + " | ".join(f"{each:.1f}" for each in figures) + " |")
    found: dict[str, Any] = {
        "sent": evidence.rows_sent,
        "stored": evidence.rows_stored,
        "lost": len(evidence.lost),
        "twice": len(evidence.duplicated),
        "in gaps": len(evidence.in_gaps),
        "late": len(evidence.late),
    }
    print("\nbooks: " + ", ".join(f"{count:,} {name}" for name, count in found.items()))
    for name in grown:
        print(f"{name} grew")
    return int(bool(grown or found["lost"] or found["twice"]))


if __name__ == "__main__":
    sys.exit(main())
