"""`ingester export`: a range of time as a data set."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ingester.cli.options import data_options, named_symbols, open_questdb, pair_options
from ingester.clock import SECOND
from ingester.datasets import dataset
from ingester.datasets import request as requests
from ingester.datasets.dropped import dropped_ranges, explained
from ingester.datasets.export import PairFile
from ingester.datasets.export import export as write_data_set
from ingester.datasets.gaps import Gap, pair_gaps, percent_covered
from ingester.datasets.manifest import manifest, write_manifest
from ingester.datasets.selection import check_range, choose_symbols
from ingester.errors import SettingsError
from ingester.settings import seconds
from ingester.store import query
from ingester.store.endpoint import Endpoint
from ingester.store.holds import EXPORT, holding
from ingester.store.questdb import QuestDB


@click.command(short_help="Write a range of time as a data set.")
@click.option("--from", "start", required=True, metavar="TIME", help="2023-06-01, '2023-06-01 12:00', ISO, today; UTC.")
@click.option("--to", "end", required=True, metavar="TIME", help="The first moment no longer in it, or now.")
@pair_options("all that have rows in the range")
@click.option(
    "--format", "form", type=click.Choice(dataset.FORMATS), default="pkl", show_default=True, help="Of files."
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=dataset.ROOT,
    show_default=True,
    help="Folder in which data sets are kept.",
)
@click.option("--levels", type=int, default=5, show_default=True, help="Levels a side, up to those recorded.")
@click.option(
    "--every", metavar="DURATION", help="Put all pairs on one grid: 250ms, 1s, …  [default: rows as received]"
)
@click.option("--max-age", default="1s", show_default=True, help="A snapshot older than this is not held on the grid.")
@click.option(
    "--fill",
    type=click.Choice(dataset.FILLS),
    default="none",
    show_default=True,
    help="What becomes of older ones: NaN, or carried forward all the same.",
)
@click.option("--overwrite", is_flag=True, help="Replace the data set of this range.")
@click.option("--resume", is_flag=True, help="Go on with one that was interrupted, and keep it where it is again.")
@data_options
def export(
    start: str,
    end: str,
    coins: str | None,
    quote: str,
    pairs: str | None,
    form: str,
    root: Path,
    levels: int,
    every: str | None,
    max_age: str,
    fill: str,
    overwrite: bool,
    resume: bool,
    data_dir: Path,
    questdb: Endpoint | None,
) -> None:
    """Writes the rows from one time until before another as files, one for each pair, with a manifest.

    \b
    Examples:
      ingester export --from 2024-08-08 --to 2024-08-09
      ingester export --from '2024-08-08 12:00' --to '2024-08-08 13:00' --every 250ms --format parquet
      ingester export --from 2024-08-08 --to 2024-08-09 --coins BTC,ETH --levels 1 --format csv
    """
    start_ns, end_ns = dataset.parse_time(start, "--from"), dataset.parse_time(end, "--to")
    check_range(start_ns, end_ns)
    named, by_user = named_symbols(coins, quote, pairs)
    every_ns = _milliseconds(every, "--every") if every else None
    max_age_ns = round(seconds(max_age, "--max-age") * SECOND)
    db, _ = open_questdb(data_dir, questdb)
    click.get_current_context().with_resource(holding(db, EXPORT, start_ns, end_ns))
    counts = _counts(db, start_ns, end_ns)
    symbols = choose_symbols(named if by_user else None, counts, query.all_symbols(db) if by_user else list(counts))
    depth = query.depth(db)
    if not 1 <= levels <= depth:
        raise SettingsError(f"--levels {levels} is not between 1 and {depth}, the depth that was recorded.")
    request = requests.Request(start_ns, end_ns, tuple(symbols), levels, form, every_ns, max_age_ns, fill)
    target = root / dataset.EXTRACTED / dataset.folder_name(start_ns, end_ns)
    progress, began = requests.Progress(), time.monotonic()
    with ThreadPoolExecutor(1, "gaps") as beside, _shown(progress):
        gaps = beside.submit(_gaps, db, start_ns, end_ns, symbols)

        def finish(folder: Path, files: Sequence[PairFile]) -> None:
            collectors = query.collectors(db, start_ns, end_ns)
            write_manifest(folder, manifest(request, files, gaps.result(), collectors))

        files = write_data_set(db, request, target, counts, progress, finish, overwrite, resume)
    _summary(request, files, gaps.result(), target, time.monotonic() - began)


def _gaps(db: QuestDB, start_ns: int, end_ns: int, symbols: Sequence[str]) -> dict[str, list[Gap]]:
    """The gaps of each pair; what retention has dropped is said to be."""
    dropped = dropped_ranges(db, start_ns, end_ns)
    gaps = pair_gaps(db, start_ns, end_ns, symbols)
    return {symbol: explained(own, dropped) for symbol, own in gaps.items()}


def _milliseconds(text: str, option: str) -> int:
    ns = round(seconds(text, option) * SECOND)
    if ns % dataset.MILLISECOND:
        raise SettingsError(f"{option} {text!r} is not a whole number of milliseconds. Write 250ms, 1s, …")
    return ns


def _counts(db: QuestDB, start_ns: int, end_ns: int) -> dict[str, int]:
    return query.rows_by_symbol(db, start_ns, end_ns) if query.table_exists(db) else {}


@contextmanager
def _shown(progress: requests.Progress) -> Iterator[None]:
    """A bar for the whole and one for the files, where a terminal is attached."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield
        return
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[detail]}", style="dim"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    stop = threading.Event()

    def follow() -> None:
        reading = bars.add_task("reading", total=None, detail="")
        writing = bars.add_task("writing", total=None, detail="")
        began, rate = time.monotonic(), 0.0
        while not stop.wait(0.2):
            if progress.rows_read < progress.rows or not rate:
                rate = progress.rows_read / (time.monotonic() - began)
            detail = f"{progress.rows_read:,} rows, {rate:,.0f}/s"
            bars.update(reading, total=progress.rows or None, completed=progress.rows_read, detail=f"{detail:38}")
            detail = f"{progress.files_written} of {progress.files} files, {progress.pair}"
            bars.update(writing, total=progress.files or None, completed=progress.files_written, detail=f"{detail:38}")

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    with bars:
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _summary(
    request: requests.Request, files: list[PairFile], gaps: dict[str, list[Gap]], target: Path, lasted: float
) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, align in (("pair", "left"), ("rows", "right"), ("covered", "right"), ("gaps", "right")):
        table.add_column(name, justify=align)  # type: ignore[arg-type]
    table.add_column("largest gap")
    for file in files:
        own = gaps.get(file.symbol, [])
        covered = percent_covered(own, request.start_ns, request.end_ns)
        largest = max(own, key=lambda gap: gap.length_ns, default=None)
        text = f"{largest.length_ns / SECOND:,.1f} s, {largest.reason}" if largest else ""
        table.add_row(file.symbol, f"{file.rows:,}", f"{covered:.2f} %", str(len(own)), text)
    Console(soft_wrap=True).print(table)
    rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
    click.echo(f"{rows:,} rows of {len(files)} pairs, {size / 1e6:,.0f} MB in {lasted:.1f} s:\n{target}")
