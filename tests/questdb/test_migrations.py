"""Tables of an earlier version, without exchanges, become those of this one: with all rows, whatever interrupts it."""

import itertools
import threading
import time
from pathlib import Path

import psutil
import pytest

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.errors import MigrationRefused, StoreError
from ingester.events import Event
from ingester.metrics import StoreMetrics
from ingester.questdb import columns, migrations, partitions, query, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.leases import EXPORT, IMPORT, holding
from ingester.questdb.migrations import ExchangeHistory, name_exchanges
from ingester.questdb.partitions import DAY
from ingester.questdb.reconciler import StoreContext
from ingester.questdb.server import ManagedServer
from ingester.questdb.writer import DeadLetters, Writer
from ingester.spool import Spool

EARLIER = (Path(__file__).parents[1] / "data" / "tables_without_exchange.sql").read_text().split(";")
FIRST = partitions.start_of("2024-08-08")
DAYS = ["2024-08-08", "2024-08-09", "2024-08-10"]
NOON = 12 * 3600 * SECOND
ROWS = 40
LEVELS = "bid_1, bidv_1, ask_5, askv_5"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ManagedServer(tmp_path_factory.mktemp("earlier"), heap="384m")
    server.ensure()
    yield server
    server.stop()


@pytest.fixture
def db(server):
    db = QuestDB(server.ensure())
    make_earlier(db)
    return db


def make_earlier(db):
    """Tables as the version before exchanges made them, three days of rows of six recorders, and their starts."""
    for table in (schema.ORDERBOOK, schema.EVENTS, "instruments", "range_holds"):
        db.sql(f"DROP TABLE IF EXISTS {table}")
    for statement in EARLIER:
        if statement.strip():
            db.sql(statement)
    started("real", FIRST, "2 pairs, depth 5, 100 ms, binance")
    started("vision", FIRST, "2 pairs, depth 5, 100 ms, binance-vision")
    started("us", FIRST, "2 pairs, depth 5, 100 ms, binance-us")
    started("practice", FIRST, "2 pairs, depth 5, 100 ms, simulator")
    started("moved", FIRST + NOON, "1 pair, depth 5, 100 ms, 127.0.0.1:9001")
    started("moved", FIRST + DAY + NOON + 2 * SECOND, "1 pair, depth 5, 100 ms, testnet")
    db.write(b"".join(EVENTS.pop(0) for _ in range(len(EVENTS))))
    for collector in ("real", "vision", "us", "practice", "moved", "unknown", "import"):
        for day in range(3):
            db.write(earlier_rows(collector, day))
    for table in (schema.ORDERBOOK, schema.EVENTS):
        partitions.settle(db, table)


EVENTS = []


def started(collector, at_ns, detail):
    EVENTS.append(
        RowEncoder(depth=5, exchange=None, collector=collector).events([Event(at_ns, "started", "", "", detail)])
    )


def books(day, rows=ROWS):
    return [
        OrderBook(symbol, FIRST + day * DAY + NOON + number * SECOND // 10, number + 1, *sides(number))
        for symbol in ("AUSDT", "BUSDT")
        for number in range(rows)
    ]


def sides(number):
    return [(100.0 - level, number + 1.0) for level in range(5)], [(200.0 + level, number + 2.0) for level in range(5)]


def earlier_rows(collector, day):
    """Rows as the earlier version encoded them: without an exchange."""
    return RowEncoder(depth=5, exchange=None, collector=collector).snapshots(books(day))


def expected():
    """Every row with its exchange."""
    of = {"real": "binance", "vision": "binance", "us": "binance-us", "practice": "simulator", "unknown": "binance"}
    rows = []
    for collector in (*of, "moved", "import"):
        for day in range(3):
            for book in books(day):
                exchange = of.get(collector, "binance")
                if collector == "moved":
                    exchange = "testnet" if book.receive_ns >= FIRST + DAY + NOON + 2 * SECOND else "127.0.0.1:9001"
                rows.append((book.receive_ns // 1000, exchange, book.symbol, collector, book.update_id))
    return sorted(rows)


def assert_up_to_date(db, parquet=()):
    partitions.settle(db)
    assert partitions.suspension(db) is None
    keys = ", ".join(schema.DEDUP_KEYS[schema.ORDERBOOK])
    rows = db.sql(f"SELECT {keys.replace('timestamp', 'cast(timestamp AS LONG)')}, {LEVELS} FROM orderbook").rows
    assert sorted(tuple(row[:5]) for row in rows) == expected()
    for *_, update_id, bid, bid_quantity, ask, ask_quantity in rows:
        assert (bid, bid_quantity, ask, ask_quantity) == (100.0, update_id, 204.0, update_id + 1.0)
    assert db.sql("SELECT count() FROM orderbook WHERE event_time IS NOT NULL").rows == [[0]]
    starts = db.sql("SELECT collector, exchange FROM collector_events WHERE kind = 'started' ORDER BY timestamp").rows
    named = {(collector, exchange) for collector, exchange in starts}
    assert named == {
        ("real", "binance"),
        ("vision", "binance"),
        ("us", "binance-us"),
        ("practice", "simulator"),
        ("moved", "127.0.0.1:9001"),
        ("moved", "testnet"),
    }
    for table in (schema.ORDERBOOK, schema.EVENTS):
        problems, missing = schema.misfits(db, table, 5)
        assert (problems, missing) == ([], {})
    assert migrations.pending(db) == []
    assert {each.day for each in partitions.list_partitions(db) if each.is_parquet} == set(parquet)
    for day in DAYS:
        with db.parquet(f"SELECT * FROM orderbook WHERE timestamp IN '{day}'", bytearray()) as data:
            assert len(data) > 1000


def make_parquet(db, *days):
    for day in days:
        assert partitions.convert(db, day, lambda: False)


def send_again(db):
    """All rows once more, as a spool of the earlier version holds them."""
    history = ExchangeHistory.load(db)
    bodies = [earlier_rows(collector, day) for collector in ("real", "us", "moved", "unknown") for day in range(3)]
    for body in name_exchanges(bodies, history):
        db.write(body)


@pytest.mark.slow
def test_every_row_gets_the_exchange_that_its_recorder_had_started_with_and_none_comes_twice(db):
    assert schema.work_before(db, 5) == "brings 3 days of an earlier version up to date"
    schema.ensure(db, 5)
    assert_up_to_date(db)
    send_again(db)
    assert_up_to_date(db)
    schema.ensure(db, 5)
    assert schema.work_before(db, 5) == ""
    assert_up_to_date(db)


@pytest.mark.slow
def test_parquet_days_become_parquet_again_and_take_late_rows(db):
    make_parquet(db, *DAYS[:2])
    assert schema.work_before(db, 20) == "rewrites 2 Parquet days, as orderbook got more columns"
    schema.ensure(db, 20)
    assert_up_to_date(db, DAYS[:2])
    send_again(db)
    assert_up_to_date(db, DAYS[:2])
    assert db.sql("SELECT count() FROM orderbook WHERE bid_20 IS NULL").rows == [[len(expected())]]


class Killed(BaseException):
    """Stands for the end of the process at this point."""


def killed_before(db, monkeypatch, place):
    """Has the process end before the statement of this number that changes something; gives the statements so far."""
    real, said = db.sql, []

    def may_be_killed(statement):
        if statement.startswith(("ALTER", "UPDATE", "CREATE", "INSERT")) and "range_holds" not in statement:
            if len(said) == place:
                raise Killed
            said.append(statement)
        return real(statement)

    monkeypatch.setattr(db, "sql", may_be_killed)
    return said


@pytest.mark.slow
def test_killed_before_any_of_its_statements_the_next_start_completes_it(db, monkeypatch):
    for place in itertools.count():
        make_earlier(db)
        make_parquet(db, DAYS[0])
        with monkeypatch.context() as patched:
            said = killed_before(db, patched, place)
            try:
                schema.ensure(db, 5)
                break
            except Killed:
                pass
        assert len(db.sql("SELECT * FROM orderbook").rows) == len(expected()), said
        schema.ensure(db, 5)
        assert_up_to_date(db, DAYS[:1])
    assert any("TO NATIVE" in each for each in said)
    assert any("DEDUP" in each for each in said)
    assert_up_to_date(db, DAYS[:1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "after",
    [
        "TO NATIVE",
        "ADD COLUMN IF NOT EXISTS exchange",
        "UPDATE orderbook",
        "KEYS(timestamp, exchange, symbol",
        "TO PARQUET",
    ],
)
def test_a_server_killed_right_after_it_took_a_statement_carries_it_out_later(server, db, monkeypatch, after):
    make_parquet(db, DAYS[0])
    real = db.sql

    def kills(statement):
        answer = real(statement)
        if after in statement:
            psutil.Process(server.status().pid).kill()
            raise Killed
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(db, "sql", kills)
        with pytest.raises(Killed):
            schema.ensure(db, 5)
    db.endpoint = server.ensure()
    schema.ensure(db, 5)
    assert_up_to_date(db, DAYS[:1])


@pytest.mark.slow
def test_two_recorders_that_start_at_the_same_time_bring_it_up_to_date_once(server, db):
    make_parquet(db, DAYS[0])
    failures = []

    def start():
        try:
            schema.ensure(QuestDB(server.ensure()), 5)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert_up_to_date(db, DAYS[:1])


@pytest.mark.slow
def test_while_a_recorder_or_an_import_of_the_earlier_version_writes_it_is_refused(db):
    stop = threading.Event()

    def write():
        encoder = RowEncoder(depth=5, exchange=None, collector="live")
        while not stop.wait(0.2):
            db.write(encoder.snapshots([OrderBook("AUSDT", time.time_ns(), 1, *sides(0))]))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while not db.sql("SELECT timestamp FROM orderbook WHERE collector = 'live'").rows:
            time.sleep(0.1)
        for attempt in (schema.ensure, schema.work_before):
            with pytest.raises(MigrationRefused, match=r"still writes into them \(live\)\. Stop it"):
                attempt(db, 5)
    finally:
        stop.set()
        thread.join()
    assert "exchange" not in partitions.column_names(db)
    db.sql("DROP TABLE orderbook")
    make_earlier(db)
    with holding(db, IMPORT, FIRST, FIRST + DAY), pytest.MonkeyPatch.context() as patched:
        patched.setattr(columns, "_others", list)  # as if it were another process
        with pytest.raises(MigrationRefused, match="an import is writing into them"):
            schema.ensure(db, 5)
    with holding(db, EXPORT, FIRST, FIRST + DAY):  # reads on
        schema.ensure(db, 5)
    assert_up_to_date(db)


@pytest.mark.slow
def test_rows_that_an_unnoticed_recorder_of_the_earlier_version_stores_later_get_their_exchange(db):
    schema.ensure(db, 5)
    late = OrderBook("CUSDT", FIRST + 2 * DAY + NOON, 1, *sides(0))
    db.write(RowEncoder(depth=5, exchange=None, collector="practice").snapshots([late]))
    partitions.settle(db)
    schema.ensure(db, 5)
    assert db.sql("SELECT exchange FROM orderbook WHERE symbol = 'CUSDT'").rows == [["simulator"]]


def drained(db, spool, folder, exchange="binance"):
    """Sends what waits in a spool; the events of the writer."""
    events = []
    writer = Writer(
        StoreContext(db=db, spool=spool, now=time.time_ns, metrics=StoreMetrics(), on_event=events.append),
        prepare=lambda: schema.ensure_tables(db, 5),
        dead_letters=DeadLetters(folder / "dead"),
        waits=lambda: itertools.repeat(0.05),
        exchange=exchange,
    )
    writer.start()
    assert writer.drain(60)
    return events


@pytest.mark.slow
def test_rows_that_wait_in_a_spool_of_the_earlier_version_get_the_exchange_of_their_recorder(db, tmp_path):
    """Some of them were stored already, and their start was; a later start waits as well."""
    spool = Spool(tmp_path / "spool")
    spool.open()
    encoder = RowEncoder(depth=5, exchange=None, collector="practice")
    spool.append(encoder.snapshots(books(1)), 2 * ROWS, FIRST + DAY, FIRST + DAY)
    later = [OrderBook("CUSDT", FIRST + 2 * DAY + NOON + second * SECOND, second, *sides(0)) for second in range(4)]
    spool.append(encoder.snapshots(later[:2]), 2, FIRST, FIRST)
    restart = Event(later[2].receive_ns, "started", "", "", "3 pairs, depth 5, 100 ms, 127.0.0.1:7")
    spool.append(encoder.events([Event(later[2].receive_ns, "pair_added", "CUSDT"), restart]), 0, FIRST, FIRST)
    spool.append(encoder.snapshots(later[2:]), 2, FIRST, FIRST)
    now = RowEncoder(depth=5, exchange="testnet", collector="practice")
    spool.append(now.snapshots([later[3]._replace(symbol="DUSDT")]), 1, FIRST, FIRST)
    assert drained(db, spool, tmp_path) == []
    spool.close()
    db.sql("SELECT wait_wal_table('orderbook')")
    found = "SELECT exchange, symbol FROM orderbook WHERE symbol IN ('CUSDT', 'DUSDT') ORDER BY symbol, timestamp"
    local = "127.0.0.1:7"
    assert [tuple(row) for row in db.sql(found).rows] == [
        ("simulator", "CUSDT"),
        ("simulator", "CUSDT"),
        (local, "CUSDT"),
        (local, "CUSDT"),
        ("testnet", "DUSDT"),
    ]
    db.sql("SELECT wait_wal_table('collector_events')")
    waited = db.sql("SELECT exchange FROM collector_events WHERE kind = 'pair_added'").rows
    assert waited == [[local]]
    total = "SELECT count() FROM orderbook WHERE symbol IN ('AUSDT', 'BUSDT')"
    assert db.sql(total).rows == [[len(expected())]]


def test_a_row_of_the_earlier_version_keeps_every_byte_beside_its_exchange():
    history = ExchangeHistory()
    history.add_start("a b,c=d", 0, "1 pair, depth 5, 100 ms, host, x:1")
    encoder = RowEncoder(depth=5, exchange=None, collector="a b,c=d")
    old = encoder.snapshots(books(0)) + encoder.events(
        [Event(FIRST, "gap", "AUSDT", "1", 'x "y", z\\', FIRST + SECOND)]
    )
    new = RowEncoder(depth=5, exchange="x:1", collector="a b,c=d")
    wanted = new.snapshots(books(0)) + new.events([Event(FIRST, "gap", "AUSDT", "1", 'x "y", z\\', FIRST + SECOND)])
    assert name_exchanges([old, wanted], history) == [wanted, wanted]


@pytest.mark.slow
def test_which_exchanges_there_are_is_not_told_before_every_row_has_one(db):
    everything = (0, FIRST + 9 * DAY)
    with pytest.raises(
        StoreError, match=r"earlier version.*: 127.0.0.1:9001, binance, binance-us, simulator, testnet\. "
    ):
        query.exchanges(db, *everything)
    db.sql("ALTER TABLE orderbook ADD COLUMN exchange SYMBOL")
    partitions.settle(db)
    with pytest.raises(StoreError, match=r"is being brought up to date\. Wait"):
        query.exchanges(db, *everything)
    schema.ensure(db, 5)
    assert query.exchanges(db, *everything) == ["127.0.0.1:9001", "binance", "binance-us", "simulator", "testnet"]


@pytest.mark.slow
def test_a_table_of_the_earlier_version_is_read_as_of_the_exchange_of_its_recorders(db):
    everything = (0, FIRST + 9 * DAY)
    for collectors, exchange in ((("practice",), "simulator"), (("real", "vision", "import"), "binance")):
        db.sql("TRUNCATE TABLE orderbook")
        for collector in collectors:
            db.write(earlier_rows(collector, 0))
        partitions.settle(db)
        assert query.exchanges(db, *everything) == [exchange]
    db.sql("DROP TABLE collector_events")
    assert query.exchanges(db, *everything) == ["binance"]
