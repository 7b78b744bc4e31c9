"""writer.py: every record of the spool is sent, in order, however often that fails; bad rows become dead letters."""

import base64
import itertools
import json
import os
import time

import pytest

from ingester.book import OrderBook
from ingester.errors import SpoolError, Unreachable
from ingester.metrics import StoreMetrics
from ingester.questdb import schema
from ingester.questdb.client import QuestDB, RowsRefused
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.reconciler import SentCounts, StoreContext
from ingester.questdb.writer import DeadLetters, Writer
from ingester.spool import Spool

NOON = 1_700_049_600 * 10**9  # 2023-11-15 12:00
DAY = 86_400 * 10**9
ROW = RowEncoder(depth=5, exchange="binance", collector="x").snapshots(
    [OrderBook("BTC,USDT", NOON - 1, 42, [(1.0, 2.0)], [])]
)


def letters(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_which_row_why_and_when_and_holds_it_whole(tmp_path):
    dead = DeadLetters(tmp_path / "dead-letter" / "x")
    assert dead.put(ROW, 'column "bid_1"\nis bad', NOON)
    (letter,) = letters(tmp_path / "dead-letter" / "x" / "2023-11-15.jsonl")
    assert base64.b64decode(letter.pop("row")) == ROW
    assert letter == {
        "at": "2023-11-15T12:00:00+00:00",
        "table": "orderbook",
        "symbol": "BTC,USDT",
        "last_update_id": 42,
        "timestamp_ns": NOON - 1,
        "error": 'column "bid_1"\nis bad',
    }


def test_a_row_that_cannot_be_read_is_kept_all_the_same(tmp_path):
    dead = DeadLetters(tmp_path)
    assert dead.put(b"\xff\x00", "what is this", NOON)
    (letter,) = letters(dead.path(NOON))
    assert letter["symbol"] is None
    assert base64.b64decode(letter["row"]) == b"\xff\x00"


def test_each_day_has_a_file_and_a_row_that_comes_again_is_written_once(tmp_path):
    dead = DeadLetters(tmp_path)
    assert dead.put(ROW, "bad", NOON)
    assert not dead.put(ROW, "bad", NOON + DAY)
    assert dead.put(ROW + b"#", "bad", NOON + DAY)
    assert DeadLetters(tmp_path).put(b"of the next run\n", "bad", NOON)
    assert {path.name: len(letters(path)) for path in tmp_path.iterdir()} == {
        "2023-11-15.jsonl": 2,
        "2023-11-16.jsonl": 1,
    }


def test_where_it_cannot_be_written_the_error_says_so_and_the_row_is_not_known(tmp_path):
    folder = tmp_path / "dead"
    folder.touch()
    dead = DeadLetters(folder)
    with pytest.raises(SpoolError, match=r"cannot set aside a refused row in .*dead"):
        dead.put(ROW, "bad", NOON)
    folder.unlink()
    assert dead.put(ROW, "bad", NOON)


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    dead = DeadLetters(tmp_path)
    dead.put(b"first\n", "bad", NOON)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(SpoolError, match="No space left"):
            dead.put(ROW, "bad", NOON)
    assert dead.put(ROW, "bad", NOON)
    assert [letter["symbol"] for letter in letters(dead.path(NOON))] == [None, "BTC,USDT"]


NS = 1_700_000_000_000_000_000


class Failing:
    """Takes rows like a QuestDB, after the failures it was given."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.taken = []

    def write(self, body):
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(body)


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    spool.open()
    yield spool
    spool.close()


class Sending:
    """A writer at work, and what comes of it."""

    def __init__(self, db, spool, prepare=lambda: None, dead_letters=None, sent_counts=None):
        self.metrics = StoreMetrics()
        self.events = []
        self.dead_letters = dead_letters or DeadLetters(spool.folder.parent / "dead")
        self.writer = Writer(
            StoreContext(
                db=db,
                spool=spool,
                now=time.time_ns,
                metrics=self.metrics,
                on_event=self.events.append,
                sent_counts=sent_counts or SentCounts(),
            ),
            prepare=prepare,
            dead_letters=self.dead_letters,
            waits=lambda: itertools.repeat(0.01),
        )
        self.writer.start()

    def drain(self, timeout=30):
        return self.writer.drain(timeout)

    def letters(self):
        """The rows set aside."""
        files = sorted(self.dead_letters.folder.glob("*.jsonl"))
        return [base64.b64decode(json.loads(line)["row"]) for file in files for line in file.read_text().splitlines()]


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("failure", [Unreachable("gone"), RuntimeError("a bug")])
def test_after_failures_of_any_kind_all_rows_arrive_in_order_and_once(spool, failure):
    db = Failing(failure, failure, failure)
    bodies = [b"row %d\n" % number for number in range(50)]
    for body in bodies:
        assert spool.append(body, 1, 1, 1)
    sending = Sending(db, spool)
    assert sending.drain()
    assert b"".join(db.taken) == b"".join(bodies)
    assert sending.metrics.rows.stored == 50
    assert spool.rows_waiting == 0
    assert not sending.metrics.failing


def test_what_is_not_taken_in_time_stays_in_the_spool(spool):
    class Away:
        def write(self, body):
            raise Unreachable("gone")

    spool.append(b"row\n", 1, 1, 1)
    sending = Sending(Away(), spool)
    assert not sending.drain(0.3)
    assert spool.rows_waiting == 1
    assert sending.metrics.rows.stored == 0
    assert sending.metrics.failing
    assert sending.metrics.failing_since_ns


def test_the_tables_are_made_ready_before_the_first_batch_and_after_each_failure(spool):
    steps = []

    class Recording(Failing):
        def write(self, body):
            steps.append("write")
            super().write(body)

    refusals = [Unreachable("not there yet"), Unreachable("not there yet")]

    def prepare():
        steps.append("prepare")
        if refusals:
            raise refusals.pop()

    sending = Sending(Recording(Unreachable("gone")), spool, prepare)
    spool.append(b"1\n", 1, 1, 1)
    until(lambda: not spool.rows_waiting)
    spool.append(b"2\n", 1, 1, 1)
    assert sending.drain()
    assert steps == ["prepare", "prepare", "prepare", "write", "prepare", "write", "write"]
    assert sending.metrics.failures == 3
    assert sending.metrics.failing_since_ns > 0


# --- bad rows


class Picky:
    """Refuses a request with a bad row in it, as QuestDB does; is away at the requests of the given numbers."""

    def __init__(self, away=()):
        self.away = set(away)
        self.requests = 0
        self.stored = set()

    def write(self, body):
        self.requests += 1
        if self.requests in self.away:
            raise Unreachable("gone")
        rows = body.splitlines(keepends=True)
        if bad := [row for row in rows if b"bad" in row]:
            raise RowsRefused(f"refused: {bad[0]!r}")
        self.stored.update(rows)


def row(number, bad=False):
    return b"orderbook,exchange=binance,symbol=%s bid_1=%di %d\n" % (b"bad" if bad else b"good", number, number)


def fill(spool, rows, records):
    for number in range(0, len(rows), len(rows) // records):
        chunk = rows[number : number + len(rows) // records]
        assert spool.append(b"".join(chunk), len(chunk), 1, 1)


@pytest.mark.parametrize("bad", [{0}, {299}, {7, 8, 150}, set(range(100, 180)), set(range(0, 300, 3))])
@pytest.mark.parametrize("away", [(), (2, 5, 6, 20)])
def test_bad_rows_are_set_aside_each_once_and_all_others_stored(spool, bad, away):
    rows = [row(number, number in bad) for number in range(300)]
    fill(spool, rows, 6)
    db = Picky(away)
    sending = Sending(db, spool)
    assert sending.drain()
    assert db.stored == {row(number) for number in range(300) if number not in bad}
    assert sending.letters() == [row(number, True) for number in sorted(bad)]
    assert [(event.kind, event.symbol) for event in sending.events] == [("dead_letter", "bad")] * len(bad)
    assert all("jsonl: refused: " in event.detail for event in sending.events)
    assert sending.metrics.dead_letters == len(bad)
    assert spool.rows_waiting == 0


def test_a_bad_row_that_comes_again_is_not_set_aside_again_nor_taken_back_twice(spool):
    sent_counts = SentCounts()
    sent_counts.add([OrderBook("bad", NS + number, number, [], []) for number in range(3)])
    fill(spool, [row(NS), row(NS + 1, True), row(NS + 2)], 1)
    sending = Sending(Picky(), spool, sent_counts=sent_counts)
    until(lambda: not spool.rows_waiting)
    spool.resend(0)
    assert sending.drain()
    assert len(sending.letters()) == len(sending.events) == sending.metrics.dead_letters == 1
    assert sent_counts.sent() == (2, 0)


def test_where_every_row_is_refused_the_rows_are_not_to_blame(spool):
    rows = [row(number, True) for number in range(200)]
    fill(spool, rows, 2)
    db = Picky()
    sending = Sending(db, spool)
    until(lambda: sending.metrics.failures >= 2)
    assert "the table fits" in sending.metrics.last_failure
    assert not sending.drain(0)
    assert (sending.letters(), sending.events, spool.rows_waiting) == ([], [], 200)


def test_a_few_bad_rows_alone_are_set_aside(spool):
    fill(spool, [row(number, True) for number in range(10)], 2)
    sending = Sending(Picky(), spool)
    assert sending.drain()
    assert len(sending.letters()) == 10


def test_a_row_that_cannot_be_set_aside_waits(spool, tmp_path):
    (tmp_path / "dead").touch()
    fill(spool, [row(1), row(2, True)], 1)
    sending = Sending(Picky(), spool)
    until(lambda: sending.metrics.failures)
    assert "cannot set aside" in sending.metrics.last_failure
    assert spool.rows_waiting == 2
    (tmp_path / "dead").unlink()
    assert sending.drain()
    assert sending.letters() == [row(2, True)]
    assert spool.rows_waiting == 0


# --- against a real server


@pytest.fixture
def db(questdb):
    """The server without our tables, before and after."""
    db = QuestDB(questdb.endpoint)
    drop(db)
    yield db
    drop(db)


def drop(db):
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"DROP TABLE IF EXISTS {table}")


def stored_ids(db, collector):
    db.sql("SELECT wait_wal_table('orderbook')")
    rows = db.sql(f"SELECT last_update_id FROM orderbook WHERE collector = '{collector}' ORDER BY 1").rows
    return [update_id for (update_id,) in rows]


def portion(encoder, ids):
    return encoder.snapshots([OrderBook("BTCUSDT", NS + id_ * 1000, id_, [(1.0, 2.0)], [(3.0, 4.0)]) for id_ in ids])


BAD = (
    b"orderbook,exchange=binance,symbol=BTC\\ USDT,collector=writer-1 "
    b'bid_1="text",last_update_id=777i 1700000000000000000n\n'
)


def test_questdb_stores_the_good_rows_around_a_bad_one(db, spool):
    encoder = RowEncoder(depth=5, exchange="binance", collector="writer-1")
    for record in range(4):
        body = portion(encoder, range(record * 50, record * 50 + 50))
        if record == 2:
            body += BAD + portion(encoder, [777])
        spool.append(body, 50, NS, NS)
    sending = Sending(db, spool, lambda: schema.ensure_tables(db, 5))
    assert sending.drain()
    assert stored_ids(db, "writer-1") == [*range(200), 777]
    assert sending.letters() == [BAD]
    ((_, kind, symbol, _, detail, _),) = sending.events
    assert (kind, symbol) == ("dead_letter", "BTC USDT")
    assert "bid_1" in detail
    assert "cast error" in detail


def test_a_dropped_table_is_made_again_and_no_row_is_to_blame(db, spool):
    encoder = RowEncoder(depth=5, exchange="binance", collector="writer-2")
    sending = Sending(db, spool, lambda: schema.ensure_tables(db, 5))
    spool.append(portion(encoder, range(10)), 10, NS, NS)
    until(lambda: not spool.rows_waiting)
    drop(db)
    spool.append(portion(encoder, range(10, 20)), 10, NS, NS)
    assert sending.drain()
    assert stored_ids(db, "writer-2") == list(range(10, 20))
    assert sending.letters() == []
    schema.ensure_tables(db, 5)  # it is the right one


def test_a_table_of_a_wrong_type_makes_rows_wait_until_it_is_mended(db, spool, caplog):
    statement = schema.statements(5)[0].replace("bid_2 DOUBLE", "bid_2 VARCHAR").replace("bid_1 DOUBLE", "bid_1 SYMBOL")
    db.sql(statement)
    encoder = RowEncoder(depth=5, exchange="binance", collector="writer-3")
    spool.append(portion(encoder, range(10)), 10, NS, NS)
    sending = Sending(db, spool, lambda: schema.ensure_tables(db, 5))
    until(lambda: sending.metrics.failures >= 3)
    assert "column bid_1 is SYMBOL, expected DOUBLE" in sending.metrics.last_failure
    assert spool.rows_waiting == 10
    db.sql("RENAME TABLE orderbook TO orderbook_old")
    try:
        assert sending.drain()
        assert stored_ids(db, "writer-3") == list(range(10))
        assert sending.letters() == []
        assert caplog.text.count("rows wait") == 1
    finally:
        db.sql("DROP TABLE orderbook_old")


def test_a_table_that_changes_under_way_is_not_taken_for_bad_rows(db, spool):
    encoder = RowEncoder(depth=5, exchange="binance", collector="writer-4")
    sending = Sending(db, spool, lambda: schema.ensure_tables(db, 5))
    spool.append(portion(encoder, range(10)), 10, NS, NS)
    until(lambda: not spool.rows_waiting)
    drop(db)
    db.sql(schema.statements(5)[0].replace("bid_1 DOUBLE", "bid_1 STRING"))
    spool.append(portion(encoder, range(10, 20)), 10, NS, NS)
    until(lambda: sending.metrics.failures >= 2)
    assert sending.letters() == []
    drop(db)
    assert sending.drain()
    assert stored_ids(db, "writer-4") == list(range(10, 20))
