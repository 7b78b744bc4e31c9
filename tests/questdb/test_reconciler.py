"""reconciler.py: every row is counted once; on a real server, what is not visible is noticed and sent again."""

import itertools
import random
import threading
import time
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from ingester.book import OrderBook
from ingester.metrics import StoreMetrics
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.reconciler import KEPT_MINUTES, MINUTE, Reconciler, SentCounts, StoreContext
from ingester.questdb.server import ManagedServer
from ingester.questdb.writer import DeadLetters, Writer
from ingester.spool import Spool

START = 1_700_000_000 * 10**9 // MINUTE * MINUTE


def snapshot(at_ns, symbol="BTCUSDT"):
    return OrderBook(symbol, at_ns, 1, [], [])


def counts(sent_counts):
    return [(span.start_ns, span.end_ns, dict(span.rows)) for span in sent_counts.spans()]


@given(st.lists(st.lists(st.tuples(st.integers(0, 5 * MINUTE), st.sampled_from("AB")), min_size=1), min_size=1))
def test_rows_are_counted_by_minute_and_symbol_however_they_are_portioned(portions):
    sent_counts = SentCounts()
    for portion in portions:
        sent_counts.add([snapshot(START + at, symbol) for at, symbol in portion])
    wanted = {}
    for at, symbol in (row for portion in portions for row in portion):
        wanted.setdefault(START + at // MINUTE * MINUTE, Counter())[symbol] += 1
    assert counts(sent_counts) == [(start, start + MINUTE, dict(rows)) for start, rows in sorted(wanted.items())]
    assert sent_counts.first_ns == START + min(at for portion in portions for at, _ in portion)
    assert sent_counts.sent() == (sum(map(len, portions)), 0)


def test_what_was_not_looked_for_is_never_forgotten_and_what_was_goes_in_time():
    sent_counts = SentCounts()
    for minute in range(100):
        sent_counts.add([snapshot(START + minute * MINUTE), snapshot(START + minute * MINUTE + 1, "ETHUSDT")])
        if minute == 60:  # for an hour nobody could ask; now all of it is seen
            for span in sent_counts.spans():
                span.settled, span.visible = span.expected().total(), span.expected().total()
        sent_counts.trim()
        assert len(sent_counts.spans()) <= KEPT_MINUTES
        assert sent_counts.sent()[0] == 2 * (minute + 1)
    first, second, *_ = sent_counts.spans()
    assert (first.start_ns, first.end_ns) == (START + 61 * MINUTE, START + 85 * MINUTE)
    assert first.rows == {"BTCUSDT": 24, "ETHUSDT": 24}
    assert second.start_ns == first.end_ns
    assert sent_counts.sent() == (200, 122)


def test_a_dead_letter_is_not_expected_any_more_and_makes_a_span_unsettled():
    sent_counts = SentCounts()
    sent_counts.add([snapshot(START + 5), snapshot(START + 6)])
    (span,) = sent_counts.spans()
    span.settled = 2
    assert span.is_settled
    sent_counts.remove("BTCUSDT", START + 6)
    sent_counts.remove("BTCUSDT", START - 1)  # of an earlier run: not counted, so not taken back
    assert span.expected() == {"BTCUSDT": 1}
    assert not span.is_settled


def test_rows_of_an_earlier_run_are_a_span_of_their_own_and_not_sent_by_this_one():
    sent_counts = SentCounts()
    sent_counts.expect_earlier(7, START - 50, START - 10)
    sent_counts.add([snapshot(START)])
    sent_counts.remove("BTCUSDT", START - 10)
    assert [(span.start_ns, span.end_ns, span.expected().total()) for span in sent_counts.spans()] == [
        (START - 50, START - 9, 6),
        (START, START + MINUTE, 1),
    ]
    assert sent_counts.sent() == (1, 0)


def test_counting_and_reading_at_the_same_time_tears_nothing():
    sent_counts, stop = SentCounts(), threading.Event()
    symbols = [f"S{number}" for number in range(1500)]
    portions = [[snapshot(START, symbol) for symbol in random.sample(symbols, 100)] for _ in range(50)]
    seen = []

    def read():
        while not stop.is_set():
            seen.append(sum(span.expected().total() for span in sent_counts.spans()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for portion in portions:
            sent_counts.add(portion)
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert all(rows % 100 == 0 for rows in seen)
    assert sent_counts.sent() == (100_000, 0)


SECOND = 10**9
NOW = 1_700_000_000 * SECOND // MINUTE * MINUTE + 30 * SECOND
DAY = "2023-11-14"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server whose tables may break."""
    managed = ManagedServer(tmp_path_factory.mktemp("audited") / "data", heap="384m")
    managed.endpoint = managed.ensure()
    yield managed
    managed.stop()


@pytest.fixture
def db(server):
    db = QuestDB(server.ensure())
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"DROP TABLE IF EXISTS {table}")
    schema.ensure_tables(db, 5)
    return db


class Run:
    """One run of a recorder from the spool on."""

    def __init__(self, db, folder, now=NOW, collector="audited", **spool):
        self.db, self.collector, self.now = db, collector, now
        self.metrics, self.sent_counts, self.events = StoreMetrics(), SentCounts(), []
        options = {"reserve_bytes": 0, "free_bytes": 0} | spool
        self.spool = Spool(folder / "spool", keep_until_verified=True, **options)
        self.spool.open()
        self.encoder = RowEncoder(depth=5, exchange="binance", collector=collector)
        store = StoreContext(
            db=db,
            spool=self.spool,
            now=lambda: self.now,
            metrics=self.metrics,
            on_event=self.events.append,
            sent_counts=self.sent_counts,
        )
        self.writer = Writer(
            store,
            prepare=lambda: schema.ensure_tables(db, 5),
            dead_letters=DeadLetters(folder / "dead"),
            waits=lambda: itertools.repeat(0.05),
        )
        self.reconciler = Reconciler(
            store,
            collector=collector,
            exchange="binance",
            every_seconds=0.0,
            look_seconds=0.02,
            waits=lambda: itertools.repeat(0.2),
        )

    def start(self):
        self.reconciler.start()
        self.writer.start()
        return self

    def record(self, since, rows, symbol="BTCUSDT", extra=b""):
        """One portion, a row each millisecond from `since` on."""
        snapshots = [OrderBook(symbol, since + n * 10**6, n, [(1.0, 2.0)], [(3.0, 4.0)]) for n in range(rows)]
        body = self.encoder.snapshots(snapshots) + extra
        if not self.spool.append(body, rows, snapshots[0].receive_ns, snapshots[-1].receive_ns):
            return False
        self.sent_counts.add(snapshots)
        return True

    def kinds(self):
        return [event.kind for event in self.events]

    def until(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.metrics, self.events, self.sent_counts.spans())
            time.sleep(0.02)

    def settle(self):
        """Waits until everything is acknowledged and seen."""
        self.until(lambda: not self.spool.rows_waiting and all(span.is_settled for span in self.sent_counts.spans()))

    def visible(self):
        self.db.sql("SELECT wait_wal_table('orderbook')")
        return self.db.sql(f"SELECT count() FROM orderbook WHERE collector = '{self.collector}'").rows[0][0]

    def end(self, patience=60):
        """Ends in order; whether all is visible."""
        drained = self.writer.drain(patience)
        complete = self.reconciler.stop(30)
        self.spool.close()
        return drained and complete


@pytest.fixture
def recorder(db, tmp_path):
    """Makes runs of one recorder, and ends those that a failed test leaves."""
    runs = []

    def recorder(**options):
        runs.append(Run(db, tmp_path, **options))
        return runs[-1]

    yield recorder
    for run in runs:
        if not run.spool._closed:
            run.end(0)


def table_folder(server):
    return max((server.data_dir / "questdb" / "root" / "db").glob("orderbook~*/_meta"), key=str).parent


class Blocked:
    """A day whose partition cannot be made, for files are where its folder should be: QuestDB suspends the table."""

    def __init__(self, server, day):
        folder = table_folder(server)
        self.files = [folder / day, *(folder / f"{day}.{number}" for number in range(50))]

    def __enter__(self):
        for path in self.files:
            path.touch(exist_ok=False)

    def __exit__(self, *exception):
        for path in self.files:
            if path.is_file():
                path.unlink()


# --- nothing is wrong


@pytest.mark.slow
def test_where_all_is_well_everything_is_verified_reconciled_and_said_at_the_end(recorder, db, caplog):
    caplog.set_level("INFO")
    run = recorder().start()
    for minute in range(3):
        run.record(NOW - (3 - minute) * MINUTE, 100)
        run.record(NOW - (3 - minute) * MINUTE + SECOND, 50, "ETH USDT")
    run.settle()
    until = (NOW - MINUTE) // MINUTE * MINUTE + MINUTE
    run.until(lambda: run.metrics.reconciled_ns == until)
    run.record(NOW, 10)
    assert run.end()
    assert run.events == []
    assert run.metrics.rows.missing == run.metrics.rows.surplus == run.metrics.rows.resent == 0
    assert "460 rows sent, 460 visible, 0 wait" in caplog.text


@pytest.mark.slow
def test_without_rows_the_end_is_complete(recorder, db):
    assert recorder().start().end()


@pytest.mark.slow
def test_where_questdb_hangs_the_end_does_not(server, recorder):
    run = recorder().start()
    run.record(NOW - MINUTE, 10)
    run.settle()
    process = server._process(server._state())
    process.suspend()
    try:
        assert not run.reconciler.stop(1.0)
    finally:
        process.resume()


@pytest.mark.slow
def test_where_questdb_is_away_the_end_is_not_complete(server, recorder):
    run = recorder().start()
    run.record(NOW - MINUTE, 10)
    run.settle()
    server.stop()
    try:
        assert not run.reconciler.stop(1.0)
    finally:
        server.ensure()
        run.writer.drain(10)
        run.spool.close()


# --- rows vanish


@pytest.mark.slow
def test_rows_that_vanished_are_said_with_numbers_and_sent_again(recorder, db):
    run = recorder().start()
    run.record(NOW - MINUTE, 100)
    run.record(NOW - MINUTE, 30, "ETHUSDT")
    run.settle()
    db.sql("TRUNCATE TABLE orderbook")  # as after a power cut of the server,
    run.metrics.failures += 1  # which interrupts the sending
    run.until(lambda: "rows_missing" in run.kinds())
    run.settle()
    assert run.visible() == 130
    (event,) = run.events
    assert "130 of 130 rows of 2 symbols (BTCUSDT 100, ETHUSDT 30) received from 2023-11-14 22:12:00" in event.detail
    assert "sent again" in event.detail
    assert run.metrics.rows.missing == 0
    assert run.metrics.rows.resent == 130
    assert run.end()


@pytest.mark.slow
def test_some_rows_that_never_came_are_found_without_an_interruption(recorder, db):
    run = recorder()
    run.record(NOW - 2 * MINUTE, 100)
    run.record(NOW - MINUTE, 100)
    run.spool.acknowledge(run.spool.peek(1))  # the first portion is lost on the way, with a 204
    run.start()
    run.until(lambda: run.kinds() == ["rows_missing"])
    run.settle()
    assert run.visible() == 200
    assert run.end()
    assert "100 of 100 rows of 1 symbols (BTCUSDT 100)" in run.events[0].detail


@pytest.mark.slow
def test_a_dropped_table_is_filled_again_from_what_is_retained(recorder, db):
    run = recorder().start()
    run.record(NOW - MINUTE, 100)
    run.settle()
    db.sql("DROP TABLE orderbook")
    run.record(NOW - MINUTE + 20 * SECOND, 100)
    run.until(lambda: "rows_missing" in run.kinds())
    run.settle()
    assert run.visible() == 200
    assert run.end()


@pytest.mark.slow
def test_rows_that_cannot_be_brought_back_are_given_up_once_and_nothing_else_is_held_up(recorder, db):
    run = recorder()
    run.sent_counts.add(
        [OrderBook("LOSTUSDT", NOW - 2 * MINUTE + n, n, [], []) for n in range(7)]
    )  # never in the spool
    run.start()
    run.record(NOW - 2 * MINUTE + SECOND, 100)
    run.until(lambda: run.kinds() == ["rows_missing"] * 3)
    assert [event.detail.split("; ")[1].split(",")[0] for event in run.events] == ["sent again"] * 2 + ["given up"]
    assert "LOSTUSDT 7" in run.events[-1].detail
    assert run.metrics.rows.missing == 7
    run.record(NOW - MINUTE, 100)
    run.settle()
    run.metrics.failures += 1
    run.until(lambda: run.metrics.reconciled_ns >= NOW - MINUTE)
    assert len(run.events) == 3
    assert not run.end()
    assert run.kinds() == ["rows_missing"] * 3


@pytest.mark.slow
def test_a_dead_letter_is_not_missing(recorder, db):
    run = recorder()
    at = NOW - MINUTE + SECOND
    run.sent_counts.add([OrderBook("BADUSDT", at, 1, [], [])])
    run.start()
    run.record(NOW - MINUTE, 100, extra=b'orderbook,symbol=BADUSDT,collector=audited bid_1="x" %d\n' % at)
    run.settle()
    assert run.end()
    assert run.kinds() == ["dead_letter"]


@pytest.mark.slow
def test_missing_rows_found_at_the_end_are_sent_by_the_next_start(recorder, db):
    run = recorder().start()
    run.record(NOW - MINUTE, 100)
    run.settle()
    assert run.writer.drain(30)
    db.sql("TRUNCATE TABLE orderbook")
    assert not run.reconciler.stop(30)
    assert run.spool.rows_waiting == 100
    run.spool.close()
    later = recorder(now=NOW + MINUTE).start()
    later.until(lambda: not later.spool.rows_waiting)
    assert later.visible() == 100
    assert later.end()


@pytest.mark.slow
def test_what_an_earlier_run_sent_is_looked_for_at_the_start(recorder, db):
    run = recorder(segment_bytes=20_000).start()
    for second in range(20):
        run.record(NOW - MINUTE + second * SECOND, 100)
    assert run.end()
    db.sql("TRUNCATE TABLE orderbook")  # a power cut while nobody recorded
    db.sql("SELECT wait_wal_table('orderbook')")
    run = recorder(now=NOW + MINUTE, segment_bytes=20_000)
    run.record(NOW + MINUTE, 10)
    run.start()
    run.until(lambda: run.metrics.rows.resent and not run.spool.rows_waiting and run.sent_counts.spans()[0].is_settled)
    assert run.visible() == 2010
    assert run.kinds() == ["rows_missing"]
    assert "2000 of 2000 rows received from 2023-11-14 22:12:30" in run.events[0].detail
    assert run.end()


@pytest.mark.slow
def test_rows_of_an_earlier_run_in_the_same_minute_do_not_hide_missing_ones(recorder, db):
    first = recorder().start()
    first.record(NOW - MINUTE, 100)
    first.settle()
    assert first.end()
    run = recorder()
    run.record(NOW - MINUTE + 20 * SECOND, 100)
    run.spool.acknowledge(run.spool.peek(1))
    run.start()
    run.until(lambda: "rows_missing" in run.kinds())
    run.settle()
    assert run.visible() == 200
    assert run.end()
    assert run.metrics.rows.surplus == 0


@pytest.mark.slow
def test_more_rows_than_were_sent_are_an_alarm(recorder, db, caplog):
    run = recorder().start()
    db.write(run.encoder.snapshots([OrderBook("BTCUSDT", NOW - MINUTE + 20 * SECOND, 5, [], [])]))
    run.record(NOW - MINUTE, 10)
    run.settle()
    run.until(lambda: run.metrics.rows.surplus)
    assert run.end()
    assert "1 rows received in the minute from 2023-11-14 22:12:30 are visible and were never sent" in caplog.text


# --- a table no longer applies what it acknowledges


@pytest.mark.slow
def test_a_suspended_table_is_said_resumed_and_nothing_is_dropped_meanwhile(server, recorder):
    """The spool has little room: it refuses rows rather than drop what nobody has seen in the table."""
    run = recorder(limit_bytes=200_000, keep_seconds=0.0)
    run.start()
    run.record(NOW - MINUTE, 10)
    run.settle()
    with Blocked(server, DAY.replace("14", "13")):
        run.record(NOW - 86_400 * SECOND, 10, "OLDUSDT")
        run.until(lambda: run.metrics.suspended)
        taken = 0
        while run.record(NOW - MINUTE + (20 + taken) * SECOND // 10, 50, "ETHUSDT"):
            taken += 1
            run.until(lambda: not run.spool.rows_waiting)
        assert taken > 5
        assert run.spool.resend(0) >= taken * 50  # all of it is still there
        run.until(lambda: not run.spool.rows_waiting)
        assert not run.record(NOW, 50)  # though all of it is acknowledged
    run.until(lambda: not run.metrics.suspended)
    run.settle()
    run.until(lambda: run.record(NOW - 5 * SECOND, 50))
    assert run.visible() == 10 + 10 + taken * 50 or run.visible() == 10 + 10 + taken * 50 + 50
    assert run.end()
    assert run.kinds() == ["table_suspended", "table_resumed"]
    assert "bulk update failed" in run.events[0].detail
    assert run.metrics.rows.missing == run.metrics.rows.resent == 0


@pytest.mark.slow
def test_a_table_suspended_for_long_is_said_once_and_resumed_again_and_again(server, recorder, caplog):
    run = recorder().start()
    with Blocked(server, DAY.replace("14", "12")):
        run.record(NOW - 2 * 86_400 * SECOND, 10)
        run.until(lambda: run.metrics.suspended)
        time.sleep(1.0)  # five times the wait between two attempts
        assert run.metrics.suspended
        assert run.kinds() == ["table_suspended"]
    run.until(lambda: not run.metrics.suspended)
    run.settle()
    assert run.end()
    assert caplog.text.count("has suspended orderbook") == 1
    assert run.kinds() == ["table_suspended", "table_resumed"]


@pytest.mark.slow
def test_under_constant_writing_what_is_applied_is_verified(recorder, db):
    run = recorder(limit_bytes=400_000, segment_bytes=20_000, keep_seconds=0.0).start()
    for number in range(120):
        run.until(lambda n=number: run.record(NOW - MINUTE + n * SECOND // 4, 100))
    run.settle()
    assert run.visible() == 12_000
    assert run.end()
    assert run.events == []


@pytest.mark.slow
def test_a_server_killed_under_way_costs_no_row(server, recorder):
    run = recorder().start()
    for number in range(40):
        run.record(NOW - MINUTE + number * SECOND // 2, 50)
        if number in (10, 25):
            process = server._process(server._state())
            process.kill()
            process.wait(10)
            run.until(lambda: run.metrics.failing)
            server.ensure()
    run.settle()
    assert run.visible() == 2000
    assert run.end()
    assert "rows_missing" not in run.kinds()
