"""Rows that somebody made by hand, without symbol, collector or update id: left out and told, by all that read."""

import pandas as pd
import pytest
from click.testing import CliRunner
from recorder import url_of

from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.datasets.coverage import recorded_range
from ingester.datasets.playback import table_snapshots
from ingester.questdb import query, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.partitions import DAY, start_of

START = start_of("2017-03-01")  # a day that no other test writes to
NOON = START + 12 * 3600 * SECOND
HAND_MADE = (
    "(timestamp) VALUES ('2017-03-01T00:00:01')",
    "(timestamp, bid_1) VALUES ('2017-03-01T12:00:00.05', 1.0)",
    "(timestamp, symbol, bid_1, last_update_id) VALUES ('2017-03-01T12:00:01', 'NAUSDT', 1.0, 7)",
    "(timestamp, collector, bid_1, last_update_id) VALUES ('2017-03-01T12:00:02', 'named', 1.0, 8)",
    "(timestamp, symbol, collector, bid_1) VALUES ('2017-03-01T12:00:03', 'NAUSDT', 'named', 1.0)",
    "(timestamp, symbol, last_update_id) VALUES ('2017-03-01T12:00:04', 'NCUSDT', 9)",
)


@pytest.fixture(scope="module")
def db(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    encoder = RowEncoder(depth=5, exchange="binance", collector="named")
    for symbol in ("NAUSDT", "NBUSDT"):
        db.write(
            encoder.snapshots(
                [
                    OrderBook(symbol, NOON + number * SECOND // 10, number + 1, [(2.0, 1.0)] * 5, [(3.0, 1.0)] * 5)
                    for number in range(100)
                ]
            )
        )
    for row in HAND_MADE:
        db.sql(f"INSERT INTO orderbook {row}")
    db.sql("SELECT wait_wal_table('orderbook')")
    yield db
    db.sql("ALTER TABLE orderbook DROP PARTITION LIST '2017-03-01'")
    db.sql("SELECT wait_wal_table('orderbook')")


@pytest.fixture
def run(questdb, tmp_path):
    def run(*arguments):
        where = ("--questdb", url_of(questdb.endpoint), "--data-dir", str(tmp_path / "data"))
        result = CliRunner().invoke(cli, [*map(str, arguments), *where])
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.mark.parametrize(
    "options",
    [(), ("--levels", 1), ("--pairs", "NAUSDT"), ("--every", "1s"), ("--format", "csv"), ("--pairs", "NAUSDT,NBUSDT")],
)
def test_an_export_leaves_them_out_and_says_so(db, run, tmp_path, caplog, options):
    run("export", "--from", "2017-03-01", "--to", "2017-03-02", *options, "--root", tmp_path)
    assert "of this range left out: without symbol, collector or last_update_id" in caplog.text
    for path in tmp_path.rglob("N[AB]_*.pkl"):
        frame = pd.read_pickle(path).dropna(how="all")
        assert (frame["Bid_1"] == 2.0).all()
        if "--every" not in options:
            assert len(frame) == 100


def test_playback_and_coverage_leave_them_out(db, run, caplog):
    counts = query.rows_by_symbol(db, START, START + DAY)
    played = list(table_snapshots(db, START, START + DAY, ["NAUSDT", "NBUSDT"], counts))
    assert len(played) == 200
    assert "left out" in caplog.text
    caplog.clear()
    shown = run("coverage", "--from", "2017-03-01", "--to", "2017-03-02", "--by", "hour", "--json")
    assert "NAUSDT" in shown
    assert "left out" in caplog.text
    assert query.collectors(db, START, START + DAY) == ["named"]
    assert recorded_range(db, ["NBUSDT"]) == (NOON, NOON + 99 * SECOND // 10 + 1000)


def test_everything_else_that_reads_the_table_still_does(db, run):
    for event in (
        "(timestamp, kind) VALUES (now(), 'gap')",
        "(timestamp, kind, until) VALUES ('2017-03-01', 'gap', now())",
    ):
        db.sql(f"INSERT INTO collector_events {event}")
    db.sql("SELECT wait_wal_table('collector_events')")
    run("retention")
    run("coverage", "--from", "2017-03-01", "--to", "2017-03-02")
    assert recorded_range(db) is not None
    for name, _ in schema.views():
        assert db.sql(f"SELECT * FROM {name} LIMIT 1").columns
