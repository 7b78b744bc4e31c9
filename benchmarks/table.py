"""A table to be exported: the recorded BTCUSDT books, replayed for many pairs. `python -m table DATA_DIR PAIRS HOURS`

Each pair replays the same recording from a place of its own; its books are 100 ms apart with 20 ms of jitter.
"""

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from load import symbols
from questdb import Sender

from ingester.book import level_columns
from ingester.clock import SECOND
from ingester.questdb import ManagedServer, QuestDB, schema

RECORDING = Path(__file__).parent.parent / "tests" / "data" / "btcusdt.jsonl.gz"
DEPTH = 5
START = "2024-08-08"
INTERVAL_NS, JITTER_NS = SECOND // 10, SECOND // 50
ROW_BYTES = 220
"""Of a row in the table, its share of symbols' indexes and of the table's metadata included."""
WRITE_ROWS = 100_000
HOUR_TICKS = 3600 * SECOND // INTERVAL_NS


def recorded_books(depth: int = DEPTH) -> np.ndarray:
    """The recording's levels: (books, 4 x depth), in the order of the table's columns."""
    with gzip.open(RECORDING, "rt") as lines:
        books = [json.loads(line.partition(" ")[2])["data"] for line in lines]
    return np.array([[side[:depth] for side in (book["bids"], book["asks"])] for book in books], float).reshape(
        len(books), -1
    )


def frames(pairs: int, hours: float, depth: int = DEPTH) -> Iterator[pd.DataFrame]:
    """The table's rows in the order of time, about WRITE_ROWS at once."""
    books, random = recorded_books(depth), np.random.default_rng(1)
    names, ticks = np.array(symbols(pairs)), round(hours * HOUR_TICKS)
    piece_ticks = max(1, WRITE_ROWS // pairs)
    for first in range(0, ticks, piece_ticks):
        tick, pair = (each.ravel() for each in np.mgrid[first : min(first + piece_ticks, ticks), :pairs])
        times = pd.Timestamp(START).value + tick * INTERVAL_NS + pair * (INTERVAL_NS - JITTER_NS) // pairs
        times += random.integers(0, JITTER_NS // 1000, len(times)) * 1000
        order = np.argsort(times)
        tick, pair = tick[order], pair[order]
        frame = pd.DataFrame(books[(tick + 101 * pair) % len(books)], columns=level_columns(depth))
        frame.insert(0, "timestamp", times[order].view("datetime64[ns]"))
        frame.insert(1, "symbol", pd.Categorical.from_codes(pair, names))
        frame.insert(2, "collector", pd.Categorical.from_codes(np.zeros_like(pair), ["bench"]))
        frame.insert(3, "last_update_id", 10**10 + 37 * tick)
        yield frame


def fill(db: QuestDB, pairs: int, hours: float, depth: int = DEPTH) -> None:
    """Makes the table, and returns when all its rows are to be seen."""
    schema.ensure(db, depth)
    with Sender.from_conf("http::addr=127.0.0.1:1;protocol_version=2;auto_flush=off;") as encoder:
        for frame in frames(pairs, hours, depth):
            rows = encoder.new_buffer()
            rows.dataframe(frame, table_name=schema.ORDERBOOK, symbols=["symbol", "collector"], at="timestamp")
            db.write(bytes(rows))
    db.sql(f"SELECT wait_wal_table('{schema.ORDERBOOK}')")


if __name__ == "__main__":
    fill(QuestDB(ManagedServer(Path(sys.argv[1])).ensure()), int(sys.argv[2]), float(sys.argv[3]))
