"""What README shows is true: its commands exist, its SQL runs, its pictures are there."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from recorder import Recorder, at

from ingester.cli import cli
from ingester.exchange.simulated import Simulator
from ingester.store.questdb import QuestDB

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def shell_commands():
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("ingester ")]


def test_the_two_commands_stand_first():
    first, second, *_ = [block.strip() for block in blocks("sh")]
    assert first == "pip install '.[embedded]' && ingester start"
    assert second == "pip install '.[embedded,test]' && pytest"
    assert "ingester start --exchange simulator" in blocks("sh")[2]


@pytest.mark.parametrize("line", shell_commands())
def test_every_command_that_is_shown_is_understood(line):
    words = shlex.split(line)[1:]
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, context, info_name=name)
    command.parse_args(context, words)  # raises on an unknown option or value


def test_the_sql_that_is_shown_runs_on_recorded_books(questdb):
    with (
        Simulator(pairs=["BTCUSDT", "ETHUSDT"]) as simulator,
        Recorder(
            "--pairs", "BTCUSDT,ETHUSDT", "--collector", "readme", "--for", "3s", *at(simulator, questdb)
        ) as recorder,
    ):
        recorder.process.wait(60)
        assert recorder.stop()[0] == 0
    db = QuestDB(questdb.endpoint)
    db.sql("SELECT wait_wal_table('orderbook')")
    shown = blocks("sql")
    assert len(shown) >= 3
    for statement in shown:
        assert db.sql(statement).rows, statement


def test_pictures_and_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def every_command(group=cli, path=("ingester",)):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), list(every_command()), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_with_an_example_and_explained_options(path, command):
    answer = CliRunner().invoke(cli, [*path[1:], "--help"])
    assert answer.exit_code == 0
    assert "Example" in answer.output
    assert "ingester " in answer.output.split("Example")[1]
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{' '.join(path)} {option.opts} has no help"
    assert path[1] in README
