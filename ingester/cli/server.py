"""`ingester server`: the managed QuestDB."""

from pathlib import Path

import click
import msgspec

from ingester.cli.options import data_dir_option
from ingester.cli.tables import print_json
from ingester.questdb import ManagedServer


@click.group(short_help="Govern the managed QuestDB.")
def server() -> None:
    """Starts, stops and shows the QuestDB that ingester keeps in its data folder.

    \b
    Examples:
      ingester server status --json
      ingester server console
    """


@server.command()
@data_dir_option
def start(data_dir: Path) -> None:
    """Starts the server; one that runs already is left alone.

    \b
    Example:
      ingester server start
    """
    endpoint = ManagedServer(data_dir).ensure()
    click.echo(f"QuestDB runs at {endpoint.http_url}")


@server.command()
@data_dir_option
def stop(data_dir: Path) -> None:
    """Stops the server; what it holds is kept.

    \b
    Example:
      ingester server stop
    """
    click.echo("QuestDB stopped" if ManagedServer(data_dir).stop() else "QuestDB was not running")


@server.command()
@data_dir_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def status(ctx: click.Context, data_dir: Path, as_json: bool) -> None:
    """Shows whether and where the server runs; exit code 1 where it does not.

    \b
    Example:
      ingester server status --json
    """
    managed = ManagedServer(data_dir)
    now = managed.status()
    if as_json:
        print_json(now)
    else:
        for name, value in msgspec.to_builtins(now).items():
            click.echo(f"{name.replace('_', ' '):<14} {value}")
    if not now.running:
        if not as_json:
            managed.require_data()
        ctx.exit(1)


@server.command()
@data_dir_option
def console(data_dir: Path) -> None:
    """Says where to query in the browser, and with which password; starts the server where needed.

    \b
    Example:
      ingester server console
    """
    managed = ManagedServer(data_dir)
    managed.require_data()
    endpoint = managed.ensure()
    click.echo(f"console    {endpoint.http_url}")
    click.echo(f"user       {endpoint.user}")
    click.echo(f"password   in {managed.status().password_file} (only you can read it)")
