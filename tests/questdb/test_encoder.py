"""encoder.py: what ILP bytes become in a real table."""

import pytest

from ingester.book import OrderBook, level_columns
from ingester.questdb import schema
from ingester.questdb.client import QuestDB, RowsRefused
from ingester.questdb.encoder import RowEncoder

NS = 1_700_000_000_123_456_789


@pytest.fixture
def db(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 20)
    return db


def stored(db, collector, depth):
    columns = ", ".join(["timestamp", "symbol", "last_update_id", *level_columns(depth)])
    return db.sql(f"SELECT {columns} FROM orderbook WHERE collector = '{collector}' ORDER BY timestamp").rows


def wait_for_wal(db, table="orderbook"):
    db.sql(f"SELECT wait_wal_table('{table}')")


def test_a_snapshot_is_stored_exactly_with_thin_levels_null_and_deep_ones_left_out(db):
    bids = [(61800.2, 1e-8), (61800.1, 0.1 + 0.2)]
    asks = [(61800.3 + i, 123456789.12345678) for i in range(7)]
    db.write(
        RowEncoder(depth=5, exchange="binance", collector="rows-1").snapshots(
            [OrderBook("BTCUSDT", NS, 42, bids, asks)]
        )
    )
    wait_for_wal(db)
    ((timestamp, symbol, update_id, *levels),) = stored(db, "rows-1", 5)
    assert timestamp == "2023-11-14T22:13:20.123456Z"
    assert (symbol, update_id) == ("BTCUSDT", 42)
    flat = [number for level in bids for number in level] + [None] * 6
    assert levels == flat + [number for level in asks[:5] for number in level]


def test_an_empty_book_is_a_row_without_levels(db):
    db.write(
        RowEncoder(depth=5, exchange="binance", collector="rows-2").snapshots([OrderBook("HALTUSDT", NS, 1, [], [])])
    )
    wait_for_wal(db)
    assert stored(db, "rows-2", 5) == [["2023-11-14T22:13:20.123456Z", "HALTUSDT", 1, *[None] * 20]]


@pytest.mark.parametrize("name", ["A B", "A,B=C", 'quote"', "new\nline", "ÄÖ\\"])
def test_names_are_escaped(db, name):
    db.write(
        RowEncoder(depth=5, exchange="binance", collector=name).snapshots([OrderBook(name, NS, 1, [(1.0, 1.0)], [])])
    )
    wait_for_wal(db)
    rows = db.sql("SELECT symbol, collector FROM orderbook WHERE bid_1 = 1.0").rows
    assert [name, name] in rows


def test_sending_the_same_rows_twice_stores_them_once(db):
    body = RowEncoder(depth=5, exchange="binance", collector="rows-3").snapshots(
        [OrderBook("BTCUSDT", NS + i * 1000, i, [(1.0, 2.0)], [(3.0, 4.0)]) for i in range(100)]
    )
    db.write(body)
    db.write(body)
    wait_for_wal(db)
    assert len(stored(db, "rows-3", 5)) == 100


def test_events_are_stored_with_their_end(db):
    body = RowEncoder(depth=5, exchange="binance", collector="rows-4").events(
        [
            (NS, "started", "", "", "2 pairs", None),
            (NS + 1000, "gap", "BTCUSDT", "1a", "connection lost", NS + 5_000_000_000),
        ]
    )
    db.write(body)
    wait_for_wal(db, "collector_events")
    assert db.sql("SELECT * FROM collector_events WHERE collector = 'rows-4' ORDER BY timestamp").rows == [
        ["2023-11-14T22:13:20.123456Z", "binance", "rows-4", "started", None, None, "2 pairs", None],
        [
            "2023-11-14T22:13:20.123457Z",
            "binance",
            "rows-4",
            "gap",
            "BTCUSDT",
            "1a",
            "connection lost",
            "2023-11-14T22:13:25.123456Z",
        ],
    ]


def test_a_bad_row_is_refused_and_nothing_of_its_request_is_stored(db):
    good = RowEncoder(depth=5, exchange="binance", collector="rows-5").snapshots(
        [OrderBook("BTCUSDT", NS, 1, [(1.0, 2.0)], [])]
    )
    bad = b'orderbook,symbol=BTCUSDT,collector=rows-5 bid_1="text" 1700000000000000000\n'
    with pytest.raises(RowsRefused, match="bid_1"):
        db.write(good + bad)
    wait_for_wal(db)
    assert stored(db, "rows-5", 5) == []
