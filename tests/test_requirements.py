"""requirements/: every package of CI and of the image has one version and its hashes, and fits pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
WANTED = {
    "build": PROJECT["dependency-groups"]["build"],
    "ci": [*PROJECT["project"]["dependencies"], *EXTRAS["embedded"], *EXTRAS["plot"], *EXTRAS["test"]],
    "image": PROJECT["project"]["dependencies"],
}


def locked(name):
    """The entries of a lock file as (requirement, hashes)."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line)
        yield Requirement(requirement), hashes


@pytest.mark.parametrize("name", WANTED)
def test_every_package_has_one_version_and_hashes(name):
    entries = list(locked(name))
    assert entries
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each.strip()) for each in hashes), requirement


@pytest.mark.parametrize("name", WANTED)
def test_the_lock_file_fits_pyproject(name):
    found = {}
    for requirement, _ in locked(name):
        found.setdefault(canonicalize_name(requirement.name), []).append(str(requirement.specifier)[2:])
    for line in WANTED[name]:
        wanted = Requirement(line)
        versions = found[canonicalize_name(wanted.name)]
        assert all(wanted.specifier.contains(version, prereleases=True) for version in versions), (line, versions)


def test_ci_can_install_the_build_tools_beside_its_own():
    versions = {requirement.name: requirement.specifier for requirement, _ in locked("ci")}
    for requirement, _ in locked("build"):
        assert versions.get(requirement.name, requirement.specifier) == requirement.specifier


def test_the_image_has_the_versions_that_ci_tests():
    tested = {(requirement.name, str(requirement.marker)): requirement.specifier for requirement, _ in locked("ci")}
    for requirement, _ in locked("image"):
        assert tested[requirement.name, str(requirement.marker)] == requirement.specifier


def test_no_lock_file_names_a_package_index():
    for path in (ROOT / "requirements").iterdir():
        assert "//" not in path.read_text(encoding="utf-8"), path.name


def test_lower_bounds_exclude_versions_with_known_flaws():
    """urllib3 before 2.6.3 follows a redirect without its bounds on decompression (CVE-2026-21441)."""
    (urllib3,) = (Requirement(each) for each in PROJECT["project"]["dependencies"] if each.startswith("urllib3"))
    assert not urllib3.specifier.contains("2.6.2")
    assert urllib3.specifier.contains(Version("2.6.3"))
