"""The names of the tables, and the statements in `sql/` that create them and the views over them."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from ingester.book import level_columns

ORDERBOOK = "orderbook"
EVENTS = "collector_events"
INSTRUMENTS = "instruments"
DEFAULT_EXCHANGE = "binance"
"""The exchange of imported files that name none, and of recorders without a `started` event."""
IMPORTED = "import"
"""The collector of rows that came from files."""
DEDUP_KEYS = {
    ORDERBOOK: ("timestamp", "exchange", "symbol", "collector", "last_update_id"),
    EVENTS: ("timestamp", "exchange", "collector", "kind", "symbol", "connection"),
    INSTRUMENTS: ("timestamp", "exchange", "symbol"),
}


def sql_folder() -> Traversable:
    """Returns the folder `sql/`: inside the installed package, or beside it in a checkout."""
    installed = files("ingester") / "sql"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "sql"


def statements(depth: int) -> list[str]:
    """Returns the statements that create the tables for a depth, in order. Applying them twice changes nothing."""
    folder = sorted((file for file in sql_folder().iterdir() if re.match(r"\d{3}_", file.name)), key=lambda f: f.name)
    chosen = [f for f in folder if "_depth_" not in f.name or f.name.endswith(f"_depth_{depth}.sql")]
    return [file.read_text(encoding="utf-8") for file in chosen]


def statement(table: str) -> str:
    """Returns the statement that creates a table that has one form. Applying it twice changes nothing."""
    (file,) = (file for file in sql_folder().iterdir() if re.fullmatch(rf"\d{{3}}_{table}\.sql", file.name))
    return file.read_text(encoding="utf-8")


def views() -> list[tuple[str, str]]:
    """Returns the name and statement of each view in `sql/views/`. Applying one twice changes nothing."""
    folder = sorted((sql_folder() / "views").iterdir(), key=lambda file: file.name)
    return [
        (file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in folder
        if file.name.endswith(".sql")
    ]


def for_depth(view: str, depth: int) -> str:
    """Returns the statement of a view over a table of this depth. Applying it twice changes nothing.

    `{held}` is the number of prices of a row, `{levels}` the columns of a book that may have a deeper copy.
    """
    names = level_columns(depth)
    held = " + ".join(f"CASE WHEN {name} IS NULL THEN 0 ELSE 1 END" for name in names[::2])
    chosen = "CASE WHEN deepest.held IS NULL THEN books.{0} ELSE deepest.{0} END {0}"
    levels = ", ".join(chosen.format(name) for name in names)
    return view.replace("{held}", held).replace("{levels}", levels)
