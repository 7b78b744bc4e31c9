"""The simulated exchange's REST answers: exchangeInfo, ticker, depth, products. Functions of request and listing."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from ingester.exchange import SUPPLIES_PATH, assets
from ingester.simulator.books import book, update_id
from ingester.simulator.markets import UNITS, circulating, market

TICKS_PER_DAY = 864_000


class SimulatedListing(NamedTuple):
    """What the exchange lists."""

    seed: int
    symbols: tuple[str, ...]
    assets: Mapping[str, tuple[str, str]]
    """(base, quote) of symbols that `pairs.assets` would not guess."""
    statuses: Mapping[str, str]
    """States of symbols other than TRADING: HALT, BREAK, …"""
    thin: Mapping[str, int]

    def status(self, symbol: str) -> str:
        return self.statuses.get(symbol, "TRADING")


class Answer(NamedTuple):
    """An HTTP answer with a JSON body."""

    status: int
    body: bytes
    retry_after: int | None = None


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value, separators=(",", ":")).encode())


def error_answer(code: int, message: str, status: int = 400) -> Answer:
    """Binance's form of an error, for instance -1121 "Invalid symbol."."""
    return json_answer({"code": code, "msg": message}, status)


def rest_answer(listing: SimulatedListing, url: str, tick: int, recorded: Callable[[str, int], bytes | None]) -> Answer:
    """What the exchange answers to a GET of `url` at `tick`; `recorded` gives a played symbol's payload."""
    path, query = urlsplit(url).path, urlsplit(url).query
    values = {name: texts[-1] for name, texts in parse_qs(query).items()}
    match path:
        case "/api/v3/ping":
            return json_answer({})
        case "/api/v3/time":
            return json_answer({"serverTime": tick * 100})
        case "/api/v3/exchangeInfo" | "/api/v3/ticker/24hr":
            symbols = _asked(listing, values)
            if isinstance(symbols, Answer):
                return symbols
            if path == "/api/v3/exchangeInfo":
                return json_answer(_exchange_info(listing, symbols, tick))
            tickers = [_ticker(listing.seed, symbol, tick, recorded(symbol, 1)) for symbol in symbols]
            return json_answer(tickers[0] if "symbol" in values else tickers)
        case path if path == SUPPLIES_PATH:
            return json_answer(
                {"code": "000000", "message": None, "messageDetail": None, "success": True,
                 "data": [_product(listing, symbol, tick, recorded(symbol, 1)) for symbol in listing.symbols]}
            )  # fmt: skip
        case "/api/v3/depth":
            if not values.get("symbol"):
                return error_answer(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
            symbols = _asked(listing, {"symbol": values["symbol"]})
            limit = values.get("limit", "100")
            if isinstance(symbols, Answer):
                return symbols
            if not limit.isdigit() or int(limit) < 1:
                return error_answer(-1100, "Illegal characters found in parameter 'limit'.")
            payload = recorded(symbols[0], int(limit))
            return Answer(200, payload) if payload else _depth(listing, symbols[0], int(limit), tick)
    return error_answer(-1000, f"There is nothing at {path}.", 404)


def _asked(listing: SimulatedListing, values: Mapping[str, str]) -> list[str] | Answer:
    if "symbol" in values:
        asked = [values["symbol"]]
    elif "symbols" in values:
        try:
            asked = [str(each) for each in json.loads(values["symbols"])]
        except (ValueError, TypeError):
            return error_answer(-1100, "Illegal characters found in parameter 'symbols'.")
    else:
        return list(listing.symbols)
    known = set(listing.symbols)
    return asked if all(each in known for each in asked) else error_answer(-1121, "Invalid symbol.")


def _exchange_info(listing: SimulatedListing, symbols: list[str], tick: int) -> dict[str, Any]:
    return {
        "timezone": "UTC",
        "serverTime": tick * 100,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61000},
        ],
        "exchangeFilters": [],
        "symbols": [_symbol(listing, symbol) for symbol in symbols],
    }


def _symbol(listing: SimulatedListing, symbol: str) -> dict[str, Any]:
    base, quote = listing.assets.get(symbol) or assets(symbol)
    this = market(listing.seed, symbol)
    tick_size, step_size = _text(this.tick_units), _text(this.lot_units)
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
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick_size,
                "maxPrice": "1000000.00000000",
                "tickSize": tick_size,
            },
            {"filterType": "LOT_SIZE", "minQty": step_size, "maxQty": "900000000.00000000", "stepSize": step_size},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
        "permissions": ["SPOT"],
    }


def _ticker(seed: int, symbol: str, tick: int, payload: bytes | None) -> dict[str, Any]:
    """`payload`: of a played symbol; nothing is known of a day before."""
    this = market(seed, symbol)
    (bids, asks), (earlier, _) = (
        book(seed, symbol, update_id(seed, symbol, at), 1) for at in (tick, tick - TICKS_PER_DAY)
    )
    played = json.loads(payload) if payload else {}
    if played.get("bids") and played.get("asks"):
        bids, asks = played["bids"], played["asks"]
        earlier = bids
    last, opened = float(bids[0][0]), float(earlier[0][0])
    # The largest quantity of a level is worth about 50,000 dollars: 40 to 40,000 of them change hands in a day.
    volume = this.most_lots * this.lot_units / UNITS * 40 * 10.0 ** (this.key % 1000 / 333)
    return {
        "symbol": symbol,
        "priceChange": f"{last - opened:.8f}",
        "priceChangePercent": f"{(last / opened - 1) * 100:.3f}",
        "weightedAvgPrice": f"{(last + opened) / 2:.8f}",
        "prevClosePrice": earlier[0][0],
        "lastPrice": bids[0][0],
        "lastQty": bids[0][1],
        "bidPrice": bids[0][0],
        "bidQty": bids[0][1],
        "askPrice": asks[0][0],
        "askQty": asks[0][1],
        "openPrice": earlier[0][0],
        "highPrice": f"{max(last, opened) * 1.01:.8f}",
        "lowPrice": f"{min(last, opened) * 0.99:.8f}",
        "volume": f"{volume:.8f}",
        "quoteVolume": f"{volume * (last + opened) / 2:.8f}",
        "openTime": (tick - TICKS_PER_DAY) * 100,
        "closeTime": tick * 100,
        "firstId": 1,
        "lastId": 1 + this.key % 1_000_000,
        "count": this.key % 1_000_000,
    }


def _product(listing: SimulatedListing, symbol: str, tick: int, payload: bytes | None) -> dict[str, Any]:
    """A line of the list of products that Binance's own web pages use; `cs` is the circulating supply."""
    base, quote = listing.assets.get(symbol) or assets(symbol)
    ticker = _ticker(listing.seed, symbol, tick, payload)
    this = market(listing.seed, symbol)
    return {
        "s": symbol, "st": listing.status(symbol), "b": base, "q": quote, "ba": "", "qa": "",
        "i": _text(this.lot_units), "ts": _text(this.tick_units), "an": base, "qn": quote,
        "o": ticker["openPrice"], "h": ticker["highPrice"], "l": ticker["lowPrice"], "c": ticker["lastPrice"],
        "v": ticker["volume"], "qv": ticker["quoteVolume"], "y": 0, "as": 0.0, "pm": quote, "pn": quote,
        "cs": circulating(listing.seed, base), "tags": [], "pom": False, "pomt": None, "lc": False, "g": False,
        "sd": False, "r": False, "hd": False, "rb": False, "ks": False, "etf": base.endswith(("UP", "DOWN")),
    }  # fmt: skip


def _depth(listing: SimulatedListing, symbol: str, limit: int, tick: int) -> Answer:
    number = update_id(listing.seed, symbol, tick)
    bids, asks = book(listing.seed, symbol, number, min(limit, listing.thin.get(symbol, limit)))
    return json_answer({"lastUpdateId": number, "bids": bids, "asks": asks})


def _text(units: int) -> str:
    return f"{units // UNITS}.{units % UNITS:08d}"
