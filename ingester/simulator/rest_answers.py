"""The simulated exchange's REST answers on both markets: functions of the request, the listing and the tick."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from ingester.exchange import SUPPLIES_PATH, assets
from ingester.simulator.books import (
    FUTURES,
    MOST_LEVELS,
    SPOT,
    UNITS,
    BookBatch,
    PayloadFormat,
    book,
    circulating,
    synthetic_pair,
    text_of,
    update_id,
)
from ingester.simulator.markets import MARKETS, SPOT_MARKET, TICK_MS, SimulatedMarket
from ingester.simulator.recording import TapeBook, sides_of

TICKS_PER_DAY = 864_000
PERPETUAL_DELIVERY_MS = 4_133_404_800_000
"""Binance gives perpetual contracts a delivery date in the year 2100."""
FUTURES_DEPTHS = (5, 10, 20, 50, 100, 500, 1000)

_FUTURES_DEPTH = PayloadFormat(
    (b'{"lastUpdateId":', "u", b',"E":', "E", b',"T":', "T", b',"bids":['), b'],"asks":[', b"]}", "u"
)


@dataclass(frozen=True)
class SimulatedPair:
    """A listed symbol that is not like others."""

    symbol: str
    assets: tuple[str, str] | None = None
    """(base, quote) where the symbol does not tell them."""
    status: str = "TRADING"
    """HALT, BREAK, …: a pair in another state than TRADING is listed but silent."""
    levels: int | None = None
    """So many levels at most on each side."""


class SimulatedListing(NamedTuple):
    """What the exchange lists."""

    seed: int
    pairs: Mapping[str, SimulatedPair]

    @property
    def symbols(self) -> list[str]:
        """All symbols, in the order in which they are listed."""
        return list(self.pairs)

    @property
    def thin(self) -> dict[str, int]:
        """Levels of the symbols whose books have few."""
        return {symbol: pair.levels for symbol, pair in self.pairs.items() if pair.levels is not None}

    def status(self, symbol: str) -> str:
        return self.pairs[symbol].status

    def assets(self, symbol: str) -> tuple[str, str]:
        """(base, quote)."""
        return self.pairs[symbol].assets or assets(symbol.partition("_")[0])

    def halted(self, symbols: Iterable[str]) -> "SimulatedListing":
        """The same with these symbols in the state HALT."""
        halted = {symbol: replace(self.pairs[symbol], status="HALT") for symbol in symbols}
        return self._replace(pairs={**self.pairs, **halted})


class Answer(NamedTuple):
    """An HTTP answer with a JSON body."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer that says `value`."""
    return Answer(status, json.dumps(value, separators=(",", ":")).encode())


def error_answer(code: int, message: str, status: int = 400) -> Answer:
    """Binance's form of an error, for instance -1121 "Invalid symbol."."""
    return json_answer({"code": code, "msg": message}, status)


class SimulatedRequest(NamedTuple):
    """A GET: which market is asked for what."""

    market: SimulatedMarket
    path: str
    """Without the market's prefix: `/exchangeInfo`; whole where it has none."""
    values: dict[str, str]

    @property
    def weight(self) -> int:
        """What the request counts towards the market's limit per minute."""
        match self.market.name, self.path:
            case _, "/depth":
                limit = self._limit()
                steps = _DEPTH_WEIGHTS[self.market.name]
                return next((weight for most, weight in steps if limit <= most), steps[-1][1])
            case "spot", "/exchangeInfo":
                return 20
            case "spot", "/ticker/24hr":
                return 2 if "symbol" in self.values else 80
            case "futures", "/ticker/24hr":
                return 1 if "symbol" in self.values else 40
        return 1

    def _limit(self) -> int:
        limit = self.values.get("limit", "")
        return int(limit) if limit.isdigit() else (100 if self.market is SPOT_MARKET else 500)


_DEPTH_WEIGHTS = {
    SPOT: ((100, 5), (500, 25), (1000, 50), (5000, 250)),
    FUTURES: ((50, 2), (100, 5), (500, 10), (1000, 20)),
}


def parse_request(url: str) -> SimulatedRequest:
    """The request that a GET of `url` is. What belongs to no market counts as one of spot."""
    path, query = urlsplit(url).path, urlsplit(url).query
    values = {name: texts[-1] for name, texts in parse_qs(query).items()}
    for market in MARKETS:
        if path.startswith(f"{market.rest}/"):
            return SimulatedRequest(market, path.removeprefix(market.rest), values)
    return SimulatedRequest(SPOT_MARKET, path, values)


def rest_answer(
    listing: SimulatedListing, request: SimulatedRequest, tick: int, played: Callable[[str], TapeBook | None]
) -> Answer:
    """What the exchange answers at `tick`; `played` gives the last book of a symbol that a recording plays."""
    market, path, values = request
    match path:
        case "/ping":
            return json_answer({})
        case "/time":
            return json_answer({"serverTime": tick * TICK_MS})
        case "/exchangeInfo":
            # The futures market takes no parameters here.
            symbols = _asked(listing, market, values if market is SPOT_MARKET else {})
            return (
                symbols if isinstance(symbols, Answer) else json_answer(_exchange_info(listing, market, symbols, tick))
            )
        case "/ticker/24hr":
            symbols = _asked(listing, market, values)
            if isinstance(symbols, Answer):
                return symbols
            tickers = _tickers(listing, market, symbols, tick, played)
            return json_answer(tickers[0] if "symbol" in values else tickers)
        case "/depth":
            return _depth(listing, request, tick, played)
        case path if path == SUPPLIES_PATH:
            tickers = _tickers(listing, market, listing.symbols, tick, played)
            data = [_product(listing, ticker) for ticker in tickers]
            return json_answer(
                {"code": "000000", "message": None, "messageDetail": None, "success": True, "data": data}
            )
    return error_answer(-1000, f"There is nothing at {path}.", 404)


def _asked(listing: SimulatedListing, market: SimulatedMarket, values: Mapping[str, str]) -> list[str] | Answer:
    listed = [symbol for symbol in listing.symbols if market.lists(symbol)]
    if "symbol" in values:
        asked = [values["symbol"]]
    elif "symbols" in values and market is SPOT_MARKET:
        try:
            asked = [str(each) for each in json.loads(values["symbols"])]
        except (ValueError, TypeError):
            return error_answer(-1100, "Illegal characters found in parameter 'symbols'.")
    else:
        return listed
    return asked if set(asked) <= set(listed) else error_answer(-1121, "Invalid symbol.")


def _exchange_info(listing: SimulatedListing, market: SimulatedMarket, symbols: list[str], tick: int) -> dict[str, Any]:
    one = _spot_symbol if market is SPOT_MARKET else _contract
    return {
        "timezone": "UTC",
        "serverTime": tick * TICK_MS,
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": market.limits.weight,
            },
        ],
        "exchangeFilters": [],
        "symbols": [one(listing, market, symbol) for symbol in symbols],
    }


def _spot_symbol(listing: SimulatedListing, market: SimulatedMarket, symbol: str) -> dict[str, Any]:
    base, quote = listing.assets(symbol)
    return {
        "symbol": symbol,
        "status": listing.status(symbol),
        "baseAsset": base,
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            *_steps(listing, market, symbol),
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
        "permissions": ["SPOT"],
    }


def _contract(listing: SimulatedListing, market: SimulatedMarket, symbol: str) -> dict[str, Any]:
    base, quote = listing.assets(symbol)
    pair, delivery = symbol.partition("_")[::2]
    price_decimals, quantity_decimals = synthetic_pair(listing.seed, symbol, market.name).decimals
    status = listing.status(symbol)
    return {
        "symbol": symbol,
        "pair": pair,
        "contractType": "CURRENT_QUARTER" if delivery else "PERPETUAL",
        "deliveryDate": _delivery_ms(delivery) if delivery else PERPETUAL_DELIVERY_MS,
        "onboardDate": 1_569_398_400_000,
        "status": market.statuses.get(status, status),
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": base,
        "quoteAsset": quote,
        "marginAsset": quote,
        "pricePrecision": price_decimals,
        "quantityPrecision": quantity_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "filters": [*_steps(listing, market, symbol), {"filterType": "MIN_NOTIONAL", "notional": "100"}],
        "orderTypes": ["LIMIT", "MARKET", "STOP"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def _steps(listing: SimulatedListing, market: SimulatedMarket, symbol: str) -> list[dict[str, Any]]:
    """The filters that hold tick size and step size."""
    pair = synthetic_pair(listing.seed, symbol, market.name)
    tick_size, step_size = pair.texts(pair.tick_units, pair.lot_units)
    highest, most = pair.texts(1_000_000 * UNITS, 900_000_000 * UNITS)
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick_size, "maxPrice": highest, "tickSize": tick_size},
        {"filterType": "LOT_SIZE", "minQty": step_size, "maxQty": most, "stepSize": step_size},
    ]


def _delivery_ms(date: str) -> int:
    """`261225` as the milliseconds of that day's 8 o'clock UTC; 0 for what is no date."""
    try:
        return int(datetime.strptime(f"{date} 08", "%y%m%d %H").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return 0


def _tickers(
    listing: SimulatedListing,
    market: SimulatedMarket,
    symbols: Sequence[str],
    tick: int,
    played: Callable[[str], TapeBook | None],
) -> list[dict[str, Any]]:
    if not symbols:
        return []
    batch = BookBatch(listing.seed, symbols, 1, market=market.name)
    now, before = (batch.units(batch.update_ids(at)).tolist() for at in (tick, tick - TICKS_PER_DAY))
    return [
        _ticker(listing.seed, market, symbol, tick, best, earlier, played(symbol))
        for symbol, best, earlier in zip(symbols, now, before, strict=True)
    ]


def _ticker(
    seed: int,
    market: SimulatedMarket,
    symbol: str,
    tick: int,
    now: list[list[list[int]]],
    before: list[list[list[int]]],
    played: TapeBook | None,
) -> dict[str, Any]:
    """`now`, `before`: best levels at the end and the beginning of the day. `played`: nothing is known of its day."""
    pair = synthetic_pair(seed, symbol, market.name)
    (bid, ask), (opening, _) = ([pair.texts(*side[0]) for side in sides] for sides in (now, before))
    if played is not None:
        bids, asks = (json.loads(b"[%b]" % side) for side in played.sides(1))
        if bids and asks:
            bid, ask = bids[0], asks[0]
            opening = bid
    last, opened = float(bid[0]), float(opening[0])
    # The largest quantity of a level is worth about 50,000 dollars: 40 to 40,000 of them change hands in a day.
    volume = pair.most_lots * pair.lot_units / UNITS * 40 * 10.0 ** (pair.key % 1000 / 333)
    quotes = {
        "prevClosePrice": opening[0],
        "bidPrice": bid[0],
        "bidQty": bid[1],
        "askPrice": ask[0],
        "askQty": ask[1],
    }
    return {
        "symbol": symbol,
        "priceChange": f"{last - opened:.8f}",
        "priceChangePercent": f"{(last / opened - 1) * 100:.3f}",
        "weightedAvgPrice": f"{(last + opened) / 2:.8f}",
        "lastPrice": bid[0],
        "lastQty": bid[1],
        **(quotes if market is SPOT_MARKET else {}),
        "openPrice": opening[0],
        "highPrice": f"{max(last, opened) * 1.01:.8f}",
        "lowPrice": f"{min(last, opened) * 0.99:.8f}",
        "volume": f"{volume:.8f}",
        "quoteVolume": f"{volume * (last + opened) / 2:.8f}",
        "openTime": (tick - TICKS_PER_DAY) * TICK_MS,
        "closeTime": tick * TICK_MS,
        "firstId": 1,
        "lastId": 1 + pair.key % 1_000_000,
        "count": pair.key % 1_000_000,
    }


def _product(listing: SimulatedListing, ticker: dict[str, Any]) -> dict[str, Any]:
    """A line of the list of products that Binance's own web pages use; `cs` is the circulating supply."""
    symbol = ticker["symbol"]
    base, quote = listing.assets(symbol)
    pair = synthetic_pair(listing.seed, symbol)
    step_size, tick_size = (text_of(units, 8) for units in (pair.lot_units, pair.tick_units))
    return {
        "s": symbol, "st": listing.status(symbol), "b": base, "q": quote, "ba": "", "qa": "",
        "i": step_size, "ts": tick_size, "an": base, "qn": quote,
        "o": ticker["openPrice"], "h": ticker["highPrice"], "l": ticker["lowPrice"], "c": ticker["lastPrice"],
        "v": ticker["volume"], "qv": ticker["quoteVolume"], "y": 0, "as": 0.0, "pm": quote, "pn": quote,
        "cs": circulating(listing.seed, base), "tags": [], "pom": False, "pomt": None, "lc": False, "g": False,
        "sd": False, "r": False, "hd": False, "rb": False, "ks": False, "etf": base.endswith(("UP", "DOWN")),
    }  # fmt: skip


def _depth(
    listing: SimulatedListing, request: SimulatedRequest, tick: int, played: Callable[[str], TapeBook | None]
) -> Answer:
    market, _, values = request
    symbol, limit = values.get("symbol"), values.get("limit", "100" if market is SPOT_MARKET else "500")
    if not symbol:
        return error_answer(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    if isinstance(refused := _asked(listing, market, {"symbol": symbol}), Answer):
        return refused
    if not limit.isdigit() or int(limit) < 1:
        return error_answer(-1100, "Illegal characters found in parameter 'limit'.")
    if market is not SPOT_MARKET and int(limit) not in FUTURES_DEPTHS:
        return error_answer(-4021, f"{limit} is not valid depth limit.")
    if (latest := played(symbol)) is not None:
        number, at_ms = latest.update_id, latest.event_ms
        sides = latest.sides(int(limit))
    else:
        number, at_ms = update_id(listing.seed, symbol, tick, market.name), tick * TICK_MS
        levels = min(int(limit), listing.pairs[symbol].levels or MOST_LEVELS)
        bids, asks = book(listing.seed, symbol, number, levels, market.name)
        sides = sides_of(bids, asks)
    format = market.format if market is SPOT_MARKET else _FUTURES_DEPTH
    return Answer(200, format.payload({format.id_field: number, "E": at_ms, "T": at_ms}, *sides))
