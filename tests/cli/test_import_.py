"""`ingester import` as a user meets it."""

import gzip
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from recorder import interruptible, url_of

from ingester.book import OrderBook
from ingester.cli import cli
from ingester.datasets.dataset import parse_time
from ingester.grid import as_frame
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder

START = parse_time("2018-05-01 08:31")


def books(rows, seed=1, hour=0):
    times = START + hour * 3600 * 10**9 + np.arange(rows, dtype=np.int64) * 100_000_000
    return as_frame(times, np.random.default_rng(seed).random((rows, 20)))


@pytest.fixture
def run(questdb, tmp_path):
    def run(*paths):
        options = ("--questdb", url_of(questdb.endpoint), "--data-dir", str(tmp_path / "data"))
        return CliRunner().invoke(cli, ["import", *map(str, paths), *options])

    return run


def rows_of(questdb, symbol):
    db = QuestDB(questdb.endpoint)
    return db.sql(f"SELECT count() FROM orderbook WHERE symbol = '{symbol}' AND collector = 'import'").rows[0][0]


def test_folders_and_files_of_every_layout_are_imported_and_a_second_time_changes_nothing(run, questdb, tmp_path):
    raw = tmp_path / "hft data" / "raw fetched data" / "since_2018-05-01 08꞉31"
    raw.mkdir(parents=True)
    books(100).to_pickle(raw / "ICMDA_USDT_100ms_(2018-05-01 08꞉31)_(1).pkl")
    books(200)[100:].astype(str).to_csv(raw / "ICMDA_USDT_100ms_(2018-05-01-08꞉31)_(2018-05-01-09꞉30)_(2).csv")
    single = tmp_path / "ICMDB_BTC_100ms_(2018-05-01 08:31)_(2018-05-01 09:00).pkl"
    books(50, 2).to_pickle(single)
    for new in (250, 0):
        answer = run(tmp_path / "hft data", single)
        assert answer.exit_code == 0, answer.output
        assert f"250 rows of 2 pairs from 3 files: {new} new, {250 - new} known" in answer.output
        for text in ("ICMDAUSDT", "ICMDBBTC", "100", "2018-05-01 08:31:09.9", "2018-05-01 08:31:10"):
            assert text in answer.output
        assert (rows_of(questdb, "ICMDAUSDT"), rows_of(questdb, "ICMDBBTC")) == (200, 50)


def test_what_cannot_be_imported_is_listed_and_the_rest_is_imported(run, questdb, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path / 'made'}'",)

    (tmp_path / "ICMDC_USDT_100ms_(2018-05-01 08꞉31)_(1).pkl").write_bytes(pickle.dumps(Hostile()))
    books(30).to_pickle(tmp_path / "ICMDD_USDT_100ms_(2018-05-01 08꞉31)_(1).pkl")
    books(30).to_pickle(tmp_path / "books.pkl")
    (tmp_path / "ICMDN_USDT_100ms_(2018-05-01 08꞉31)_(1).csv").write_text("Request Time,Bid_1,Z\n", encoding="utf-8")
    answer = run(tmp_path)
    assert answer.exit_code == 1
    assert "30 rows of 1 pair from 1 file; 3 of 4 files were left out" in answer.output
    assert "\\nmissing" not in answer.output.replace("\n", "")  # a line of its own
    assert "system" in answer.output
    assert "does not name a pair" in answer.output
    assert rows_of(questdb, "ICMDDUSDT") == 30
    assert not (tmp_path / "made").exists()


def test_many_files_are_summed_up_by_pair(run, tmp_path):
    for number in range(42):
        path = tmp_path / f"ICMDE_USDT_100ms_(2018-05-01 08꞉31)_({number}).csv"
        books(420)[number * 10 : number * 10 + 10].to_csv(path)
    answer = run(tmp_path)
    assert answer.exit_code == 0
    assert "42 files" in answer.output
    assert answer.output.count("ICMDEUSDT") == 1
    assert "420 rows of 1 pair " in answer.output


def test_paths_without_recordings_are_wrong_usage(run, tmp_path):
    answer = run(tmp_path)
    assert answer.exit_code == 2
    assert "There is no file that ends in .pkl" in answer.output
    (tmp_path / "notes.txt").touch()
    answer = run(tmp_path)
    assert answer.exit_code == 2
    assert "1 file passed over" in answer.output
    assert "notes.txt" in answer.output
    answer = run(tmp_path / "missing")
    assert answer.exit_code == 2
    assert "missing" in answer.output


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path):
    path = tmp_path / "ICMDF_USDT_100ms_(2018-05-01 08꞉31)_(1).pkl"
    books(3).to_pickle(path)
    answer = CliRunner().invoke(cli, ["import", str(path), "--questdb", "http://127.0.0.1:1"])
    assert answer.exit_code == 1
    assert "http://127.0.0.1:1 does not answer" in answer.output
    assert "Traceback" not in answer.output


def test_what_is_passed_over_is_counted_and_named(run, tmp_path):
    path = tmp_path / "ICMDH_USDT_100ms_(2018-05-01 08꞉31)_(1).csv"
    books(10).to_csv(path)
    path.rename(path.with_suffix(".CSV"))
    (tmp_path / "notes.txt").touch()
    (tmp_path / f"._{path.name}").write_bytes(b"\0\5\26\7")
    answer = run(tmp_path)
    assert answer.exit_code == 0, answer.output
    assert "10 rows of 1 pair from 1 file: 10 new, 0 known" in answer.output
    assert "1 file passed over" in answer.output
    assert "notes.txt" in answer.output
    assert "._" not in answer.output


def test_wrong_lines_refuse_their_file_unless_they_are_to_be_skipped(run, questdb, tmp_path):
    path = tmp_path / "ICMDI_USDT_100ms_(2018-05-01 08꞉31)_(1).csv"
    path.write_text(books(10).to_csv() + "2018-05-01 09:00:00,1,2\n2018-05-01 09:00:01,1")
    answer = run(path)
    assert answer.exit_code == 1
    assert "line 12 has 3 fields, expected 21" in answer.output
    assert rows_of(questdb, "ICMDIUSDT") == 0
    answer = run(path, "--skip-bad")
    assert answer.exit_code == 0, answer.output
    assert "10 rows of 1 pair from 1 file: 10 new, 0 known" in answer.output
    assert "1 bad line left out: line 12" in answer.output
    assert "last line (13) has no line end" in answer.output


def test_a_file_of_tardis_needs_no_name_of_ours(run, questdb, tmp_path):
    names = [f"{side}[{n}].{what}" for n in range(5) for side in ("asks", "bids") for what in ("price", "amount")]
    rows = [
        ["binance", "ICMDJUSDT", str(at), str(at + 5000), *(f"{at % 1000 + place}.25" for place in range(20))]
        for at in range(START // 1000, START // 1000 + 30_000, 1000)
    ]
    head = ["exchange", "symbol", "timestamp", "local_timestamp", *names]
    path = tmp_path / "binance_book_snapshot_5_2018-05-01_ICMDJUSDT.csv.gz"
    path.write_bytes(gzip.compress("".join(",".join(line) + "\n" for line in [head, *rows]).encode()))
    answer = run(path)
    assert answer.exit_code == 0, answer.output
    assert "30 rows of 1 pair from 1 file: 30 new, 0 known" in answer.output
    assert "times are numbers, taken as us since 1970" in answer.output
    assert rows_of(questdb, "ICMDJUSDT") == 30


@pytest.fixture(scope="module")
def recorded(questdb):
    """Two recorders, of which one has five levels and missed half a minute, the other ten levels, some of them thin.

    Both missed ten seconds."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 10)
    chance = np.random.default_rng(7)
    for symbol in ("IEXAUSDT", "币安人生USDT"):
        times = START + np.cumsum(chance.integers(50_000, 150_000, 1200)) * 1000
        prices = chance.random((1200, 40)).round(8)
        for collector, depth, missing, late_ns in (
            ("one", 5, (300, 600), 0),
            ("two", 10, (500, 600), 3_000_000),
        ):
            kept = [place for place in range(1200) if not missing[0] <= place < missing[1]]
            snapshots = [
                OrderBook(
                    symbol,
                    int(times[place]) + late_ns,
                    10**10 + place,
                    [tuple(pair) for pair in prices[place, :20].reshape(-1, 2).tolist()][: min(depth, 10 - place % 3)],
                    [tuple(pair) for pair in prices[place, 20:].reshape(-1, 2).tolist()][:depth],
                )
                for place in kept
            ]
            db.write(RowEncoder(depth=10, exchange="binance", collector=collector).snapshots(snapshots))
    db.sql("SELECT wait_wal_table('orderbook')")
    return questdb


def ingester(questdb, *arguments):
    answer = CliRunner().invoke(cli, [*map(str, arguments), "--questdb", url_of(questdb.endpoint)])
    assert answer.exit_code == 0, answer.output
    return answer.output


def exported(questdb, root, *options, pairs="IEXAUSDT,币安人生USDT"):
    """The folder of a data set of the two minutes."""
    since, until = "2018-05-01 08:31", "2018-05-01 08:33"
    ingester(questdb, "export", "--from", since, "--to", until, "--pairs", pairs, "--root", root, *options)
    (folder,) = (root / "extracted datasets").iterdir()
    return folder


def renamed(folder, target, old, new):
    """A copy of a data set that is one of another pair."""
    target.mkdir()
    for path in folder.iterdir():
        if path.name == "manifest.json":
            (target / path.name).write_text(path.read_text().replace(f'"{old}', f'"{new}').replace(old[:4], new[:4]))
        elif path.name.startswith(old[:4]):
            (target / path.name.replace(old[:4], new[:4])).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize(
    "options",
    [
        ("--format", "pkl"),
        ("--format", "csv", "--levels", 3),
        ("--format", "parquet", "--levels", 10),
        ("--format", "npz", "--levels", 10),
        ("--format", "npz", "--every", "100ms"),
        ("--format", "pkl", "--every", "100ms", "--levels", 10),
        ("--format", "parquet", "--every", "1s", "--fill", "forward"),
    ],
)
def test_of_an_own_data_set_nothing_is_new(recorded, tmp_path, options):
    folder = exported(recorded, tmp_path, *options)
    output = ingester(recorded, "import", folder)
    assert re.search(r"[\d,]+ rows of 2 pairs from 2 files: 0 new, [\d,]+ known", output), output
    assert ("its rows are repeats of books" in output) == ("--every" in options)
    assert "passed over" not in output


def test_of_a_renamed_grid_nothing_is_new_where_its_manifest_is_beside_it(recorded, tmp_path):
    folder = exported(recorded, tmp_path, "--format", "csv", "--every", "100ms", pairs="IEXAUSDT")
    (path,) = folder.glob("IEXA*")
    path.rename(folder / "ada.csv")
    (folder / "ada.csv.gz").write_bytes(gzip.compress((folder / "ada.csv").read_bytes()))
    (tmp_path / "moved").mkdir()
    output = ingester(recorded, "import", folder.rename(tmp_path / "moved" / "set"))
    assert re.search(r"rows of 1 pair from 2 files: 0 new, [\d,]+ known", output), output
    assert output.count("is on a grid of 100ms") == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--format", "pkl"),
        ("--format", "csv", "--every", "100ms"),
        ("--format", "npz", "--every", "100ms", "--fill", "forward"),
    ],
)
def test_coverage_and_exports_after_an_import_report_the_gaps_of_the_data_set(recorded, tmp_path, options):
    new = f"IE{len(options)}{options[1][0].upper()}"
    folder = exported(recorded, tmp_path / "first", *options, pairs="IEXAUSDT")
    told = json.loads((folder / "manifest.json").read_text())["pairs"]["IEXAUSDT"]
    output = ingester(recorded, "import", renamed(folder, tmp_path / "copy", "IEXA", new))
    assert " 0 known" in output
    again = exported(recorded, tmp_path / "second", *options, pairs=f"{new}USDT")
    found = json.loads((again / "manifest.json").read_text())["pairs"][f"{new}USDT"]
    on_grid = "--every" in options
    assert len(told["gaps"]) == len(found["gaps"]) == 1
    assert 9 < told["gaps"][0]["seconds"] < 12
    assert abs(found["gaps"][0]["seconds"] - told["gaps"][0]["seconds"]) <= (0.2 if on_grid else 0)
    assert abs(found["coverage_percent"] - told["coverage_percent"]) <= (0.2 if on_grid else 0)
    assert found["gaps"][0]["reason"] == told["gaps"][0]["reason"]
    if not on_grid:
        assert found["gaps"] == told["gaps"]
        assert found["sha256"] == told["sha256"]
    assert " 0 new" in ingester(recorded, "import", tmp_path / "copy")


@pytest.mark.slow
def test_ctrl_c_says_how_far_it_came_and_the_same_command_completes_it(run, questdb, tmp_path):
    schema.ensure(QuestDB(questdb.endpoint), 5)
    for number in range(300):
        books(2000, hour=number).to_pickle(tmp_path / f"ICMDG_USDT_100ms_(2018-05-01 08꞉31)_({number}).pkl")
    command = [sys.executable, "-m", "ingester", "import", str(tmp_path), "--questdb", url_of(questdb.endpoint)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=interruptible
    )
    deadline = time.monotonic() + 60
    while rows_of(questdb, "ICMDGUSDT") == 0:
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "of 300 files" in output
    assert "Traceback" not in output
    assert run(tmp_path).exit_code == 0
    assert rows_of(questdb, "ICMDGUSDT") == 600_000
