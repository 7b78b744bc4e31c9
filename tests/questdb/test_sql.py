"""Every view and every query in `sql/` on hand-made rows, against the same numbers worked out in Python."""

import logging
import re
from datetime import UTC, datetime, timedelta

import pytest
import sql_oracle
from sql_oracle import DURING, EVENTS, NOON, ROWS, A, B, moved

from ingester.book import OrderBook
from ingester.errors import QueryError
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder

VIEWS = dict(schema.views())
QUERIES = {file.name.removesuffix(".sql"): file.read_text() for file in (schema.sql_folder() / "queries").iterdir()}


def ns(moment):
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000


@pytest.fixture(scope="module")
def db(questdb):
    """The server with ROWS and EVENTS in it, and the same books at other prices from another exchange."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    for collector, events in EVENTS.items():
        encoder = RowEncoder(depth=5, exchange="binance", collector=collector)
        mine = [OrderBook(r.symbol, ns(r.at), r.update_id, r.bids, r.asks) for r in ROWS if r.collector == collector]
        db.write(encoder.snapshots(mine))
        others = [book._replace(bids=moved(book.bids, 1000), asks=moved(book.asks, 1000)) for book in mine]
        db.write(RowEncoder(depth=5, exchange="binance-futures", collector=collector).snapshots(others))
        db.write(encoder.events([(ns(e[0]), *e[1:5], ns(e[5]) if e[5] else None) for e in events]))
    for row in sql_oracle.INSTRUMENTS:
        db.sql(f"INSERT INTO instruments VALUES {row}".replace("None", "NULL"))
    for table in (schema.ORDERBOOK, schema.EVENTS, "instruments"):
        db.sql(f"SELECT wait_wal_table('{table}')")
    return db


def dicts(db, statement):
    """The answer, one dictionary a row, times as datetimes."""
    result = db.sql(statement)
    times = {name for name, type_ in zip(result.columns, result.types, strict=True) if type_ == "TIMESTAMP"}
    return [
        {
            name: datetime.fromisoformat(value) if name in times and value else value
            for name, value in zip(result.columns, row, strict=True)
        }
        for row in result.rows
    ]


def assert_rows(found, expected):
    """The same rows in the same order; columns that are not expected may be there too."""
    assert len(found) == len(expected), found
    for row, wanted in zip(found, expected, strict=True):
        for name, value in wanted.items():
            assert row[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), (name, row)


DECLARED = {
    "largest_gaps": {"during": f"'{DURING}'"},
    "gaps_explained": {"during": f"'{DURING}'", "pair": f"'{A}'"},
    "book_at": {"pair": f"'{A}'", "at": "'2021-03-04T12:00:04.750000Z'"},
    "spread_by_hour": {"during": f"'{DURING}'", "pair": f"'{A}'"},
    "pairs_side_by_side": {"during": f"'{DURING}'", "pair": f"'{A}'", "other": f"'{B}'"},
    "volatility": {"during": f"'{DURING}'", "pair": f"'{A}'"},
    "fastest_collector": {"during": f"'{DURING}'"},
    "resampled": {"during": f"'{DURING}'", "pair": f"'{A}'"},
    "quantity_by_level": {"during": f"'{DURING}'", "pair": f"'{A}'"},
    "spot_and_futures": {"during": f"'{DURING}'", "pair": f"'{A}'"},
    "tick_sizes": {"pair": f"'{A}'"},
}


def declared(statement, values):
    """The statement with the values of its DECLARE replaced."""
    for name, value in values.items():
        statement, changes = re.subn(rf"@{name} := [^,\n]+", f"@{name} := {value}", statement)
        assert changes == 1, f"@{name} is not declared"
    return statement


def expectation(name):
    check = getattr(sql_oracle, f"expected_{name}", None)
    assert check, f"sql/ holds {name}.sql, but sql_oracle.py has no expected_{name}()"
    return check()


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_answers_what_its_rows_say(db, name):
    expected = expectation(name)
    parameters = f"DECLARE @during := '{DURING}'" if "@during" in VIEWS[name] else ""
    found = dicts(db, f"{parameters} SELECT * FROM {name} WHERE symbol IN ('{A}', '{B}') OR symbol IS NULL")
    if name == "reported_gaps":
        found = [row for row in found if row["timestamp"].date() == NOON.date()]
    found = [row for row in found if row["exchange"] == "binance"]
    by_row = sorted(expected, key=lambda row: (row["timestamp"], row["symbol"] or "", row.get("collector", "")))
    found.sort(key=lambda row: (row["timestamp"], row["symbol"] or "", row.get("collector", "")))
    assert_rows(found, by_row)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_answers_what_its_rows_say(db, name):
    expected = expectation(name)
    found = dicts(db, declared(QUERIES[name], DECLARED[name]))
    assert_rows([row for row in found if row.get("exchange", "binance") == "binance"], expected)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_runs_as_it_stands_in_its_file(db, name):
    db.sql(QUERIES[name])


@pytest.mark.parametrize(("name", "text"), [*VIEWS.items(), *QUERIES.items()])
def test_a_file_begins_with_the_question_that_it_answers(name, text):
    question = text.splitlines()[0]
    assert question.startswith("-- ")
    assert "?" in question
    if name in VIEWS:
        assert f"CREATE OR REPLACE VIEW {name} AS (\n    -- ingester: sql/views/{name}.sql\n" in text


@pytest.mark.parametrize("name", ["books", "bars_1s", "gaps"])
def test_a_merging_view_may_be_narrowed_by_where_too(db, name):
    declare = f"DECLARE @during := '{DURING}', @pair := '{A}' SELECT * FROM {name}"
    where = f"SELECT * FROM {name} WHERE symbol = '{A}' AND timestamp IN '{DURING}'"
    assert dicts(db, declare) == dicts(db, where) != []


def plan(db, statement):
    return "\n".join(row[0] for row in db.sql(f"EXPLAIN {statement}").rows).replace("&nbsp;", " ")


def reads_one_hour(text):
    return '[("2021-03-04T12:00:00.000000Z","2021-03-04T12:59:59.999999Z")]' in text


@pytest.mark.parametrize("name", ["mid", "spread", "microprice", "imbalance"])
def test_where_reaches_the_table_below_a_plain_view(db, name):
    text = plan(db, f"SELECT * FROM {name} WHERE symbol = '{A}' AND timestamp IN '2021-03-04T12'")
    assert reads_one_hour(text)
    assert re.search(rf"Async.* Filter.*\n\s+filter: symbol='{A}'\s+(limit.*\s+)?PageFrame", text), text


@pytest.mark.parametrize("name", ["books", "bars_1s", "gaps"])
def test_range_and_pair_reach_the_table_below_a_merging_view(db, name):
    text = plan(db, f"DECLARE @during := '2021-03-04T12', @pair := '{A}' SELECT * FROM {name}")
    assert reads_one_hour(text)
    assert re.search(rf"Async Filter.*\n\s+filter: symbol ~ {A}", text), text


@pytest.mark.parametrize("name", ["latest_books", "rows_per_day"])
def test_the_range_reaches_the_table_below_the_other_views(db, name):
    assert reads_one_hour(plan(db, f"DECLARE @during := '2021-03-04T12' SELECT * FROM {name}"))


def stored_views(db):
    return {row[0]: row[1:] for row in db.sql("SELECT * FROM views()").rows if row[0] in VIEWS}


def test_applying_the_views_twice_changes_nothing(db):
    before = stored_views(db)
    assert set(before) == set(VIEWS)
    schema.ensure(db, 5)
    assert stored_views(db) == before


def test_a_changed_file_takes_effect_and_a_view_made_by_somebody_else_stays(db, monkeypatch, caplog):
    longer = VIEWS["mid"].replace("FROM orderbook", "FROM orderbook WHERE bid_1 > 0")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "views", lambda: [("mid", longer)])
        schema.ensure(db, 5)
    assert "WHERE bid_1 > 0" in dict(db.sql("SELECT view_name, view_sql FROM views()").rows)["mid"]
    db.sql("CREATE OR REPLACE VIEW spread AS (SELECT bid_1 AS theirs FROM orderbook)")
    with caplog.at_level(logging.WARNING, "ingester"):
        schema.ensure(db, 5)
    assert "WHERE" not in dict(db.sql("SELECT view_name, view_sql FROM views()").rows)["mid"]
    assert db.sql("SELECT * FROM spread").columns == ["theirs"]
    assert caplog.messages == ["the view spread is somebody else's and stays as it is"]
    db.sql("DROP VIEW spread")
    schema.ensure(db, 5)
    assert "spread_bps" in db.sql("SELECT * FROM spread LIMIT 1").columns


def test_views_come_back_with_a_table_that_was_dropped(db, monkeypatch):
    db.sql("CREATE TABLE short_lived (timestamp TIMESTAMP, x DOUBLE) TIMESTAMP(timestamp) PARTITION BY DAY WAL")
    statement = (
        "CREATE OR REPLACE VIEW lived AS (\n    -- ingester: sql/views/lived.sql\n    SELECT * FROM short_lived\n)"
    )
    monkeypatch.setattr(schema, "views", lambda: [("lived", statement)])
    try:
        schema.ensure(db, 5)
        db.sql("DROP TABLE short_lived")
        db.sql("CREATE TABLE short_lived (timestamp TIMESTAMP, y LONG) TIMESTAMP(timestamp) PARTITION BY DAY WAL")
        schema.ensure(db, 5)
        assert db.sql("SELECT * FROM lived").columns == ["timestamp", "y"]
    finally:
        db.sql("DROP VIEW IF EXISTS lived")
        db.sql("DROP TABLE IF EXISTS short_lived")


def test_a_server_without_views_records_all_the_same(db, caplog):
    class Older:
        endpoint = db.endpoint

        def sql(self, statement):
            if "views()" in statement or "VIEW" in statement:
                raise QueryError("QuestDB refused the statement: unknown function name: views()\n  SELECT …")
            return db.sql(statement)

    with caplog.at_level(logging.WARNING, "ingester"):
        schema.ensure(Older(), 5)
    assert len(caplog.messages) == 1
    assert "this QuestDB has no views" in caplog.messages[0]
