"""Binance's spot market: addresses, limits, stream names, and what a frame says. No I/O.

The rules obeyed here beyond those of `binance`, numbered as comments refer to them:

1. A partial book names neither its symbol nor a time, so only the wrapper tells the symbol.
2. A partial book stream is `<symbol in lower case>@depth<5|10|20>@100ms`.
3. A connection carries at most 1024 streams and lives for 24 h.
4. A connection may send 5 messages a second; requests, pings and pongs count alike. More, and it is closed (1008);
   one every 250 ms was seen to be closed as well, one every 500 ms was not.
5. 300 connection attempts per 5 minutes and IP address.
6. The server pings every 20 s, and drops a client without a pong within 60 s.
7. `lastUpdateId` rises from book to book; the steps between are of any size.
8. REST requests of one address may weigh 6,000 per minute together.
"""

import re
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from ingester.exchange import binance
from ingester.exchange.venue import Book, Channel, ChannelKind, Head, Limits, Message, RestRequest, Venue

_DEPTH_WEIGHTS = ((100, 5), (500, 25), (1000, 50), (5000, 250))
"""(levels per side at most, weight) of `/api/v3/depth`."""

_head = re.compile(rb'\{"stream":"([^"\\]+)","data":\{"lastUpdateId":(\d{1,18}),').match


class _PartialBook(msgspec.Struct, gc=False):
    update_id: binance.UpdateId = msgspec.field(name="lastUpdateId")
    bids: binance.Levels
    asks: binance.Levels


class _SpotFrame(msgspec.Struct, gc=False):
    stream: str
    data: _PartialBook


_decode_frame = msgspec.json.Decoder(_SpotFrame, strict=False).decode
_decode_book = msgspec.json.Decoder(_PartialBook, strict=False).decode


def stream_name(symbol: str, depth: int, interval_ms: int) -> str:
    """The partial book stream of a symbol (rule 2): `btcusdt@depth5@100ms`."""
    return f"{binance.lower_symbol(symbol)}@depth{depth}@{interval_ms}ms"


def peek(frame: bytes) -> Head | None:
    """Stream and update id of a book as Binance writes it; see `Channel.peek`."""
    head = _head(frame)
    if head is None:
        return None
    update_id = int(head[2])
    return head[1], update_id, update_id


def decode(frames: Sequence[bytes]) -> list[Message]:
    """Books and answers; see `Channel.decode`."""
    messages: list[Message] = []
    for frame in frames:
        try:
            decoded = _decode_frame(frame)
            book = decoded.data
            messages.append(Book(decoded.stream.encode(), book.update_id, book.bids, book.asks))
        except Exception as error:
            messages.append(binance.decode_control(frame, str(error)))
    return messages


def depth_snapshot(symbol: str, levels: int) -> RestRequest[Book]:
    """`/api/v3/depth`."""
    limit, weight = binance.depth_weight(_DEPTH_WEIGHTS, levels)
    return RestRequest(path=f"/api/v3/depth?symbol={quote(symbol)}&limit={limit}", weight=weight, decode=_decode_depth)


def _decode_depth(body: bytes) -> Book:
    book = _decode_book(body)
    return Book(b"", book.update_id, book.bids, book.asks)


BOOKS = Channel(
    kind=ChannelKind.BOOK,
    depths=(5, 10, 20),
    intervals_ms=(100,),
    stream_name=stream_name,
    peek=peek,
    decode=decode,
    salvage=binance.salvaging(b"lastUpdateId"),
)

BINANCE = Venue(
    name="binance",
    market="binance",
    title="Binance",
    stream_url="wss://stream.binance.com:9443",
    rest_url="https://api.binance.com",
    stream_path="/stream",
    limits=Limits(
        streams_per_connection=1024,
        streams_per_request=binance.STREAMS_PER_REQUEST,
        messages_per_second=5,
        attempts=300,
        attempt_window_seconds=300.0,
        connection_seconds=86_400.0,
        ping_seconds=20.0,
        pong_seconds=60.0,
        rest_weight_per_minute=6000,
    ),
    channels=(BOOKS,),
    example="BTCUSDT",
    requests=binance.requests,
    listings=binance.listings_request("/api/v3/exchangeInfo", 20),
    server_time=binance.time_request("/api/v3/time", 1),
    tickers=binance.tickers_request("/api/v3/ticker/24hr", 80),
    depth_snapshot=depth_snapshot,
)
