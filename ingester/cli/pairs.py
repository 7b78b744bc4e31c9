"""`ingester pairs`: which pairs are recorded, also while recording."""

import logging
from pathlib import Path

import click
import msgspec
from rich.console import Console

from ingester.cli.exchanges import listing_at, listing_options
from ingester.cli.options import data_dir_option
from ingester.cli.screen import screen
from ingester.cli.tables import TextTable
from ingester.cli.watched import by_whom, pairs_file_option, watch_list
from ingester.errors import ExchangeError, UnknownPair, UsageError
from ingester.exchange import (
    DEFAULT_COINS,
    DEFAULT_QUOTE,
    Listing,
    choose,
    fetch_listings,
    is_name,
    pair_named,
)
from ingester.record import PairsFile
from ingester.text import plain
from ingester.words import nearest_text

log = logging.getLogger("ingester.pairs")

quote_option = click.option(
    "--quote", default=DEFAULT_QUOTE, show_default=True, help="What coins are priced in, where a coin is named."
)


@click.group(short_help="See and change which pairs are recorded, also while recording.")
def pairs() -> None:
    """Sees and changes which pairs are recorded. They stand in a file, pairs.txt in the data folder, one a line.

    `ingester start` without --coins and --pairs records what the file says, and a recorder that runs follows it: within
    two seconds a pair begins or ends, and the others notice nothing. Edit the file by hand if you like.

    \b
    Examples:
      ingester pairs list
      ingester pairs add SUI ETHBTC
      ingester pairs remove EDU
      ingester pairs screen --min-market-cap 500M --min-volume 50M
    """


pairs.add_command(screen)


@pairs.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@data_dir_option
@pairs_file_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool, data_dir: Path, pairs_file: Path | None) -> None:
    """Lists the watched pairs, with the remark that the file has on each.

    \b
    --json prints {file, pairs: [{symbol, remark}]}.

    \b
    Examples:
      ingester pairs list
      ingester pairs list --json
    """
    file = watch_list(data_dir, pairs_file)
    found = file.read().pairs if file.exists() else {}
    if as_json:
        listed = [{"symbol": symbol, "remark": remark} for symbol, remark in found.items()]
        click.echo(msgspec.json.format(msgspec.json.encode({"file": str(file.path), "pairs": listed}), indent=2))
    elif not found:
        click.echo(
            f"There is no {file.path} yet. `ingester pairs add BTC ETH` makes it; so does the first `ingester start`, "
            f"with {len(DEFAULT_COINS)} well-known coins in {DEFAULT_QUOTE}."
        )
    if not file.path.parent.is_dir():
        ctx.exit(1)  # the wrong folder, most likely
    if as_json or not found:
        return
    table = TextTable(box=None, show_header=False, pad_edge=False)
    for symbol, remark in found.items():
        table.add_row(symbol, remark)
    Console(markup=False, highlight=False).print(table)
    click.echo(f"{_pairs(len(found))} in {file.path}")


@pairs.command()
@click.argument("names", nargs=-1, required=True, metavar="COIN|PAIR…")
@quote_option
@click.option("--no-check", is_flag=True, help="Do not ask the exchange whether it lists them.")
@listing_options
@data_dir_option
@pairs_file_option
def add(
    names: tuple[str, ...],
    quote: str,
    no_check: bool,
    exchange: str,
    rest_url: str | None,
    exchange_ca: Path | None,
    data_dir: Path,
    pairs_file: Path | None,
) -> None:
    """Adds pairs, named as coins or as pairs.

    A recorder that runs records them from the next full second on. Where the exchange cannot be asked whether it lists
    them, that is a warning.

    \b
    Examples:
      ingester pairs add SUI
      ingester pairs add BTC ETH --quote USDC
      ingester pairs add ETHBTC --no-check
    """
    file = watch_list(data_dir, pairs_file)
    wanted = _words(names)
    listed = {} if no_check else _listed(exchange, rest_url, exchange_ca)
    symbols = list(dict.fromkeys(pair_named(name, quote, listed) for name in wanted))
    if listed:
        for remark in choose(symbols, True, listed).remarks:
            click.echo(plain(remark))
    with file.changing() as change:
        present = change.now.pairs
        change.added = {symbol: f"added {by_whom()}" for symbol in symbols if symbol not in present}
        total = len(present) + len(change.added)
    for symbol in symbols:
        click.echo(f"{symbol} {'added' if symbol in change.added else 'is watched already'}")
    _print_end(file, total, bool(change.added))


@pairs.command()
@click.argument("names", nargs=-1, required=True, metavar="COIN|PAIR…")
@quote_option
@data_dir_option
@pairs_file_option
def remove(names: tuple[str, ...], quote: str, data_dir: Path, pairs_file: Path | None) -> None:
    """Removes pairs, named as coins or as pairs. What was recorded of them stays.

    \b
    Examples:
      ingester pairs remove EDU
      ingester pairs remove ETHBTC EDUUSDT
    """
    file = watch_list(data_dir, pairs_file)
    wanted = _words(names)
    if not file.exists():
        raise UsageError(
            f"There is no {file.path} yet, so nothing to remove from. The first `ingester start` makes it, or "
            "`ingester pairs add BTC ETH`."
        )
    with file.changing() as change:
        present = change.now.pairs
        symbols = list(dict.fromkeys(pair_named(name, quote, present) for name in wanted))
        unknown = [symbol for symbol in symbols if symbol not in present]
        if unknown:
            raise UnknownPair(
                "\n".join(f"{symbol!r} is not watched. {nearest_text(symbol, present, '')}" for symbol in unknown)
            )
        if len(symbols) == len(present):
            raise UsageError(
                "That would leave no pair, and a recorder has to record something. Add what is to take their place "
                "first, or end the recorder."
            )
        change.removed = {symbol: f"removed {by_whom()}" for symbol in symbols}
        total = len(present) - len(symbols)
    for symbol in symbols:
        click.echo(f"{symbol} removed")
    _print_end(file, total, True)


def _words(names: tuple[str, ...]) -> list[str]:
    words = [word for name in names for word in name.split(",") if word]
    for word in words:
        if not is_name(word):
            raise UsageError(f"{word!r} is not a name of letters and digits, such as SUI or SUIUSDT.")
    return words


def _listed(exchange: str, rest_url: str | None, ca_file: Path | None) -> dict[str, Listing]:
    try:
        return fetch_listings(listing_at(exchange, rest_url, ca_file))
    except ExchangeError as error:
        log.warning("not checked whether the exchange lists them: %s", error)
        return {}


def _print_end(file: PairsFile, total: int, changed: bool) -> None:
    follows = "; a recorder that follows it changes within two seconds" if changed else ""
    click.echo(f"{_pairs(total)} in {file.path}{follows}")


def _pairs(count: int) -> str:
    return f"{count} pair{'s' if count != 1 else ''}"
