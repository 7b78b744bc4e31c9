"""What Binance's exchanges have in common: how requests are written, and answers and lists are read. No I/O.

The rules that hold on all of them, numbered as comments refer to them (source: Binance's "WebSocket Streams" and "REST
API" pages):

1. Combined streams wrap each payload: `{"stream": name, "data": payload}`.
2. One SUBSCRIBE may name many streams. It is answered by `{"result": null, "id": n}`, even for a symbol that does not
   exist, which then stays silent; a mistake is answered by `{"error": {"code", "msg"}, "id"}` or `{"code", "msg"}`.
3. `{"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": ms}}` announces that the server will go away.
4. HTTP 451 means that this exchange serves no customers in the caller's region; 429 and 418 carry `Retry-After`.
"""

import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from ingester.exchange.venue import (
    Acknowledged,
    Listing,
    ListingStatus,
    Malformed,
    Message,
    Method,
    Refused,
    RestRequest,
    ShuttingDown,
    SubscriptionRequest,
    Ticker,
)

STREAMS_PER_REQUEST = 300
"""So many names make a request of about 8 kB; a full connection is subscribed in four requests, within two seconds."""

UpdateId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # what the table's LONG holds
_Positive = Annotated[float, msgspec.Meta(gt=0.0, lt=1e300)]  # refuses NaN and infinity as well
Levels = list[tuple[_Positive, _Positive]]
"""As a frame has them: texts of digits, so decoders need `strict=False`."""

STATUSES = {status.value: status for status in ListingStatus} | {
    "PRE_TRADING": ListingStatus.PENDING,
    "PENDING_TRADING": ListingStatus.PENDING,
    "POST_TRADING": ListingStatus.END_OF_DAY,
    "AUCTION_MATCH": ListingStatus.AUCTION,
    "TRADING_HALT": ListingStatus.HALT,
    "PRE_DELIVERING": ListingStatus.HALT,
    "PRE_SETTLE": ListingStatus.HALT,
    "TRADING_CANCEL_ONLY": ListingStatus.CANCEL_ONLY,
    "DELIVERING": ListingStatus.CLOSED,
    "SETTLING": ListingStatus.CLOSED,
    "DELIVERED": ListingStatus.CLOSED,
    "CLOSE": ListingStatus.CLOSED,
}
"""Binance's words for the state of a pair, those of the spot and of the futures market."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_STREAM_OF = re.compile(rb'"stream": ?("(?:[^"\\]|\\.){1,200}?@[a-z0-9@]+")')


def lower_symbol(symbol: str) -> str:
    """A symbol as stream names have it. Only A to Z change: other letters may not come back the same (`ß`, `İ`)."""
    return symbol.translate(_LOWER)


def upper_symbol(name: str) -> str:
    """The symbol of a name in lower case; the reverse of `lower`."""
    return name.translate(_UPPER)


def requests(method: Method, streams: Sequence[str], first_id: int) -> list[SubscriptionRequest]:
    """SUBSCRIBE or UNSUBSCRIBE as messages of at most `STREAMS_PER_REQUEST` streams each (rule 2)."""
    chunks = [streams[i : i + STREAMS_PER_REQUEST] for i in range(0, len(streams), STREAMS_PER_REQUEST)]
    return [
        SubscriptionRequest(number, _text({"method": method.value, "params": list(chunk), "id": number}), chunk)
        for number, chunk in enumerate(chunks, first_id)
    ]


def decode_control(payload: bytes, problem: str) -> Message:
    """What a frame says that is no book, because of this problem (rules 2 and 3). Never raises.

    Besides errors of decoding a hostile frame can cause a RecursionError or a MemoryError.
    """
    try:
        return _control(payload, problem)
    except Exception as error:
        return Malformed(f"not JSON: {str(error) or type(error).__name__}", payload)


def _control(payload: bytes, problem: str) -> Message:
    message: Any = msgspec.json.decode(payload)
    match message:
        case {"stream": "!serverShutdown", **rest} | {"e": "serverShutdown", **rest}:  # whatever its time looks like
            return ShuttingDown()
        case {"error": {"code": int(code), "msg": str(text)}, **rest}:
            return Refused(_request_id(rest), code, text)
        case {"code": int(code), "msg": str(text), **rest}:
            return Refused(_request_id(rest), code, text)
        case {"result": _, "id": int(request)}:
            return Acknowledged(request)
        case {"stream": str(stream)}:
            return Malformed(f"no order book in stream {stream}: {problem}", payload)
    return Malformed("a message of unknown form", payload)


def _request_id(rest: dict[Any, Any]) -> int | None:
    request = rest.get("id")
    return request if isinstance(request, int) else None


def salvaging(key: bytes) -> Callable[[bytes], tuple[bytes | None, int | None]]:
    """A `Channel.salvage` for payloads that have their last update id under this key."""
    id_of = re.compile(rb'"%b": ?(\d{1,18})[,}]' % key)

    def salvage(payload: bytes) -> tuple[bytes | None, int | None]:
        stream, update_id = _STREAM_OF.search(payload), id_of.search(payload)
        return (_unquoted(stream[1]) if stream else None), (int(update_id[1]) if update_id else None)

    return salvage


def _unquoted(quoted: bytes) -> bytes | None:
    """A JSON string without its quotes and escapes."""
    try:
        return msgspec.json.decode(quoted, type=str).encode()
    except (msgspec.DecodeError, UnicodeError):
        return None


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


class _Symbol(msgspec.Struct):
    symbol: str
    status: str
    base: str = msgspec.field(name="baseAsset")
    quote: str = msgspec.field(name="quoteAsset")
    filters: msgspec.Raw = msgspec.Raw(b"[]")


class _Filter(msgspec.Struct):
    kind: str = msgspec.field(name="filterType", default="")
    tick_size: float = msgspec.field(name="tickSize", default=math.nan)
    step_size: float = msgspec.field(name="stepSize", default=math.nan)


class _ExchangeInfo(msgspec.Struct):
    symbols: list[msgspec.Raw]


class _ServerTime(msgspec.Struct):
    server_time: int = msgspec.field(name="serverTime")


class _Ticker(msgspec.Struct):
    symbol: str
    price: float = msgspec.field(name="lastPrice")
    volume: float = msgspec.field(name="quoteVolume")


_decode_info = msgspec.json.Decoder(_ExchangeInfo).decode
_decode_symbol = msgspec.json.Decoder(_Symbol).decode
_decode_filters = msgspec.json.Decoder(list[_Filter], strict=False).decode
_decode_time = msgspec.json.Decoder(_ServerTime, strict=False).decode
_decode_tickers = msgspec.json.Decoder(list[_Ticker], strict=False).decode


def _listings(body: bytes) -> list[Listing | None]:
    return [_listing(entry) for entry in _decode_info(body).symbols]


def _listing(entry: msgspec.Raw) -> Listing | None:
    try:
        found = _decode_symbol(entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not (found.symbol and found.base and found.quote):
        return None
    steps = _steps(found.filters)
    return Listing(found.symbol, found.base, found.quote, STATUSES.get(found.status, ListingStatus.UNKNOWN), *steps)


def _steps(filters: msgspec.Raw) -> tuple[float | None, float | None]:
    """Tick and step size of a pair's filters."""
    try:
        by_kind = {each.kind: each for each in _decode_filters(filters)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    tick, step = by_kind.get("PRICE_FILTER", _Filter()).tick_size, by_kind.get("LOT_SIZE", _Filter()).step_size
    return (tick if 0 < tick < math.inf else None), (step if 0 < step < math.inf else None)


def _time_ns(body: bytes) -> int:
    ns = _decode_time(body).server_time * 1_000_000
    if not 0 < ns < 1 << 63:
        raise ValueError(f"serverTime is {str(ns // 1_000_000)[:40]}")
    return ns


def _tickers(body: bytes) -> list[Ticker]:
    return [Ticker(each.symbol, each.price, each.volume) for each in _decode_tickers(body)]


def listings_request(path: str, weight: int) -> RestRequest[list[Listing | None]]:
    """All pairs, from `exchangeInfo`."""
    return RestRequest(path=path, weight=weight, decode=_listings)


def time_request(path: str, weight: int) -> RestRequest[int]:
    """The exchange's clock, in ns."""
    return RestRequest(path=path, weight=weight, decode=_time_ns)


def tickers_request(path: str, weight: int) -> RestRequest[list[Ticker]]:
    """What was traded of each pair in 24 hours."""
    return RestRequest(path=path, weight=weight, decode=_tickers)


def depth_weight(weights: Sequence[tuple[int, int]], levels: int) -> tuple[int, int]:
    """The smallest (limit, weight) on offer that gives so many levels; the largest where none does."""
    return next((each for each in weights if each[0] >= levels), weights[-1])
