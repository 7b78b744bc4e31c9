"""What a person sees of an export: bars while it works, a table of the pairs at its end."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ingester.cli.terminal import TextTable
from ingester.clock import SECOND
from ingester.datasets import MissingTime, PairFile, percent_covered, request as requests
from ingester.words import counted


@contextmanager
def shown(progress: requests.Progress) -> Iterator[None]:
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


def summary(
    request: requests.Request,
    files: Sequence[PairFile],
    gaps: Mapping[str, Sequence[MissingTime]],
    target: Path,
    lasted: float,
) -> None:
    table = TextTable(box=None, pad_edge=False, header_style="dim")
    for name, align in (("pair", "left"), ("rows", "right"), ("covered", "right"), ("gaps", "right")):
        table.add_column(name, justify=align)
    table.add_column("largest gap")
    for file in files:
        own = gaps.get(file.symbol, [])
        covered = percent_covered(own, request.start_ns, request.end_ns)
        largest = max(own, key=lambda gap: gap.length_ns, default=None)
        text = f"{largest.length_ns / SECOND:,.1f} s, {largest.reason}" if largest else ""
        table.add_row(file.symbol, f"{file.rows:,}", f"{covered:.2f} %", str(len(own)), text)
    Console(soft_wrap=True).print(table)
    rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
    click.echo(f"{rows:,} rows of {counted(len(files), 'pair')}, {size / 1e6:,.0f} MB in {lasted:.1f} s:\n{target}")
