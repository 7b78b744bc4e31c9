"""Which pairs are recorded: what the exchange lists (kept between runs) and what the user named."""

import logging
import os
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from ingester.errors import ExchangeError, Incomplete, RegionRefused, UnknownPair
from ingester.exchange import binance, rest
from ingester.exchange.venue import Listing, ListingStatus, Venue
from ingester.proxies import is_loopback
from ingester.text import nearest_text

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
LISTING_FILE = "listing.json"
LISTED_SECONDS = 86_400.0
"""How long a pair still counts as listed after it has disappeared, and how long a short answer is not believed."""
SHORTEST_SHARE = 0.8
"""An answer with less than this share of the pairs that were listed the last time is a short one."""
MOST_LOCAL_SOURCES = 3
"""Of simulators on this machine so many are kept, the last ones."""
_COINS = frozenset((*DEFAULT_COINS, *QUOTES))
_WITH_DAY = re.compile(r"(.*?)(_\d{6})?", re.DOTALL)
USUAL_LETTERS = 3
"""Names of coins have so many letters or more, with few exceptions."""


class _ListedPair(msgspec.Struct, frozen=True):
    status: ListingStatus
    base: str
    quote: str
    gone_since: float | None = None


class _Source(msgspec.Struct, frozen=True):
    """`short_since`: since when it has given short answers only."""

    pairs: int = 0
    short_since: float | None = None
    symbols: dict[str, _ListedPair] = {}


class _ListedBefore(_ListedPair, frozen=True, kw_only=True):
    """A pair as earlier versions kept it: all sources shared one dictionary."""

    source: str


class _Content(msgspec.Struct, omit_defaults=True):
    sources: dict[str, _Source] = {}
    symbols: dict[str, _ListedBefore] = {}


class KeptListing:
    """What exchanges have listed. `path` is its file, None for memory only. May be used from any thread.

        {"sources": {"https://api.binance.com": {"pairs": 1480, "short_since": null, "symbols": {
            "BTCUSDT": {"status": "TRADING", "base": "BTC", "quote": "USDT", "gone_since": null}}}}}

    A pair stays there when it is no longer listed, so that its base and quote remain known. An answer of the exchange
    may lack pairs for a while, as during maintenance. So a pair counts as listed for a day after it was; and an answer
    with much fewer pairs than the last one is not believed, unless it stays so for a day. Times are seconds since 1970.
    """

    def __init__(self, path: Path | None = None, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self._content: _Content | None = None

    def assets(self, symbol: str) -> tuple[str, str] | None:
        """(base, quote) as an exchange listed them; what is tried out on this machine is asked last."""
        sources = self._read().sources
        latest_first = list(reversed(sources))
        for name in sorted(latest_first, key=_is_local):
            if pair := sources[name].symbols.get(symbol):
                return pair.base, pair.quote
        return None

    def bases(self) -> frozenset[str]:
        """All base assets."""
        return frozenset(pair.base for source in self._read().sources.values() for pair in source.symbols.values())

    def recent(self, source: str) -> dict[str, Listing]:
        """The pairs that this source no longer lists, but did less than a day ago."""
        since = self._now() - LISTED_SECONDS
        return {
            symbol: Listing(symbol, pair.base, pair.quote, pair.status)
            for symbol, pair in self._read().sources.get(source, _Source()).symbols.items()
            if pair.gone_since is not None and pair.gone_since > since
        }

    def note(self, source: str, listed: Mapping[str, Listing]) -> None:
        """Takes in what a source lists now. Raises Incomplete where that is much less than before."""
        old, now = self._read(), self._now()
        if self._content is None:
            return  # what is kept cannot be read now: it must not be replaced by less
        known = old.sources.get(source, _Source())
        since = known.short_since if known.short_since is not None else now
        short = len(listed) < SHORTEST_SHARE * known.pairs and now - since < LISTED_SECONDS
        if short:
            noted = msgspec.structs.replace(known, short_since=since)
        else:
            gone = {
                symbol: msgspec.structs.replace(pair, gone_since=now if pair.gone_since is None else pair.gone_since)
                for symbol, pair in known.symbols.items()
                if symbol not in listed
            }
            here = {symbol: _ListedPair(each.status, each.base, each.quote) for symbol, each in listed.items()}
            noted = _Source(len(listed), None, gone | here)
        sources = {name: each for name, each in old.sources.items() if name != source} | {source: noted}
        local = [name for name in sources if _is_local(name)]
        forgotten = set(local[:-MOST_LOCAL_SOURCES])
        self._content = _Content({name: each for name, each in sources.items() if name not in forgotten})
        if self._content != old:
            self.write()
        if short:
            raise Incomplete(
                f"{source} lists {len(listed)} pairs, and listed {known.pairs} the last time. That list is not "
                "trusted until it has stayed that short for a day."
            )

    def write(self, make_folder: bool = False) -> None:
        """Replaces the file. `make_folder`: also where there is no folder for it yet."""
        if (
            self._path is None
            or self._content is None
            or not any(source.symbols for source in self._content.sources.values())
        ):
            return
        temporary = self._path.with_name(f"{LISTING_FILE}.{os.getpid()}.new")
        try:
            if make_folder:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not self._path.parent.is_dir():
                return
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(self._content), indent=1))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s); base and quote of new pairs are guessed", self._path, error)

    def _read(self) -> _Content:
        if self._content is not None:
            return self._content
        content = _Content()
        try:
            if self._path is not None:
                content = msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s cannot be read (%s); it is tried again with the next list", self._path, error)
            return content
        except (ValueError, RecursionError) as error:
            log.warning("%s cannot be read (%s); it is written again with the next list", self._path, error)
        for symbol, pair in content.symbols.items():
            kept = content.sources.setdefault(pair.source, _Source())
            listed = _ListedPair(pair.status, pair.base, pair.quote, pair.gone_since)
            content.sources[pair.source] = msgspec.structs.replace(kept, symbols=kept.symbols | {symbol: listed})
        self._content = _Content(content.sources)
        return self._content


def _is_local(source: str) -> bool:
    return is_loopback(urlsplit(source).hostname or "")


class Choice(NamedTuple):
    """The pairs to record, and one line for each pair that was left out or is worth a word."""

    symbols: list[str]
    remarks: list[str]


def symbols_of(coins: Iterable[str], quote: str) -> list[str]:
    """`BTC`, `ETH` with quote `USDT` are `BTCUSDT`, `ETHUSDT`."""
    return [f"{normal_symbol(coin)}{normal_symbol(quote)}" for coin in coins]


_kept = KeptListing()


def keep_listings_in(data_dir: Path) -> None:
    """From now on listings are kept in this data folder, and those that it holds are known."""
    global _kept
    _kept = KeptListing(data_dir / LISTING_FILE)


def assets_of(symbol: str) -> tuple[str, str]:
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


def normal_symbol(name: str) -> str:
    """A pair as Binance writes it: `btc-usdt`, `BTC/USDT` and `BTC_USDT` are `BTCUSDT`. The day of delivery of a
    futures contract stays behind it: `BTCUSDT_261225`."""
    pair, day = _WITH_DAY.fullmatch(binance.upper_symbol(name).strip(" ")).groups()  # type: ignore[union-attr]
    return "".join(character for character in pair if character not in " -/_") + (day or "")


def is_pair_name(name: str) -> bool:
    """Whether a coin or pair may be called so, apart from separators: letters of any script, digits, marks, symbols."""
    pair = normal_symbol(name).partition("_")[0]  # a day of delivery behind it is digits
    return bool(pair) and all(
        unicodedata.category(each)[0] in "LNM" or unicodedata.category(each) == "So" for each in pair
    )


def fetch_listings(exchange: Venue, timeout: float = 10.0, patience: float = 0.0) -> dict[str, Listing]:
    """Returns all pairs that the exchange lists, by symbol; they are also kept.

    An entry that cannot be read is left out. Where the exchange answers `Retry-After`, the request is repeated after
    that, up to `patience` seconds; a recorder does not wait.

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


def choose_pairs(
    named: Sequence[str], by_user: bool, listed: Mapping[str, Listing], before: Container[str] = ()
) -> Choice:
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


def choose_watched_pairs(watched: Sequence[str], listed: Mapping[str, Listing]) -> Choice:
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
    pair, coin_pair = normal_symbol(name), f"{normal_symbol(name)}{normal_symbol(quote)}"
    if pair in known or coin_pair in known:
        return pair if pair in known else coin_pair
    written_as_pair = any(separator in name for separator in "-/_")
    complete = pair.endswith(normal_symbol(quote)) and pair != normal_symbol(quote)
    coin, priced_in = assets_of(pair)
    looks_like_one = coin in DEFAULT_COINS and pair == coin + priced_in
    return pair if written_as_pair or complete or looks_like_one else coin_pair


def listed_symbols(
    exchange: Venue,
    symbols: Sequence[str],
    choice_of: Callable[[Mapping[str, Listing]], Choice],
    stream_url_given: bool,
) -> list[str]:
    """The symbols to record: those chosen of what the exchange lists, or all where it cannot be asked.

    `stream_url_given`: the user named a stream address, so that the REST address may be of another exchange. Raises
    UnknownPair and RegionRefused.
    """
    try:
        listed = fetch_listings(exchange)
    except RegionRefused:
        if not stream_url_given:
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
