"""What a person sees of an export: bars while it works, a table of the pairs at its end."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress as Bars, TextColumn, TimeRemainingColumn

from ingester.cli.terminal import TextTable
from ingester.datasets import DataSet, Progress
from ingester.words import counted


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
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

    def show(progress: Progress) -> None:
        if not progress.files_written:
            rate = progress.rows_read / max(time.monotonic() - began, 1e-3)
            detail = f"{progress.rows_read:,} rows, {rate:,.0f}/s"
            bars.update(reading, total=progress.rows or None, completed=progress.rows_read, detail=detail)
        detail = f"{progress.files_written} of {progress.files} files, {progress.pair}"
        bars.update(writing, total=progress.files or None, completed=progress.files_written, detail=detail)

    with bars:
        yield show


def summary(data: DataSet, lasted: float) -> None:
    """Prints a line for each pair of a data set, and where it is."""
    table = TextTable(box=None, pad_edge=False, header_style="dim")
    for name, align in (("pair", "left"), ("rows", "right"), ("covered", "right"), ("gaps", "right")):
        table.add_column(name, justify=align)
    table.add_column("largest gap")
    pairs = data.manifest["pairs"]
    for symbol, pair in pairs.items():
        largest = max(pair["gaps"], key=lambda gap: gap["seconds"], default=None)
        text = f"{largest['seconds']:,.1f} s, {largest['reason']}" if largest else ""
        table.add_row(symbol, f"{pair['rows']:,}", f"{pair['coverage_percent']:.2f} %", str(len(pair["gaps"])), text)
    Console(soft_wrap=True).print(table)
    size = sum(pair["bytes"] for pair in pairs.values()) / 1e6
    click.echo(f"{data.manifest['rows']:,} rows of {counted(len(pairs), 'pair')}, {size:,.0f} MB in {lasted:.1f} s:")
    click.echo(str(data.path))
