"""The command line: read options, call one function, print. The only place that turns errors into exit codes."""

import logging
import sys
import time
from typing import Any

import click

from ingester import __version__
from ingester.cli.coverage import coverage
from ingester.cli.export import export
from ingester.cli.import_ import import_
from ingester.cli.server import server
from ingester.cli.simulate import simulate
from ingester.cli.sql import sql
from ingester.cli.start import start
from ingester.errors import IngesterError, UsageError


class _WrongUsage(click.ClickException):
    exit_code = 2


class _Failure(click.ClickException):
    exit_code = 1


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except IngesterError as error:
            raise (_WrongUsage if isinstance(error, UsageError) else _Failure)(str(error)) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which a newcomer needs them


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, package_name="ingester")
def cli() -> None:
    """Records Binance order books without a hole and cuts training sets out of them.

    \b
    First steps:
      ingester start --pairs BTCUSDT,ETHUSDT       record until Ctrl-C
      ingester sql "SELECT * FROM orderbook LATEST ON timestamp PARTITION BY symbol"
      ingester server console                      where to query in the browser
    """
    log_to_stderr()


def log_to_stderr() -> None:
    """Transitions go to stderr, one line each, in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger("ingester")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


for command in (start, coverage, export, import_, sql, simulate, server):
    cli.add_command(command)


def main() -> None:
    """The `ingester` command."""
    cli(prog_name="ingester")
