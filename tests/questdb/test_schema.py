"""schema.py against a real server."""

import re
import time

import pytest

from ingester.book import level_columns
from ingester.errors import QueryError, SchemaMismatch
from ingester.questdb import schema
from ingester.questdb.client import QuestDB


@pytest.fixture
def db(questdb):
    """The server without our tables, before and after."""
    db = QuestDB(questdb.endpoint)
    drop(db)
    yield db
    drop(db)


def drop(db):
    deadline = time.monotonic() + 10
    for table in (schema.ORDERBOOK, schema.EVENTS):
        while True:
            try:
                db.sql(f"DROP TABLE IF EXISTS {table}")
                break
            except QueryError as error:  # a query's reader goes a moment after its answer
                if "busyReader" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def columns(db, table=schema.ORDERBOOK):
    return [tuple(row) for row in db.sql(f"SELECT \"column\", type, upsertKey FROM table_columns('{table}')").rows]


@pytest.mark.parametrize("depth", [5, 10, 20])
def test_the_table_is_the_documented_one_and_applying_it_twice_changes_nothing(db, depth):
    schema.ensure(db, depth)
    first = columns(db)
    head = [
        ("timestamp", "TIMESTAMP", True),
        ("exchange", "SYMBOL", True),
        ("symbol", "SYMBOL", True),
        ("collector", "SYMBOL", True),
        ("last_update_id", "LONG", True),
        ("event_time", "TIMESTAMP", False),
    ]
    assert first == head + [(name, "DOUBLE", False) for name in level_columns(depth)]
    ddl = db.sql("SHOW CREATE TABLE orderbook").rows[0][0]
    assert "timestamp(timestamp) PARTITION BY DAY" in ddl
    assert "DEDUP UPSERT KEYS(timestamp,exchange,symbol,collector,last_update_id)" in ddl
    schema.ensure(db, depth)
    assert columns(db) == first
    assert db.sql("SHOW CREATE TABLE orderbook").rows[0][0] == ddl


def test_a_deeper_recorder_adds_its_levels_and_a_shallower_one_takes_none_away(db):
    schema.ensure(db, 5)
    db.sql("INSERT INTO orderbook (timestamp, symbol, bid_5) VALUES ('2024-01-01', 'BTCUSDT', 7.0)")
    schema.ensure(db, 10)
    schema.ensure(db, 5)
    db.sql("SELECT wait_wal_table('orderbook')")
    assert {name for name, _, _ in columns(db)} >= set(level_columns(10))
    assert db.sql("SELECT bid_5, bid_6 FROM orderbook").rows == [[7.0, None]]


def test_a_user_may_have_columns_of_their_own(db):
    schema.ensure(db, 5)
    db.sql("ALTER TABLE orderbook ADD COLUMN note VARCHAR")
    schema.ensure(db, 5)


def test_a_table_that_does_not_fit_is_refused_with_every_difference_named(db):
    db.sql(
        "CREATE TABLE orderbook (timestamp TIMESTAMP, symbol VARCHAR, collector SYMBOL, bid_1 LONG) "
        "TIMESTAMP(timestamp) PARTITION BY DAY BYPASS WAL"
    )
    with pytest.raises(SchemaMismatch) as refusal:
        schema.ensure(db, 5)
    text = str(refusal.value)
    for difference in (
        "column symbol is VARCHAR, expected SYMBOL",
        "column bid_1 is LONG, expected DOUBLE",
        "column last_update_id LONG is missing",
        "not a WAL table",
        "dedup keys",
        "RENAME TABLE orderbook",
    ):
        assert difference in text


def test_other_dedup_keys_are_refused(db):
    statement = schema.statements(5)[0]
    db.sql(re.sub(r"KEYS\(.*\)", "KEYS(timestamp, symbol)", statement))
    with pytest.raises(SchemaMismatch, match=r"dedup keys are \(symbol, timestamp\)"):
        schema.ensure(db, 5)


def test_tables_can_be_had_without_the_views(db):
    schema.ensure(db, 5)
    for name, _ in schema.views():
        db.sql(f"DROP VIEW {name}")
    schema.ensure_tables(db, 10)
    db.sql("SELECT wait_wal_table('orderbook')")
    assert {name for name, _, _ in columns(db)} >= set(level_columns(10))
    assert db.sql("SELECT count() FROM views()").rows == [[0]]
    schema.ensure(db, 10)
    assert db.sql("SELECT count() FROM views()").rows == [[len(schema.views())]]
