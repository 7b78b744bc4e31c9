"""Fixtures that many tests share."""

import pytest

from ingester.questdb.server import ManagedServer


@pytest.fixture(scope="session")
def questdb(tmp_path_factory):
    """A managed QuestDB for the whole run; a test keeps to its own collector, or drops and makes the tables again."""
    server = ManagedServer(tmp_path_factory.mktemp("questdb"), heap="384m")
    server.endpoint = server.ensure()
    yield server
    server.stop()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to stand in, and no file of the user's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    return tmp_path
