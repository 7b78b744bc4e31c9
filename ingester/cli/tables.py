"""Tables for people. Text in them is shown as it is: no markup, no control characters."""

from typing import Any

import rich.table
from rich.console import RenderableType
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
