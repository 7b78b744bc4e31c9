"""What docs/ and docker/README.md show is true: commands, links, messages, and the backup that comes back."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recorder import Recorder, at, rows_of
from shown import blocks, commands, inline, known, understand

import ingester
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.server import ManagedServer
from ingester.simulator import Simulator

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "docker" / "README.md"]

SHOWN = [
    pytest.param(words, id=f"{page.name}: {shlex.join(words)}")
    for page in PAGES
    for words in commands(page.read_text())
]

INLINE = [
    pytest.param(words, id=f"{page.name}: {shlex.join(words)}") for page in PAGES for words in inline(page.read_text())
]


def page_ids(page):
    return page.name if page.parent.name == "docs" else f"{page.parent.name}/{page.name}"


@pytest.mark.parametrize("words", SHOWN)
def test_every_command_that_is_shown_is_understood(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    understand(words)


@pytest.mark.parametrize("words", INLINE)
def test_every_command_and_option_in_the_text_exists(words):
    assert known(words)


def test_commands_are_found_whatever_stands_before_and_behind_them():
    script = """```sh
    sudo systemctl restart ingester && ingester status --json || echo "look"
    docker compose exec recorder-a ingester sql "SELECT 1; SELECT 2"   # a remark
    trap 'ingester sql "CHECKPOINT RELEASE"' EXIT
    sudo -u ingester touch here; X=1 ingester server \\
      stop
    ```"""
    assert list(commands(script)) == [
        ["status", "--json"],
        ["sql", "SELECT 1; SELECT 2"],
        ["sql", "CHECKPOINT RELEASE"],
        ["server", "stop"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if target.startswith(("http:", "https:")):
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def anchors(page):
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [page.name for page in PAGES if page.parent.name == "docs" and f"]({page.name})" not in index]
    assert missing == ["README.md"]


def messages():
    """Every text of the source, with `…` for what is filled in."""
    found = []
    for path in Path(ingester.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[-+.\d]*[sdfgr]", "…", node.value))
    return found


def test_each_message_that_troubleshooting_explains_is_one_of_the_source():
    quoted = re.findall(r"^> (.+)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 40
    texts = messages()
    for message in quoted:
        assert len(re.sub(r"\W", "", message)) >= 5, f"{message!r} could be anything"
        pattern = re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
        assert any(pattern.search(text) for text in texts), message


def test_operations_says_what_to_do_about_each_alarm():
    """Skipped until there are alarms."""
    health = pytest.importorskip("ingester.monitoring")
    calls = [
        node
        for path in Path(health.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"
    ]
    kinds = {call.args[0].value for call in calls if call.args and isinstance(call.args[0], ast.Constant)}
    chapter = (ROOT / "docs" / "operations.md").read_text().split("## Alarms")[1].split("\n## ")[0]
    explained = {
        kind for row in re.findall(r"^\| (`.*?) \|", chapter, re.MULTILINE) for kind in re.findall(r"\w+", row)
    }
    assert explained == kinds


def test_the_sql_that_is_shown_for_operators_runs(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    statements = [words[1] for words in (each.values[0] for each in SHOWN) if words[0] == "sql"]
    chosen = [statement for statement in statements if statement.startswith("SELECT")]
    assert len(chosen) >= 5
    for statement in chosen:
        db.sql(statement)


@pytest.mark.slow
def test_a_backup_that_is_made_while_a_recorder_writes_comes_back(questdb, tmp_path):
    """The very commands of the page, with folders of the test in place of those of a server."""
    text = (ROOT / "docs" / "deployment.md").read_text()
    making, restoring = (
        blocks(text.split(f"<!-- {mark} -->")[1], "sh")[0].replace("sudo ", "") for mark in ("backup", "restore")
    )
    schema.ensure(QuestDB(questdb.endpoint), 5)
    restored = ManagedServer(tmp_path / "restored")
    (restored.data_dir / "questdb").mkdir(parents=True)
    (tmp_path / "backup").mkdir()
    with (
        Simulator(pairs=["BTCUSDT", "ETHUSDT"]) as simulator,
        Recorder("--pairs", "BTCUSDT,ETHUSDT", "--collector", "backup", *at(simulator, questdb)) as recorder,
    ):
        while not (before := rows_of(questdb, "backup")):
            assert recorder.process.poll() is None, recorder.output
        shell(making, tmp_path, questdb.data_dir)
        assert recorder.stop()[0] == 0
    assert before
    assert len(rows_of(questdb, "backup")) > len(before)
    assert not QuestDB(questdb.endpoint).sql("SELECT * FROM checkpoint_status()").rows[0][0]
    try:
        shell(
            restoring.replace("systemctl start ingester-questdb", "ingester server start"), tmp_path, restored.data_dir
        )
        restored.endpoint = restored.ensure()
        assert not (restored.data_dir / "questdb" / "root" / "_restore").exists()
        assert rows_of(restored, "backup")[: len(before)] == before
        assert QuestDB(restored.endpoint).sql("SELECT name FROM wal_tables() WHERE suspended").rows == []
    finally:
        restored.stop()


def shell(script, tmp_path, data_dir):
    """Runs commands of a page on a data folder; `cp` stands in where this machine has no rsync."""
    script = script.replace("/var/lib/ingester", str(data_dir)).replace("/mnt/backup", str(tmp_path / "backup"))
    if shutil.which("rsync") is None:
        script = 'rsync() { mkdir -p "${@: -1}" && cp -a --sparse=always "${@: -2:1}." "${@: -1}"; }\n' + script
    script = f'ingester() {{ "{sys.executable}" -m ingester "$@" --data-dir "{data_dir}"; }}\n{script}'
    done = subprocess.run(["bash", "-c", script], env=os.environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
