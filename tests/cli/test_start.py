"""`ingester start`, from a websocket to SQL: the real command, a real QuestDB, the simulator's real sockets."""

import contextlib
import gzip
import json
import re
import signal
import subprocess
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import urllib3
from click.testing import CliRunner
from recorder import Recorder, at, rows_of, url_of
from websockets.sync.server import serve

from ingester.book import level_columns
from ingester.cli import cli
from ingester.cli.start import require_rows
from ingester.errors import OperationError
from ingester.exchange import simulator_at
from ingester.exchange.pairs import DEFAULT_COINS, symbols_of
from ingester.questdb.client import QuestDB
from ingester.simulator import Simulator, tape_of_file
from ingester.simulator.books import book
from ingester.simulator.rest_answers import SimulatedPair
from ingester.text import LINE_SECONDS, LINES_AT_ONCE, counted

RECORDING = Path(__file__).parents[1] / "data" / "btcusdt.jsonl.gz"
COINS44 = symbols_of(DEFAULT_COINS, "USDT")


def flat(bids, asks, depth):
    """Levels in the table's order of columns, NULL where there is none."""
    numbers = []
    for side in (bids, asks):
        for level in range(depth):
            numbers += map(float, side[level]) if level < len(side) else (None, None)
    return numbers


def recorded():
    with gzip.open(RECORDING) as lines:
        return [json.loads(line.split(b" ", 1)[1])["data"] for line in lines]


@pytest.mark.parametrize("depth", [5, 10, 20])
def test_a_real_recording_arrives_complete_and_exact(questdb, depth):
    collector = f"recording-{depth}"
    columns = ", ".join(["last_update_id", *level_columns(depth)])
    with (
        Simulator(tapes=[tape_of_file(RECORDING)], speed=40) as simulator,
        Recorder("--pairs", "BTCUSDT", "--depth", depth, "--collector", collector, *at(simulator, questdb)) as recorder,
    ):
        assert simulator.wait_finished(60)
        code, output = recorder.stop()
    assert code == 0, output
    assert "3,433 rows stored, 0 in the spool" in output
    expected = [[line["lastUpdateId"], *flat(line["bids"], line["asks"], depth)] for line in recorded()]
    assert len(expected) == 3433
    assert rows_of(questdb, collector, columns) == expected


@pytest.mark.slow
def test_44_pairs_for_20_seconds_every_row_recomputed(questdb):
    columns = ", ".join(["timestamp", "symbol", "last_update_id", *level_columns(5)])
    with (
        Simulator(pairs=COINS44, seed=7, keep_sent=True) as simulator,
        Recorder("--collector", "coins44", "--for", "20s", *at(simulator, questdb)) as recorder,
    ):
        recorder.process.wait(90)
        code, output = recorder.stop()
        sent = simulator.sent
    assert code == 0, output
    ids = defaultdict(list)
    first = {}
    for timestamp, symbol, update_id, *levels in rows_of(questdb, "coins44", columns):
        assert levels == flat(*book(7, symbol, update_id, 5), 5)
        ids[symbol].append(update_id)
        first.setdefault(symbol, timestamp)
    assert ids == {symbol: numbers[: len(ids[symbol])] for symbol, numbers in sent.items()}
    assert all(len(sent[symbol]) - len(ids[symbol]) <= 1 for symbol in COINS44)  # one may leave after the goodbye
    assert all(150 <= len(numbers) <= 200 for numbers in ids.values())
    assert len({timestamp[:19] for timestamp in first.values()}) == 1  # all pairs begin in the same second


def test_starting_again_appends_and_duplicates_nothing(questdb):
    with Simulator(pairs=["BTCUSDT", "ETHUSDT"], keep_sent=True) as simulator:
        options = ("--pairs", "BTCUSDT,ETHUSDT", "--collector", "again", *at(simulator, questdb))
        counts = []
        for _ in range(2):
            with Recorder(*options, "--for", "3s") as recorder:
                recorder.process.wait(60)
                assert recorder.stop()[0] == 0
            rows = rows_of(questdb, "again")
            counts.append(len(rows))
            assert len({tuple(row) for row in rows}) == len(rows)
        sent = simulator.sent
    assert 0 < counts[0] < counts[1]
    assert {(s, i) for s, i in rows} <= {(s, i) for s, numbers in sent.items() for i in numbers}
    kinds = [kind for (kind,) in events(questdb, "again", "kind")]
    assert kinds.count("started") == kinds.count("stopped") == 2


def test_thin_books_have_null_levels(questdb):
    columns = ", ".join(["last_update_id", *level_columns(5)])
    with (
        Simulator([SimulatedPair("ONTUSDT", levels=2)]) as simulator,
        Recorder("--pairs", "ONTUSDT", "--collector", "thin", "--for", "3s", *at(simulator, questdb)) as recorder,
    ):
        recorder.process.wait(60)
        assert recorder.stop()[0] == 0
    rows = rows_of(questdb, "thin", columns)
    assert rows
    for update_id, *levels in rows:
        bids, asks = book(0, "ONTUSDT", update_id, 5)
        assert levels == flat(bids[:2], asks[:2], 5)


def test_down_sampling_keeps_every_third_snapshot(questdb):
    with (
        Simulator(pairs=["BTCUSDT"], keep_sent=True) as simulator,
        Recorder(
            "--pairs", "BTCUSDT", "--interval", "300ms", "--collector", "third", "--for", "4s", *at(simulator, questdb)
        ) as recorder,
    ):
        recorder.process.wait(60)
        assert recorder.stop()[0] == 0
        sent = simulator.sent["BTCUSDT"]
    ids = [update_id for _, update_id in rows_of(questdb, "third")]
    assert ids == sent[::3][: len(ids)]
    assert len(ids) >= 6


def test_bad_frames_and_lost_connections_do_not_end_the_recording(questdb):
    with (
        Simulator(pairs=["BTCUSDT", "ETHUSDT"], keep_sent=True) as simulator,
        Recorder("--pairs", "BTCUSDT,ETHUSDT", "--collector", "faults", *at(simulator, questdb)) as recorder,
    ):
        recorder.wait_for("is open")
        simulator.fault("malformed", symbol="BTCUSDT", count=1)
        recorder.wait_for("frame not stored")
        simulator.fault("crossed", symbol="BTCUSDT", count=1)
        recorder.wait_for("crossed")
        simulator.fault("duplicate", symbol="BTCUSDT", count=2)
        simulator.fault("out_of_order", symbol="ETHUSDT", count=2)
        simulator.fault("drop")
        recorder.wait_for("delivers again")
        code, output = recorder.stop(signal.SIGINT)
    assert code == 0, output
    rows = [tuple(row) for row in rows_of(questdb, "faults")]
    assert len(set(rows)) == len(rows)
    assert {symbol for symbol, _ in rows} == {"BTCUSDT", "ETHUSDT"}
    assert set(rows) <= {(symbol, i) for symbol, numbers in simulator.sent.items() for i in numbers}
    kinds = {kind for (kind,) in events(questdb, "faults", "kind")}
    assert kinds >= {"started", "connected", "quarantined", "disconnected", "gap", "stopped"}


@pytest.mark.slow
def test_after_a_kill_what_waited_is_stored_and_the_gap_is_on_record(questdb):
    """QuestDB hangs, the recorder is killed, both come back: only the last moment before the kill may be missing."""
    process = psutil.Process(questdb.status().pid)
    with Simulator(pairs=["BTCUSDT", "ETHUSDT"], keep_sent=True) as simulator:
        options = ("--pairs", "BTCUSDT,ETHUSDT", "--collector", "killed", *at(simulator, questdb))
        with Recorder(*options) as recorder:
            recorder.wait_for("is open")
            process.suspend()
            try:
                while len(simulator.sent.get("BTCUSDT", [])) < 40:
                    time.sleep(0.05)
                recorder.process.kill()
                before = {symbol: list(numbers) for symbol, numbers in simulator.sent.items()}
                recorder.process.wait(10)
            finally:
                process.resume()
        with Recorder(*options, "--for", "3s") as recorder:
            recorder.process.wait(60)
            code, output = recorder.stop()
        sent = simulator.sent
    assert code == 0, output
    assert "rows of an earlier run wait in the spool" in output
    rows = [tuple(row) for row in rows_of(questdb, "killed")]
    assert len(set(rows)) == len(rows)
    for symbol, numbers in before.items():
        stored = [update_id for name, update_id in rows if name == symbol]
        assert set(stored) <= set(sent[symbol])
        missing = [update_id for update_id in numbers if update_id not in stored]
        assert missing == numbers[len(numbers) - len(missing) :]  # nothing but the end
        assert len(missing) <= 4
    gaps = events(questdb, "killed", "symbol, detail, timestamp, until", "kind = 'gap'")
    assert {(symbol, detail) for symbol, detail, _, _ in gaps} == {("BTCUSDT", "restart"), ("ETHUSDT", "restart")}
    assert all(since < until for _, _, since, until in gaps)


def test_a_second_recorder_of_the_same_name_is_refused_with_the_pid_of_the_first(questdb):
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        options = ("--pairs", "BTCUSDT", "--collector", "one", *at(simulator, questdb))
        with Recorder(*options) as recorder:
            recorder.wait_for("is open")
            code, output = failed(*options)
    assert code == 1
    assert str(recorder.process.pid) in output
    assert "--collector" in output
    assert "Traceback" not in output


def test_a_second_ctrl_c_ends_at_once_where_questdb_hangs(questdb):
    process = psutil.Process(questdb.status().pid)
    with (
        Simulator(pairs=["BTCUSDT"]) as simulator,
        Recorder("--pairs", "BTCUSDT", "--collector", "twice", *at(simulator, questdb)) as recorder,
    ):
        recorder.wait_for("is open")
        process.suspend()
        try:
            recorder.process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                recorder.process.wait(3)
            code, output = recorder.stop(signal.SIGINT, timeout=5)
        finally:
            process.resume()
    assert code == 130
    assert "ended at once" in output


def events(questdb, collector, columns, condition="true"):
    db = QuestDB(questdb.endpoint)
    db.sql("SELECT wait_wal_table('collector_events')")
    return db.sql(
        f"SELECT {columns} FROM collector_events WHERE collector = '{collector}' AND {condition} ORDER BY timestamp"
    ).rows


def failed(*options):
    """Runs `ingester start` to its refusal; gives (exit code, output)."""
    with Recorder(*options) as recorder:
        recorder.process.wait(60)
        return recorder.stop()


def test_a_pair_that_does_not_exist_is_an_error_with_the_nearest_names(questdb):
    with Simulator(pairs=COINS44) as simulator:
        code, output = failed("--pairs", "BTCUSTD", *at(simulator, questdb))
    assert code == 2
    assert "'BTCUSTD'" in output
    assert "BTCUSDT" in output
    assert "Traceback" not in output


def test_a_named_pair_that_was_delisted_does_not_keep_a_recorder_from_starting_again(questdb, tmp_path):
    options = ("--pairs", "BTCUSDT,EDUUSDT", "--collector", "delisted", "--data-dir", str(tmp_path), "--for", "2s")
    for listed in (["BTCUSDT", "EDUUSDT"], ["BTCUSDT"], ["BTCUSDT"]):
        with Simulator(pairs=listed) as simulator, Recorder(*options, *at(simulator, questdb)) as recorder:
            recorder.process.wait(60)
            code, output = recorder.stop()
        assert code == 0, output
        assert f"recorded {counted(len(listed), 'pair')} for" in output
        assert ("no longer lists them: EDUUSDT" in output) == (listed == ["BTCUSDT"])


def test_default_pairs_that_do_not_trade_are_skipped_with_one_line(questdb):
    with (
        Simulator([SimulatedPair("ADAUSDT", status="BREAK"), *COINS44[1:40]]) as simulator,
        Recorder("--for", "4s", "--collector", "skip", *at(simulator, questdb)) as recorder,
    ):
        recorder.process.wait(60)
        code, output = recorder.stop()
    assert code == 0
    (line,) = [line for line in output.splitlines() if "skipped" in line]
    assert all(symbol in line for symbol in ["ADAUSDT", *COINS44[40:]])
    assert "recorded 39 pairs" in output


def test_without_rest_recording_starts_all_the_same_and_says_so(questdb):
    with (
        Simulator(pairs=["BTCUSDT"]) as simulator,
        Recorder(
            *("--pairs", "BTCUSDT", "--collector", "no-rest", "--for", "3s", *at(simulator, questdb)),
            *("--rest-url", "http://127.0.0.1:9"),
        ) as recorder,
    ):
        recorder.process.wait(60)
        code, output = recorder.stop()
    assert code == 0
    assert "pairs could not be checked, recording starts all the same" in output
    assert rows_of(questdb, "no-rest")


@pytest.mark.parametrize("rest", [True, False])
def test_a_refused_region_is_told_in_words(questdb, rest):
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        simulator.fault("refuse", seconds=60, status=451)
        options = ["--pairs", "BTCUSDT", *at(simulator, questdb)]
        if not rest:
            options += ["--rest-url", "http://127.0.0.1:9"]
        code, output = failed(*options)
    assert code == 1
    assert "HTTP 451" in output
    assert "--exchange binance-us" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--depth", "7"], "Choose 5, 10 or 20"),
        (["--interval", "250ms"], "'250ms'"),
        (["--for", "soon"], "'soon'"),
        (["--connections", "0"], "--connections 0"),
        (["--coins", "BTC", "--pairs", "BTCUSDT"], "give one of them"),
        (["--pairs", "BTC$"], "'BTC$'"),
        (["--pairs", ","], "--pairs"),
        (["--exchange", "mtgox"], "mtgox"),
        (["--collector", "a b"], "'a b'"),
        (["--questdb", "ftp://host"], "http://host:9000"),
        (["--questdb", "http://host:99999"], "http://host:9000"),
        (["--stream-url", "http://host"], "ws://"),
        (["--rest-url", "host"], "http"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(options, words):
    code, output = failed(*options)
    assert code == 2
    assert words in output
    assert "Traceback" not in output


def test_an_unreachable_questdb_is_named(questdb, tmp_path):
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        where = ("--questdb", "http://admin:hush@127.0.0.1:9", "--data-dir", tmp_path)
        options = (*at(simulator, questdb)[:4], *where, "--collector", "hushed")
        code, output = failed("--pairs", "BTCUSDT", *options)
    assert code == 1
    assert "http://127.0.0.1:9" in output
    assert "hush" not in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_later_start_records_into_the_spool_while_questdb_is_away(questdb, tmp_path):
    with Simulator(pairs=["BTCUSDT"], keep_sent=True) as simulator:
        options = ("--pairs", "BTCUSDT", "--collector", "away", *at(simulator, questdb)[:4], "--data-dir", tmp_path)
        away = ("--questdb", "http://127.0.0.1:9")
        here = ("--questdb", url_of(questdb.endpoint))
        code, output = failed(*options, *away, "--for", "2s")
        assert code == 1, output
        for questdb_option in (here, away, here):
            with Recorder(*options, *questdb_option, "--for", "3s") as recorder:
                recorder.process.wait(60)
                code, output = recorder.stop()
            assert code == 0, output
            assert ("rows wait in the spool until it is" in output) == (questdb_option is away)
        sent = simulator.sent["BTCUSDT"]
    stored = [update_id for _, update_id in rows_of(questdb, "away")]
    assert len(stored) == len(set(stored)) > 60
    assert set(stored) <= set(sent)


def test_a_table_that_does_not_fit_is_refused_at_the_start(questdb):
    db = QuestDB(questdb.endpoint)
    db.sql("DROP TABLE IF EXISTS orderbook")
    db.sql("CREATE TABLE orderbook (timestamp TIMESTAMP, symbol STRING) TIMESTAMP(timestamp) PARTITION BY DAY WAL")
    try:
        with Simulator(pairs=["BTCUSDT"]) as simulator:
            code, output = failed("--pairs", "BTCUSDT", "--collector", "unfit", *at(simulator, questdb))
    finally:
        db.sql("DROP TABLE orderbook")
    assert code == 1
    assert "symbol is STRING, expected SYMBOL" in output


@pytest.mark.slow
def test_the_first_command_of_the_readme_on_a_fresh_data_folder(tmp_path):
    """The managed server is started, kept, adopted by a second command, and stopped."""
    from click.testing import CliRunner

    from ingester.cli import cli

    data_dir = ["--data-dir", str(tmp_path / "data")]
    try:
        with Recorder("--exchange", "simulator", "--for", "5s", "--collector", "fresh", *data_dir) as recorder:
            recorder.process.wait(120)
            code, output = recorder.stop()
        assert code == 0, output
        answer = CliRunner().invoke(cli, ["sql", "SELECT count() n FROM orderbook", "--format", "json", *data_dir])
        assert answer.exit_code == 0
        assert json.loads(answer.stdout)[0]["n"] > 1000
        status = CliRunner().invoke(cli, ["server", "status", "--json", *data_dir])
        assert json.loads(status.stdout)["running"] is True
    finally:
        CliRunner().invoke(cli, ["server", "stop", *data_dir])
    status = CliRunner().invoke(cli, ["server", "status", "--json", *data_dir])
    assert status.exit_code == 1
    assert json.loads(status.stdout)["running"] is False


@pytest.mark.slow
def test_where_nobody_listens_it_is_said_everywhere_and_the_run_has_failed(questdb, tmp_path):
    where = ("--questdb", url_of(questdb.endpoint), "--data-dir", str(tmp_path))
    there = ("--stream-url", "ws://127.0.0.1:9", "--rest-url", "http://127.0.0.1:9", "--metrics", "127.0.0.1:0")
    options = (*there, *where, "--pairs", "BTCUSDT,ETHUSDT", "--collector", "nobody", "--for", "14s")
    with Recorder(*options) as recorder:
        url = recorder.wait_for("metrics at").split("metrics at ")[1].strip().removesuffix("/metrics")
        line = recorder.wait_for("nothing is recorded yet")
        answer = CliRunner().invoke(cli, ["status", *where])
        health = urllib3.request("GET", f"{url}/healthz", retries=False)
        recorder.process.wait(60)
        code, output = recorder.stop()
    assert "connecting to 127.0.0.1:9" in line
    assert "attempts failed, the last: 127.0.0.1:9 refused the connection" in line
    assert "ingester doctor" in line
    assert health.status == 503
    assert json.loads(health.data)["status"] == "connecting"
    assert answer.exit_code == 1
    words = " ".join(answer.stdout.split())
    assert "all is well" not in words
    assert "connecting to 127.0.0.1:9" in words
    assert "nothing listens there, or a firewall refuses" in words
    assert code == 1
    assert "Nothing was stored: connecting to 127.0.0.1:9" in output
    assert output.count("attempt failed") <= 10  # of about 20 attempts
    db = QuestDB(questdb.endpoint)
    db.sql("SELECT wait_wal_table('collector_events')")
    events = "FROM collector_events WHERE collector = 'nobody'"
    ((started,),) = db.sql(f"SELECT cast(timestamp AS long) {events} AND kind = 'started'").rows
    gaps = db.sql(f"SELECT symbol, detail, cast(timestamp AS long) {events} AND kind = 'gap' ORDER BY symbol").rows
    assert [gap[:2] for gap in gaps] == [["BTCUSDT", "not connected"], ["ETHUSDT", "not connected"]]
    assert all(abs(since - started) < 1_000_000 for _, _, since in gaps)


@pytest.mark.slow
def test_a_flood_of_whatever_neither_fills_memory_nor_holds_up_the_end(questdb, tmp_path):
    """Error answers, empty messages, fragments and pings, as fast as they are taken, over connections that end soon:
    what goes into the log depends on how long it lasts, and not on how much comes."""
    error = b'{"error":{"code":2,"msg":"no"},"id":9}'
    flood = (b"\x81" + bytes([len(error)]) + error) * 300 + b"\x81\x00" * 100 + b"\x89\x04ping" * 100
    flood += b"\x01\x00" + b"\x00\x00" * 50 + b"\x80\x00"
    sent = []

    def handler(connection):
        with contextlib.suppress(OSError):
            for _ in range(2000):
                connection.socket.sendall(flood)
                sent.append(552)

    with serve(handler, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"127.0.0.1:{server.socket.getsockname()[1]}"
        options = ("--stream-url", f"ws://{url}", "--rest-url", "http://127.0.0.1:9", "--pairs", "BTCUSDT")
        where = ("--questdb", url_of(questdb.endpoint), "--data-dir", str(tmp_path), "--collector", "flooded")
        with Recorder(*options, *where) as recorder:
            recorder.wait_for("is open")
            begun = time.monotonic()
            time.sleep(6)
            rate = sum(sent) / (time.monotonic() - begun)
            resident = psutil.Process(recorder.process.pid).memory_info().rss
            asked = time.monotonic()
            code, output = recorder.stop()
            took = time.monotonic() - asked
        server.shutdown()
    assert rate > 10_000  # a second
    assert resident < 300 << 20
    assert took < 3, output  # 2 s where nothing else runs on the machine
    assert code == 0
    caused = [line for line in recorder.lines if re.search("connection (1a|1b)|gap of", line)]
    assert len(caused) <= LINES_AT_ONCE + (time.monotonic() - begun) / LINE_SECONDS + 1
    assert sum("refused a request" in line for line in caused) < 25
    assert len(recorder.lines) - len(caused) < 40
    assert "Traceback" not in output


@pytest.mark.parametrize(("books", "words"), [(0, "connecting to 127.0.0.1:9"), (7, "spool/full took no row")])
def test_a_timed_run_of_which_no_row_was_kept_has_failed(books, words):
    feed = SimpleNamespace(snapshots=books, failed_attempts=1, last_failure="")
    recorder = SimpleNamespace(
        metrics=SimpleNamespace(feed=feed, store=SimpleNamespace(rows=SimpleNamespace(received=0))),
        feed=SimpleNamespace(connected=0),
        settings=SimpleNamespace(exchange=simulator_at("ws://127.0.0.1:9", "http://127.0.0.1:9").at(name="here")),
        spool=SimpleNamespace(folder=Path("spool/full")),
    )
    require_rows(recorder, None)
    with pytest.raises(OperationError, match=words):
        require_rows(recorder, 5.0)
    recorder.metrics.store.rows.received = 1
    require_rows(recorder, 5.0)


@pytest.mark.parametrize(
    "wrong",
    [
        *(("--depth", "7"), ("--interval", "7ms"), ("--connections", "9"), ("--rotate-every", "1s"), ("--for", "soon")),
        *(("--collector", "a/b"), ("--coins", "!"), ("--stream-url", "ftp://here"), ("--alarm-gap", "never")),
        *(("--metrics", "nowhere"), ("--parquet-after", "x"), ("--exchange-ca", "missing.pem"), ("--drop-after", "1s")),
    ],
)
def test_wrong_usage_leaves_nothing_behind(tmp_path, wrong):
    data_dir = tmp_path / "data"
    answer = CliRunner().invoke(cli, ["start", "--exchange", "simulator", *wrong, "--data-dir", str(data_dir)])
    assert answer.exit_code == 2, answer.output
    assert not data_dir.exists()
