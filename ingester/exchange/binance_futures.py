"""Binance's USD-M futures: addresses, limits, stream names, and what a frame says. No I/O.

The rules obeyed here beyond those of `binance`, numbered as comments refer to them:

1. Order books flow on `/public/stream` alone. On another path a subscription is acknowledged, and nothing comes.
2. A partial book stream is `<symbol in lower case>@depth<5|10|20>`, which is sent every 250 ms, or the same with
   `@100ms` or `@500ms`. Perpetual contracts are called as the pair is on the spot market (`BTCUSDT`), others have the
   day of delivery behind it (`BTCUSDT_261225`).
3. A payload has the form of an update: `E` is the event time in ms, `s` the symbol, `U` and `u` the first and last
   update id since the one before, `pu` the last id of that; `b` and `a` hold the whole partial book. `u` identifies it.
4. A connection carries at most 1024 streams, may send 10 messages a second, and lives for 24 h.
5. The server pings every 3 minutes, and drops a client without a pong within 10.
6. REST requests of one address may weigh 2,400 per minute together.
"""

import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import msgspec

from ingester.exchange import binance
from ingester.exchange.venue import Book, Channel, ChannelKind, Head, Limits, Message, RestRequest, Venue

_DEFAULT_INTERVAL_MS = 250
"""Of a stream whose name says none (rule 2)."""
_DEPTH_WEIGHTS = ((5, 2), (10, 2), (20, 2), (50, 2), (100, 5), (500, 10), (1000, 20))
"""(levels per side, weight) of `/fapi/v1/depth`; other limits are refused."""

_head = re.compile(
    rb'\{"stream":"([^"\\]+)","data":\{"e":"depthUpdate","E":\d+,"T":\d+,"s":"[^"\\]+",(?:"ps":"[^"\\]*",)?'
    rb'"U":(\d{1,18}),"u":(\d{1,18}),'
).match


class _Update(msgspec.Struct, gc=False):
    """The payload of a partial book (rule 3)."""

    kind: str = msgspec.field(name="e")
    event_ms: Annotated[int, msgspec.Meta(gt=0, lt=2**63 // 1_000_000)] = msgspec.field(name="E")
    update_id: binance.UpdateId = msgspec.field(name="u")
    bids: binance.Levels = msgspec.field(name="b")
    asks: binance.Levels = msgspec.field(name="a")


class _FuturesFrame(msgspec.Struct, gc=False):
    stream: str
    data: _Update


class _Snapshot(msgspec.Struct, gc=False):
    """A book as REST gives it."""

    update_id: binance.UpdateId = msgspec.field(name="lastUpdateId")
    event_ms: int = msgspec.field(name="E")
    bids: binance.Levels
    asks: binance.Levels


_decode_frame = msgspec.json.Decoder(_FuturesFrame, strict=False).decode
_decode_snapshot = msgspec.json.Decoder(_Snapshot, strict=False).decode


def stream_name(symbol: str, depth: int, interval_ms: int) -> str:
    """The partial book stream of a symbol (rule 2): `btcusdt_261225@depth5@100ms`."""
    speed = "" if interval_ms == _DEFAULT_INTERVAL_MS else f"@{interval_ms}ms"
    return f"{binance.lower_symbol(symbol)}@depth{depth}{speed}"


def peek(frame: bytes) -> Head | None:
    """Stream, first and last update id of a book as Binance writes it; see `Channel.peek`."""
    head = _head(frame)
    return (head[1], int(head[2]), int(head[3])) if head is not None else None


def decode(frames: Sequence[bytes]) -> list[Message]:
    """Books and answers; see `Channel.decode`."""
    messages: list[Message] = []
    for frame in frames:
        try:
            decoded = _decode_frame(frame)
            book = decoded.data
            if book.kind != "depthUpdate":
                raise ValueError(f"an event of the kind {book.kind[:40]}")
            messages.append(
                Book(decoded.stream.encode(), book.update_id, book.bids, book.asks, book.event_ms * 1_000_000)
            )
        except Exception as error:
            messages.append(binance.decode_control(frame, str(error)))
    return messages


def depth_snapshot(symbol: str, levels: int) -> RestRequest[Book]:
    """`/fapi/v1/depth`."""
    limit, weight = binance.depth_weight(_DEPTH_WEIGHTS, levels)
    return RestRequest(path=f"/fapi/v1/depth?symbol={quote(symbol)}&limit={limit}", weight=weight, decode=_decode_depth)


def _decode_depth(body: bytes) -> Book:
    book = _decode_snapshot(body)
    return Book(b"", book.update_id, book.bids, book.asks, book.event_ms * 1_000_000)


BOOKS = Channel(
    kind=ChannelKind.BOOK,
    depths=(5, 10, 20),
    intervals_ms=(100, 250, 500),
    stream_name=stream_name,
    peek=peek,
    decode=decode,
    salvage=binance.salvaging(b"u"),
)

BINANCE_FUTURES = Venue(
    name="binance-futures",
    market="binance-futures",
    title="Binance futures",
    stream_url="wss://fstream.binance.com",
    rest_url="https://fapi.binance.com",
    stream_path="/public/stream",
    limits=Limits(
        streams_per_connection=1024,
        streams_per_request=binance.STREAMS_PER_REQUEST,
        messages_per_second=10,
        attempts=300,  # not documented for futures; the spot market allows as many
        attempt_window_seconds=300.0,
        connection_seconds=86_400.0,
        ping_seconds=180.0,
        pong_seconds=600.0,
        rest_weight_per_minute=2400,
    ),
    channels=(BOOKS,),
    example="BTCUSDT",
    requests=binance.requests,
    listings=binance.listings_request("/fapi/v1/exchangeInfo", 1),
    server_time=binance.time_request("/fapi/v1/time", 1),
    tickers=binance.tickers_request("/fapi/v1/ticker/24hr", 40),
    depth_snapshot=depth_snapshot,
)
