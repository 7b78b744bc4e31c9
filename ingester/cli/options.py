"""Options that several commands share, and how a command reaches its QuestDB."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from ingester.cli.access import Access, endpoint_of
from ingester.cli.configured import strongest
from ingester.config import default_data_dir
from ingester.exchange import DEFAULT_COINS, DEFAULT_QUOTE, is_name, normal, symbols_of, use_listing
from ingester.questdb import Endpoint, ManagedServer, QuestDB, connect

Command = TypeVar("Command", bound=Callable[..., Any])


def _with_listing(context: click.Context, parameter: click.Parameter, data_dir: Path) -> Path:
    use_listing(data_dir)
    return data_dir


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_with_listing,
    default=default_data_dir,
    show_default="the platform's folder for user data",
    help="Folder of the managed server and everything else that is kept.",
)
questdb_option = click.option(
    "--questdb",
    envvar="INGESTER_QUESTDB",
    metavar="URL",
    help="Use this QuestDB, http(s)://host:port, instead of the managed one.",
)
_file = click.Path(dir_okay=False, path_type=Path)
_access_options = (
    click.option("--questdb-user", envvar="INGESTER_QUESTDB_USER", metavar="NAME", help="User name at QuestDB."),
    click.option(
        "--questdb-password-file",
        envvar="INGESTER_QUESTDB_PASSWORD_FILE",
        type=_file,
        metavar="FILE",
        help="Holds the user's password; INGESTER_QUESTDB_PASSWORD may hold it instead.",
    ),
    click.option(
        "--questdb-token-file",
        envvar="INGESTER_QUESTDB_TOKEN_FILE",
        type=_file,
        metavar="FILE",
        help="Holds a token in place of user and password; INGESTER_QUESTDB_TOKEN may hold it.",
    ),
    click.option(
        "--questdb-ca",
        envvar="INGESTER_QUESTDB_CA",
        type=_file,
        metavar="FILE",
        help="Certificates (PEM) of who vouches for an https QuestDB.  [default: those that the system trusts]",
    ),
    # Not for the command line, where every user of the machine could read them: `endpoint_of` refuses them there.
    click.option(
        "--questdb-password",
        envvar="INGESTER_QUESTDB_PASSWORD",
        hidden=True,
        help="The password itself; refused on the command line, where others could read it.",
    ),
    click.option(
        "--questdb-token",
        envvar="INGESTER_QUESTDB_TOKEN",
        hidden=True,
        help="The token itself; refused on the command line, where others could read it.",
    ),
)


def data_options(command: Command) -> Command:
    """`--data-dir` and all options that say which QuestDB and as whom, for every command that touches data.

    The command gets `data_dir` and `questdb`, an Endpoint, or None for the managed server.
    """

    @functools.wraps(command)
    def with_endpoint(*arguments: Any, questdb: str | None, **others: Any) -> Any:
        access = Access(questdb, **{name: others.pop(f"questdb_{name}") for name in Access._fields[1:]})
        return command(*arguments, questdb=endpoint_of(access), **others)

    decorated: Any = with_endpoint
    for option in reversed(_access_options):
        decorated = option(decorated)
    return cast(Command, data_dir_option(questdb_option(decorated)))


def pair_options(default: str) -> Callable[[Command], Command]:
    """`--coins`, `--quote` and `--pairs`; `default` says which pairs are meant where none is named."""

    def decorate(command: Command) -> Command:
        pairs = click.option("--pairs", metavar="PAIR,…", help="Pairs as Binance writes them: BTCUSDT,ETHBTC.")
        quote = click.option("--quote", default=DEFAULT_QUOTE, show_default=True, help="What the coins are priced in.")
        coins = click.option("--coins", metavar="COIN,…", help=f"Coins: BTC,ETH.  [default: {default}]")
        return coins(quote(pairs(command)))

    return decorate


def named_symbols(coins: str | None, quote: str, pairs: str | None) -> tuple[list[str], bool]:
    """The wanted symbols, and whether the user named them (otherwise they are the default list)."""
    coins, pairs = strongest(coins=coins, pairs=pairs)
    if coins is not None and pairs is not None:
        raise click.UsageError("--coins and --pairs both name pairs; give one of them.")
    if pairs is not None:
        return [normal(name) for name in _names(pairs, "--pairs")], True
    if coins is not None:
        return symbols_of(_names(coins, "--coins"), quote), True
    return symbols_of(DEFAULT_COINS, quote), False


def _names(text: str, option: str) -> list[str]:
    names = [name for name in text.replace(" ", ",").split(",") if name]
    for name in names:
        if not is_name(name):
            raise click.UsageError(f"{option} {name!r} is not a name of letters and digits, such as BTCUSDT or BTC.")
    if not names:
        raise click.UsageError(f"{option} names nothing. Write names with commas between, such as BTC,ETH.")
    return names


def open_questdb(data_dir: Path, questdb: Endpoint | None, new: bool = False) -> tuple[QuestDB, ManagedServer | None]:
    """The QuestDB that the options ask for, once it answers; the managed one is started where it does not run.

    A folder without data is an error, unless `new` says that the command may begin there. Raises StoreError.
    """
    return connect(data_dir, questdb, new), None if questdb is not None else ManagedServer(data_dir)
