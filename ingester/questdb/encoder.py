"""Encodes books, events and listings as rows of ILP, by the encoder of the questdb client."""

import functools
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from questdb import Sender, TimestampMicros, TimestampNanos

from ingester.book import OrderBook, level_columns
from ingester.events import Event
from ingester.exchange import Listing
from ingester.questdb.tables import EVENTS, INSTRUMENTS, ORDERBOOK


@functools.cache
def buffer_maker() -> Sender:
    """The process's one Sender, only for its buffers: over HTTP with a pinned protocol version it opens no
    connection, and `new_buffer` is the documented way to a Buffer. The client warns where several are made in a short
    time.
    """
    sender = Sender.from_conf("http::addr=127.0.0.1:1;protocol_version=2;auto_flush=off;")
    sender.establish()  # type: ignore[no-untyped-call]
    return sender


class RowEncoder:
    """Encodes rows of one recorder. Two threads must not use it at the same time."""

    def __init__(self, *, depth: int, exchange: str | None, collector: str) -> None:
        """`exchange`: the name as the tables keep it; None for events that concern all exchanges of a table."""
        self._buffer = buffer_maker().new_buffer()
        self._depth = depth
        self._exchange = exchange
        self._collector = collector
        self._names = level_columns(depth)
        self._bid_names, self._ask_names = self._names[: 2 * depth], self._names[2 * depth :]

    def snapshots(self, snapshots: Sequence[OrderBook]) -> bytes:
        """Returns ILP rows of `orderbook`. Levels that a book lacks stay NULL; levels beyond the depth are left out."""
        buffer, depth, names = self._buffer, self._depth, self._names
        exchange, collector = self._exchange, self._collector
        buffer.clear()  # type: ignore[no-untyped-call]
        for symbol, receive_ns, update_id, bids, asks, event_ns in snapshots:
            columns: dict[str, Any]
            if len(bids) == len(asks) == depth:
                columns = dict(zip(names, chain.from_iterable(chain(bids, asks)), strict=True))
            else:
                columns = dict(zip(self._bid_names, chain.from_iterable(bids), strict=False))
                columns |= zip(self._ask_names, chain.from_iterable(asks), strict=False)
            columns["last_update_id"] = update_id
            if event_ns is not None:
                columns["event_time"] = TimestampMicros(event_ns // 1000)
            buffer.row(
                ORDERBOOK,
                symbols={"exchange": exchange, "symbol": symbol, "collector": collector},
                columns=columns,
                at=TimestampNanos(receive_ns),
            )
        return bytes(buffer)

    def instruments(self, at_ns: int, listings: Iterable[Listing]) -> bytes:
        """Returns ILP rows of `instruments`: the listings of the exchange from this time on."""
        buffer = self._buffer
        buffer.clear()  # type: ignore[no-untyped-call]
        for each in listings:
            symbols = {
                "exchange": self._exchange,
                "symbol": each.symbol,
                "base": each.base,
                "quote": each.quote,
                "status": each.status.value,
            }
            columns: dict[str, Any] = {"tick_size": each.tick_size, "step_size": each.step_size}
            buffer.row(INSTRUMENTS, symbols=symbols, columns=columns, at=TimestampNanos(at_ns))
        return bytes(buffer)

    def events(self, events: Iterable[Event]) -> bytes:
        """Returns ILP rows of `collector_events`."""
        buffer = self._buffer
        buffer.clear()  # type: ignore[no-untyped-call]
        for at_ns, kind, symbol, connection, detail, until_ns in events:
            symbols = {
                "exchange": self._exchange,
                "collector": self._collector,
                "kind": kind,
                "symbol": symbol or None,
                "connection": connection or None,
            }
            columns: dict[str, Any] = {"detail": detail or None}
            if until_ns is not None:
                columns["until"] = TimestampMicros(until_ns // 1000)
            buffer.row(EVENTS, symbols=symbols, columns=columns, at=TimestampNanos(at_ns))
        return bytes(buffer)
