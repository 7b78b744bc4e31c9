"""`ingester import` as a user meets it."""

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from recorder import interruptible, url_of

from ingester.cli import cli
from ingester.datasets.dataset import parse_time
from ingester.grid import as_frame
from ingester.store import schema
from ingester.store.questdb import QuestDB

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
    for _ in range(2):
        answer = run(tmp_path / "hft data", single)
        assert answer.exit_code == 0, answer.output
        assert "250 rows of 2 pairs from 3 files" in answer.output
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
    answer = run(tmp_path)
    assert answer.exit_code == 1
    assert "30 rows of 1 pair from 1 file; 2 of 3 files were left out" in answer.output
    assert "system" in answer.output
    assert "does not say which pair" in answer.output
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
