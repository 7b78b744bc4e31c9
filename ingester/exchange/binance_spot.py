"""Binance's spot stream contract without any I/O: addresses, stream names, requests, and what an incoming frame says.

The rules obeyed here, numbered as comments refer to them (source: Binance's "WebSocket Streams" and "REST API" pages):

1. Combined streams live under `/stream` and wrap each payload: `{"stream": name, "data": payload}`. A partial book
   names neither its symbol nor a time, so only the wrapper tells the symbol.
2. A partial book stream is `<symbol in lower case>@depth<5|10|20>@100ms`.
3. A connection carries at most 1024 streams.
4. A connection may send 5 messages a second; requests, pings and pongs count alike. More, and it is closed (1008);
   one every 250 ms was seen to be closed as well, one every 500 ms was not.
5. One SUBSCRIBE may name many streams. It is answered by `{"result": null, "id": n}`, even for a symbol that does not
   exist, which then stays silent; a mistake is answered by `{"error": {"code", "msg"}, "id"}` or `{"code", "msg"}`.
6. 300 connection attempts per 5 minutes and IP address.
7. `{"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": ms}}` announces that the server will go away.
8. `lastUpdateId` rises from book to book; the steps between are of any size.
9. HTTP 451 means that this exchange serves no customers in the caller's region; 429 and 418 carry `Retry-After`.
"""

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from ingester.proxies import is_loopback

DEPTHS = (5, 10, 20)
INTERVAL_MS = 100
STREAMS_PER_CONNECTION = 1024  # rule 3
MESSAGES_PER_SECOND = 5  # rule 4
ATTEMPTS_PER_WINDOW, ATTEMPT_WINDOW_SECONDS = 300, 300.0  # rule 6
STREAMS_PER_REQUEST = 300
"""So many names make a request of about 8 kB; a full connection is subscribed in four requests, within two seconds."""


class Exchange(NamedTuple):
    """Where an exchange that speaks Binance's protocol is reached: websocket base and REST base, without a path."""

    name: str
    stream_url: str
    rest_url: str
    ca_file: Path | None = None
    """Certificates (PEM) of those who may vouch for it, instead of the ones that the system trusts."""


EXCHANGES = {
    exchange.name: exchange
    for exchange in (
        Exchange("binance", "wss://stream.binance.com:9443", "https://api.binance.com"),
        Exchange("binance-us", "wss://stream.binance.us:9443", "https://api.binance.us"),
        Exchange("binance-vision", "wss://data-stream.binance.vision", "https://data-api.binance.vision"),
        Exchange("testnet", "wss://stream.testnet.binance.vision", "https://testnet.binance.vision"),
    )
}


SIMULATOR, TESTNET = "simulator", "testnet"
"""Names of exchanges whose books are not real."""


def rightly_named(exchange: Exchange) -> Exchange:
    """The same under the name that is true of where its books come from.

    A preset's name is only for the preset's own host; another address is called by its host and port. One on this
    machine is always called so, unless it is a simulator.
    """
    parts = urlsplit(exchange.stream_url)
    own = {urlsplit(preset.stream_url).hostname: name for name, preset in EXCHANGES.items()}
    if parts.hostname in own:
        return exchange._replace(name=own[parts.hostname])
    if exchange.name in EXCHANGES or (is_loopback(parts.hostname or "") and exchange.name != SIMULATOR):
        return exchange._replace(name=parts.netloc.rpartition("@")[2])
    return exchange


def stored_name(name: str) -> str:
    """Returns the name under which the tables keep an exchange: binance-vision is another address of binance."""
    return "binance" if name == "binance-vision" else name


def is_practice(name: str) -> bool:
    """Whether an exchange of this name, as `rightly_named` gives it, sends books that are not real."""
    return name in (SIMULATOR, TESTNET) or is_loopback(urlsplit(f"//{name}").hostname or "")


UpdateId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # what the table's LONG holds
Positive = Annotated[float, msgspec.Meta(gt=0.0, lt=1e300)]  # refuses NaN and infinity as well


class PartialBook(msgspec.Struct, gc=False):
    """The payload of a partial book stream: levels are (price, quantity), best first, as many as the frame held."""

    update_id: UpdateId = msgspec.field(name="lastUpdateId")
    bids: list[tuple[Positive, Positive]]
    asks: list[tuple[Positive, Positive]]


class BookMessage(msgspec.Struct, gc=False):
    """A partial book with the name of its stream, as the frame wraps it (rule 1)."""

    stream: str
    data: PartialBook


class Acknowledged(NamedTuple):
    """The exchange took request `id`. It proves nothing about the streams named in it (rule 5)."""

    id: int


class Refused(NamedTuple):
    """The exchange answered a request (or, with id None, the connection) with an error."""

    id: int | None
    code: int
    message: str


class ShuttingDown(NamedTuple):
    """The server behind this connection will go away, without a promise when (rule 7)."""


class Malformed(NamedTuple):
    """A frame that is none of the above; `reason` says what was wrong with it."""

    reason: str
    payload: bytes


Message = BookMessage | Acknowledged | Refused | ShuttingDown | Malformed


head = re.compile(rb'\{"stream":"([^"\\]+)","data":\{"lastUpdateId":(\d{1,18}),').match
"""Stream and update id of a book as Binance writes it, without decoding the rest; None for anything else."""

_STREAM_OF = re.compile(rb'"stream": ?("(?:[^"\\]|\\.){1,200}?@[a-z0-9@]+")')
_ID_OF = re.compile(rb'"lastUpdateId": ?(\d{1,18})[,}]')

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)

_decode_book = msgspec.json.Decoder(BookMessage, strict=False).decode  # strict=False: prices are strings of digits


def decode(payload: bytes) -> Message:
    """What one text frame of a combined connection says. Never raises: what cannot be understood is `Malformed`.

    Besides errors of decoding a hostile frame can cause a RecursionError or a MemoryError.
    """
    try:
        return _decode_book(payload)
    except Exception as error:
        try:
            return _decode_other(payload, str(error))
        except Exception as other:
            return Malformed(f"not JSON: {str(other) or type(other).__name__}", payload)


def _decode_other(payload: bytes, problem: str) -> Message:
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


def salvage(payload: bytes) -> tuple[bytes | None, int | None]:
    """Stream and update id of a frame that cannot be read, as far as they are there."""
    stream, update_id = _STREAM_OF.search(payload), _ID_OF.search(payload)
    return (_text(stream[1]) if stream else None), (int(update_id[1]) if update_id else None)


def _text(quoted: bytes) -> bytes | None:
    """A JSON string without its quotes and escapes."""
    try:
        return msgspec.json.decode(quoted, type=str).encode()
    except (msgspec.DecodeError, UnicodeError):
        return None


def is_crossed(book: PartialBook) -> bool:
    """Whether the best bid is not below the best ask, which no exchange means to send. Thin and empty books are fine:
    halted pairs have them."""
    bids, asks = book.bids, book.asks
    return bool(bids and asks and bids[0][0] >= asks[0][0])


def stream_name(symbol: str, depth: int) -> str:
    """The partial book stream of a symbol (rule 2): `btcusdt@depth5@100ms`."""
    return f"{lower(symbol)}@depth{depth}@{INTERVAL_MS}ms"


def lower(symbol: str) -> str:
    """A symbol as stream names have it. Only A to Z change: other letters may not come back the same (`ß`, `İ`)."""
    return symbol.translate(_LOWER)


def upper(name: str) -> str:
    """The symbol of a name in lower case; the reverse of `lower`."""
    return name.translate(_UPPER)


def combined_url(stream_url: str) -> str:
    """The address of a combined connection that starts without streams (rule 1)."""
    return f"{stream_url.rstrip('/')}/stream"


def requests(method: str, streams: Sequence[str], first_id: int) -> list[tuple[int, str]]:
    """SUBSCRIBE or UNSUBSCRIBE as (id, text) messages of at most `STREAMS_PER_REQUEST` streams each (rule 5)."""
    chunks = [streams[i : i + STREAMS_PER_REQUEST] for i in range(0, len(streams), STREAMS_PER_REQUEST)]
    return [
        (request, msgspec.json.encode({"method": method, "params": list(chunk), "id": request}).decode())
        for request, chunk in enumerate(chunks, first_id)
    ]


def region_refused(exchange: str, host: str) -> str:
    """What to tell a person whom the exchange refuses for their region (rule 9)."""
    others = ", ".join(f"--exchange {name}" for name in EXCHANGES if name not in (exchange, "testnet"))
    return (
        f"{host} answered HTTP 451: this exchange does not serve the region that this machine's address belongs to. "
        f"These may work from here: {others} (or --exchange simulator, to try things out)."
    )
