"""What a data set costs: `ingester export` and other ways from QuestDB to one pickle per pair, on the same table.

    python benchmarks/export.py --pairs 20 --hours 6 --repeat 2
    python benchmarks/export.py --memory

Prints the machine and a Markdown table: absolute figures, ratios to the ingester of the same run, and what no export
could be faster than. Nothing is asserted: figures belong to a machine and an hour.
"""

import argparse
import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import table
from load import symbols
from platformdirs import user_cache_path
from processes import HERE, Database, machine, managed_database, rivals_python
from weigh import Weight, weighed

from ingester.book import level_columns
from ingester.datasets import dataset
from ingester.questdb import QuestDB, launch

INGESTER = "ingester"
TITLES = {
    INGESTER: "`ingester export`",
    "connectorx": "connectorx, `redshift://`",
    "connectorx-cursor": "connectorx, cursor protocol",
    "psycopg": "psycopg, binary",
    "pandas": "`pandas.read_sql`, SQLAlchemy over psycopg",
    "csv": "`/exp` CSV, `pandas.read_csv`",
    "csv-pyarrow": "`/exp` CSV, `pyarrow.csv`",
}
USUAL = ["connectorx", "psycopg", "pandas", "csv"]
LIMITS = {"download": "slices downloaded, thrown away", "pickle": "pickles written from memory, not synced"}
GOALS = {"connectorx": 2.5, "psycopg": 8.0}
LIMIT_SHARE = 0.5
RESIDENT_MB = 1000
NEED_BYTES = 1000
"""Of a row: in the table and its log, and in two data sets."""
WARM_UP = 0.01
"""The share of the range that each reads once before it is measured."""
MARKER = "<!-- benchmarks/export.py -->"


@dataclass
class Table:
    """The table, and the folder in which it and the data sets lie."""

    folder: Path
    database: Database
    pairs: int
    hours: float

    @property
    def data_dir(self) -> Path:
        return self.folder / "questdb"

    @property
    def start_ns(self) -> int:
        return dataset.parse_time(table.START)

    @property
    def output(self) -> Path:
        """Into which each writes its files."""
        return self.folder / "output"

    @property
    def reference(self) -> Path:
        """A file of the ingester, kept to be compared."""
        return self.folder / "reference.pkl"

    def file_name(self, symbol: str) -> str:
        """Of a pair's pickle over the whole range."""
        frequency_ns = table.INTERVAL_NS
        return dataset.file_name(symbol, frequency_ns, self.start_ns, self.end_ns(), "pkl")

    def end_ns(self, share: float = 1.0) -> int:
        """Where a share of the range ends, at a full tenth of a second."""
        return self.start_ns + max(1, round(self.hours * table.HOUR_TICKS * share)) * table.INTERVAL_NS

    @property
    def rows(self) -> int:
        return self.pairs * round(self.hours * table.HOUR_TICKS)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything below is cleaned up
    logging.getLogger("ingester").setLevel(logging.ERROR)  # that port 9000 is taken is no matter here
    python = None
    if options.rivals and not options.memory:
        requirements = HERE / "rivals" / "requirements-export.txt"
        folder = user_cache_path("ingester") / "benchmark-rivals-export"
        python = options.rival_python or rivals_python(requirements, folder)
    try:
        with filled_table(options.pairs, options.hours) as source:
            about = f"{machine()}; {versions(python)}; QuestDB {launch.VERSION}"
            print(f"{MARKER}\n{about}; {source.pairs} pairs x {source.hours:g} h, {source.rows:,} rows.\n", flush=True)
            print(memory(source) if options.memory else speed(source, options.rivals, options.repeat, python))
    except RuntimeError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(MARKER)


def parse() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="pairs in the table  [20; 44 with --memory]")
    parser.add_argument("--hours", type=float, help="hours of each at 10 rows a second  [6; 24 with --memory]")
    parser.add_argument("--repeat", type=int, default=2, help="rounds, every other one in reverse order")
    parser.add_argument("--rivals", type=words, default=USUAL, help=f"of {','.join(list(TITLES)[1:])}")
    parser.add_argument("--rival-python", metavar="PATH", help="Python with rivals/requirements-export.txt installed")
    parser.add_argument("--memory", action="store_true", help="instead: the memory of `ingester export`")
    options = parser.parse_args()
    if unknown := set(options.rivals) - set(TITLES):
        parser.error(f"--rivals {','.join(unknown)}: there are {', '.join(list(TITLES)[1:])}")
    options.pairs = options.pairs or (44 if options.memory else 20)
    options.hours = options.hours or (24.0 if options.memory else 6.0)
    return options


@contextlib.contextmanager
def filled_table(pairs: int, hours: float) -> Iterator[Table]:
    """A fresh QuestDB with the table in it. Raises RuntimeError where the disk would not hold what is to be written."""
    with contextlib.ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="ingester-benchmark-"))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        need = pairs * round(hours * table.HOUR_TICKS) * NEED_BYTES
        if (free := shutil.disk_usage(folder).free) < need:
            raise RuntimeError(f"{need / 1e9:.0f} GB are needed in {folder.parent}, {free / 1e9:.0f} GB are free.")
        source = Table(folder, closing.enter_context(managed_database(folder / "questdb")), pairs, hours)
        # In a process of its own: a child's ru_maxrss begins with what its parent held when it was started.
        subprocess.run(
            [sys.executable, "-m", "table", str(source.data_dir), str(pairs), str(hours)], cwd=HERE, check=True
        )
        rows = QuestDB(source.database.endpoint).sql("SELECT count() FROM orderbook").rows[0][0]
        if rows != source.rows:
            raise RuntimeError(f"The table has {rows:,} rows instead of {source.rows:,}.")
        yield source


def speed(source: Table, rivals: Sequence[str], repeat: int, python: str | None) -> str:
    """Everyone in turn, each round in the other direction."""
    order = [INGESTER, *(name for name in rivals if name != INGESTER), *LIMITS]
    for name in order:
        run(name, source, python, WARM_UP)
    weights: dict[str, list[Weight]] = {name: [] for name in order}
    notes = []
    for number in range(repeat):
        for name in reversed(order) if number % 2 else order:
            weights[name].append(run(name, source, python))
            print(f"{name}: {seconds(name, weights[name][-1]):.2f} s", file=sys.stderr)
            if number == 0 and name == INGESTER:
                shutil.copy(written(source), source.reference)
            elif number == 0 and name not in LIMITS:
                notes.append(f"{name}: {difference(source)}")
    return report(source, weights, notes)


def run(name: str, source: Table, python: str | None = None, share: float = 1.0, form: str = "pkl") -> Weight:
    """The whole job in a process of its own, into an emptied folder."""
    shutil.rmtree(source.output, ignore_errors=True)
    source.output.mkdir()
    os.sync()  # else one pays for what the one before left to be written
    end_ns = source.end_ns(share)
    if name == INGESTER:
        times = ["--from", dataset.time_text(source.start_ns), "--to", dataset.time_text(end_ns)]
        where = ["--root", str(source.output), "--data-dir", str(source.data_dir), "--format", form]
        return weighed([sys.executable, "-m", "ingester", "export", *times, *where], source.database.pid)
    endpoint = source.database.endpoint
    task: dict[str, Any] = {
        "http_url": endpoint.http_url,
        "pg_port": endpoint.pg_port,
        "user": endpoint.user,
        "password": endpoint.password,
        "start_ns": source.start_ns,
        "end_ns": end_ns,
        "start": dataset.time_text(source.start_ns),
        "end": dataset.time_text(end_ns),
        "files": {symbol: str(source.output / source.file_name(symbol)) for symbol in symbols(source.pairs)},
        "index": dataset.INDEX,
        "levels": level_columns(table.DEPTH),
        "columns": dataset.columns(table.DEPTH),
    }
    if name in LIMITS:
        return weighed([sys.executable, "-m", "limits", name, json.dumps(task)], source.database.pid)
    return weighed([str(python), "-m", "rivals.exporters", name, json.dumps(task)], source.database.pid)


def written(source: Table) -> Path:
    """The file of the pair in the middle. Raises RuntimeError where one of any pair is missing."""
    files = {path.name: path for path in source.output.rglob("*.pkl")}
    if missing := [symbol for symbol in symbols(source.pairs) if source.file_name(symbol) not in files]:
        raise RuntimeError(f"There is no file of {', '.join(missing)} in {source.output}.")
    return files[source.file_name(symbols(source.pairs)[source.pairs // 2])]


def difference(source: Table) -> str:
    """What the ingester's file and the one just written differ in."""
    ours, theirs = pd.read_pickle(source.reference), pd.read_pickle(written(source))
    if not ours.index.identical(theirs.index) or list(ours) != list(theirs):
        return f"**other rows or columns**: {len(theirs):,} rows from {theirs.index[0]} to {theirs.index[-1]}"
    ours, theirs = ours.to_numpy(), theirs.to_numpy()
    differing = ~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    if not differing.any():
        return "the same rows to the last bit"
    largest = np.abs(theirs - ours)[differing].max()
    return f"**other values**: {differing.mean():.2%} of them, by up to {largest:.2g}"


def seconds(name: str, weight: Weight) -> float:
    """Of a limit, what it took by itself, without the start of its process."""
    return float(weight.output.split()[-1]) if name in LIMITS else weight.seconds


def report(source: Table, weights: dict[str, list[Weight]], notes: list[str]) -> str:
    """The table, and how the goals were met."""
    took = {name: statistics.median(seconds(name, each) for each in all) for name, all in weights.items()}
    rates = {name: source.rows / each for name, each in took.items()}
    lines = [
        "| | rows/s | seconds: median (spread) | CPU s: own + QuestDB | peak MB |",
        "|---|---|---|---|---|",
    ]
    for name, each in weights.items():
        spread = sorted(seconds(name, weight) for weight in each)
        fields = ("cpu", "server_cpu", "resident_mb")
        own, server, peak = (statistics.median(getattr(weight, field) for weight in each) for field in fields)
        ratio = "" if name == INGESTER else f" ({rates[name] / rates[INGESTER]:.2f}x)"
        lines.append(
            f"| {TITLES.get(name) or 'limit: ' + LIMITS[name]} | {rates[name]:,.0f}{ratio} "
            f"| {took[name]:.2f} ({spread[0]:.2f} - {spread[-1]:.2f}) | {own:.1f} + {server:.1f} | {peak:,.0f} |"
        )
    goals = [
        goal(f"rows/s of {name}", rates[INGESTER] / rates[name], wanted)
        for name, wanted in GOALS.items()
        if name in rates
    ]
    slower = max(LIMITS, key=lambda name: took[name])
    goals.append(goal(f"rows/s of the narrower limit, {slower}", rates[INGESTER] / rates[slower], LIMIT_SHARE))
    goals.append(f"both limits one after the other: {source.rows / sum(took[name] for name in LIMITS):,.0f} rows/s")
    return "\n".join([*lines, "", *(f"- {line}" for line in [*goals, *notes])])


def goal(what: str, watermark: float, wanted: float) -> str:
    """A goal in words, marked where it is not reached."""
    return (
        f"{watermark:.2f}x the {what}; the goal of {wanted:g}x is {'reached' if watermark >= wanted else '**missed**'}"
    )


def memory(source: Table) -> str:
    """The peak memory of an export to each format."""
    lines = [
        "| format | rows/s | seconds | peak resident MB | its anonymous part | its mapped files | by getrusage |",
        "|---|---|---|---|---|---|---|",
    ]
    for form in ("pkl", "parquet"):
        weight = run(INGESTER, source, form=form)
        rate, above = source.rows / weight.seconds, ", **above the goal**" if weight.resident_mb > RESIDENT_MB else ""
        lines.append(
            f"| {form} | {rate:,.0f} | {weight.seconds:.1f} | {weight.resident_mb:,.0f}{above} "
            f"| {weight.anonymous_mb:,.0f} | {weight.mapped_mb:,.0f} | {weight.rusage_mb:,.0f} |"
        )
    return "\n".join(lines)


def versions(python: str | None) -> str:
    """The versions of what takes part."""
    parts = [f"{name} {importlib.metadata.version(name)}" for name in ("ingester", "pandas", "pyarrow")]
    if python:
        show = "import sys, importlib.metadata as m; [print(name, m.version(name)) for name in sys.argv[1:]]"
        command = [python, "-c", show, "connectorx", "psycopg", "SQLAlchemy"]
        parts += subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return ", ".join(parts)


if __name__ == "__main__":
    main()
