"""`ingester export`: a range of time as a data set."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress as Bars, TextColumn, TimeRemainingColumn

from ingester.cli.options import data_options, exchange_of_table_option, named_symbols, open_questdb, pair_options
from ingester.cli.tables import plain_table
from ingester.datasets import dataset
from ingester.questdb import Endpoint
from ingester.text import counted

if TYPE_CHECKING:
    from ingester.datasets import DataSet, Progress


@click.command(short_help="Write a range of time as a data set.")
@click.option("--from", "start", required=True, metavar="TIME", help="2023-06-01, '2023-06-01 12:00', ISO, today; UTC.")
@click.option("--to", "end", required=True, metavar="TIME", help="The first moment no longer in it, or now.")
@pair_options("all that have rows in the range")
@exchange_of_table_option
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
    help="Grid rows whose book is older: NaN, or the last book carried forward.",
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
    exchange: str | None,
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
    named, by_user = named_symbols(coins, quote, pairs)
    db, _ = open_questdb(data_dir, questdb)
    from ingester.datasets import export_range  # takes a third of a second

    began = time.monotonic()
    with _progress_bars() as on_progress:
        data = export_range(
            db,
            start_ns,
            end_ns,
            named if by_user else None,
            root=root,
            exchange=exchange,
            format=form,
            levels=levels,
            every=every,
            max_age=max_age,
            fill=fill,
            overwrite=overwrite,
            resume=resume,
            on_progress=on_progress,
        )
    _print_summary(data, time.monotonic() - began)


@contextmanager
def _progress_bars() -> Iterator[Callable[["Progress"], None]]:
    """A bar for the rows and one for the files, where a terminal is attached; gives what an export calls."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[detail]:38}", style="dim"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    reading = bars.add_task("reading", total=None, detail="")
    writing = bars.add_task("writing", total=None, detail="")
    began = time.monotonic()

    def show(progress: "Progress") -> None:
        if not progress.files_written:
            rate = progress.rows_read / max(time.monotonic() - began, 1e-3)
            detail = f"{progress.rows_read:,} rows, {rate:,.0f}/s"
            bars.update(reading, total=progress.rows or None, completed=progress.rows_read, detail=detail)
        detail = f"{progress.files_written} of {progress.files} files, {progress.pair}"
        bars.update(writing, total=progress.files or None, completed=progress.files_written, detail=detail)

    with bars:
        yield show


def _print_summary(data: "DataSet", lasted: float) -> None:
    """Prints a line for each pair of a data set, and where it is."""
    numbers = ("rows", "covered", "gaps")
    table = plain_table(("pair", *numbers, "largest gap"), [], numbers)
    pairs = data.manifest["pairs"]
    for symbol, pair in pairs.items():
        largest = max(pair["gaps"], key=lambda gap: gap["seconds"], default=None)
        text = f"{largest['seconds']:,.1f} s, {largest['reason']}" if largest else ""
        table.add_row(symbol, f"{pair['rows']:,}", f"{pair['coverage_percent']:.2f} %", str(len(pair["gaps"])), text)
    Console(soft_wrap=True).print(table)
    size = sum(pair["bytes"] for pair in pairs.values()) / 1e6
    click.echo(f"{data.manifest['rows']:,} rows of {counted(len(pairs), 'pair')}, {size:,.0f} MB in {lasted:.1f} s:")
    click.echo(str(data.path))
