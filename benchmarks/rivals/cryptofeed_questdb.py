"""cryptofeed with its QuestDB backend (`BookQuest`, ILP over TCP) on the same partial books.

Unchanged: its websocket client and connection handling, its JSON decoder, its OrderBook type (Decimal prices), its
callbacks, its queue and its backend, and uvloop, which it asks for. Changed in a subclass of its Binance feed, and why:

* `websocket_endpoints`, `rest_endpoints`: the simulator's addresses. `connect`: cryptofeed insists on wss://, the
  simulator speaks ws://, to all recorders alike.
* `_address`: asks for `<symbol>@depth5@100ms` instead of `<symbol>@depth@100ms`. cryptofeed subscribes to the changes
  of a book and fetches its beginning by REST; the others here record partial books, ten whole snapshots a second.
* `message_handler`: partial books have no event type, which cryptofeed would call unexpected. The frame is decoded as
  it does, and becomes an OrderBook as its own `_snapshot` makes one, handed to its own `book_callback`.

It has no acknowledgements (TCP), so its lag cannot be told; it stores no update id, so its rows are 1 column narrower.
"""

import asyncio
import json
import os
import signal
import sys
from decimal import Decimal
from threading import Thread

from control import answer
from cryptofeed import FeedHandler
from cryptofeed.backends.quest import BookQuest
from cryptofeed.connection import RestEndpoint, Routes, WebsocketEndpoint
from cryptofeed.defines import L2_BOOK
from cryptofeed.exchanges import Binance
from cryptofeed.types import OrderBook
from yapic import json as yapic_json


class PartialBooks(Binance):
    """cryptofeed's Binance feed for `<symbol>@depth<N>@100ms`."""

    def _address(self):
        address = super()._address()
        old, new = "@depth@", f"@depth{self.max_depth}@"
        return address.replace(old, new) if isinstance(address, str) else [each.replace(old, new) for each in address]

    def connect(self):
        connections = super().connect()
        for connection, *_ in connections:
            connection.address = connection.address.replace("wss://", "ws://", 1)
        return connections

    async def message_handler(self, msg, conn, timestamp):
        msg = yapic_json.loads(msg, parse_float=Decimal)
        pair, _ = msg["stream"].split("@", 1)
        msg = msg["data"]
        book = OrderBook(
            self.id,
            self.exchange_symbol_to_std_symbol(pair.upper()),
            max_depth=self.max_depth,
            bids={Decimal(u[0]): Decimal(u[1]) for u in msg["bids"]},
            asks={Decimal(u[0]): Decimal(u[1]) for u in msg["asks"]},
        )
        await self.book_callback(L2_BOOK, book, timestamp, raw=msg, sequence_number=msg["lastUpdateId"])


def main() -> None:
    task = json.loads(sys.argv[1])
    PartialBooks.websocket_endpoints = [WebsocketEndpoint(task["stream_url"].replace("ws://", "wss://", 1))]
    PartialBooks.rest_endpoints = [
        RestEndpoint(task["rest_url"], routes=Routes("/api/v3/exchangeInfo", l2book="/api/v3/depth?symbol={}&limit={}"))
    ]
    handler = FeedHandler(config={"uvloop": True, "log": {"disabled": True}})
    quest = BookQuest(host="127.0.0.1", port=task["tcp_port"], depth=task["depth"])
    symbols = [f"{symbol.removesuffix('USDT')}-USDT" for symbol in task["symbols"]]
    feed = PartialBooks(symbols=symbols, channels=[L2_BOOK], max_depth=task["depth"], callbacks={L2_BOOK: quest})
    handler.add_feed(feed)
    # cryptofeed expects that there is one; uvloop no longer makes it by itself.
    asyncio.set_event_loop(asyncio.new_event_loop())
    stop = answer(lambda: {"lag": None})

    def end() -> None:
        stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=end, name="end", daemon=True).start()
    handler.run()


if __name__ == "__main__":
    main()
