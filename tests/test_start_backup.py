"""`ingester start --backup-every`: files of the rows while the real command records, held against the table."""

import re
import time
from collections import defaultdict

import pandas as pd
import pytest
from click.testing import CliRunner
from recorder import Recorder, at, rows_of, url_of

from ingester.book import level_columns
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.datasets.backup import run_folder
from ingester.datasets.dataset import COLON, columns, parse_time
from ingester.simulator import Simulator

PAIRS = "BTCUSDT,ADAUSDT"
MINUTE = 60 * SECOND


def backed_up(root, read):
    """(symbol, number of the interval) to its rows, of the only run in `root`; and the minute in which that began."""
    (folder,) = (root / "raw fetched data").iterdir()
    since = re.fullmatch(r"since_(\d{4}-\d\d-\d\d \d\d꞉\d\d)", folder.name)[1]
    rows = {}
    for path in folder.iterdir():
        name = re.fullmatch(rf"([A-Z]+)_(USDT)_100ms_\({since}\)_\((\d+)\)\.(pkl|csv)", path.name)
        frame = read(path)
        assert list(frame.columns) == columns(5)
        times = frame.index.astype("datetime64[ns]").asi8.tolist()
        rows[name[1] + name[2], int(name[3])] = list(zip(times, frame.to_numpy().tolist(), strict=True))
    return rows, parse_time(since.replace(COLON, ":"))


def recorded(questdb, collector):
    """(symbol, receive time) and values of each row in the table."""
    for timestamp, symbol, *values in rows_of(
        questdb, collector, ", ".join(["timestamp", "symbol", *level_columns(5)])
    ):
        yield symbol, pd.Timestamp(timestamp).as_unit("ns").value, values


def csv(path):
    return pd.read_csv(path, index_col="Request Time", parse_dates=True)


def test_what_a_short_run_recorded_is_in_its_files(questdb, tmp_path):
    with (
        Simulator(pairs=PAIRS.split(",")) as simulator,
        Recorder(
            *("--pairs", PAIRS, "--collector", "backup-short", "--for", "3s", *at(simulator, questdb)),
            *("--backup-every", 1440, "--backup-format", "csv", "--backup-root", tmp_path),
        ) as recorder,
    ):
        recorder.process.wait(60)
        code, output = recorder.stop()
    assert code == 0, output
    rows, _ = backed_up(tmp_path, csv)
    files = defaultdict(list)
    for (symbol, _), some in sorted(rows.items()):
        files[symbol] += some
    table = defaultdict(list)
    for symbol, at_ns, values in recorded(questdb, "backup-short"):
        table[symbol].append((at_ns, values))
    assert table.keys() == {"BTCUSDT", "ADAUSDT"}
    assert files == table
    answer = CliRunner().invoke(cli, ["import", str(tmp_path), "--questdb", url_of(questdb.endpoint)])
    assert answer.exit_code == 0, answer.output
    known = sum(map(len, table.values()))
    assert f"{known} rows of 2 pairs from 2 files: 0 new, {known} known" in answer.output


@pytest.mark.slow
def test_each_minute_goes_into_its_own_files(questdb, tmp_path):
    with (
        Simulator(pairs=PAIRS.split(",")) as simulator,
        Recorder(
            *("--pairs", PAIRS, "--collector", "backup-minutes", *at(simulator, questdb)),
            *("--backup-every", 1, "--backup-root", tmp_path),
        ) as recorder,
    ):
        recorder.wait_for("rows of 2 pairs", timeout=140)
        code, output = recorder.stop()
    assert code == 0, output
    rows, since_ns = backed_up(tmp_path, pd.read_pickle)
    expected = defaultdict(list)
    for symbol, at_ns, values in recorded(questdb, "backup-minutes"):
        expected[symbol, (at_ns - since_ns) // MINUTE + 1].append((at_ns, values))
    assert len(expected) >= 4  # two pairs, at least two intervals
    assert rows == expected


def test_a_folder_in_use_is_refused_before_anything_is_recorded(questdb, tmp_path):
    now = time.time_ns()
    with (
        run_folder(tmp_path, now),
        run_folder(tmp_path, now + MINUTE),
        Simulator(pairs=["BTCUSDT"]) as simulator,
        Recorder(
            *("--pairs", "BTCUSDT", "--collector", "backup-refused", *at(simulator, questdb)),
            *("--backup-every", 30, "--backup-root", tmp_path),
        ) as recorder,
    ):
        recorder.process.wait(60)
        code, output = recorder.stop()
    assert code == 1
    assert "is in use by another recorder" in output
    assert "--backup-root" in output
    assert "Traceback" not in output
    assert rows_of(questdb, "backup-refused") == []


@pytest.mark.parametrize("options", [("--backup-every", 0), ("--backup-every", 30, "--backup-format", "xls")])
def test_options_that_cannot_be_used_are_refused_by_name(options, tmp_path):
    with Recorder(*options, "--backup-root", tmp_path) as recorder:
        recorder.process.wait(60)
        code, output = recorder.stop()
    assert code == 2
    assert options[-2] in output
