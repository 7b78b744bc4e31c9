"""`ingester simulate`: what was recorded is recorded again through the exchange's protocol, book for book."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
import urllib3
from books_in_table import RECORDING, flat, snapshots_of, store
from click.testing import CliRunner
from data_sets import grid_pairs, make
from recorder import Recorder, interruptible, rows_of, url_of

from ingester.book import level_columns
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.questdb import schema
from ingester.questdb.client import QuestDB

SPEED = 20
HOLE = 20 * SECOND
BOOKS = 600


@pytest.fixture(scope="module")
def recorded(questdb):
    """A minute of two pairs, with a hole of one of them, received by two collectors; as the books of each pair."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    books = list(snapshots_of(RECORDING, "ZPLAYUSDT"))[:BOOKS]
    hole = books[BOOKS // 2].receive_ns
    first = [each for each in books if not hole < each.receive_ns < hole + HOLE]
    shifted = {"symbol": "ZPLBYUSDT"}
    second = [each._replace(receive_ns=each.receive_ns + 33_000_000, **shifted) for each in books]
    store(db, first[: len(first) // 2 + 10] + second, "play-a")
    copies = [each._replace(receive_ns=each.receive_ns + 7_000_000) for each in first[::3]]
    store(db, first[len(first) // 2 :] + copies, "play-b")
    return {"ZPLAYUSDT": first, "ZPLBYUSDT": second}


@contextmanager
def simulate(*options):
    """A running `ingester simulate`; gives what it prints from then on, and the options that lead a recorder to it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ingester", "simulate", "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    try:
        address = next(line for line in process.stdout if line.startswith("--stream-url")).split()
        yield process.stdout, address
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def where(questdb):
    return "--questdb", url_of(questdb.endpoint), "--data-dir", str(questdb.data_dir)


def record(questdb, collector, rows, *options):
    """What `ingester start` stores of what is played: (time in µs, update id, values) of each pair's rows."""
    columns = ", ".join(["symbol", "cast(timestamp AS LONG)", "last_update_id", *level_columns(5)])
    with simulate(*options) as (lines, address):
        told = ("--pairs", "ZPLAYUSDT,ZPLBYUSDT", "--collector", collector)
        with Recorder(*told, *address, *where(questdb)) as recorder:
            assert "played to the end" in next(lines)
            deadline = time.monotonic() + 30
            while len(stored := rows_of(questdb, collector, columns)) < rows and time.monotonic() < deadline:
                time.sleep(0.1)
            code, output = recorder.stop()
        assert code == 0, output
    found = {}
    for symbol, at, update_id, *values in stored:
        found.setdefault(symbol, []).append((at, update_id, values))
    return found


def test_a_range_of_the_table_is_recorded_again_book_for_book_and_in_its_rhythm(questdb, recorded):
    when = ("--from", "2024-08-08", "--to", "2024-08-09", "--pairs", "ZPLAYUSDT,ZPLBYUSDT", "--speed", SPEED)
    count = sum(map(len, recorded.values()))
    found = record(questdb, "play-again", count, *when, *where(questdb))
    for symbol, books in recorded.items():
        assert [row[1] for row in found[symbol]] == [book.update_id for book in books]
        assert [row[2] for row in found[symbol]] == [flat(book) for book in books]
        first = np.array([book.receive_ns for book in books], float)
        again = np.array([row[0] * 1000 for row in found[symbol]], float)
        took = (again[-1] - again[0]) * SPEED / (first[-1] - first[0])
        assert 0.9 < took < 5  # never faster; a busy machine may lag
        assert np.corrcoef(first, again)[0, 1] > 0.95
        if symbol == "ZPLAYUSDT":
            hole = np.diff(first).argmax()
            assert np.diff(first)[hole] >= HOLE
            assert np.diff(again)[hole] * SPEED > HOLE / 2


def test_a_data_set_is_recorded_as_fast_as_it_is_read(questdb, recorded, tmp_path):
    when = ("--from", "2024-08-08", "--to", "2024-08-09", "--pairs", "ZPLAYUSDT,ZPLBYUSDT")
    options = (*when, "--format", "npz", "--root", str(tmp_path), "--questdb", url_of(questdb.endpoint))
    result = CliRunner().invoke(cli, ["export", *options])
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "extracted datasets").iterdir()
    found = record(questdb, "play-npz", sum(map(len, recorded.values())), "--dataset", folder, "--speed", "max")
    for symbol, books in recorded.items():
        assert [row[2] for row in found[symbol]] == [flat(book) for book in books]
        assert [row[1] for row in found[symbol]] == [book.receive_ns // 1000 for book in books]


def test_what_is_listed_is_what_is_played(questdb, recorded):
    with simulate("--from", "2024-08-08", "--to", "2024-08-09", "--pairs", "ZPLBYUSDT", *where(questdb)) as (
        _,
        address,
    ):
        info = urllib3.request("GET", f"{address[3]}/api/v3/exchangeInfo").json()
    assert [each["symbol"] for each in info["symbols"]] == ["ZPLBYUSDT"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--from", "2024-08-08"], 2, "one is missing"),
        (["--from", "2024-08-08", "--to", "2024-08-08"], 2, "is empty"),
        (["--from", "2024-08-08", "--to", "2099-01-01"], 2, "lies in the future"),
        (["--from", "2001-01-01", "--to", "2001-01-02"], 1, "no rows"),
        (["--from", "2024-08-08", "--to", "2024-08-09", "--pairs", "ZPLAYUSTD"], 2, "ZPLAYUSDT"),
        (["--from", "2024-08-08", "--to", "2024-08-09", "--questdb", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9"),
        (["--loop"], 2, "--loop repeats a recording"),
        (["--speed", "fast"], 2, "'fast'"),
        (["--speed", "-1"], 2, "'-1'"),
        (["--file", "README", "--from", "today"], 2, "--file plays a whole recording"),
        (["--file", "README"], 2, "line 1"),
        (["--dataset", "README"], 2, "README"),
        (["--dataset", "."], 1, "is no data set"),
        (["--dataset", "from_(2020-09-14 12꞉00)_to_(2020-09-14 12꞉00꞉05)", "--pairs", "BTCUSDC"], 2, "BTCUSDT"),
        (["--dataset", "from_(2020-09-14 12꞉00)_to_(2020-09-14 12꞉00꞉05)", "--to", "2020-09-14"], 2, "12:00:05"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_sentence(
    questdb, recorded, tmp_path, monkeypatch, options, code, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README").write_text("no recording")
    make(tmp_path, "csv", grid_pairs(50), 100_000_000, span_ns=5 * SECOND)
    extra = [] if "--questdb" in options else ["--questdb", url_of(questdb.endpoint)]
    result = CliRunner().invoke(cli, ["simulate", "--port", "0", *options, *extra])
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_file_of_a_data_set_that_is_damaged_is_named_before_anyone_listens(tmp_path):
    folder = make(tmp_path, "npz", grid_pairs(50), 100_000_000, span_ns=5 * SECOND)
    (path,) = folder.glob("ETH*")
    path.write_bytes(bytes(path.stat().st_size))
    result = CliRunner().invoke(cli, ["simulate", "--port", "0", "--dataset", str(folder)])
    assert result.exit_code == 1
    assert path.name in result.output
