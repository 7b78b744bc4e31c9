"""Tables, JSON and progress bars. Text from outside is printed as it is: no markup, no control characters."""

import contextlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import click
import msgspec
import rich.table
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ingester.text import plain


class TextTable(rich.table.Table):
    """A table of rich that takes texts literally."""

    def add_column(self, header: RenderableType = "", *arguments: Any, **options: Any) -> None:
        super().add_column(_literal(header), *arguments, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(None if cell is None else _literal(cell) for cell in cells), **options)


def _literal(cell: RenderableType) -> RenderableType:
    if isinstance(cell, str):
        return Text(plain(cell, ""))
    if isinstance(cell, Text) and (text := plain(cell.plain)) != cell.plain:
        return Text(text, cell.style)
    return cell


def plain_table(
    columns: Sequence[str], rows: Iterable[Sequence[RenderableType]], numbers: Collection[str] = ()
) -> TextTable:
    """Returns a table without lines; the columns named in `numbers` are aligned to the right."""
    table = TextTable(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def print_table(table: TextTable, width: int = 200) -> None:
    """Prints a table; `width`: of the output where that is no terminal."""
    Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False).print(table)


def print_json(value: object) -> None:
    """Prints a value for programs."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


@contextlib.contextmanager
def progress_bar(text: str, total: float) -> Iterator[Callable[[float], None]]:
    """Shows a bar while a terminal is attached; gives what is called with how much is done."""
    columns = (TextColumn(text), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
