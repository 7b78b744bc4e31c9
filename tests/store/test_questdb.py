"""questdb.py against a real server."""

import time

import pytest

from ingester.snapshot import Snapshot
from ingester.store import schema
from ingester.store.questdb import QuestDB, RowsRefused
from ingester.store.rows import RowEncoder


def test_rows_for_a_table_that_was_dropped_or_made_anew_do_not_vanish(questdb):
    db = QuestDB(questdb.endpoint)
    body = RowEncoder(5, "questdb-1").snapshots([Snapshot("BTCUSDT", time.time_ns(), 1, [(1.0, 2.0)], [])])
    schema.ensure(db, 5)
    db.write(body)
    db.sql("DROP TABLE orderbook")
    with pytest.raises(RowsRefused, match="does not exist"):
        db.write(body)
    schema.ensure(db, 5)
    db.write(body)
    db.sql("SELECT wait_wal_table('orderbook')")
    assert db.sql("SELECT count() FROM orderbook WHERE collector = 'questdb-1'").rows == [[1]]
