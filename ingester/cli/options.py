"""Options that several commands share: pairs, exchange, data folder, and which QuestDB as whom."""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from ingester.config import default_data_dir
from ingester.errors import SettingsError
from ingester.exchange import (
    DEFAULT_COINS,
    DEFAULT_QUOTE,
    SIMULATOR,
    VENUES,
    NotConnected,
    Venue,
    is_pair_name,
    keep_listings_in,
    normal_symbol,
    rightly_named,
    simulator_at,
    symbols_of,
    tls_context,
)
from ingester.questdb import Endpoint, ManagedServer, QuestDB, connect, read_secret
from ingester.record import PairsFile, pairs_file_name

log = logging.getLogger("ingester.access")

Command = TypeVar("Command", bound=Callable[..., Any])

OTHER_WAYS = "--questdb-password-file FILE or INGESTER_QUESTDB_PASSWORD"
_RANKS = {ParameterSource.COMMANDLINE: 2, ParameterSource.ENVIRONMENT: 1}
"""Of a value that is given twice, the one from the higher source is used."""


def strongest(**values: Any) -> list[Any]:
    """Of options that exclude each other, keeps those from the strongest source and makes the others None.

    So an option on the command line sets aside one in the file.
    """
    ctx = click.get_current_context(silent=True)
    for source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP):
        given = {name: ctx is not None and ctx.get_parameter_source(name) is source for name in values}
        if any(given.values()):
            return [value if given[name] else None for name, value in values.items()]
    return list(values.values())


# Data folder and QuestDB.


def _with_listing(context: click.Context, parameter: click.Parameter, data_dir: Path) -> Path:
    keep_listings_in(data_dir)
    return data_dir


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    callback=_with_listing,
    default=default_data_dir,
    show_default="the platform's folder for user data",
    help="Folder of the managed server and everything else that is kept.",
)
_file = click.Path(dir_okay=False, path_type=Path)
_access_options = (
    click.option("--questdb", metavar="URL", help="Use this QuestDB, http(s)://host:port, instead of the managed one."),
    click.option("--questdb-user", metavar="NAME", help="User name at QuestDB."),
    click.option(
        "--questdb-password-file",
        type=_file,
        metavar="FILE",
        help="Holds the user's password; INGESTER_QUESTDB_PASSWORD may hold it instead.",
    ),
    click.option(
        "--questdb-token-file",
        type=_file,
        metavar="FILE",
        help="Holds a token in place of user and password; INGESTER_QUESTDB_TOKEN may hold it.",
    ),
    click.option(
        "--questdb-ca",
        type=_file,
        metavar="FILE",
        help="Certificates (PEM) of who vouches for an https QuestDB.  [default: those that the system trusts]",
    ),
    # Not for the command line, where every user of the machine could read them: `endpoint_of` refuses them there.
    click.option(
        "--questdb-password",
        hidden=True,
        help="The password itself; refused on the command line, where others could read it.",
    ),
    click.option(
        "--questdb-token",
        hidden=True,
        help="The token itself; refused on the command line, where others could read it.",
    ),
)


class Access(NamedTuple):
    """What the options say about a QuestDB; each is the option `--questdb-…` of its name, `url` is `--questdb`."""

    url: str | None
    user: str | None = None
    password: str | None = None
    password_file: Path | None = None
    token: str | None = None
    token_file: Path | None = None
    ca: Path | None = None

    def __repr__(self) -> str:
        return "Access(…)"  # it holds secrets


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
    return cast(Command, data_dir_option(decorated))


def endpoint_of(access: Access) -> Endpoint | None:
    """Returns the endpoint that the options of the running command name; None for the managed server.

    Warns of passwords that others can read. Raises SettingsError where options contradict each other.
    """
    for name in ("password", "token"):
        if _rank(f"questdb_{name}") == 2:
            hide("", str(getattr(access, name)), "")
            raise SettingsError(
                f"--questdb-{name} on the command line could be read by every user of this machine. "
                f"Give it by INGESTER_QUESTDB_{name.upper()} or --questdb-{name}-file FILE."
            )
    if access.url is None:
        typed = [name for name in Access._fields[1:] if _rank(f"questdb_{name}") == 2]
        if typed:
            raise SettingsError(
                f"--questdb-{typed[0].replace('_', '-')} goes with --questdb URL, which is not given; the managed "
                "server has its own password."
            )
        return None
    endpoint = Endpoint.parse(access.url)
    if endpoint.password and _rank("questdb") == 2:
        hidden = hide(":", access.url.rpartition("@")[0].partition("://")[2].partition(":")[2], "@")
        log.warning("the password in --questdb %s: give it by %s instead", exposed(hidden), OTHER_WAYS)
    endpoint = dataclasses.replace(_with_secret(endpoint, access), ca_file=access.ca)
    if endpoint.has_secret and not endpoint.is_encrypted and not endpoint.is_local:
        log.warning(
            "the %s goes to %s unencrypted, anybody on the way can read it; https:// prevents that",
            "token" if endpoint.token else "password",
            endpoint.host,
        )
    return endpoint


def _with_secret(endpoint: Endpoint, access: Access) -> Endpoint:
    """Returns the endpoint with the user, and with the password or token from the strongest source."""
    if access.user is not None and (endpoint.user is None or _rank("questdb_user") >= _rank("questdb")):
        endpoint = dataclasses.replace(endpoint, user=access.user)
    given = {name: _rank(f"questdb_{name}") for name in ("password", "password_file", "token", "token_file")}
    given = {name: rank for name, rank in given.items() if getattr(access, name) is not None}
    if endpoint.password is not None:
        given["url"] = _rank("questdb")
    used = [name for name, rank in given.items() if rank == max(given.values())]
    if len(used) > 1:
        ways = " and ".join("in --questdb" if name == "url" else f"as {_shown(name)}" for name in used)
        raise SettingsError(f"The password or token for QuestDB is given twice, {ways}. Give it once.")
    way = used[0] if used else None
    if way is None or way == "url":
        if endpoint.user is not None and endpoint.password is None:
            raise SettingsError(f"The QuestDB user {endpoint.user!r} is given without a password. Add {OTHER_WAYS}.")
        return endpoint
    file = getattr(access, way) if way.endswith("_file") else None
    secret = read_secret(file) if file is not None else getattr(access, way)
    if way.startswith("token"):
        return dataclasses.replace(endpoint, user=None, password=None, token=secret, read_from=file)
    if endpoint.user is None:
        raise SettingsError("A QuestDB password is given without its user. Add --questdb-user NAME.")
    return dataclasses.replace(endpoint, password=secret, read_from=file)


def _shown(name: str) -> str:
    return f"--questdb-{name.replace('_', '-')}" if name.endswith("_file") else f"INGESTER_QUESTDB_{name.upper()}"


def _rank(parameter: str) -> int:
    source = click.get_current_context().get_parameter_source(parameter)
    return _RANKS.get(source, 0) if source is not None else 0


def hide(before: str, secret: str, after: str) -> bool:
    """Overwrites a secret between two texts in this process' command line; returns whether that was possible.

    Linux shows the memory in which the arguments came: it is written to through the kernel, which checks the address.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49 of proc(5)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            arguments, sought = memory.read(end - start), os.fsencode(before + secret + after)
            if not secret or sought not in arguments:
                return False
            memory.seek(start)
            stars = before + "*" * len(os.fsencode(secret)) + after
            memory.write(arguments.replace(sought, os.fsencode(stars)))
        return True
    return False


def exposed(hidden: bool) -> str:
    """Says who can read a secret that was given on the command line, after `hide`."""
    if hidden:
        return "could be read by every user for a moment, and stays in the shell's history"
    return "can be read by every user of this machine"


def open_questdb(data_dir: Path, questdb: Endpoint | None, new: bool = False) -> tuple[QuestDB, ManagedServer | None]:
    """Returns the QuestDB that the options name, once it answers; the managed one is started where it does not run.

    A folder without data is an error, unless `new` says that the command may begin there. Raises StoreError.
    """
    return connect(data_dir, questdb, new), None if questdb is not None else ManagedServer(data_dir)


# Pairs.

pairs_file_option = click.option(
    "--pairs-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file of the watched pairs.  [default: pairs.txt in the data folder, pairs-NAME.txt for another exchange]",
)


def watch_list(data_dir: Path, pairs_file: Path | None, exchange: str) -> PairsFile:
    """Returns the file that these options name; each exchange has its own."""
    return PairsFile(pairs_file or data_dir / pairs_file_name(exchange))


def pair_options(default: str) -> Callable[[Command], Command]:
    """`--coins`, `--quote` and `--pairs`; `default` says which pairs are meant where none is named."""

    def decorate(command: Command) -> Command:
        pairs = click.option("--pairs", metavar="PAIR,…", help="Pairs as Binance writes them: BTCUSDT,ETHBTC.")
        quote = click.option("--quote", default=DEFAULT_QUOTE, show_default=True, help="What the coins are priced in.")
        coins = click.option("--coins", metavar="COIN,…", help=f"Coins: BTC,ETH.  [default: {default}]")
        return coins(quote(pairs(command)))

    return decorate


exchange_of_table_option = click.option(
    "--exchange", metavar="NAME", help="Only books of this exchange.  [default: the only one in the table]"
)


def named_symbols(coins: str | None, quote: str, pairs: str | None) -> tuple[list[str], bool]:
    """Returns the wanted symbols, and whether the user named them (otherwise they are the default list)."""
    coins, pairs = strongest(coins=coins, pairs=pairs)
    if coins is not None and pairs is not None:
        raise click.UsageError("--coins and --pairs both name pairs; give one of them.")
    if pairs is not None:
        return [normal_symbol(name) for name in _names(pairs, "--pairs")], True
    if coins is not None:
        return symbols_of(_names(coins, "--coins"), quote), True
    return symbols_of(DEFAULT_COINS, quote), False


def _names(text: str, option: str) -> list[str]:
    names = [name for name in text.replace(" ", ",").split(",") if name]
    for name in names:
        if not is_pair_name(name):
            raise click.UsageError(f"{option} {name!r} is not a name of letters and digits, such as BTCUSDT or BTC.")
    if not names:
        raise click.UsageError(f"{option} names nothing. Write names with commas between, such as BTC,ETH.")
    return names


# Exchanges.


def _usable(_context: click.Context, _option: click.Parameter, ca_file: Path | None) -> Path | None:
    if ca_file is not None:
        try:
            tls_context(ca_file)
        except NotConnected as error:
            raise SettingsError(str(error)) from error
    return ca_file


_stream_url = click.option("--stream-url", metavar="URL", help="Websocket base instead of the exchange's own.")
_rest_url = click.option("--rest-url", metavar="URL", help="REST base instead of the exchange's own.")
_exchange_ca = click.option(
    "--exchange-ca",
    callback=_usable,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificates (PEM) to trust for the exchange.  [default: those that the system trusts]",
)


def _exchange(names: list[str], purpose: str) -> Callable[[Command], Command]:
    return click.option("--exchange", type=click.Choice(names), default="binance", show_default=True, help=purpose)


def exchange_options(purpose: str) -> Callable[[Command], Command]:
    """`--exchange`, the simulator among them, and its addresses; `purpose` is the help of the first one."""

    def decorate(command: Command) -> Command:
        return exchange_option(purpose)(_stream_url(_rest_url(_exchange_ca(command))))

    return decorate


def exchange_option(purpose: str) -> Callable[[Command], Command]:
    """`--exchange` alone, the simulator among them."""
    return _exchange([*VENUES, SIMULATOR], purpose)


def listing_options(command: Command) -> Command:
    """`--exchange`, `--rest-url` and `--exchange-ca`, for commands that ask what is listed."""
    return _exchange(list(VENUES), "Whose pairs.")(_rest_url(_exchange_ca(command)))


def exchange_at(name: str, stream_url: str | None, rest_url: str | None, ca_file: Path | None) -> Venue:
    """Returns the exchange that these options name, where it is not a simulator of our own."""
    venue = VENUES.get(name) or simulator_at("", "")
    return rightly_named(venue.at(stream_url=stream_url, rest_url=rest_url, ca_file=ca_file))


def listing_at(name: str, rest_url: str | None, ca_file: Path | None) -> Venue:
    """Returns the exchange that is asked what it lists; at another address than its own it is called by its host."""
    chosen = exchange_at(name, None, rest_url, ca_file)
    host, own = (
        urlsplit(url).netloc.rpartition("@")[2]
        for url in (chosen.rest_url, exchange_at(name, None, None, None).rest_url)
    )
    return chosen if host == own else dataclasses.replace(chosen, name=host, market=host)


def is_our_own(name: str, stream_url: str | None, rest_url: str | None) -> bool:
    """Returns whether these options name a simulator inside the recorder."""
    return name == SIMULATOR and not (stream_url and rest_url)
