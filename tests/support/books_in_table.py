"""Books for tests, and how they get into a table."""

import gzip
import json
from pathlib import Path

from ingester.book import OrderBook
from ingester.questdb.encoder import RowEncoder

RECORDING = Path(__file__).parents[1] / "data" / "btcusdt.jsonl.gz"


def snapshots_of(path, symbol):
    with gzip.open(path, "rt") as lines:
        for line in lines:
            receive_ns, _, text = line.partition(" ")
            book = json.loads(text)["data"]
            sides = [[(float(price), float(size)) for price, size in book[side][:5]] for side in ("bids", "asks")]
            yield OrderBook(symbol, int(receive_ns), book["lastUpdateId"], *sides)


def flat(snapshot):
    return [number for side in (snapshot.bids, snapshot.asks) for level in side for number in level]


def store(db, snapshots, collector, events=()):
    encoder = RowEncoder(depth=5, exchange="binance", collector=collector)
    for start in range(0, len(snapshots), 1000):
        db.write(encoder.snapshots(snapshots[start : start + 1000]))
    if events:
        db.write(encoder.events(events))
    db.sql("SELECT wait_wal_table('orderbook')")
    db.sql("SELECT wait_wal_table('collector_events')")
