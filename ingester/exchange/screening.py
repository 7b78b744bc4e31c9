"""Which pairs are worth recording, by what was traded in 24 hours and what the coin is worth: all as pure functions.

A pair comes in when it reaches every threshold, and goes out when it falls below a share of one (`stay`), so that a
coin at the border does not come and go. What is not known removes nothing and brings nothing in.
"""

import csv
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from ingester.errors import ExchangeError, Incomplete, SettingsError
from ingester.exchange import rest
from ingester.exchange.binance_spot import BINANCE
from ingester.exchange.pairs import assets_of
from ingester.exchange.venue import Listing, ListingStatus, Ticker, Venue

LEAST_SHARE = 0.9
"""An answer must have this share of the pairs that trade; else nothing is concluded from it."""
MOST_AT_ONCE = 0.5
"""A repetition that would remove more of the watched pairs at once is refused: rather an error than the market."""
STABLECOINS = frozenset(
    "USDT USDC FDUSD TUSD BUSD USDP USD1 USDE USDS RLUSD XUSD BFUSD PYUSD DAI VAI AEUR EURI EUR GBP AUD".split()
)
"""Coins worth a fixed amount of a currency, and currencies: their books against another one hardly move."""

SUPPLIES_PATH = "/bapi/asset/v2/public/asset-service/product/get-products"
SUPPLIES_URL = f"https://www.binance.com{SUPPLIES_PATH}"
SUPPLY_COLUMNS = ("coin", "circulating_supply")

_LEVERAGED = re.compile(r"(.+)(UP|DOWN|BULL|BEAR)")
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


class Supplies(NamedTuple):
    """By coin, what circulates of it, where that is known; and the pairs of leveraged tokens, where that is said."""

    coins: dict[str, float]
    leveraged: frozenset[str] = frozenset()


class _Product(msgspec.Struct):
    """The fields that matter here: `s` symbol, `b` base, `cs` circulating supply, `etf` a leveraged token."""

    s: str
    b: str
    cs: float | None = None
    etf: bool | None = None


class _Products(msgspec.Struct):
    data: list[_Product]


_decode_products = msgspec.json.Decoder(_Products, strict=False).decode


class Criteria(NamedTuple):
    """What a pair must have; amounts are in the quote asset, None for any."""

    quote: str = "USDT"
    min_market_cap: float | None = None
    min_volume: float | None = None
    stay: float = 0.8
    """A watched pair stays while it has this share of each threshold."""
    keep: frozenset[str] = frozenset()
    """Coins whose pairs are never removed."""
    stablecoins: bool = False
    leveraged: bool = False


class Verdict(NamedTuple):
    """On one pair: whether it is to be recorded, and why."""

    symbol: str
    watched: bool
    wanted: bool
    reason: str
    volume: float | None = None
    market_cap: float | None = None


def fetch_tickers(venue: Venue, timeout: float = 20.0) -> dict[str, Ticker]:
    """Returns the tickers of all pairs. Raises ExchangeError and its kinds."""
    return {ticker.symbol: ticker for ticker in rest.ask(venue, venue.tickers, timeout=timeout)}


def fetch_supplies(source: str, timeout: float = 20.0) -> Supplies:
    """From a URL or a CSV file with the columns `coin` and `circulating_supply`.

    Raises ExchangeError where the URL does not answer as it should, SettingsError naming the line of a file.
    """
    if source.startswith(("http://", "https://")):
        products = rest.get(source, _decode_products, BINANCE, timeout=timeout).data
        coins: dict[str, float] = {}
        for product in products:
            if product.cs and math.isfinite(product.cs) and product.cs > 0:
                coins.setdefault(product.b, product.cs)
        return Supplies(coins, frozenset(product.s for product in products if product.etf))
    return Supplies(read_supplies(Path(source)))


def read_supplies(path: Path) -> dict[str, float]:
    """What circulates of each coin, from a CSV file. Raises SettingsError naming the line."""
    coins: dict[str, float] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not set(SUPPLY_COLUMNS) <= set(rows.fieldnames or ()):
                raise SettingsError(f"{path} does not begin with the names of the columns: {','.join(SUPPLY_COLUMNS)}.")
            for row in rows:
                coin, text = (str(row[name] or "").strip() for name in SUPPLY_COLUMNS)
                if not coin and not text:
                    continue
                coins[coin.upper()] = _supply(coin, text, f"{path}, line {rows.line_num}")
    except OSError as error:
        raise SettingsError(
            f"--supply-source {str(path)!r} cannot be read ({error.strerror}). Name a CSV file or an http(s) address."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path} is no CSV file in UTF-8: {error}.") from error
    return coins


def _supply(coin: str, text: str, place: str) -> float:
    try:
        supply = float(text.replace("_", ""))
    except ValueError:
        supply = math.nan
    if not coin.isalnum() or not (math.isfinite(supply) and supply > 0):
        raise SettingsError(
            f"{place}: expected a coin and how many there are, such as BTC,19700000; got {coin},{text}."
        )
    return supply


def screen_pairs(
    criteria: Criteria,
    listed: Mapping[str, Listing],
    tickers: Mapping[str, Ticker],
    supplies: Supplies,
    watched: Collection[str],
) -> list[Verdict]:
    """A verdict on each pair of the quote asset that is listed or watched, the most traded first.

    Watched pairs of other quote assets are not judged. Raises Incomplete where an answer lacks what it should hold.
    """
    require_complete(criteria, listed, tickers, supplies)
    bases = {listing.base for listing in listed.values()}
    verdicts = []
    for symbol in {*watched, *listed}:
        listing, is_watched = listed.get(symbol), symbol in watched
        base, quote = (listing.base, listing.quote) if listing else assets_of(symbol)
        if quote != criteria.quote:
            continue
        ticker = tickers.get(symbol)
        volume = ticker.volume if ticker and math.isfinite(ticker.volume) else None
        supply = supplies.coins.get(base)
        market_cap = supply * ticker.price if supply and ticker and 0 < ticker.price < math.inf else None
        why_not = _unfit(criteria, symbol, base, listing, is_watched, bases, supplies) or _short(
            criteria, volume, market_cap, is_watched
        )
        kept = is_watched and base in criteria.keep and bool(why_not)
        reason = f"kept, though {why_not}" if kept else why_not or _has(volume, market_cap)
        verdicts.append(Verdict(symbol, is_watched, kept or not why_not, reason, volume, market_cap))
    return sorted(verdicts, key=lambda verdict: (-(verdict.volume or 0.0), verdict.symbol))


def require_complete(
    criteria: Criteria, listed: Mapping[str, Listing], tickers: Mapping[str, Ticker], supplies: Supplies
) -> None:
    """Raises Incomplete where an answer lacks what it should hold, SettingsError where nothing trades in the quote."""
    trading = [symbol for symbol, listing in listed.items() if listing.status is ListingStatus.TRADING]
    if not trading:
        raise Incomplete("The exchange lists no pair that trades; nothing is concluded from that.")
    here = [symbol for symbol in trading if listed[symbol].quote == criteria.quote]
    if not here:
        quotes = sorted({listed[symbol].quote for symbol in trading})
        raise SettingsError(f"Nothing trades in {criteria.quote!r} (--quote). There are {', '.join(quotes[:20])}.")
    known = sum(symbol in tickers for symbol in here)
    if known < LEAST_SHARE * len(here):
        raise Incomplete(
            f"The exchange gave the volume of {known} of {len(here)} pairs only; nothing is concluded from that."
        )
    if criteria.min_market_cap is not None and not supplies.coins:
        raise Incomplete("The source of supplies knows no coin; nothing is concluded from that.")


def require_moderate(verdicts: Iterable[Verdict]) -> None:
    """Raises ExchangeError where more of the watched pairs would go at once than a repetition may remove."""
    before = [verdict for verdict in verdicts if verdict.watched]
    gone = sum(not verdict.wanted for verdict in before)
    if gone > MOST_AT_ONCE * len(before):
        raise ExchangeError(
            f"{gone} of {len(before)} watched pairs would go at once, which a repetition does not do. If it is meant, "
            "run `ingester pairs screen --apply` once without --every."
        )


def parse_amount(text: str, what: str) -> float:
    """`500M`, `1.5B`, `2k` or `750000` as a number. Raises SettingsError naming `what`."""
    match = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)\s*([kmbt]?)", text.strip().lower())
    if not match:
        raise SettingsError(f"{what} {text!r} is not an amount. Write a number, short or long: 2k, 50M, 1.5B, 750000.")
    return float(match[1].replace("_", "")) * _UNITS[match[2]]


def amount_text(value: float | None) -> str:
    """A number as people read it, to three digits: `1.23B`, `500M`, `2k`; `?` where it is not known."""
    if value is None:
        return "?"
    for unit in ("t", "b", "m", "k"):
        if value >= 0.9995 * _UNITS[unit]:
            return f"{_three_digits(value / _UNITS[unit])}{unit.upper() if unit != 'k' else unit}"
    return _three_digits(value)


def _three_digits(value: float) -> str:
    text = f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _unfit(
    criteria: Criteria,
    symbol: str,
    base: str,
    listing: Listing | None,
    watched: bool,
    bases: Collection[str],
    supplies: Supplies,
) -> str:
    """Why a pair is none to be recorded, whatever its figures."""
    if listing is None:
        return "the exchange no longer lists it"
    if listing.status is not ListingStatus.TRADING and (
        not watched or listing.status in (ListingStatus.BREAK, ListingStatus.CLOSED)
    ):
        return f"does not trade ({listing.status})"
    if base in STABLECOINS and not criteria.stablecoins:
        return "a stablecoin or currency"
    match = _LEVERAGED.fullmatch(base)
    if not criteria.leveraged and (symbol in supplies.leveraged or (match and match[1] in bases)):
        return "a leveraged token"
    return ""


def _short(criteria: Criteria, volume: float | None, market_cap: float | None, watched: bool) -> str:
    """Which threshold a pair does not reach."""
    for name, value, least in (
        ("market cap", market_cap, criteria.min_market_cap),
        ("volume", volume, criteria.min_volume),
    ):
        if least is None:
            continue
        needed = least * criteria.stay if watched else least
        if value is None:
            if not watched:
                return f"{name} unknown"
        elif value < needed:
            share = f" ({criteria.stay * 100:g}% of {amount_text(least)})" if watched and criteria.stay < 1 else ""
            return f"{name} {amount_text(value)} below {amount_text(needed)}{share}"
    return ""


def _has(volume: float | None, market_cap: float | None) -> str:
    return f"market cap {amount_text(market_cap)}, volume {amount_text(volume)}"
