"""Retention: what is decided without a server, and that a server with real days loses and changes nothing by it."""

import gzip
import hashlib
import json
import threading
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from recorder import Recorder

from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.datasets.dataset import Progress, Request
from ingester.datasets.slices import collect
from ingester.errors import OperationError, SettingsError, StoreError
from ingester.questdb import partitions, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.leases import EXPORT, holding
from ingester.questdb.partitions import DAY, Partition
from ingester.questdb.query import rows_by_symbol
from ingester.questdb.retention import (
    CONVERT,
    DROP,
    HOUR,
    Policy,
    RetentionState,
    RetentionThread,
    RetentionWorker,
    Surroundings,
    plan,
)
from ingester.questdb.server import ManagedServer
from ingester.simulator import Simulator

NATIVE = Partition("2024-08-08", 1000, 220_000)
PARQUET = NATIVE._replace(bytes=40_000, is_parquet=True)
TODAY = NATIVE.end_ns + 10 * DAY


def step(day=NATIVE, parquet=None, drop=None, **state):
    policy = Policy(*(None if days is None else days * DAY for days in (parquet, drop)))
    (step,) = plan([day], policy, RetentionState(**{"now_ns": TODAY} | state))
    return step


@pytest.mark.parametrize(
    ("parquet", "drop", "words"),
    [
        (HOUR - 1, None, "--parquet-after is less than 1h"),
        (None, DAY - 1, "--drop-after is less than 1d"),
        (DAY, DAY, "not later than --parquet-after"),
        (9 * DAY, 3 * DAY, r"--drop-after \(3d\) is not later than --parquet-after \(9d\)"),
    ],
)
def test_what_would_drop_too_soon_or_convert_in_vain_is_refused(parquet, drop, words):
    with pytest.raises(SettingsError, match=words):
        Policy(parquet, drop)


def test_nothing_becomes_of_any_day_unless_it_is_said():
    assert not Policy().is_active
    assert step().action == ""
    assert not step().is_due(TODAY)


def test_a_day_is_converted_so_long_after_its_end_and_later_dropped():
    assert step(parquet=3, drop=90)[1:] == (CONVERT, NATIVE.end_ns + 3 * DAY, "")
    assert step(PARQUET, parquet=3, drop=90)[1:] == (DROP, NATIVE.end_ns + 90 * DAY, "")
    assert step(PARQUET, parquet=3).action == ""
    assert step(drop=90)[1:3] == (DROP, NATIVE.end_ns + 90 * DAY)
    due = step(parquet=3)
    assert due.is_due(due.due_ns)
    assert not due.is_due(due.due_ns - 1)


def test_a_day_that_is_to_go_by_now_is_not_converted_first():
    assert step(parquet=3, drop=10).action == DROP
    assert step(parquet=3, drop=11).action == CONVERT


@pytest.mark.parametrize(
    ("day", "state", "words"),
    [
        (NATIVE._replace(is_active=True), {}, "the newest day"),
        (NATIVE._replace(is_read_only=True), {}, "read-only"),
        (NATIVE, {"suspended": "no space"}, "suspended the table: no space"),
        (NATIVE, {"waits_since_ns": NATIVE.end_ns - 1}, "wait in the spool"),
        (NATIVE, {"rows_before": {"2024-08-08": 999}}, "rows still come in"),
        (NATIVE, {"free_bytes": 100}, "0.5 GB are needed on the server's disk, 0.0 GB are free"),
    ],
)
def test_what_hinders_a_step_that_is_due_is_said(day, state, words):
    assert words in step(day, parquet=3, **state).hindrance


@pytest.mark.parametrize(
    "state",
    [
        {"waits_since_ns": NATIVE.end_ns},
        {"rows_before": {"2024-08-08": 1000}},
        {"rows_before": {"2024-08-07": 5}},
        {"free_bytes": 600 << 20},
    ],
)
def test_what_does_not_concern_a_day_does_not_hinder(state):
    assert step(parquet=3, **state).hindrance == ""


def test_a_full_disk_does_not_keep_days_from_being_dropped():
    assert step(drop=3, free_bytes=0).hindrance == ""


def test_a_step_that_is_not_due_is_not_said_to_be_hindered():
    assert step(NATIVE._replace(is_active=True), parquet=30).hindrance == ""


RECORDING = Path(__file__).parents[1] / "data" / "btcusdt.jsonl.gz"
FIRST = partitions.start_of("2024-08-08")
DAYS = [f"2024-08-{day:02}" for day in range(8, 12)]
NOW = FIRST + 30 * DAY
SYMBOLS = ("AUSDT", "BUSDT")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ManagedServer(tmp_path_factory.mktemp("retention"), heap="384m")
    conf = server.data_dir / "questdb" / "root" / "conf"
    conf.mkdir(parents=True)
    (conf / "server.conf").write_text("dev.mode.enabled=true\n")  # ALTER TABLE … SUSPEND WAL
    server.ensure()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def books():
    with gzip.open(RECORDING, "rt") as lines:
        received = [json.loads(line.partition(" ")[2])["data"] for line in lines]
    return [[[(float(p), float(q)) for p, q in book[side][:5]] for side in ("bids", "asks")] for book in received]


@pytest.fixture
def db(server, books):
    """Four days of two pairs, a minute of recorded books around each midnight; the last day is the active one."""
    db = QuestDB(server.ensure())
    for table in (schema.ORDERBOOK, schema.EVENTS, "range_holds"):
        db.sql(f"DROP TABLE IF EXISTS {table}")
    schema.ensure(db, 5)
    encoder = RowEncoder(depth=5, exchange="binance", collector="kept")
    rows = []
    for midnight in (FIRST + SECOND * 30, FIRST + DAY, FIRST + 2 * DAY, FIRST + 3 * DAY):
        for number in range(600):
            at = midnight + (number - 300) * SECOND // 10
            rows += [
                OrderBook(symbol, at + 7000 * place, 10**6 + number, *books[number * 3 + place])
                for place, symbol in enumerate(SYMBOLS)
            ]
    db.write(encoder.snapshots(rows))
    db.sql("SELECT wait_wal_table('orderbook')")
    return db


def retention_worker(db, parquet_days=None, drop_days=None, **around):
    policy = Policy(*(None if days is None else days * DAY for days in (parquet_days, drop_days)))
    surroundings = Surroundings(**{name: lambda v=v: v for name, v in around.items()})
    return RetentionWorker(db, policy, now=lambda: NOW, around=surroundings)


def forms(db):
    return {each.day: each.is_parquet for each in partitions.list_partitions(db)}


def content(db):
    """Count and checksums of every day and pair."""
    # In whole thousandths, which the values are: sums of floating point depend on their order.
    sums = ", ".join(
        f"sum(cast(round({side}_{level} * 1000) AS LONG))"
        for level in (1, 5)
        for side in ("bid", "bidv", "ask", "askv")
    )
    return db.sql(
        f"SELECT timestamp_floor('d', timestamp) AS day, symbol, count(), sum(last_update_id), {sums} "
        "FROM orderbook ORDER BY day, symbol"
    ).rows


def exported(server, tmp_path, name, *options):
    """The checksum of each file of an export over all days."""
    where = ["--data-dir", str(server.data_dir), "--root", str(tmp_path / name)]
    result = CliRunner().invoke(cli, ["export", "--from", "2024-08-08", "--to", "2024-08-12", *options, *where])
    assert result.exit_code == 0, result.output
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / name).rglob("*.*")
        if path.is_file()
    }


def asked(server, *options):
    return CliRunner().invoke(cli, ["retention", *options, "--data-dir", str(server.data_dir)])


@pytest.mark.slow
def test_as_parquet_a_day_holds_and_exports_the_same_and_takes_late_rows(db, server, books, tmp_path):
    ways = {"all": (), "one level": ("--levels", "1"), "one pair": ("--pairs", "AUSDT"), "grid": ("--every", "1s")}
    held, files = content(db), {way: exported(server, tmp_path, way, *options) for way, options in ways.items()}
    done = list(retention_worker(db, 3).work())
    assert [(each.step.partition.day, each.after.is_parquet) for each in done] == [(day, True) for day in DAYS[:3]]
    assert all(each.after.rows == each.step.partition.rows for each in done)
    assert forms(db) == dict(zip(DAYS, (True, True, True, False), strict=True))
    assert content(db) == held
    for way, options in ways.items():
        assert exported(server, tmp_path, f"{way} again", *options) == files[way]
    late = OrderBook("AUSDT", FIRST + 3600 * SECOND, 5, *books[0])
    again = OrderBook("AUSDT", FIRST, 10**6, *books[0])  # one that is there already
    db.write(RowEncoder(depth=5, exchange="binance", collector="kept").snapshots([late, again]))
    db.sql("SELECT wait_wal_table('orderbook')")
    assert forms(db)[DAYS[0]]
    assert [row[2] for row in content(db)][:2] == [held[0][2] + 1, held[1][2]]
    assert list(retention_worker(db, 3).work()) == []


@pytest.mark.slow
def test_a_day_that_is_read_or_that_rows_wait_for_is_left_alone(db):
    with holding(db, EXPORT, FIRST + DAY, FIRST + DAY + 1):
        hindered = {
            step.partition.day: step.hindrance for step in retention_worker(db, 3).planned_steps() if step.hindrance
        }
        done = list(retention_worker(db, 3).work())
    assert [each.step.partition.day for each in done] == [DAYS[0], DAYS[2]]
    assert list(hindered) == [DAYS[1], DAYS[3]]
    assert hindered[DAYS[1]].startswith("in use by export")
    assert list(retention_worker(db, 3, waits_since_ns=FIRST + DAY).work()) == []
    assert (
        list(retention_worker(db, None, 3, free_bytes=0, waits_since_ns=FIRST + 2 * DAY).work())[-1].step.partition.day
        == DAYS[1]
    )


@pytest.mark.slow
def test_a_day_into_which_rows_still_come_is_left_alone(db, books):
    careful = retention_worker(db, 3)
    careful.settle()
    db.write(
        RowEncoder(depth=5, exchange="binance", collector="kept").snapshots(
            [OrderBook("AUSDT", FIRST + DAY + 7, 5, *books[0])]
        )
    )
    db.sql("SELECT wait_wal_table('orderbook')")
    assert [each.step.partition.day for each in careful.work()] == [DAYS[0], DAYS[2]]
    careful.settle()
    assert [each.step.partition.day for each in careful.work()] == [DAYS[1]]


@pytest.mark.slow
def test_while_the_table_is_suspended_nothing_is_done(db):
    db.sql("ALTER TABLE orderbook SUSPEND WAL")
    assert list(retention_worker(db, 3).work()) == []
    assert "suspended" in retention_worker(db, 3).planned_steps()[0].hindrance
    with pytest.raises(StoreError, match="suspended"):
        partitions.convert(db, DAYS[0], lambda: False)
    db.sql("ALTER TABLE orderbook RESUME WAL")
    db.sql("SELECT wait_wal_table('orderbook')")
    assert forms(db)[DAYS[0]]


@pytest.mark.slow
def test_what_is_dropped_is_on_record_and_no_gap(db, server, tmp_path):
    first, *_ = json.loads(asked(server, "--parquet-after", "3d", "--drop-after", "36500d", "--json").stdout)
    assert (first["form"], first["next"], first["at"]) == ("native", CONVERT, "2024-08-12T00:00Z")
    assert first["rows"] == 1800
    refused = asked(server, "--apply")
    assert refused.exit_code == 2
    assert "Say what" in refused.output
    answer = asked(server, "--drop-after", "30d", "--apply")
    assert answer.exit_code == 0, answer.output
    assert "2024-08-08 dropped: 1,800 rows" in answer.output
    assert list(forms(db)) == [DAYS[3]]
    db.sql("SELECT wait_wal_table('collector_events')")
    events = db.sql("SELECT detail FROM collector_events WHERE kind = 'partition_dropped' ORDER BY timestamp").rows
    assert [detail.split(":")[0] for (detail,) in events] == DAYS[:3]
    where = ["--from", "2024-08-08", "--to", "2024-08-11 00:00:30", "--data-dir", str(server.data_dir)]
    coverage = CliRunner().invoke(cli, ["coverage", *where, "--by", "day", "--json"])
    assert coverage.exit_code == 0, coverage.output
    for pair in json.loads(coverage.stdout)["pairs"]:
        assert pair["gaps"] == []
        assert pair["percent"] == 100
        assert len(pair["days"]) == 1
    export = CliRunner().invoke(cli, ["export", *where, "--root", str(tmp_path)])
    assert export.exit_code == 0, export.output
    (manifest,) = tmp_path.rglob("manifest.json")
    for pair in json.loads(manifest.read_text())["pairs"].values():
        assert [(gap["reason"], gap["seconds"]) for gap in pair["gaps"]] == [
            ("dropped", pytest.approx(3 * 86400, abs=1e-3))  # up to the first book after it
        ]
        assert pair["coverage_percent"] < 1


@pytest.mark.slow
def test_an_export_under_which_rows_vanish_all_the_same_fails_instead_of_writing_less(db, tmp_path):
    request = Request(FIRST, FIRST + 4 * DAY, SYMBOLS)
    counts = rows_by_symbol(db, request.start_ns, request.end_ns)
    partitions.drop(db, DAYS[1], lambda: False)
    with pytest.raises(OperationError, match=r"had 4,800 rows .* 3,600 were left"):
        collect(db, request, tmp_path, counts, Progress())


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_converts_has_everything_afterwards(db, server, books):
    encoder = RowEncoder(depth=5, exchange="binance", collector="many")
    for first in range(0, 80_000, 20_000):
        db.write(
            encoder.snapshots(
                [
                    OrderBook("AUSDT", FIRST + 10**9 * 3600 + n * 10**8, n + 1, *books[n % 3000])
                    for n in range(first, first + 20_000)
                ]
            )
        )
    db.sql("SELECT wait_wal_table('orderbook')")
    held = content(db)
    db.sql(f"ALTER TABLE orderbook CONVERT PARTITION TO PARQUET LIST '{DAYS[0]}', '{DAYS[1]}'")
    process = psutil.Process(server.status().pid)
    process.kill()
    process.wait(30)
    db = QuestDB(server.ensure())
    assert content(db) == held
    list(retention_worker(db, 3).work())
    assert forms(db) == dict(zip(DAYS, (True, True, True, False), strict=True))
    assert content(db) == held


@pytest.mark.slow
def test_a_recorder_keeps_to_the_policy_while_it_records(db):
    told, done = [], threading.Event()

    def note(event):
        told.append(event)
        if len(told) == 3:
            done.set()

    watch = RetentionThread(
        retention_worker(db, 3), now=lambda: NOW, on_event=note, first_seconds=0.01, every_seconds=0.01
    )
    watch.start()
    assert done.wait(60)
    watch.stop()
    assert [(event.kind, event.detail[:10]) for event in told] == [("partition_converted", day) for day in DAYS[:3]]


@pytest.mark.slow
def test_start_takes_the_policy_and_refuses_a_wrong_one(db, server):
    wrong = CliRunner().invoke(cli, ["start", "--parquet-after", "9d", "--drop-after", "3d"])
    assert wrong.exit_code == 2
    assert "not later than" in wrong.output
    with Simulator(pairs=["AUSDT"]) as simulator:
        source = ("--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url)
        policy = ("--parquet-after", "3d", "--drop-after", "9d")
        with Recorder("--pairs", "AUSDT", *source, "--data-dir", server.data_dir, *policy, "--for", "1s") as recorder:
            recorder.process.wait(60)
            code, output = recorder.stop()
    assert code == 0, output
    assert forms(db)[DAYS[0]] is False  # the first look comes after a minute
