"""Commands that only ask, in a folder without data and at a QuestDB that hangs: a sentence, and nothing made."""

import time

import pytest
from click.testing import CliRunner
from unanswering import Unanswering

from ingester.cli import cli

RANGE = ("--from", "2024-01-01", "--to", "2024-01-02")
ASKING = [
    ["sql", "SELECT 1"],
    ["status"],
    ["coverage"],
    ["export", *RANGE],
    ["simulate", *RANGE],
    ["retention"],
    ["pairs", "list"],
    ["pairs", "list", "--json"],
    ["server", "status"],
    ["server", "console"],
    ["spool", "list"],
    ["spool", "send"],
]


def run(*options):
    result = CliRunner().invoke(cli, [str(each) for each in options])
    assert isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_a_folder_without_data_is_named_and_stays_away(command, home):
    code, output = run(*command, "--data-dir", home / "none")
    assert code in (1, 2)
    assert "none" in output
    assert "--json" in command or "ingester " in output  # the next step
    assert not (home / "none").exists()


def test_doctor_says_that_the_folder_is_yet_to_be_made(home):
    _, output = run_any("doctor", "--exchange", "simulator", "--data-dir", home / "none")
    assert "is yet to be made" in " ".join(output.split())
    assert not (home / "none").exists()


def run_any(*options):
    result = CliRunner().invoke(cli, [str(each) for each in options])
    return result.exit_code, result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "drip"),
    [
        (["sql", "SELECT 1"], 1.0),
        (["status"], 1.0),
        (["coverage"], None),
        (["doctor", "--exchange", "simulator"], None),
    ],
    ids=["sql", "status", "coverage", "doctor"],
)
def test_a_questdb_that_hangs_is_a_sentence_within_seconds(command, drip, home):
    with Unanswering(drip) as unanswering:
        begun = time.monotonic()
        code, output = run_any(*command, "--questdb", unanswering.url, "--data-dir", home)
        assert time.monotonic() - begun < 20
    assert code == 1
    said = " ".join(output.split())
    assert f"QuestDB at {unanswering.url} does not answer" in said
    assert "Traceback" not in said
