"""`ingester pairs screen`: which pairs are worth recording, and a list that is kept so."""

import logging
import sys
import threading
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from ingester.cli.exchanges import listing_at, listing_options
from ingester.cli.options import data_dir_option
from ingester.cli.signals import stop_signals
from ingester.cli.tables import TextTable
from ingester.cli.watched import by_whom, pairs_file_option, watch_list
from ingester.config import seconds
from ingester.deadline import beside
from ingester.errors import ExchangeError, Incomplete, PairsFileError, RateLimited, SettingsError, UsageError
from ingester.exchange import (
    DEFAULT_QUOTE,
    PATIENCE_SECONDS,
    SUPPLIES_PATH,
    SUPPLIES_URL,
    Criteria,
    Supplies,
    Venue,
    Verdict,
    amount,
    amount_text,
    fetch_listings,
    fetch_supplies,
    fetch_tickers,
    normal,
    require_moderate,
    screen_pairs,
)
from ingester.record import PairsFile
from ingester.words import counted

log = logging.getLogger("ingester.pairs")

AGAIN_SECONDS = 600.0
"""After a failure the next try comes so soon."""
SHORTEST_SECONDS = 60.0
LOOK_SECONDS = 0.2
"""How often a screening that runs looks whether it is to end."""


@click.command(short_help="List what qualifies by volume and market cap; with --apply, watch it.")
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
        normal(quote),
        amount(min_market_cap, "--min-market-cap") if min_market_cap else None,
        amount(min_volume, "--min-volume") if min_volume else None,
        _share(stay),
        frozenset(normal(coin) for coin in (keep or "").split(",") if coin.strip()),
        with_stablecoins,
        with_leveraged,
    )
    place = listing_at(exchange, rest_url, exchange_ca)
    source = supply_source or (f"{rest_url.rstrip('/')}{SUPPLIES_PATH}" if rest_url else SUPPLIES_URL)
    file = watch_list(data_dir, pairs_file)
    if pause is None:
        _show(_screened(criteria, place, source, file, do_apply), criteria, file, do_apply, as_json)
        return
    with stop_signals() as stop:
        _repeat(criteria, place, source, file, pause, stop)


def _repeat(
    criteria: Criteria, place: Venue, source: str, file: PairsFile, pause: float, stop: threading.Event
) -> None:
    """Screens until told to stop; a failure changes nothing, and is tried again sooner."""
    log.info("screening every %s; Ctrl-C ends it", _duration(pause))
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
            log.error("the watched pairs stay as they are, next try in %s: %s", _duration(wait), error)
        stop.wait(wait)


def _screened(
    criteria: Criteria, place: Venue, source: str, file: PairsFile, do_apply: bool, repeated: bool = False
) -> list[Verdict]:
    listed = fetch_listings(place, patience=PATIENCE_SECONDS)
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
        when = by_whom()
        for verdict in verdicts:
            if verdict.wanted and not verdict.watched:
                change.added[verdict.symbol] = f"added {when}, screened: {verdict.reason}"
            elif verdict.watched and not verdict.wanted:
                change.removed[verdict.symbol] = f"removed {when}, screened: {verdict.reason}"
    return verdicts


def _show(verdicts: Sequence[Verdict], criteria: Criteria, file: PairsFile, applied: bool, as_json: bool) -> None:
    if as_json:
        mapping = {"file": str(file.path), **_mapping(verdicts), "applied": applied}
        click.echo(msgspec.json.format(msgspec.json.encode(mapping), indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False)
    wanted = [verdict for verdict in verdicts if verdict.wanted]
    table = TextTable(box=None, pad_edge=False, header_style="dim")
    for name in ("pair", "24 h volume", "market cap", "watched"):
        table.add_column(name, justify="right" if name in ("24 h volume", "market cap") else "left")
    for verdict in wanted:
        figures = amount_text(verdict.volume), amount_text(verdict.market_cap)
        table.add_row(verdict.symbol, *figures, "yes" if verdict.watched else "")
    console.print(table)
    changes = TextTable(box=None, pad_edge=False, show_header=False)
    for verdict in verdicts:
        if verdict.wanted != verdict.watched:
            changes.add_row("+" if verdict.wanted else "-", verdict.symbol, verdict.reason)
        elif verdict.wanted and verdict.reason.startswith("kept"):
            changes.add_row("=", verdict.symbol, verdict.reason)
    if changes.row_count:
        click.echo()
        console.print(changes)
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


def _duration(value: float) -> str:
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g} s"
