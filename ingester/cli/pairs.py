"""`ingester pairs`: which pairs are recorded, also while recording, and which are worth it."""

import getpass
import logging
import os
import threading
from collections.abc import Sequence
from concurrent import futures
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ingester.cli.options import (
    data_dir_option,
    exchange_option,
    listing_at,
    listing_options,
    pairs_file_option,
    watch_list,
)
from ingester.cli.tables import TextTable, plain_table, print_json, print_table
from ingester.cli.terminal import stop_signals
from ingester.config import seconds
from ingester.errors import (
    ExchangeError,
    Incomplete,
    PairsFileError,
    RateLimited,
    SettingsError,
    UnknownPair,
    UsageError,
)
from ingester.exchange import (
    DEFAULT_COINS,
    DEFAULT_QUOTE,
    LONGEST_RETRY_SECONDS,
    SUPPLIES_PATH,
    SUPPLIES_URL,
    Criteria,
    Listing,
    Supplies,
    Venue,
    Verdict,
    amount_text,
    choose_pairs,
    fetch_listings,
    fetch_supplies,
    fetch_tickers,
    is_pair_name,
    normal_symbol,
    pair_named,
    parse_amount,
    require_moderate,
    screen_pairs,
)
from ingester.record import PairsFile
from ingester.text import counted, duration_text, nearest_text, plain
from ingester.threads import beside

log = logging.getLogger("ingester.pairs")

quote_option = click.option(
    "--quote", default=DEFAULT_QUOTE, show_default=True, help="What coins are priced in, where a coin is named."
)


@click.group(short_help="See and change which pairs are recorded, also while recording.")
def pairs() -> None:
    """Sees and changes which pairs are recorded. They are in a file, pairs.txt in the data folder, one a line; those of
    another exchange than Binance's spot market are in pairs-NAME.txt.

    `ingester start` without --coins and --pairs records what the file says, and a recorder that runs follows it: within
    two seconds a pair begins or ends, and the others notice nothing. Edit the file by hand if you like.

    \b
    Examples:
      ingester pairs list
      ingester pairs add SUI ETHBTC
      ingester pairs remove EDU
      ingester pairs screen --min-market-cap 500M --min-volume 50M
    """


@pairs.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@exchange_option("Whose pairs.")
@data_dir_option
@pairs_file_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool, exchange: str, data_dir: Path, pairs_file: Path | None) -> None:
    """Lists the watched pairs, with the remark that the file has on each.

    \b
    --json prints {file, pairs: [{symbol, remark}]}.

    \b
    Examples:
      ingester pairs list
      ingester pairs list --json
    """
    file = watch_list(data_dir, pairs_file, exchange)
    found = file.read().pairs if file.exists() else {}
    if as_json:
        listed = [{"symbol": symbol, "remark": remark} for symbol, remark in found.items()]
        print_json({"file": str(file.path), "pairs": listed})
    elif not found:
        click.echo(
            f"There is no {file.path} yet. `ingester pairs add BTC ETH` makes it; so does the first `ingester start`, "
            f"with {len(DEFAULT_COINS)} well-known coins in {DEFAULT_QUOTE}."
        )
    if not file.path.parent.is_dir():
        ctx.exit(1)  # the wrong folder, most likely
    if as_json or not found:
        return
    table = plain_table(("pair", "remark"), found.items())
    table.show_header = False
    print_table(table)
    click.echo(f"{counted(len(found), 'pair')} in {file.path}")


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
    file = watch_list(data_dir, pairs_file, exchange)
    wanted = _words(names)
    listed = {} if no_check else _listed(exchange, rest_url, exchange_ca)
    symbols = list(dict.fromkeys(pair_named(name, quote, listed) for name in wanted))
    if listed:
        for remark in choose_pairs(symbols, True, listed).remarks:
            click.echo(plain(remark))
    with file.changing() as change:
        present = change.now.pairs
        change.added = {symbol: f"added {_by_whom()}" for symbol in symbols if symbol not in present}
        total = len(present) + len(change.added)
    for symbol in symbols:
        click.echo(f"{symbol} {'added' if symbol in change.added else 'is watched already'}")
    _print_end(file, total, bool(change.added))


@pairs.command()
@click.argument("names", nargs=-1, required=True, metavar="COIN|PAIR…")
@quote_option
@exchange_option("Whose pairs.")
@data_dir_option
@pairs_file_option
def remove(names: tuple[str, ...], quote: str, exchange: str, data_dir: Path, pairs_file: Path | None) -> None:
    """Removes pairs, named as coins or as pairs. What was recorded of them stays.

    \b
    Examples:
      ingester pairs remove EDU
      ingester pairs remove ETHBTC EDUUSDT
    """
    file = watch_list(data_dir, pairs_file, exchange)
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
        change.removed = {symbol: f"removed {_by_whom()}" for symbol in symbols}
        total = len(present) - len(symbols)
    for symbol in symbols:
        click.echo(f"{symbol} removed")
    _print_end(file, total, True)


def _by_whom() -> str:
    """`2026-11-25 10:30 by alice`, for a remark in the file; in UTC."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container need not know its user's name
        user = f"user {os.getuid()}"
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} by {user}"


def _words(names: tuple[str, ...]) -> list[str]:
    words = [word for name in names for word in name.split(",") if word]
    for word in words:
        if not is_pair_name(word):
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
    click.echo(f"{counted(total, 'pair')} in {file.path}{follows}")


log = logging.getLogger("ingester.pairs")

AGAIN_SECONDS = 600.0
"""After a failure the next try comes so soon."""
SHORTEST_SECONDS = 60.0
LOOK_SECONDS = 0.2
"""How often a running screening looks whether it is to end."""


@pairs.command(short_help="List what qualifies by volume and market cap; with --apply, watch it.")
@click.option("--min-market-cap", metavar="AMOUNT", help="Circulating supply times price, at least: 500M, 1.5B.")
@click.option("--min-volume", metavar="AMOUNT", help="Traded in 24 hours, in the quote asset, at least: 50M.")
@click.option("--quote", default=DEFAULT_QUOTE, show_default=True, help="Only pairs priced in this; others stay as is.")
@click.option(
    "--stay",
    default="80%",
    show_default=True,
    metavar="PERCENT",
    help="A watched pair goes only below this share of a threshold, so that none comes and goes.",
)
@click.option("--keep", metavar="COIN,…", help="Coins whose pairs are never removed.")
@click.option("--with-stablecoins", is_flag=True, help="Also pairs like USDCUSDT and EURUSDT.")
@click.option("--with-leveraged", is_flag=True, help="Also leveraged tokens like BTCUPUSDT.")
@click.option("--apply", "do_apply", is_flag=True, help="Watch what qualifies, and no longer what does not.")
@click.option("--every", metavar="DURATION", help="With --apply: do so again and again, each 1d, 6h, …, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--supply-source",
    metavar="URL|FILE.csv",
    help=f"Where circulating supplies are from; a file has the columns coin,circulating_supply.  "
    f"[default: {SUPPLIES_URL}; of --rest-url where that is given]",
)
@listing_options
@data_dir_option
@pairs_file_option
def screen(
    min_market_cap: str | None,
    min_volume: str | None,
    quote: str,
    stay: str,
    keep: str | None,
    with_stablecoins: bool,
    with_leveraged: bool,
    do_apply: bool,
    every: str | None,
    as_json: bool,
    supply_source: str | None,
    exchange: str,
    rest_url: str | None,
    exchange_ca: Path | None,
    data_dir: Path,
    pairs_file: Path | None,
) -> None:
    """Lists the pairs that qualify, and what would change; with --apply it does change the watched pairs.

    A pair qualifies that trades, is worth and traded as much as is asked for, and is neither a stablecoin nor a
    leveraged token. A watched pair stays while it has 80 % of that. What is not known removes nothing, and an answer of
    the exchange that lacks pairs changes nothing.

    \b
    --json prints {file, qualify: [{symbol, volume, market_cap, watched}], add: [{symbol, reason}], remove: […],
    applied}.

    \b
    Examples:
      ingester pairs screen --min-market-cap 500M --min-volume 50M
      ingester pairs screen --min-volume 50M --keep BTC,ETH --apply
      ingester pairs screen --min-market-cap 500M --min-volume 50M --apply --every 1d
      ingester pairs screen --min-market-cap 1B --supply-source supplies.csv
    """
    if min_market_cap is None and min_volume is None:
        raise UsageError("Give a threshold: --min-market-cap 500M, --min-volume 50M, or both.")
    if every is not None and not do_apply:
        raise UsageError("--every keeps the watched pairs so, which needs --apply.")
    pause = seconds(every, "--every") if every else None
    if pause is not None and pause < SHORTEST_SECONDS:
        raise SettingsError(f"--every {every!r} is shorter than a minute. Once a day (1d) is plenty.")
    criteria = Criteria(
        normal_symbol(quote),
        parse_amount(min_market_cap, "--min-market-cap") if min_market_cap else None,
        parse_amount(min_volume, "--min-volume") if min_volume else None,
        _share(stay),
        frozenset(normal_symbol(coin) for coin in (keep or "").split(",") if coin.strip()),
        with_stablecoins,
        with_leveraged,
    )
    place = listing_at(exchange, rest_url, exchange_ca)
    source = supply_source or (f"{rest_url.rstrip('/')}{SUPPLIES_PATH}" if rest_url else SUPPLIES_URL)
    file = watch_list(data_dir, pairs_file, exchange)
    if pause is None:
        _show(_screened(criteria, place, source, file, do_apply), criteria, file, do_apply, as_json)
        return
    with stop_signals() as stop:
        repeat_screening(criteria, place, source, file, pause, stop)


def repeat_screening(
    criteria: Criteria, place: Venue, source: str, file: PairsFile, pause: float, stop: threading.Event
) -> None:
    """Screens again and again until `stop` is set; a failure changes nothing, and the next try comes sooner."""
    log.info("screening every %s; Ctrl-C ends it", duration_text(pause))
    while not stop.is_set():
        wait = pause
        try:
            # A request and its `Retry-After` may take a minute, which nobody has to wait for at the end.
            screened = beside(lambda: _screened(criteria, place, source, file, True, repeated=file.exists()), "screen")
            while not futures.wait([screened], LOOK_SECONDS).done:
                if stop.is_set():
                    return
            verdicts = screened.result()
            for verdict in verdicts:
                if verdict.wanted != verdict.watched:
                    log.info("%s %s: %s", verdict.symbol, "added" if verdict.wanted else "removed", verdict.reason)
            qualify = sum(verdict.wanted for verdict in verdicts)
            log.info(
                "%s in %s %s", counted(qualify, "pair"), criteria.quote, "qualifies" if qualify == 1 else "qualify"
            )
        except (ExchangeError, PairsFileError, SettingsError) as error:
            wait = min(pause, AGAIN_SECONDS)
            if isinstance(error, RateLimited):
                wait = max(wait, error.seconds)
            log.error("the watched pairs stay as they are, next try in %s: %s", duration_text(wait), error)
        stop.wait(wait)


def _screened(
    criteria: Criteria, place: Venue, source: str, file: PairsFile, do_apply: bool, repeated: bool = False
) -> list[Verdict]:
    listed = fetch_listings(place, patience=LONGEST_RETRY_SECONDS)
    tickers = fetch_tickers(place)
    supplies = fetch_supplies(source) if criteria.min_market_cap is not None else Supplies({})
    if not do_apply:
        return screen_pairs(criteria, listed, tickers, supplies, file.read().pairs if file.exists() else ())
    with file.changing() as change:
        verdicts = screen_pairs(criteria, listed, tickers, supplies, change.now.pairs)
        if repeated:
            require_moderate(verdicts)
        if not any(verdict.wanted for verdict in verdicts):
            raise Incomplete("No pair qualifies; the watched pairs stay as they are. Lower the thresholds if it is so.")
        when = _by_whom()
        for verdict in verdicts:
            if verdict.wanted and not verdict.watched:
                change.added[verdict.symbol] = f"added {when}, screened: {verdict.reason}"
            elif verdict.watched and not verdict.wanted:
                change.removed[verdict.symbol] = f"removed {when}, screened: {verdict.reason}"
    return verdicts


def _show(verdicts: Sequence[Verdict], criteria: Criteria, file: PairsFile, applied: bool, as_json: bool) -> None:
    if as_json:
        mapping = {"file": str(file.path), **_mapping(verdicts), "applied": applied}
        print_json(mapping)
        return
    wanted = [verdict for verdict in verdicts if verdict.wanted]
    table = plain_table(("pair", "24 h volume", "market cap", "watched"), [], ("24 h volume", "market cap"))
    for verdict in wanted:
        figures = amount_text(verdict.volume), amount_text(verdict.market_cap)
        table.add_row(verdict.symbol, *figures, "yes" if verdict.watched else "")
    print_table(table)
    changes = TextTable(box=None, pad_edge=False, show_header=False)
    for verdict in verdicts:
        if verdict.wanted != verdict.watched:
            changes.add_row("+" if verdict.wanted else "-", verdict.symbol, verdict.reason)
        elif verdict.wanted and verdict.reason.startswith("kept"):
            changes.add_row("=", verdict.symbol, verdict.reason)
    if changes.row_count:
        click.echo()
        print_table(changes)
    click.echo()
    click.echo(_summary(verdicts, criteria, file, applied))


def _summary(verdicts: Sequence[Verdict], criteria: Criteria, file: PairsFile, applied: bool) -> str:
    wanted = sum(verdict.wanted for verdict in verdicts)
    added = sum(verdict.wanted and not verdict.watched for verdict in verdicts)
    removed = sum(verdict.watched and not verdict.wanted for verdict in verdicts)
    text = f"{wanted} of {len(verdicts)} pairs in {criteria.quote} qualify"
    if not added and not removed:
        return f"{text}; {file.path} has all of these and no others in {criteria.quote}"
    what = f"{added} to add, {removed} to remove"
    if applied:
        return f"{text}: {added} added, {removed} removed in {file.path}"
    return f"{text}: {what} in {file.path}; --apply does it"


def _mapping(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    def changes(wanted: bool) -> list[dict[str, str]]:
        return [
            {"symbol": verdict.symbol, "reason": verdict.reason}
            for verdict in verdicts
            if verdict.wanted is wanted and verdict.watched is not wanted
        ]

    qualify = [
        {
            "symbol": verdict.symbol,
            "volume": verdict.volume,
            "market_cap": verdict.market_cap,
            "watched": verdict.watched,
        }
        for verdict in verdicts
        if verdict.wanted
    ]
    return {"qualify": qualify, "add": changes(True), "remove": changes(False)}


def _share(text: str) -> float:
    number = text.strip().removesuffix("%").strip()
    if not number.replace(".", "", 1).isdigit() or not 0 < float(number) <= 100:
        raise SettingsError(f"--stay {text!r} is not a percentage above 0% and up to 100%, such as 80%.")
    return float(number) / 100
