"""disk.py: the data folder, its secrets, and its disk, of which nothing stays behind."""

from pathlib import Path

import pytest

from ingester.monitoring.doctor import disk
from ingester.monitoring.doctor import examine

GB = 1_000_000_000


def examined(folder):
    return {finding.subject: finding for finding in examine(disk.checks(folder))}


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above_and_not_made(tmp_path):
    found = examined(tmp_path / "not" / "yet")
    assert {finding.state for finding in found.values()} <= {"ok", "warning"}
    assert "yet to be made in" in found["data folder"].text
    assert set(found) == {"data folder", "secrets", "spool", "disk space", "disk sync", "disk write"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "owner", "self", "state"),
    [
        (0o100600, 7, 7, "ok"),
        (0o100400, 7, 7, "ok"),
        (0o100600, 7, 0, "ok"),
        (0o100640, 7, 7, "fail"),
        (0o100604, 7, 7, "fail"),
        (0o100600, 7, 8, "fail"),
    ],
)
def test_secrets_are_for_their_owner_only(mode, owner, self, state):
    finding = disk.secret_finding(Path("/data/questdb/password"), mode, owner, self)
    assert finding.state == state
    assert bool(finding.mend) == (state != "ok")


def test_a_password_that_others_can_read_is_found_with_the_command_that_mends_it(tmp_path):
    password = tmp_path / "questdb" / "password"
    password.parent.mkdir()
    password.write_text("hush")
    password.chmod(0o644)
    finding = examined(tmp_path)["secrets"]
    assert finding.state == "fail"
    assert finding.mend == f"chmod 600 '{password}'"


def test_the_file_system_is_that_of_the_longest_mount_point(tmp_path):
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4"), (str(tmp_path / "elsewhere"), "tmpfs")]
    assert disk.filesystem(tmp_path / "data", mounts) == "nfs4"
    assert disk.filesystem(Path("/usr"), mounts) == "ext4"
    assert disk.filesystem(Path("/usr"), []) == ""


@pytest.mark.parametrize(
    ("free", "inodes", "state"),
    [
        (50 * GB, 10**6, "ok"),
        (50 * GB, None, "ok"),
        (4 * GB, 10**6, "warning"),
        (GB // 2, 10**6, "fail"),
        (50 * GB, 9, "fail"),
    ],
)
def test_space(free, inodes, state):
    assert disk.space_finding(free, 100 * GB, inodes).state == state


def test_speed():
    assert disk.sync_finding([0.001] * 10 + [0.4]).state == "ok"  # a slow one now and then does no harm
    assert disk.sync_finding([0.06] * 10).state == "warning"
    assert disk.sync_finding([2.0]).state == "fail"
    assert disk.write_finding(400e6).state == "ok"
    assert disk.write_finding(10e6).state == "warning"
