"""How soon a live reader has a book: from its arrival at the socket to `latest()`, and to a consumer that waits.

    python benchmarks/latency.py --seconds 20 --pairs 44,1500 --modes spread,burst

Prints the machine and a Markdown table per number of pairs and mode, with the way that is usual in its place beside it:
a thread that looks at a dictionary every 15 ms. Nothing is asserted: figures belong to a machine and an hour.
"""

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from load import symbols
from processes import Child, cpu_seconds, machine
from report import BOOKS_PER_SECOND, latencies, versions

MARKER = "<!-- benchmarks/latency.py -->"
WAYS = ("recorder", "polling")


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything below is cleaned up
    about = f"{machine()}; {versions(None)}; {options.seconds:g} s each, depth 5, two connections"
    print(f"{MARKER}\n{about}.", flush=True)
    results: list[dict[str, Any]] = []
    for pairs in options.pairs:
        for mode in options.modes:
            group = [
                figures
                for way in options.ways
                for linger in (options.lingers if way == "recorder" else [None])
                for figures in measure(way, linger, pairs, mode, options)
            ]
            print("\n" + latencies(pairs, mode, group), flush=True)
            results += group
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))
    print(MARKER.replace("-->", "end -->"))


def parse() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured window of each")
    parser.add_argument("--warmup", type=float, default=3.0, help="seconds before it, not measured")
    parser.add_argument("--pairs", type=lambda text: [int(each) for each in words(text)], default=[44, 1500])
    parser.add_argument("--modes", type=words, default=["spread", "burst"], help="frames over the 100 ms or at once")
    parser.add_argument("--ways", type=words, default=list(WAYS), help=f"of {','.join(WAYS)}")
    parser.add_argument(
        "--lingers",
        type=lambda text: [None if each == "0" else each for each in words(text)],
        default=[None],
        help="pauses of the feed thread after an arrival, such as 0,1ms,50ms",
    )
    parser.add_argument("--keep", default="10s", help="of the recorder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    options = parser.parse_args()
    if unknown := set(options.modes) - {"burst", "spread"}:
        parser.error(f"--modes {','.join(unknown)}: there are burst and spread")
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"--ways {','.join(unknown)}: there are {', '.join(WAYS)}")
    return options


def measure(way: str, linger: str | None, pairs: int, mode: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One reader on one load: a dictionary of figures for each of its views."""
    with contextlib.ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="ingester-benchmark-"))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        load = Child(sys.executable, "timed_load", str(pairs), mode, log=folder / "load.log")
        closing.callback(load.end, 10.0)
        task = load.ask() | {"symbols": symbols(pairs), "keep": options.keep, "linger": linger, "folder": str(folder)}
        reader = Child(sys.executable, "live_reader", way, json.dumps(task), log=folder / "reader.log")
        closing.callback(reader.end, 10.0)
        if not reader.ask(timeout=90.0)["ready"]:
            raise RuntimeError("not all pairs had a book after a minute")
        time.sleep(options.warmup)
        load.ask("begin")
        reader.ask("begin")
        before, began = cpu_seconds(reader.pid), time.monotonic()
        time.sleep(options.seconds)
        cores = (cpu_seconds(reader.pid) - before) / (time.monotonic() - began)
        reader.ask("report")
        told = load.ask("report")
        seen = np.load(folder / "seen.npz")
        left = index(np.load(told["left"]))
        views = {"latest()" if way == "recorder" else "a dictionary, polled every 15 ms": seen["seen"]}
        if way == "recorder":
            ids = index(np.stack([*seen["received"].T[[0, 2]], seen["received"][:, 1]], axis=1))
            taken = [(place, ids[place, at], now) for place, at, now in seen["taken"].tolist() if (place, at) in ids]
            views["a consumer that waits"] = np.array(taken, np.int64)
        return [
            delays(rows, left)
            | {"way": name, "linger": linger, "pairs": pairs, "mode": mode, "cores": cores}
            | {"expected": options.seconds * pairs * BOOKS_PER_SECOND, "skipped_ticks": told["skipped_ticks"]}
            for name, rows in views.items()
        ]


def index(rows: np.ndarray) -> dict[tuple[int, int], int]:
    """Third column by the first two."""
    return {(place, number): value for place, number, value in rows.tolist()}


def delays(seen: np.ndarray, left: dict[tuple[int, int], int]) -> dict[str, Any]:
    """Milliseconds from leaving to seeing, of the books that were seen."""
    waited = [at - left[place, number] for place, number, at in seen.tolist() if (place, number) in left]
    ms = np.array(waited) / 1e6
    quantiles = np.quantile(ms, [0.5, 0.99, 0.999, 1.0]).tolist() if len(ms) else [float("nan")] * 4
    return {"books": len(ms), "ms": dict(zip(("p50", "p99", "p99.9", "most"), quantiles, strict=True))}


if __name__ == "__main__":
    main()
