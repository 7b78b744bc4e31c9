"""`ingester spool`: rows that wait for QuestDB under the name of a recorder that does not run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from ingester.cli.options import data_dir_option, data_options, open_questdb
from ingester.cli.tables import print_json
from ingester.cli.terminal import stop_signals
from ingester.errors import OperationError
from ingester.monitoring import running_collectors
from ingester.questdb import Endpoint
from ingester.record import Leftover, leftovers, refuse_sending, send as send_rows, spools

NONE_WAIT = "No rows of stopped recorders are waiting."


@click.group(short_help="See and send rows that wait under another recorder's name.")
def spool() -> None:
    """Rows wait in the data folder, in spool/NAME, until QuestDB has them; the recorder of that name sends them.

    If that recorder does not come back (its name was the host name, and the host was replaced), these commands list
    such rows and send them. The rows keep the name under which they were recorded.

    \b
    Examples:
      ingester spool list
      ingester spool send
    """


@spool.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@data_dir_option
def list_(as_json: bool, data_dir: Path) -> None:
    """Lists waiting rows whose recorder is not running.

    \b
    --json prints [{collector, rows, oldest_ns, newest_ns}].

    \b
    Example:
      ingester spool list
    """
    _require(data_dir)
    unreadable: list[str] = []
    found = leftovers(data_dir, running_collectors(data_dir), unreadable)
    if unreadable:
        raise OperationError(f"{'; '.join(unreadable)}. It may hold rows that wait. Try again.")
    if as_json:
        print_json([each._asdict() for each in found])
        return
    for each in found:
        click.echo(f"{each.text}.\n  {each.mend(data_dir)}")
    if not found:
        click.echo(NONE_WAIT)


@spool.command()
@click.option("--collector", metavar="NAME", help="Send the rows of this one only.  [default: of all that do not run]")
@data_options
@click.pass_context
def send(ctx: click.Context, collector: str | None, data_dir: Path, questdb: Endpoint | None) -> None:
    """Sends rows that wait to QuestDB, without recording; what was sent before is not stored twice.

    Give the --questdb with which they were recorded, if there was one. Exit code 1: some rows are still waiting.

    \b
    Examples:
      ingester spool send
      ingester spool send --collector old-host --questdb http://db:9000
    """
    _require(data_dir)
    unreadable: list[str] = []
    found = leftovers(data_dir, running_collectors(data_dir), unreadable)
    for line in unreadable:
        click.echo(line, err=True)
    chosen = [each for each in found if collector in (None, each.collector)]
    if not chosen:
        known = f" Rows of {', '.join(each.collector for each in found)} are waiting." if found else ""
        click.echo(
            f"No rows of {collector} are waiting, or its recorder is running and sends them itself.{known}"
            if collector
            else NONE_WAIT
            if not unreadable
            else "Nothing was sent."
        )
        ctx.exit(1 if unreadable else 0)
    db, _ = open_questdb(data_dir, questdb, new=True)
    refuse_sending(db, data_dir)
    complete = not unreadable
    with stop_signals() as stop:
        for each in chosen:
            with _counting(each) as show:
                sent = send_rows(db, data_dir, each.collector, time.time_ns, stop.wait, show)
            complete = complete and sent.complete
            click.echo(f"{each.collector}: {sent.rows:,} rows sent, {sent.waiting:,} wait")
            if not sent.complete:
                why = sent.failure or "QuestDB has not shown all of them yet; run this again to check"
                click.echo(f"  {why}", err=True)
            if stop.is_set():
                break
    ctx.exit(0 if complete and not stop.is_set() else 1)


def _require(data_dir: Path) -> None:
    if not spools(data_dir).is_dir():
        raise OperationError(
            f"There is no spool in {data_dir}: nothing was recorded there yet. `ingester start` records; if the data "
            "is elsewhere, give its folder with --data-dir."
        )


@contextmanager
def _counting(each: Leftover) -> Iterator[Callable[[int], None]]:
    with Console(stderr=True).status("") as status:  # shown on a terminal only
        yield lambda rows: status.update(f"{each.collector}: {rows:,} of {each.rows:,} rows wait")
