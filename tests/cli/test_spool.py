"""Rows that wait under another recorder's name: who names them, and the command that sends them."""

import json

import pytest
from click.testing import CliRunner
from recorder import Recorder, at, rows_of, url_of
from spools import wait_in_spool

from ingester.cli import cli
from ingester.simulator import Simulator


def run(*options):
    result = CliRunner().invoke(cli, [str(each) for each in options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def left(tmp_path):
    """A data folder with 30 rows of a recorder that is gone."""
    wait_in_spool(tmp_path, "old-host")
    return tmp_path


def test_status_names_them_and_how_to_send_them(left):
    code, output = run("status", "--json", "--data-dir", left)
    assert code == 1
    overview = json.loads(output)
    assert [(each["collector"], each["rows"]) for each in overview["unsent"]] == [("old-host", 30)]
    (problem,) = [each for each in overview["problems"] if each["kind"] == "rows_unsent"]
    assert problem["text"].startswith("30 rows of the recorder old-host, received from ")
    assert problem["mend"].startswith("ingester spool send --collector old-host")
    assert "30 rows of the recorder old-host" in " ".join(run("status", "--data-dir", left)[1].split())


def test_doctor_names_them(left):
    _, output = run("doctor", "--exchange", "simulator", "--json", "--data-dir", left)
    (finding,) = [each for each in json.loads(output)["findings"] if each["subject"] == "spool"]
    assert finding["state"] == "warning"
    assert "30 rows of the recorder old-host" in finding["text"]


@pytest.mark.slow
def test_a_start_names_them_and_a_command_sends_them(questdb, left):
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        options = list(at(simulator, questdb))
        options[options.index("--data-dir") + 1] = left
        with Recorder("--pairs", "BTCUSDT", "--collector", "new-host", *options) as recorder:
            recorder.wait_for("30 rows of the recorder old-host", 30)
            recorder.wait_for("is open", 30)
            listed = json.loads(run("spool", "list", "--json", "--data-dir", left)[1])
            assert [each["collector"] for each in listed] == ["old-host"]
            recorder.stop()
    where = ("--data-dir", left, "--questdb", url_of(questdb.endpoint))
    code, output = run("spool", "send", *where)
    assert code == 0, output
    assert "old-host: 30 rows sent, 0 wait" in output
    assert len(rows_of(questdb, "old-host")) == 30
    code, output = run("spool", "send", "--collector", "old-host", *where)
    assert code == 0
    assert "No rows of old-host are waiting" in output
    assert "No rows of stopped recorders are waiting" in run("spool", "list", "--data-dir", left)[1]
