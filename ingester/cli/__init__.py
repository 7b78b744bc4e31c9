"""The command line: read options, call one function, print. The only place that turns errors into exit codes."""

import errno
import gc
import logging
import os
import sys
import time
from importlib import import_module
from typing import Any

import click

from ingester import __version__
from ingester.cli.terminal import OutputLost, close_streams, open_streams, use_utf8
from ingester.errors import IngesterError, UsageError
from ingester.text import PlainLines, exchange_lines, plain

MODULES = {
    "start": "start",
    "pairs": "pairs",
    "status": "status",
    "doctor": "doctor",
    "export": "export",
    "coverage": "coverage",
    "import": "import_",
    "sql": "sql",
    "retention": "retention",
    "spool": "spool",
    "simulate": "simulate",
    "server": "server",
    "init": "config",
    "config": "config",
}
"""The module of each command, in the order in which a newcomer needs them."""


class _WrongUsage(click.ClickException):
    exit_code = 2


class _Failure(click.ClickException):
    exit_code = 1


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        from ingester.cli import configuration  # a tenth of a second that `--version` does not need

        try:
            return super().invoke(ctx)
        except IngesterError as error:
            kind = _WrongUsage if isinstance(error, UsageError) else _Failure
            raise kind(plain(configuration.explained(ctx, str(error)))) from error
        except click.UsageError as error:
            shown = configuration.refused(ctx, error)
            if (message := shown.format_message()) != plain(message):
                shown = click.UsageError(plain(message), shown.ctx)
            raise shown from None
        except OSError as error:
            if error.errno is None or error.errno == errno.EPIPE or type(error).__module__ != "builtins":
                raise
            where = configuration.folder_of(ctx)
            raise _Failure(plain(configuration.explained(ctx, system_error(error, where)))) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imported when it is asked for: a command should not wait for what others need."""
        if cmd_name not in MODULES:
            return None
        name = "import_" if cmd_name == "import" else cmd_name
        command: click.Command = getattr(import_module(f"ingester.cli.{MODULES[cmd_name]}"), name)
        from ingester.cli.configuration import configurable

        return configurable(cmd_name, command)


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


_ADVICE = {
    errno.ENOSPC: "Make room there, or choose another folder.",
    errno.EDQUOT: "Make room, have the quota raised, or choose another folder.",
    errno.EFBIG: "Allow larger files (ulimit -f), or choose another folder.",
    errno.EIO: "The disk may be failing: see the system's log.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EACCES: "Give this user the right to it, or choose another folder.",
    errno.EPERM: "Give this user the right to it, or choose another folder.",
    errno.EMFILE: "Allow this process more open files (ulimit -n), and try again.",
    errno.ENAMETOOLONG: "Choose a folder with a shorter name.",
}


def system_error(error: OSError, folder: str | None = None) -> str:
    """What the system refused: the file where it is known, else the command's folder; and what to do."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = " to ".join(names) or (f"In {folder}" if folder else "The system")
    return " ".join(filter(None, [f"{where}: {error.strerror or error}.", _ADVICE.get(error.errno or 0)]))


def log_to_stderr() -> None:
    """Transitions go to stderr, one line each, in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    for each in (exchange_lines(), PlainLines()):
        handler.addFilter(each)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger("ingester")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def main() -> None:
    """The `ingester` command."""
    open_streams()
    use_utf8()
    logging.raiseExceptions = False  # a line that cannot be logged changes nothing
    try:
        cli(prog_name="ingester")
    except OutputLost as error:
        click.echo(f"Error: What was to be printed could not be written: {error.strerror}.", err=True)
        sys.exit(1)
    finally:
        close_streams()
        gc.freeze()  # what is left is not searched for garbage at the end: a tenth of a second
