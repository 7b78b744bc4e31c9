"""docs/configuration.md is what the code declares, and the statements of docs/sql.md run."""

import re
import runpy
from pathlib import Path

import click
import pytest
from recorder import Recorder, at

from ingester.cli import cli
from ingester.cli.configuration import CONFIG_OPTION, commands
from ingester.questdb.client import QuestDB
from ingester.simulator import Simulator

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = (DOCS / "configuration.md").read_text()
COOKBOOK = (DOCS / "sql.md").read_text()
STATEMENTS = re.findall(r"```sql\n(.*?)```", COOKBOOK, re.DOTALL)


def test_the_pages_are_as_they_would_be_written_now():
    for path, content in runpy.run_path(str(DOCS / "generate.py"))["documents"]().items():
        assert path.read_text() == content, f"{path.name} is out of date: make docs"


@pytest.mark.parametrize(
    ("path", "command"), list(commands((), cli)), ids=lambda each: "-".join(each) if isinstance(each, tuple) else ""
)
def test_every_command_and_option_is_in_the_reference(path, command):
    name = " ".join(("ingester", *path))
    assert f"\n## {name}\n" in REFERENCE
    section = REFERENCE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    for option in command.params:
        if isinstance(option, click.Option):
            assert re.search(rf"`(\S+, )*{re.escape(max(option.opts, key=len))}[` ]", section), f"{name} {option.opts}"
    assert ("`--config`" in section) is any(option.name == CONFIG_OPTION for option in command.params)


def test_every_file_of_sql_is_in_the_cookbook():
    for file in (ROOT / "sql" / "queries").glob("*.sql"):
        assert file.read_text().strip() in COOKBOOK, file.name
    for file in (ROOT / "sql" / "views").glob("*.sql"):
        assert f"`{file.stem}`" in COOKBOOK


@pytest.fixture(scope="module")
def db(questdb):
    """The server after two recorders ran beside each other for some seconds."""
    pairs = ["BTCUSDT", "ETHUSDT"]
    with Simulator(pairs=pairs) as simulator:
        told = ("--pairs", ",".join(pairs), "--for", "4s", *at(simulator, questdb))
        with Recorder("--collector", "one", *told) as one, Recorder("--collector", "two", *told) as two:
            for recorder in (one, two):
                recorder.process.wait(60)
                assert recorder.stop()[0] == 0, recorder.output
    db = QuestDB(questdb.endpoint)
    for table in ("orderbook", "collector_events"):
        db.sql(f"SELECT wait_wal_table('{table}')")
    return db


@pytest.mark.slow
@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda text: text.strip().splitlines()[0][:60])
def test_a_statement_of_the_cookbook_answers_on_recorded_books(db, statement):
    ((exchange,),) = db.sql("SELECT exchange FROM orderbook WHERE collector = 'one' LIMIT -1").rows
    result = db.sql(statement.replace("'binance'", f"'{exchange}'"))
    may_be_empty = any(each in statement for each in ("gaps", "copy_export_log", "@futures", "instruments"))
    assert result.columns
    assert result.rows or may_be_empty
