"""Which pairs to record: what the exchange lists, what the user named, and what becomes of the difference."""

import logging
import re
import unicodedata
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ingester.errors import ExchangeError, Incomplete, RegionRefused, UnknownPair
from ingester.exchange import binance, listings, rest
from ingester.exchange.listings import KeptListing
from ingester.exchange.venue import Listing, ListingStatus, Venue
from ingester.words import nearest_text

log = logging.getLogger(__name__)

DEFAULT_QUOTE = "USDT"
DEFAULT_COINS = tuple(
    "ADA AGIX ALGO APT ARB ARPA ATOM AXS BNB BCH BTC CFX DASH DOGE DOT EOS EDU ETH ETC FET FIL FTM LDO NEO ONT OP PEPE "
    "KAVA LINK LTC MASK MATIC SAND SHIB SOL STX SUI TRX UNI VET WAVES XMR XRP ZEC".split()
)

QUOTES = tuple(
    "USDT USDC FDUSD TUSD BUSD USDP USD1 AEUR EURI DAI VAI BTC ETH BNB XRP TRX DOGE SOL DOT TRY EUR GBP AUD BRL RUB "
    "UAH NGN ARS MXN PLN RON ZAR JPY COP CZK BIDR IDRT IDR BVND USD".split()
)
"""Assets that Binance has used to price others in; a longer one before its own ending."""
_COINS = frozenset((*DEFAULT_COINS, *QUOTES))
_WITH_DAY = re.compile(r"(.*?)(_\d{6})?", re.DOTALL)
USUAL_LETTERS = 3
"""Names of coins have so many letters or more, with few exceptions."""


class Choice(NamedTuple):
    """The pairs to record, and one line for each pair that was left out or is worth a word."""

    symbols: list[str]
    remarks: list[str]


def symbols_of(coins: Iterable[str], quote: str) -> list[str]:
    """`BTC`, `ETH` with quote `USDT` are `BTCUSDT`, `ETHUSDT`."""
    return [f"{normal(coin)}{normal(quote)}" for coin in coins]


_kept = KeptListing()


def use_listing(data_dir: Path) -> None:
    """From now on what exchanges list is kept in this data folder, and what is kept there is known."""
    global _kept
    _kept = KeptListing(data_dir / listings.NAME)


def assets(symbol: str) -> tuple[str, str]:
    """(base asset, quote asset) of a symbol, as the exchange lists it; guessed where that was never read."""
    return _kept.assets(symbol) or guessed_assets(symbol, _kept.bases())


def guessed_assets(symbol: str, bases: Collection[str] = ()) -> tuple[str, str]:
    """(base asset, quote asset) by the letters: ADAUSDT is (ADA, USDT).

    A known base decides (BNBUSD is BNB and USD, not BN and BUSD): one of `bases`, or a well-known coin. Then a known
    quote does.
    """
    splits = [(symbol[: -len(quote)], quote) for quote in QUOTES if symbol.endswith(quote) and symbol != quote]
    known = [(base, quote) for base, quote in splits if base in _COINS or base in bases]
    if known:
        return max(known, key=lambda each: len(each[0]))
    for base, quote in splits:
        if len(base) >= USUAL_LETTERS:
            return base, quote
    if splits:
        return splits[-1]
    for end in range(len(symbol) - 1, 0, -1):
        if symbol[:end] in _COINS or symbol[:end] in bases:
            return symbol[:end], symbol[end:]
    return symbol[:-3] or symbol, symbol[-3:]


def normal(name: str) -> str:
    """A pair as Binance writes it: `btc-usdt`, `BTC/USDT` and `BTC_USDT` are `BTCUSDT`. The day of delivery of a
    futures contract stays behind it: `BTCUSDT_261225`."""
    pair, day = _WITH_DAY.fullmatch(binance.upper(name).strip(" ")).groups()  # type: ignore[union-attr]
    return "".join(character for character in pair if character not in " -/_") + (day or "")


def is_name(name: str) -> bool:
    """Whether a coin or pair may be called so, apart from separators: letters of any script, digits, marks, symbols."""
    pair = normal(name).partition("_")[0]  # a day of delivery behind it is digits
    return bool(pair) and all(
        unicodedata.category(each)[0] in "LNM" or unicodedata.category(each) == "So" for each in pair
    )


def fetch_listings(exchange: Venue, timeout: float = 10.0, patience: float = 0.0) -> dict[str, Listing]:
    """Returns all pairs that the exchange lists, by symbol; they are also kept.

    An entry that cannot be read is left out. Waits up to `patience` seconds where the exchange wants to be asked later;
    a recorder does not.

    Raises RegionRefused on HTTP 451, Incomplete where it lists no pairs or much fewer than before, and ExchangeError
    when the exchange cannot be asked.
    """
    source = exchange.rest_url.rstrip("/")
    entries = rest.ask(exchange, exchange.listings, timeout=timeout, patience=patience)
    listed = {each.symbol: each for each in entries if each is not None}
    if unread := len(entries) - len(listed):
        log.warning("%d of %d pairs listed by %s cannot be read, and are left out", unread, len(entries), source)
    if not listed:
        raise Incomplete(f"{source} lists no pairs at all, as during maintenance. Try again later.")
    _kept.note(source, listed)
    return listed


def choose(named: Sequence[str], by_user: bool, listed: Mapping[str, Listing], before: Container[str] = ()) -> Choice:
    """Checks the wanted symbols against what the exchange lists.

    A pair that the user named and the exchange does not list raises UnknownPair with the nearest names, unless it was
    recorded `before`, while others are left: then it was delisted, which must not keep a recorder from starting again.
    From the default list such pairs, and those no longer trading, are skipped with one line for all of them. A pair
    that the user named and that is halted stays in: it may trade again.
    """
    wanted = list(dict.fromkeys(named))
    unknown = [symbol for symbol in wanted if symbol not in listed]
    idle = [symbol for symbol in wanted if symbol in listed and listed[symbol].status is not ListingStatus.TRADING]
    if by_user:
        wrong = [symbol for symbol in unknown if symbol not in before] or (unknown if unknown == wanted else [])
        if wrong:
            raise UnknownPair("\n".join(_unknown(symbol, listed) for symbol in wrong))
        remarks = [f"{symbol} is not trading now ({listed[symbol].status}); it stays on the list" for symbol in idle]
        if unknown:
            remarks.append(f"left out, for the exchange no longer lists them: {', '.join(unknown)}")
        return Choice([symbol for symbol in wanted if symbol in listed], remarks)
    skipped = {*unknown, *idle}
    remarks = (
        [f"skipped, not trading on this exchange: {', '.join(s for s in wanted if s in skipped)}"] if skipped else []
    )
    return Choice([symbol for symbol in wanted if symbol not in skipped], remarks)


def choose_watched(watched: Sequence[str], listed: Mapping[str, Listing]) -> Choice:
    """Checks the pairs of a file, which may have been listed once: those that are no longer are left out for this run.

    What is halted stays in: it may trade again.
    """
    gone = [symbol for symbol in watched if symbol not in listed]
    kept = [symbol for symbol in watched if symbol in listed]
    idle = [symbol for symbol in kept if listed[symbol].status is not ListingStatus.TRADING]
    remarks = [f"not trading now, and still watched: {', '.join(idle)}"] if idle else []
    if gone:
        remarks.append(
            f"left out, for the exchange does not list them: {', '.join(gone)} (`ingester pairs remove` forgets them)"
        )
    return Choice(kept, remarks)


def pair_named(name: str, quote: str, known: Container[str]) -> str:
    """The pair that a person means by the name of a pair or of a coin, whichever is known; the likelier of both where
    neither is."""
    pair, coin_pair = normal(name), f"{normal(name)}{normal(quote)}"
    if pair in known or coin_pair in known:
        return pair if pair in known else coin_pair
    written_as_pair = any(separator in name for separator in "-/_")
    complete = pair.endswith(normal(quote)) and pair != normal(quote)
    coin, priced_in = assets(pair)
    looks_like_one = coin in DEFAULT_COINS and pair == coin + priced_in
    return pair if written_as_pair or complete or looks_like_one else coin_pair


def listed_symbols(
    exchange: Venue,
    symbols: Sequence[str],
    choice_of: Callable[[Mapping[str, Listing]], Choice],
    told: bool,
) -> list[str]:
    """The symbols to record: those chosen of what the exchange lists, or all where it cannot be asked.

    `told`: the user named a stream address, so REST may be someone else's. Raises UnknownPair and RegionRefused.
    """
    try:
        listed = fetch_listings(exchange)
    except RegionRefused:
        if not told:
            raise
        log.warning("%s refuses this region; recording starts unchecked", exchange.rest_url)
        return list(symbols)
    except ExchangeError as error:
        log.warning("pairs could not be checked, recording starts all the same: %s", error)
        return list(symbols)
    recent = _kept.recent(exchange.rest_url.rstrip("/"))
    choice = choice_of({**listed, **recent})
    _kept.write(make_folder=True)
    if missing := [symbol for symbol in choice.symbols if symbol in recent]:
        log.warning("not listed now, but still recorded, as they were listed until recently: %s", ", ".join(missing))
    for remark in choice.remarks:
        log.warning("%s", remark)
    return choice.symbols


def _unknown(symbol: str, listed: Mapping[str, Listing]) -> str:
    hint = nearest_text(symbol, listed, "It resembles no listed pair.")
    return f"The exchange lists no pair {symbol!r}. {hint} Pairs are written like BTCUSDT, coins like BTC."
