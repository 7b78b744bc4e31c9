"""The report that `pytest tests/faults --reliability docs/reliability.md` writes, and servers and disks to break."""

import datetime
import os
import subprocess
from pathlib import Path

import pytest
from reliability import Line, markdown
from trial import Place

from ingester.questdb.server import ManagedServer

COMMAND = "pytest tests/faults --reliability docs/reliability.md"


def pytest_addoption(parser):
    parser.addoption("--reliability", type=Path, metavar="FILE", help="write what the faults did there, as Markdown")


@pytest.fixture(scope="session")
def thorough(pytestconfig):
    """Whether figures are wanted, for which some faults last longer."""
    return pytestconfig.getoption("--reliability", None) is not None


@pytest.fixture(scope="session")
def report(pytestconfig, request):
    """Takes a line about each fault: number, fault, what was done, evidence, seconds to recover, remark."""
    lines = []

    def report(number, fault, done, evidence=None, seconds=None, remark="", counts=None):
        if evidence is not None:
            counts = [evidence.rows_sent, evidence.rows_stored]
            counts += map(len, (evidence.lost, evidence.duplicated, evidence.in_gaps))
        lines.append(Line(number, fault, done, *counts, seconds, remark))

    yield report
    path = pytestconfig.getoption("--reliability", None)
    if path and lines:
        path.write_text(markdown(lines, datetime.date.today(), COMMAND, request.session.testsfailed))


@pytest.fixture
def place(questdb, tmp_path):
    """The session's QuestDB, and a folder of one's own for the spool."""
    return Place(questdb.endpoint, tmp_path)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """A QuestDB to be broken, which knows the statements that do so."""
    server = ManagedServer(tmp_path_factory.mktemp("own"), heap="384m")
    conf = server.data_dir / "questdb" / "root" / "conf"
    conf.mkdir(parents=True)
    (conf / "server.conf").write_text("dev.mode.enabled=true\n")  # ALTER TABLE … SUSPEND WAL
    server.endpoint = server.ensure()
    yield server
    server.stop()


@pytest.fixture
def small_disk():
    """Mounts file systems of a few megabytes."""
    mounted = []

    def small_disk(folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a small file system")
        mounted.append(folder)
        return folder

    yield small_disk
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
