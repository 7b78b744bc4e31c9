"""deploy/, as far as it can be tried where systemd does not run."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from ingester.feed import loop
from ingester.record import recorder_service

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
PROGRAM = "/opt/ingester/current/bin/ingester"
EXPOSURE = 1.5
"""What `systemd-analyze security` may say: 0 is nothing left to attack, 10 is everything."""
PR_SET_CHILD_SUBREAPER = 36

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings(name):
    """The lines of a unit, as (key, value)."""
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    return [tuple(line.split("=", 1)) for line in text.splitlines() if "=" in line and line[0] != "#"]


def seconds(name, key):
    return int(dict(settings(name))[key])


@pytest.fixture(params=UNITS, ids=lambda path: path.name)
def unit(request, tmp_path):
    """A copy whose program is the one that runs here; ssh need not be installed."""
    text = request.param.read_text().replace(PROGRAM, f"{Path(sys.executable).parent}/ingester")
    copy = tmp_path / request.param.name
    copy.write_text(text.replace("/usr/bin/ssh", "/bin/sh"))
    return copy


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@needs_systemd
def test_systemd_understands_each_line(unit):
    done = run("systemd-analyze", "verify", "--man=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_little_is_left_to_attack(unit):
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(unit))
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure[1]) <= EXPOSURE


def test_a_recorder_more_differs_in_name_and_port_alone():
    one, more = settings("ingester.service"), settings("ingester@.service")
    (description, other_description), (start, other_start) = [
        (a[1], b[1]) for a, b in zip(one, more, strict=True) if a != b
    ]
    assert other_description == description.replace("Recorder", "Recorder %i")
    assert other_start == start.replace(" --metrics", " --collector %i --metrics").replace("9464", "9465")


def test_a_recorder_has_the_time_that_it_takes_to_end():
    longest = 2 * loop.GOODBYE_SECONDS + recorder_service.DRAIN_SECONDS + recorder_service.AUDIT_SECONDS
    assert seconds("ingester.service", "TimeoutStopSec") > 2 * longest
    assert seconds("ingester-questdb.service", "TimeoutStopSec") > 60  # when `server stop` uses force


def test_java_may_compile_and_is_seen_by_who_stops_it():
    server, recorder = dict(settings("ingester-questdb.service")), dict(settings("ingester.service"))
    assert recorder["MemoryDenyWriteExecute"] == "yes"
    assert "MemoryDenyWriteExecute" not in server
    assert not {"PrivateUsers", "ProtectProc"} <= set(server)


def test_units_agree_on_user_folders_and_program():
    for name in ("ingester-questdb.service", "ingester.service", "ingester@.service"):
        unit = dict(settings(name))
        assert unit["User"] == unit["Group"] == unit["StateDirectory"] == unit["CacheDirectory"] == "ingester"
        assert unit["Restart"] == "always"
        assert unit["ExecStart"].startswith(f"{PROGRAM} ")
        assert "--data-dir /var/lib/ingester" in unit["ExecStart"]
        assert unit["EnvironmentFile"] == "/etc/ingester/ingester.env"
    assert PROGRAM in (DEPLOY / "ingester.sh").read_text()


def test_the_command_of_operators_works_with_the_settings_of_the_services(tmp_path):
    """`deploy/ingester.sh`, with a sudo that only changes no user."""
    settings, program, state = tmp_path / "ingester.env", tmp_path / "ingester", tmp_path / "state"
    settings.write_text((DEPLOY / "ingester.env").read_text())
    program.write_text('#!/bin/sh\npwd\necho "$INGESTER_QUESTDB"\nprintf "%s|" "$@"\n')
    (tmp_path / "sudo").write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    state.mkdir()
    script = (DEPLOY / "ingester.sh").read_text()
    for there, here in (
        (PROGRAM, program),
        ("/etc/ingester/ingester.env", settings),
        ("/var/lib/ingester", state),
    ):
        script = script.replace(there, str(here))
    for executable in (program, tmp_path / "sudo"):
        executable.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script, "ingester", "sql", "SELECT 'a b'"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.splitlines() == [str(state), "http://admin@127.0.0.1:9000", "sql|SELECT 'a b'|"], done.stderr


@pytest.mark.slow
def test_starting_the_server_leaves_one_process_that_systemd_takes_for_the_main_one(tmp_path):
    """With `Type=forking` that is the only child which the command leaves to who adopts orphans: here to us."""
    command = [sys.executable, "-m", "ingester", "server"]
    start, stop = ([*command, each, "--data-dir", tmp_path] for each in ("start", "stop"))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        before = {child.pid for child in psutil.Process().children()}
        assert run(*start).returncode == 0
        (server,) = [child for child in psutil.Process().children() if child.pid not in before]
        assert "io.questdb/io.questdb.ServerMain" in server.cmdline()
        reaper = threading.Thread(target=os.waitpid, args=(server.pid, 0), daemon=True)  # as the first process does
        reaper.start()
        assert run(*stop).stdout == "QuestDB stopped\n"
        reaper.join(10)
        assert not reaper.is_alive()
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)
        run(*stop)
