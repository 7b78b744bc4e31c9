"""Nothing is sent to a process that is not the managed QuestDB, however it came to listen there."""

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys

import msgspec
import psutil
import pytest
from impostor import Impostor

from ingester.errors import UnknownServer, Unreachable
from ingester.questdb import peer
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint
from ingester.questdb.peer import ServerState
from ingester.questdb.server import ManagedServer


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "questdb" / "root"
    folder.mkdir(parents=True)
    return folder


def remember(root, **state):
    (root.parent / "server.json").write_bytes(msgspec.json.encode(state))


def asked_at(port, root):
    return QuestDB(Endpoint(f"http://127.0.0.1:{port}", "admin", "the secret", root=root))


def gone():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("remembered", ["nothing", "a dead process", "the impostor", "itself", "-1", "another start"])
def test_an_impostor_is_named_and_sent_nothing(root, remembered):
    with Impostor(0, "-d", root) as impostor:
        ports = {"http_port": impostor.port, "pg_port": 0}
        known = {"a dead process": gone(), "the impostor": impostor.pid, "itself": os.getpid(), "-1": -1}
        if remembered == "another start":
            remember(root, pid=impostor.pid, started=1, **ports)
        elif remembered != "nothing":
            remember(root, pid=known[remembered], **ports)
        db = asked_at(impostor.port, root)
        for ask in (lambda: db.sql("SELECT 1"), lambda: db.write(b"t a=1i 1\n"), lambda: list(db.csv("SELECT 1"))):
            with pytest.raises(UnknownServer, match=rf"pid {impostor.pid}, user .*nothing was sent.*ingester server"):
                ask()
        assert impostor.end() == []


def test_the_server_itself_is_asked(questdb):
    assert questdb.endpoint.root is not None
    assert QuestDB(questdb.endpoint).sql("SELECT 1").rows == [[1]]


def test_a_server_is_known_without_its_state_file(questdb, tmp_path):
    state_file = questdb.data_dir / "questdb" / "server.json"
    state_file.rename(tmp_path / "aside")
    try:
        assert QuestDB(questdb.endpoint).sql("SELECT 1").rows == [[1]]
    finally:
        (tmp_path / "aside").rename(state_file)


def test_who_listens_now_does_not_vouch_for_who_has_accepted_before(root, monkeypatch):
    """The impostor accepts a connection and makes way for the server: the connection is still the impostor's."""
    monkeypatch.setattr(peer, "is_server", lambda process, root: process.pid == os.getpid())
    remember(root, pid=os.getpid(), http_port=1, pg_port=2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        theirs = socket.create_connection(("127.0.0.1", port))
        code = "import sys, time; print(flush=True); time.sleep(60)"
        accepted, _ = listener.accept()
        other = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[accepted.fileno()], stdout=subprocess.PIPE, text=True
        )
        other.stdout.readline()
        accepted.close()
        try:
            with pytest.raises(UnknownServer, match=str(other.pid)):
                peer.verify(theirs, root)
            own = socket.create_connection(("127.0.0.1", port))
            mine, _ = listener.accept()
            peer.verify(own, root)
        finally:
            other.kill()
            other.communicate()
            for each in (theirs, own, mine):
                each.close()


def test_a_connection_that_nobody_accepts_is_not_waited_for_without_end(root, monkeypatch):
    monkeypatch.setattr(peer, "is_server", lambda process, root: process.pid == os.getpid())
    monkeypatch.setattr(peer, "ACCEPT_SECONDS", 0.1)
    remember(root, pid=os.getpid(), http_port=1, pg_port=2)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Unreachable, match="hang"):
        asked_at(listener.getsockname()[1], root).sql("SELECT 1")


def test_both_ways_to_look_up_a_socket_say_the_same():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = listener.getsockname()
        with socket.create_connection(there) as client:
            here = client.getsockname()
            waiting = peer._from_sock_diag(there, here)
            server, _ = listener.accept()
            with server:
                for local, remote in ((there, here), (here, there), (there, None)):
                    found = peer._from_sock_diag(local, remote)
                    assert found == peer._from_table(local, remote)
                    assert found[0] == os.geteuid()
                    assert peer._owns(os.getpid(), found[1])
                    assert not peer._owns(os.getppid(), found[1])
                assert waiting[1] == 0
    assert peer._from_sock_diag(there, here)[1] == peer._from_table(there, here)[1] == 0


def test_a_process_is_the_same_only_with_the_same_start(questdb):
    state = peer.read_state(questdb.data_dir / "questdb" / "server.json")
    root = questdb.endpoint.root
    assert peer.process_of(state, root) == psutil.Process(state.pid)
    assert peer.process_of(msgspec.structs.replace(state, started=state.started + 1), root) is None
    assert (
        peer.process_of(ServerState(state.pid, 0, 0), root) is not None
    )  # of an earlier version, which noted no start
    assert peer.process_of(state, root.parent) is None
    assert peer.process_of(ServerState(os.getpid(), 0, 0), root) is None


def test_a_process_that_cannot_be_looked_at_now_is_not_gone(tmp_path, monkeypatch):
    def refused(pid):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(peer, "started_at", refused)
    with pytest.raises(OSError, match="Too many"):
        peer.process_of(ServerState(os.getpid(), 0, 0, started=1), tmp_path)
    monkeypatch.undo()
    assert peer.process_of(ServerState(2**22 + 1, 0, 0, started=1), tmp_path) is None


@contextlib.contextmanager
def descriptors(free):
    """Leaves this process no more than so many free descriptors."""
    os.close(lowest := os.dup(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=["state file", "no state file"])
def server(request, questdb, tmp_path):
    """The server that runs, whose state file may be lost."""
    noted, aside = questdb.data_dir / "questdb" / "server.json", tmp_path / "aside"
    if request.param == "no state file":
        noted.rename(aside)
    peer._known.clear()
    peer._recent.clear()
    yield ManagedServer(questdb.data_dir)
    if aside.exists():
        aside.rename(noted)


@pytest.mark.parametrize("free", range(4))
def test_without_free_descriptors_nobody_is_accused(questdb, server, free):
    """The server itself listens, which may not be seen now: that is no other program, and it is no other later."""
    port = int(questdb.endpoint.http_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        with descriptors(free), contextlib.suppress(Unreachable):
            peer.verify(connection, questdb.endpoint.root)
            assert free
        peer.verify(connection, questdb.endpoint.root)


def test_a_server_that_cannot_be_seen_now_is_not_gone(server):
    """A second one would be started beside it."""
    with descriptors(0), pytest.raises(OSError, match="Too many open files"):
        server.alive()
    assert server.alive()


def test_who_listens_cannot_be_seen_now_is_said_in_words(questdb, monkeypatch):
    def refused(*arguments):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(peer.os, "listdir", refused)
    peer._recent.clear()
    with pytest.raises(Unreachable, match=r"cannot be seen now which process.*Too many open files.*nothing was sent"):
        QuestDB(questdb.endpoint).sql("SELECT 1")
