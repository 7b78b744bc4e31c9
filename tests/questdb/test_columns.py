"""A table that gets more levels while some of its days are Parquet: whatever the order, every day can be read."""

import io
import re

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from recorder import Recorder

from ingester.book import OrderBook, frame_columns, level_columns
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.datasets.playback import table_snapshots
from ingester.errors import LevelsRefused
from ingester.questdb import columns, partitions, schema
from ingester.questdb.client import QuestDB, RowsRefused
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.leases import EXPORT, IMPORT, holding
from ingester.questdb.partitions import DAY
from ingester.questdb.query import rows_by_symbol
from ingester.questdb.server import ManagedServer
from ingester.simulator import Simulator

pytestmark = pytest.mark.slow

FIRST = partitions.start_of("2024-08-08")
DAYS = ["2024-08-08", "2024-08-09", "2024-08-10"]
NOON = 12 * 3600 * SECOND
ROWS = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ManagedServer(tmp_path_factory.mktemp("deeper"), heap="384m")
    server.ensure()
    yield server
    server.stop()


@pytest.fixture
def db(server):
    """Two closed days and the newest, of 5 levels."""
    db = QuestDB(server.ensure())
    for table in (schema.ORDERBOOK, schema.EVENTS, "range_holds"):
        db.sql(f"DROP TABLE IF EXISTS {table}")
    schema.ensure(db, 5)
    for day in range(3):
        store(db, books("AUSDT", FIRST + day * DAY + NOON, 5))
    return db


def books(symbol, start_ns, depth, rows=ROWS):
    """Level n of row i is 100 - n and 200 + n, in quantities of i + 1: so every value can be told from its place."""
    return [
        OrderBook(
            symbol,
            start_ns + number * SECOND // 10,
            number + 1,
            [(100.0 - level, number + 1.0) for level in range(depth)],
            [(200.0 + level, number + 1.0) for level in range(depth)],
        )
        for number in range(rows)
    ]


def store(db, snapshots):
    depth = max(len(each.bids) for each in snapshots)
    db.write(RowEncoder(depth=depth, exchange="binance", collector="deeper").snapshots(snapshots))
    db.sql("SELECT wait_wal_table('orderbook')")


def make_parquet(db, *days):
    for day in days:
        assert partitions.convert(db, day, lambda: False)


def forms(db):
    return {each.day: each.is_parquet for each in partitions.list_partitions(db)}


def run(server, *arguments):
    result = CliRunner().invoke(cli, [*map(str, arguments), "--data-dir", str(server.data_dir)])
    assert result.exit_code == 0, result.output
    assert server.alive()
    return result.output


def deepen(way, server, db, tmp_path):
    """The table gets 20 levels."""
    if way == "ensure":
        schema.ensure(db, 20)
    elif way == "import":
        import_books(server, tmp_path, "BUSDT", FIRST + 2 * DAY + NOON, 20)
    else:
        with Simulator(pairs=["AUSDT"]) as simulator:
            source = ("--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url)
            where = ("--data-dir", server.data_dir, "--collector", "deeper")
            with Recorder("--pairs", "AUSDT", *source, *where, "--depth", 20, "--for", "3s") as recorder:
                recorder.process.wait(60)
                code, output = recorder.stop()
        assert code == 0, output
    db.sql("SELECT wait_wal_table('orderbook')")
    assert len(partitions.column_names(db)) == 6 + 80


def import_books(server, tmp_path, symbol, start_ns, depth):
    rows = books(symbol, start_ns, depth)
    values = [[x for level in (*each.bids, *each.asks) for x in level] for each in rows]
    times = pd.to_datetime([each.receive_ns for each in rows])
    frame = pd.DataFrame(values, index=times.rename("Request Time"), columns=frame_columns(depth))
    name = f"{symbol.removesuffix('USDT')}_USDT_100ms_(2024-08-08 12꞉00)_({depth}).csv"
    frame.to_csv(tmp_path / name)
    return run(server, "import", tmp_path / name)


def restart(server, db, really):
    if really:
        server.stop()
    db.endpoint = server.ensure()


def assert_readable(server, db, tmp_path, deep):
    """Everything that reads the first day; `deep`: pairs with 20 levels there, the others have 5."""
    day = f"timestamp IN '{DAYS[0]}'"
    counts = rows_by_symbol(db, FIRST, FIRST + DAY)
    total = sum(counts.values())
    # SQL, with and without a row filter, by QuestDB's own exports too
    assert db.sql(f"SELECT count(), count(bid_1), count(bid_20) FROM orderbook WHERE {day}").rows == [
        [total, total, sum(counts[pair] for pair in deep)]
    ]
    for what in ("*", "bid_1, bid_6", "bid_6"):
        assert len(db.sql(f"SELECT {what} FROM orderbook WHERE {day}").rows) == total
    assert len(db.sql(f"SELECT * FROM orderbook WHERE {day} ORDER BY ask_20, timestamp").rows) == total
    for condition in (day, f"{day} AND last_update_id IS NOT NULL"):
        with db.parquet(f"SELECT * FROM orderbook WHERE {condition}", bytearray()) as data:
            assert pq.read_table(io.BytesIO(bytes(data))).shape == (total, 86)
    assert sum(piece.count(b"\n") for piece in db.csv(f"SELECT * FROM orderbook WHERE {day}")) == total + 1
    for name, _ in schema.views():
        db.sql(f"SELECT * FROM {name} LIMIT 5")
    # a data set of each number of levels
    for levels in (1, 5, 6, 10, 20):
        root = tmp_path / f"{levels}-{len(list(tmp_path.iterdir()))}"
        run(server, "export", "--from", DAYS[0], "--to", DAYS[1], "--levels", levels, "--root", root)
        frames = {path.name.split("_")[0] + "USDT": pd.read_pickle(path) for path in root.rglob("*.pkl")}
        assert {pair: len(frame) for pair, frame in frames.items()} == counts
        for pair, frame in frames.items():
            there = levels if pair in deep else min(5, levels)
            assert (frame[f"Bid_{there}"] == 101.0 - there).all()
            assert (frame[f"Ask_{there}"] == 199.0 + there).all()
            assert frame[frame_columns(there)].notna().all(axis=None)
            assert int(frame.notna().sum().sum()) == len(frame) * there * 4
    played = list(table_snapshots(db, FIRST, FIRST + DAY, sorted(counts), counts))
    assert len(played) == total
    assert all(len(each.bids) == len(each.asks) == (20 if each.symbol in deep else 5) for each in played)
    assert "AUSDT" in run(server, "coverage", "--from", DAYS[0], "--to", DAYS[1])
    assert partitions.suspension(db) is None


@pytest.mark.parametrize(
    ("parquet_first", "way", "restarts"),
    [(True, "import", False), (True, "start", True), (False, "ensure", True), (False, "import", False)],
)
def test_in_either_order_a_parquet_day_and_more_levels_read_alike_and_take_late_rows(
    server, db, tmp_path, parquet_first, way, restarts
):
    if parquet_first:
        make_parquet(db, DAYS[0])
        restart(server, db, restarts)
        deepen(way, server, db, tmp_path)
    else:
        deepen(way, server, db, tmp_path)
        restart(server, db, restarts)
        make_parquet(db, DAYS[0])
    assert forms(db)[DAYS[0]] is True
    assert_readable(server, db, tmp_path, deep=())
    store(db, books("CUSDT", FIRST + NOON - 5 * SECOND, 20))  # late, before and among those that are there
    store(db, books("AUSDT", FIRST + NOON, 5))  # there already
    import_books(server, tmp_path, "DUSDT", FIRST + NOON + 7 * SECOND, 20)
    assert rows_by_symbol(db, FIRST, FIRST + DAY) == {"AUSDT": ROWS, "CUSDT": ROWS, "DUSDT": ROWS}
    assert_readable(server, db, tmp_path, deep=("CUSDT", "DUSDT"))
    assert forms(db)[DAYS[0]] is True


def test_a_day_in_which_the_levels_came_is_whole_as_parquet(server, db):
    schema.ensure(db, 20)
    store(db, books("AUSDT", FIRST + NOON + 3600 * SECOND, 20))
    make_parquet(db, DAYS[0])
    day = f"timestamp IN '{DAYS[0]}'"
    with db.parquet(f"SELECT * FROM orderbook WHERE {day}", bytearray()) as data:
        assert pq.read_table(io.BytesIO(bytes(data))).column("bid_20").null_count == ROWS
    assert db.sql(f"SELECT count(), sum(bid_20) FROM orderbook WHERE {day}").rows == [[2 * ROWS, 81.0 * ROWS]]


class Killed(BaseException):
    """Stands for the end of the process at this point."""


@pytest.mark.parametrize("step", range(5))
def test_a_kill_at_any_step_leaves_days_that_can_be_read_and_the_next_start_completes_it(server, db, monkeypatch, step):
    make_parquet(db, *DAYS[:2])
    steps = []

    def killed_at(module, name):
        real = getattr(module, name)

        def may_be_killed(*arguments):
            if len(steps) == step:
                raise Killed
            steps.append(name)
            return real(*arguments)

        monkeypatch.setattr(module, name, may_be_killed)

    killed_at(partitions, "make_native")
    killed_at(columns, "_add")
    killed_at(partitions, "convert")
    with pytest.raises(Killed):
        schema.ensure(db, 20)
    monkeypatch.undo()
    if step == 3:
        psutil.Process(server.status().pid).kill()
        db.endpoint = server.ensure()
    for day in DAYS:
        assert len(db.sql(f"SELECT * FROM orderbook WHERE timestamp IN '{day}'").rows) == ROWS
    schema.ensure(db, 20)
    assert forms(db) == dict(zip(DAYS, (True, True, False), strict=True))
    for day in DAYS:
        with db.parquet(f"SELECT * FROM orderbook WHERE timestamp IN '{day}'", bytearray()) as data:
            assert pq.read_table(io.BytesIO(bytes(data))).shape == (ROWS, 86)
    assert schema.work_before(db, 20) == ""


def test_where_it_cannot_be_done_it_is_refused_with_the_reason_and_nothing_changes(server, db, monkeypatch):
    make_parquet(db, DAYS[0])
    with holding(db, EXPORT, FIRST, FIRST + 1):
        for attempt in (schema.ensure, schema.work_before):
            with pytest.raises(LevelsRefused, match=r"2024-08-08 is Parquet and in use by export .* Wait until"):
                attempt(db, 20)
    usage = type("usage", (), {"free": 1 << 20})
    monkeypatch.setattr(columns.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(LevelsRefused, match=r"1 Parquet day of orderbook .* GB are free\. Make room"):
        schema.ensure(db, 20)
    started = CliRunner().invoke(
        cli, ["start", "--exchange", "simulator", "--depth", "20", "--data-dir", str(server.data_dir)]
    )
    assert started.exit_code == 1, started.output
    assert "GB are free" in started.output
    monkeypatch.undo()
    assert forms(db)[DAYS[0]] is True
    assert len(partitions.column_names(db)) == 26
    with holding(db, EXPORT, FIRST + DAY, FIRST + DAY + 1), holding(db, IMPORT, 0, FIRST + DAY):  # the import's own
        schema.ensure(db, 10)
    assert forms(db)[DAYS[0]] is True
    assert len(partitions.column_names(db)) == 46


@pytest.mark.parametrize("late", [False, True])
def test_a_table_that_an_earlier_version_has_broken_is_mended(server, db, tmp_path, late):
    make_parquet(db, DAYS[0])
    for name in level_columns(20):
        if int(re.sub(r"\D", "", name)) > 5:
            db.sql(f"ALTER TABLE orderbook ADD COLUMN {name} DOUBLE")
    db.sql("SELECT wait_wal_table('orderbook')")
    export = ["export", "--from", DAYS[0], "--to", DAYS[1], "--levels", "20", "--data-dir", str(server.data_dir)]
    refused = CliRunner().invoke(cli, [*export, "--root", str(tmp_path / "refused")])
    assert refused.exit_code == 1
    assert "2024-08-08 was made Parquet before orderbook got more levels" in refused.output
    assert server.alive()
    if late:
        db.write(RowEncoder(depth=5, exchange="binance", collector="deeper").snapshots(books("CUSDT", FIRST + NOON, 5)))
        while partitions.suspension(db) is None:
            pass
        db.write(
            RowEncoder(depth=5, exchange="binance", collector="deeper").snapshots(
                books("EUSDT", FIRST + 2 * DAY + NOON, 5)
            )
        )
    schema.ensure(db, 20)
    assert forms(db)[DAYS[0]] is True
    assert_readable(server, db, tmp_path, deep=())
    store(db, books("CUSDT", FIRST + NOON, 5))
    assert rows_by_symbol(db, FIRST, FIRST + DAY) == {"AUSDT": ROWS, "CUSDT": ROWS}
    told = db.sql("SELECT kind FROM collector_events ORDER BY timestamp").rows
    assert ["rows_missing"] in told if late else ["rows_missing"] not in told


@pytest.mark.parametrize("noted", [False, True])
def test_days_that_an_earlier_version_made_parquet_after_the_levels_came_are_mended_one_by_one(
    server, db, tmp_path, monkeypatch, noted
):
    schema.ensure(db, 20)
    with monkeypatch.context() as earlier:
        earlier.setattr(partitions, "_store_every_column", lambda *_: None)
        make_parquet(db, *DAYS[:2])
    if noted:
        for day in DAYS[:2]:
            detail = f"{day}: 300 rows, 90000 bytes, as Parquet 9000 bytes, 0.1 s"
            db.sql(
                "INSERT INTO collector_events (timestamp, collector, kind, detail) "
                f"VALUES (now(), 'deeper', 'partition_converted', '{detail}')"
            )
        db.sql("SELECT wait_wal_table('collector_events')")
    assert [each.day for each in columns.days_to_rewrite(db, 0)] == DAYS[:2]
    one_day = type("usage", (), {"free": columns.SPARE_BYTES + 2 * ROWS * 8 * 86 - 1})
    monkeypatch.setattr(columns.shutil, "disk_usage", lambda folder: one_day)
    schema.ensure(db, 20)
    monkeypatch.undo()
    assert columns.days_to_rewrite(db, 0) == []
    assert forms(db) == dict(zip(DAYS, (True, True, False), strict=True))
    for day in DAYS[:2]:  # as this would end a server whose days were not rewritten
        with db.parquet(f"SELECT * FROM orderbook WHERE timestamp IN '{day}'", bytearray()) as data:
            assert pq.read_table(io.BytesIO(bytes(data))).shape == (ROWS, 86)
    assert server.alive()
    if noted:
        assert_readable(server, db, tmp_path, deep=())


def test_days_whose_rows_have_all_levels_are_not_rewritten(server, db):
    schema.ensure(db, 20)
    for day in range(3, 5):
        store(db, books("AUSDT", FIRST + day * DAY + NOON, 20))
    make_parquet(db, "2024-08-11")
    assert columns.days_to_rewrite(db, 0) == []


def test_rows_with_more_levels_than_the_table_has_do_not_add_them_unasked(server, db):
    make_parquet(db, DAYS[0])
    with pytest.raises(RowsRefused, match="bid_6 does not exist"):
        store(db, books("AUSDT", FIRST + NOON, 10))
    assert len(partitions.column_names(db)) == 26


def test_a_day_that_becomes_parquet_in_the_moment_before_the_columns_come_is_mended(server, db, monkeypatch):
    real = columns._add

    def meanwhile(*arguments):
        monkeypatch.setattr(columns, "_add", real)
        make_parquet(db, DAYS[0])
        real(*arguments)

    monkeypatch.setattr(columns, "_add", meanwhile)
    schema.ensure(db, 20)
    assert forms(db)[DAYS[0]] is True
    assert len(db.sql(f"SELECT bid_20 FROM orderbook WHERE timestamp IN '{DAYS[0]}'").rows) == ROWS
    with db.parquet(f"SELECT * FROM orderbook WHERE timestamp IN '{DAYS[0]}'", bytearray()) as data:
        assert pq.read_table(io.BytesIO(bytes(data))).shape == (ROWS, 86)


def test_a_parquet_day_that_is_the_newest_now_stays_native_until_it_is_not(server, db):
    make_parquet(db, DAYS[1])
    assert partitions.drop(db, DAYS[2], lambda: False)
    schema.ensure(db, 20)
    assert forms(db) == {DAYS[0]: False, DAYS[1]: False}
    assert len(db.sql("SELECT * FROM books").rows) == 2 * ROWS
    store(db, books("AUSDT", FIRST + 2 * DAY + NOON, 20))
    schema.ensure(db, 20)
    assert forms(db) == {DAYS[0]: False, DAYS[1]: True, DAYS[2]: False}


def test_a_column_of_the_users_own_counts_too(server, db):
    make_parquet(db, DAYS[0])
    db.sql("ALTER TABLE orderbook ADD COLUMN note VARCHAR")
    partitions.settle(db)  # until then nobody sees the column, nor what it does to the day
    schema.ensure(db, 5)
    assert len(db.sql(f"SELECT * FROM orderbook WHERE timestamp IN '{DAYS[0]}'").rows) == ROWS
    assert forms(db)[DAYS[0]] is True
    assert np.all([row == [None] for row in db.sql(f"SELECT note FROM orderbook WHERE timestamp IN '{DAYS[0]}'").rows])
