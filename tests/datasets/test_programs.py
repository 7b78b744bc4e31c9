"""What programs call does what the commands do: docs/python.md runs as it is shown, and errors name arguments."""

import inspect
import re
from contextlib import redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import click
import numpy as np
import pytest
from books_in_table import store
from click.testing import CliRunner
from recorder import url_of

import ingester
from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.datasets.dataset import parse_time
from ingester.errors import OperationError, SettingsError, UnknownPair
from ingester.events import Event
from ingester.questdb import schema
from ingester.questdb.client import QuestDB

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
NOON = parse_time("2024-09-01 12:00")
START, END = "2024-09-01 12:00", "2024-09-01 12:10"


@pytest.fixture(scope="module")
def recorded(questdb):
    """Ten minutes of two pairs, two books a second, with a gap that the recorder reported in the first."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        ticks = [each for each in range(1200) if symbol == "ETHUSDT" or not 600 <= each < 640]
        books = [
            OrderBook(
                symbol,
                NOON + each * SECOND // 2,
                each + 1,
                [(100.0 - level, 1.0 + each) for level in range(5)],
                [(101.0 + level, 2.0) for level in range(5)],
            )
            for each in ticks
        ]
        gap = Event(
            NOON + 599 * SECOND // 2, "gap", "BTCUSDT", detail="connection lost", until_ns=NOON + 640 * SECOND // 2
        )
        store(db, books, "programs", [gap] if symbol == "BTCUSDT" else [])
    return url_of(questdb.endpoint)


@pytest.fixture
def as_default(questdb, recorded, home, monkeypatch):
    """The recorded table in the platform's folder, where a program looks that names none."""
    (home / "share").mkdir()
    (home / "share" / "ingester").symlink_to(questdb.data_dir)
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "share"))
    return home


def test_the_page_runs_as_it_is_shown(as_default):
    blocks, names, output = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), {}, StringIO()
    assert len(blocks) >= 5
    with redirect_stdout(output):
        for block in blocks:
            exec(block, names)
    text = output.getvalue()
    assert "(100, 2, 20)" in text
    assert "hft data/extracted datasets/from_(2024-09-01 12\ua78900)_to_(2024-09-01 12\ua78910)\n" in text
    assert "2,360 of 2,360 rows, 2 of 2 files" in text
    assert "BTCUSDT 1160" in text
    assert "20.5 connection lost" in text
    assert "1160, 0, ''" in text  # the table has all of it already
    assert re.search(r"^critical .+ -> .+", text, re.MULTILINE)  # no recorder runs


def test_a_data_set_is_that_of_the_command_to_the_byte(recorded, tmp_path):
    told = []
    options = {"every": "250ms", "format": "csv", "levels": 2, "pairs": ["BTC_USDT"]}
    data = ingester.export_dataset(START, END, questdb=recorded, root=tmp_path / "a", progress=told.append, **options)
    command = ["export", "--from", START, "--to", END, "--questdb", recorded, "--root", tmp_path / "b"]
    command += ["--every", "250ms", "--format", "csv", "--levels", "2", "--pairs", "BTCUSDT"]
    result = CliRunner().invoke(cli, [*map(str, command)])
    assert result.exit_code == 0, result.output
    (other,) = (tmp_path / "b" / "extracted datasets").iterdir()
    assert {path.name: path.read_bytes() for path in data.path.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }
    (gap,) = data.manifest["pairs"]["BTCUSDT"]["gaps"]
    assert (gap["seconds"], gap["reason"]) == (20.5, "connection lost")
    assert told[-1] == ingester.Progress(1160, 1160, 1, 1, "BTCUSDT")


def test_times_may_be_numbers_and_datetimes(recorded, tmp_path):
    start, end = datetime(2024, 9, 1, 12, tzinfo=UTC), np.datetime64("2024-09-01T12:01")
    data = ingester.export_dataset(start, end, coins="ETH", questdb=recorded, root=str(tmp_path))
    assert (data.start_ns, data.end_ns) == (NOON, NOON + 60 * SECOND)
    assert len(data["ETHUSDT"]) == 120
    again = ingester.export_dataset(NOON, NOON + 60 * SECOND, coins="ETH", questdb=recorded, root=tmp_path, resume=True)
    assert again.path == data.path


WRONG = [
    ({"start": "noon"}, SettingsError, "start 'noon' is not a time"),
    ({"start": END, "end": START}, SettingsError, "from 2024-09-01 12:10 lies after to 2024-09-01 12:00"),
    ({"every": "0.5ms"}, SettingsError, "every '0.5ms' is not a whole number of milliseconds"),
    ({"max_age": "long"}, SettingsError, "max_age 'long' is not a duration"),
    ({"levels": 21}, SettingsError, r"levels 21 is not between 1 and \d+"),
    ({"format": "xls"}, SettingsError, "format 'xls' is not known. Choose one of pkl"),
    ({"fill": "back"}, SettingsError, "fill 'back' is not known"),
    ({"coins": "BTC", "pairs": "BTCUSDT"}, SettingsError, "coins and pairs both name pairs"),
    ({"coins": []}, SettingsError, "coins is empty"),
    ({"pairs": "ETHUSDR"}, UnknownPair, "ETHUSDT"),
    ({"questdb": "localhost"}, SettingsError, "http"),
    ({"end": "2024-09-01 12:00:00.1", "start": "2024-09-01 12:00:00.05"}, OperationError, "no rows"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), WRONG)
def test_errors_name_arguments_and_leave_nothing(recorded, tmp_path, arguments, error, words):
    given = {"start": START, "end": END, "questdb": recorded, "root": tmp_path, "pairs": None, **arguments}
    with pytest.raises(error, match=words) as caught:
        ingester.export_dataset(given.pop("start"), given.pop("end"), **given)
    assert "--" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_range_that_was_exported_is_refused_with_the_argument_that_replaces_it(recorded, tmp_path):
    data = ingester.export_dataset(START, END, coins="BTC", questdb=recorded, root=tmp_path)
    with pytest.raises(SettingsError, match="Give overwrite to replace it, or another root"):
        ingester.export_dataset(START, END, coins="BTC", questdb=recorded, root=tmp_path)
    data.verify()


def test_coverage_and_import_refuse_what_they_do_not_know(recorded, tmp_path):
    with pytest.raises(SettingsError, match=r"^by .week. is not known"):
        ingester.measure_coverage(by="week", questdb=recorded)
    with pytest.raises(SettingsError, match=r"no file that ends in \.pkl"):
        ingester.import_files(tmp_path, questdb=recorded)
    with pytest.raises(SettingsError, match=r"There is no file or folder .*/typo\.csv\. Paths are relative to /"):
        ingester.import_files([tmp_path, tmp_path / "typo.csv"], questdb=recorded)


OPTIONS = {"export": ingester.export_dataset, "coverage": ingester.measure_coverage, "import": ingester.import_files}
OTHERS = {"plot", "as_json", "config", "config_file"}
"""Options that only say how a command prints, or where it reads its options."""


@pytest.mark.parametrize("name", OPTIONS)
def test_arguments_are_those_of_the_command(name):
    command = cli.get_command(None, name)
    names = {"form": "format"}
    options = {
        names.get(param.name, param.name): param for param in command.params if not getattr(param, "hidden", False)
    }
    wanted = {each for each in options if not each.startswith("questdb_")} - OTHERS
    parameters = inspect.signature(OPTIONS[name]).parameters
    assert set(parameters) - {"progress"} == wanted
    for each in {"levels", "format", "max_age", "fill", "overwrite", "resume", "quote", "skip_bad"} & wanted:
        assert parameters[each].default == options[each].get_default(click.Context(command)), each


def test_all_public_names_are_there_and_described():
    assert set(ingester.__all__) >= {"export_dataset", "import_files", "measure_coverage", "open_dataset", "Recorder"}
    for name in ingester.__all__:
        assert inspect.getdoc(getattr(ingester, name)), name
        assert name in dir(ingester)
        assert name in ingester.__doc__
