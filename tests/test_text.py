"""text.py: names and texts from outside, as paths and on a screen; and all the ways on which they come there."""

import json
import logging

import msgspec
import pytest
from books_in_table import store
from click.testing import CliRunner
from recorder import url_of
from small_servers import Answering

from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND, Throttle
from ingester.config.settings import Settings
from ingester.datasets.slices import ScratchFile
from ingester.errors import SettingsError
from ingester.exchange import VENUES
from ingester.monitoring.report import StateFile
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.record.recorder_service import spool_folder
from ingester.text import (
    LineLimit,
    PlainLines,
    counted,
    duration_text,
    exchange_lines,
    inside,
    nearest_text,
    path_part,
    plain,
    size_text,
)

HOSTILE = ["", ".", "..", "/etc", "a/b", "a\\b", "../x", "a\0b", "a\nb", "\x1b[2J", "a" * 256, "币" * 90]
DAY = 1_602_806_400 * SECOND  # 2020-10-16, which no other test writes to
EVIL = "../X\x1b[31m[red]\nUSDT"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_is_more_than_the_name_of_a_file_is_refused(tmp_path, name):
    for check in (path_part, lambda name: inside(tmp_path, name), lambda name: spool_folder(tmp_path, name)):
        with pytest.raises(SettingsError):
            check(name)
    with pytest.raises(SettingsError):
        StateFile(tmp_path, name)


@pytest.mark.parametrize("name", ["BTCUSDT", "币安人生USDT", "ADA_USDT_100ms_(2023-06-01 12꞉00)_(1).pkl", "..a", "%2F"])
def test_other_names_stay(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("collector", [".", "..", "a/b", ""])
def test_no_recorder_is_called_like_another_folder(collector):
    with pytest.raises(SettingsError, match="--collector"):
        Settings(("BTCUSDT",), VENUES["binance"], collector=collector)


@pytest.mark.parametrize("symbol", HOSTILE)
def test_rows_of_any_symbol_wait_in_their_folder(tmp_path, symbol):
    import numpy as np

    folder = tmp_path / "a" / "folder"
    folder.mkdir(parents=True)
    spill = ScratchFile(folder, symbol, 4)
    spill.append(np.arange(3), np.ones((3, 4)))
    assert spill.arrays()[0].tolist() == [0, 1, 2]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["folder"]
    assert len(list(folder.iterdir())) == 2
    spill.remove()
    assert not list(folder.iterdir())


def test_control_characters_and_those_that_turn_text_round_are_shown():
    assert plain("a\x1b[31mb\r\x00\x85\u202e c\ttab\nline 币") == "a\\x1b[31mb\\r\\x00\\x85\\u202e c\ttab\nline 币"
    assert plain("a\nb\tc", "") == "a\\nb\\tc"


def test_a_line_of_the_log_stays_a_line():
    record = logging.makeLogRecord({"msg": "no %s", "args": ("pair\n2026 INFO all is well\x1b[2J",), "level": 20})
    assert PlainLines().filter(record)
    assert record.getMessage() == "no pair\\n2026 INFO all is well\\x1b[2J"


@pytest.fixture(scope="module")
def evil(questdb):
    """A table that holds rows of a pair whose name is an attack, and of a sound one."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    sides = [[(1.0, 1.0)] * 5, [(2.0, 1.0)] * 5]
    rows = [OrderBook(symbol, DAY + n * SECOND, n, *sides) for symbol in (EVIL, "XPLAINUSDT") for n in range(1, 5)]
    store(db, rows, "text-\x1b[31m[red]test")
    yield questdb
    db.sql("ALTER TABLE orderbook DROP PARTITION LIST '2020-10-16'")


@pytest.mark.parametrize(
    "command",
    [
        ["coverage", "--from", "2020-10-16", "--to", "2020-10-17"],
        ["sql", "SELECT symbol, collector FROM orderbook WHERE timestamp IN '2020-10-16'"],
        ["sql", "SELECT '[red]\x1b[31m' AS \"[bold]\" FROM orderbook WHERE timestamp IN '2020-10-16'"],
        ["status"],
    ],
)
def test_tables_print_text_from_outside_plain(evil, tmp_path, command):
    answer = CliRunner().invoke(cli, [*command, "--questdb", url_of(evil.endpoint), "--data-dir", str(tmp_path / "x")])
    assert "\x1b[31m" not in answer.output
    assert "Traceback" not in answer.output
    if command[0] != "status":
        assert answer.exit_code == 0, answer.output
        assert "[red]" in answer.output
        assert "\\x1b[31m" in answer.output


def test_a_pair_that_cannot_name_a_file_keeps_an_export_in_its_folder(evil, tmp_path):
    root = tmp_path / "deep" / "root"
    where = ("--questdb", url_of(evil.endpoint), "--root", str(root), "--from", "2020-10-16", "--to", "2020-10-17")
    every = CliRunner().invoke(cli, ["export", *where])
    assert "\x1b" not in every.output
    assert [path.name for path in tmp_path.iterdir()] in ([], ["deep"])
    if every.exit_code == 0:  # escaped
        (folder,) = (root / "extracted datasets").iterdir()
        files = [pair["file"] for pair in json.loads((folder / "manifest.json").read_text())["pairs"].values()]
        assert sorted(path.name for path in folder.iterdir()) == sorted([*files, "manifest.json"])
    else:
        assert every.exit_code == 2
        assert "cannot be the name of a file" in every.output
    named = CliRunner().invoke(cli, ["export", *where, "--pairs", "XPLAINUSDT", "--overwrite"])
    assert named.exit_code == 0, named.output


def test_what_a_server_says_is_printed_plain(tmp_path):
    with Answering(lambda path: msgspec.json.encode({"error": "bad\x1b[31m[red]"}), 400) as server:
        answer = CliRunner().invoke(cli, ["sql", "SELECT 1", "--questdb", server.url])
    assert answer.exit_code == 1
    assert "bad\\x1b[31m[red]" in answer.output
    assert "\x1b" not in answer.output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "40 ms"),
        (119.96, "120.0 s"),
        (120, "2.0 min"),
        (7199, "120.0 min"),
        (19_080, "5.3 h"),
        (181_440, "2.1 d"),
    ],
)
def test_a_duration_has_the_unit_of_which_it_has_at_least_two(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(470_000, "470 kB"), (1_000_000, "1.0 MB"), (12_345_678_901, "12.3 GB"), (5e12, "5,000.0 GB")]
)
def test_a_size_has_the_largest_unit_that_fits(size, text):
    assert size_text(size) == text


def test_one_is_singular():
    assert [counted(number, "pair") for number in (0, 1, 1500)] == ["0 pairs", "1 pair", "1,500 pairs"]


def test_names_that_resemble_are_offered_each_once_or_something_else():
    known = ["BTCUSDT", "BTCUSDC", "BTCUSDT", "XRPUSDT"]
    assert nearest_text("BTCUSTD", known, "none") == "Nearest names: BTCUSDT, BTCUSDC."
    assert nearest_text("Q", known, "It records others.") == "It records others."


def test_lines_that_the_exchange_causes_are_bounded_and_others_pass():
    clock = [1000.0]
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    handler.addFilter(LineLimit(("ingester.feed", "ingester.sequence"), Throttle(5, 1.0, lambda: clock[0])))

    def say(name, text, *arguments):
        handler.handle(logging.LogRecord(name, logging.WARNING, "", 0, text, arguments, None))

    for number in range(1000):
        say(("ingester.feed.feed", "ingester.sequence.monitor")[number % 2], "line %d", number)
        say("ingester.questdb.writer", "other %d", number)
        say("ingester.feedback", "also %d", number)
    assert [each for each in said if each.startswith("line")] == [f"line {number}" for number in range(5)]
    assert len(said) == 2005
    clock[0] += 1
    say("ingester.feed.feed", "100 %")
    assert said[-1] == "100 % (995 lines before it were left out)"


def test_the_limit_of_the_program_names_modules_that_there_are():
    for name in exchange_lines()._packages:
        __import__(name.removesuffix("."))
