"""`ingester sql`: a question to the table, from the shell."""

import sys
from pathlib import Path

import click
from rich.console import Console

from ingester.cli.options import data_options, open_questdb
from ingester.cli.tables import TextTable, print_json
from ingester.questdb import Endpoint, QuestDB, Result

MOST_TABLE_ROWS = 1000


@click.command(short_help="Ask the recorded tables in SQL.")
@click.argument("statement")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How rows are printed.",
)
@data_options
def sql(statement: str, form: str, data_dir: Path, questdb: Endpoint | None) -> None:
    """Runs one SQL statement and prints its rows.

    \b
    Examples:
      ingester sql "SELECT symbol, count() FROM orderbook"
      ingester sql "SELECT * FROM spread LIMIT -5" --format csv
    """
    db, _ = open_questdb(data_dir, questdb)
    if form == "csv":
        _print_csv(db, statement)
        return
    result = db.sql(statement)
    if form == "json":
        rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
        print_json(rows)
    elif result.columns:
        _print_table(result)


def _print_csv(db: QuestDB, statement: str) -> None:
    for piece in db.csv(statement):
        sys.stdout.buffer.write(piece)
    sys.stdout.flush()


def _print_table(result: Result) -> None:
    console = Console(width=None if sys.stdout.isatty() else 4000, highlight=False)
    table = TextTable(box=None, header_style="bold", pad_edge=False)
    numeric = {"DOUBLE", "FLOAT", "LONG", "INT", "SHORT", "BYTE"}
    for name, type_ in zip(result.columns, result.types, strict=True):
        table.add_column(name, justify="right" if type_ in numeric else "left", no_wrap=True)
    for row in result.rows[:MOST_TABLE_ROWS]:
        table.add_row(*("" if value is None else str(value) for value in row))
    console.print(table)
    if len(result.rows) > MOST_TABLE_ROWS:
        left_out = len(result.rows) - MOST_TABLE_ROWS
        click.echo(f"… and {left_out} more rows; --format csv prints them all", err=True)
