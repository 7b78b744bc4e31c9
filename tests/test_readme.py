"""What README shows is true: its commands exist, its SQL runs, its pictures are there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from recorder import Recorder, at
from shown import understand

from ingester.cli import cli
from ingester.questdb.client import QuestDB
from ingester.simulator import Simulator

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
    assert second == "pip install '.[embedded,test]' && pytest -n 2 --dist loadfile"
    assert "ingester start --exchange simulator" in blocks("sh")[2]


@pytest.mark.parametrize("line", shell_commands())
def test_every_command_that_is_shown_is_understood(line, tmp_path, monkeypatch):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "hft data" / "raw fetched data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)  # where the files that it names are
    understand(shlex.split(line)[1:])


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


@pytest.mark.slow
def test_the_first_data_set_is_made_as_it_is_told(tmp_path):
    """The tour with its own data folder and server, recording for seconds instead of a minute."""
    chapter = README.split("## A first data set")[1].split("\n## ")[0]
    script, python = (re.search(rf"```{language}\n(.*?)```", chapter, re.DOTALL)[1] for language in ("sh", "python"))
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path / "data"), "MPLBACKEND": "agg", "COLUMNS": "120"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    assert "--for 60s" in script
    told = ["set -e", script.replace("--for 60s", "--for 5s"), f"python - <<'END'\n{python}\nEND"]
    try:
        tour = subprocess.run(
            ["bash", "-c", "\n".join(told)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
    finally:
        subprocess.run([sys.executable, "-m", "ingester", "server", "stop"], env=environment, timeout=60)
    assert tour.returncode == 0, tour.stdout + tour.stderr
    assert "BTCUSDT" in tour.stdout
    assert "Bid_1" in tour.stdout
    assert (tmp_path / "book.png").stat().st_size > 5_000


def test_the_live_example_runs():
    chapter = README.split("## Live\n")[1].split("\n## ")[0]
    python = re.search(r"```python\n(.*?)```", chapter, re.DOTALL)[1]
    run = subprocess.run([sys.executable, "-W", "error", "-c", python], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "BidV_1" in run.stdout
    assert re.search(r"^\d{19} \[[\d. ]+\]$", run.stdout, re.MULTILINE), run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


def test_pictures_and_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def every_command(group=cli, path=("ingester",)):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
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
