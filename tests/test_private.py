"""private.py: files of this user alone, whatever the umask, and locks between processes."""

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from ingester import private
from ingester.errors import SpoolError, UnsafeFile
from ingester.exchange.pairs import LISTING_FILE
from ingester.private import is_locked, take_lock
from ingester.questdb.server import ManagedServer
from ingester.record import pairs_file, practice
from ingester.spool import Spool

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_is_made_is_for_this_user_alone_whatever_the_umask(tmp_path, umask):
    private.folder(tmp_path / "made")
    with private.write_anew(tmp_path / "made" / "file") as file:
        file.write(b"content")
    assert (mode(tmp_path / "made"), mode(tmp_path / "made" / "file")) == (0o700, 0o600)
    assert private.read_file(tmp_path / "made" / "file") == b"content"


def test_wider_modes_of_our_own_are_taken_back(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o777)
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o666)
    private.folder(tmp_path / "folder")
    os.close(private.open_file(tmp_path / "file", os.O_RDWR))
    assert (mode(tmp_path / "folder"), mode(tmp_path / "file")) == (0o700, 0o600)


def test_links_are_refused_and_what_they_lead_to_is_left_alone(tmp_path):
    (tmp_path / "victim").write_text("dear")
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    for name, target in (("file", "victim"), ("folder", "elsewhere"), ("new", "nothing")):
        (tmp_path / name).symlink_to(tmp_path / target)
    for refused in (
        lambda: private.write_anew(tmp_path / "file"),
        lambda: private.read_file(tmp_path / "file"),
        lambda: private.write_anew(tmp_path / "new"),
        lambda: private.folder(tmp_path / "folder"),
    ):
        with pytest.raises(UnsafeFile, match="symbolic link"):
            refused()
    assert (tmp_path / "victim").read_text() == "dear"
    assert not (tmp_path / "nothing").exists()
    assert mode(tmp_path / "elsewhere") == 0o755
    private.linked_folder(tmp_path / "folder")  # our own link, to where we want it
    assert mode(tmp_path / "elsewhere") == 0o700


def test_a_data_folder_that_holds_other_things_keeps_its_mode(tmp_path):
    ours = ("pairs.txt.lock", LISTING_FILE, practice.FILE)
    for each, before, after in (("own", 0o777, 0o700), ("disk", 0o755, 0o755), ("shared", 0o1777, None)):
        path = tmp_path / each
        path.mkdir()
        for name in ours if each == "own" else ("of others",):
            (path / name).touch()
        path.chmod(before)
        if after is None:
            with pytest.raises(UnsafeFile, match=rf"of others.*every user.*--data-dir {path}/ingester"):
                private.data_folder(path)
        else:
            private.data_folder(path)
        assert mode(path) == (after or before)


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafeFile, match="regular file"):
        os.close(private.open_file(tmp_path / "pipe", os.O_RDONLY))


@as_root
def test_what_another_user_owns_is_refused_with_the_next_step(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("folder", "file", "link"):
        os.chown(tmp_path / name, NOBODY, NOBODY, follow_symlinks=False)
    for refused in (
        lambda: private.folder(tmp_path / "folder"),
        lambda: private.open_file(tmp_path / "file", os.O_RDWR),
        lambda: private.data_folder(tmp_path / "link"),
    ):
        with pytest.raises(UnsafeFile, match=r"user nobody.*chown.*--data-dir"):
            refused()
    assert private.read_file(tmp_path / "file") == b""  # root may read


@as_root
@pytest.mark.parametrize("name", ["", "spool", "spool/one", "spool/one/lock", "questdb", "questdb/lock"])
def test_a_recorder_and_a_server_use_nothing_of_another_user(tmp_path, name):
    data = tmp_path / "data"
    (data / "spool" / "one").mkdir(parents=True)
    (data / "questdb").mkdir()
    (data / "spool" / "one" / "lock").touch()
    (data / "questdb" / "lock").touch()
    os.chown(data / name, NOBODY, NOBODY)
    if "questdb" in name or not name:
        with pytest.raises(UnsafeFile, match="nobody"):
            ManagedServer(data).ensure()
    if name in ("spool/one", "spool/one/lock"):
        with pytest.raises(UnsafeFile, match="nobody"):
            Spool(data / "spool" / "one").open()
    elif "questdb" not in name:
        command = [sys.executable, "-m", "ingester", "start", "--exchange", "simulator", "--collector", "one"]
        command += ["--questdb", "http://127.0.0.1:9", "--data-dir", data, "--pairs", "BTCUSDT", "--for", "1s"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{data / name} is not used, because user nobody owns it" in done.stderr.replace(f"{data}/ ", f"{data} ")
        assert "Traceback" not in done.stderr


@as_root
def test_a_folder_that_others_may_write_to_and_that_is_not_ours_is_refused(tmp_path):
    """As a user who is not root: a shared folder of root's, and one of the own user."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    code = (
        "import os, pathlib, sys; from ingester import private; from ingester.errors import UnsafeFile\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); os.umask(0)\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "(path / 'own').mkdir(0o777); private.folder(path / 'own'); print(oct((path / 'own').stat().st_mode))\n"
        "private.folder(path)\n"
    )
    for each in (tmp_path, *tmp_path.parents):
        if each.is_relative_to(tempfile.gettempdir()) and each != Path(tempfile.gettempdir()):
            each.chmod(0o711)
    done = subprocess.run([sys.executable, "-c", code, shared], capture_output=True, text=True)
    assert done.stdout.strip() == "0o40700"
    assert "it can be changed by every user of this machine" in done.stderr


def test_a_private_group_is_nobody_else(monkeypatch):
    own = os.stat_result((stat.S_IFREG | 0o664, 0, 0, 0, os.geteuid(), 4711, 0, 0, 0, 0))
    name = private.user_name(os.geteuid())
    monkeypatch.setattr(private.pwd, "getpwuid", lambda uid: type("P", (), {"pw_name": name, "pw_gid": 4711}))
    for group, members, who in (
        (name, [], ""),
        (name, [name], ""),
        (name, ["bob"], "the group"),
        ("staff", [], "the g"),
    ):
        entry = type("G", (), {"gr_name": group, "gr_mem": members})
        monkeypatch.setattr(private.grp, "getgrgid", lambda gid, entry=entry: entry)
        assert private.changeable_by(own).startswith(who)
        assert bool(private.changeable_by(own)) == bool(who)


@pytest.mark.slow
def test_a_recording_leaves_nothing_that_another_user_could_come_to(tmp_path):
    data = tmp_path / "data"
    code = "import os, sys; os.umask(0); os.execv(sys.executable, [sys.executable, '-m', 'ingester', *sys.argv[1:]])"
    options = ["start", "--exchange", "simulator", "--pairs", "BTCUSDT", "--data-dir", data, "--for", "2s"]
    try:
        subprocess.run([sys.executable, "-c", code, *options], check=True, capture_output=True, timeout=120)
        root = data / "questdb" / "root"
        wide = [path for path in data.rglob("*") if not path.is_symlink() and mode(path) & 0o077]
        assert mode(data) == 0o700
        assert [path.name for path in data.iterdir() if not path.name.startswith(private.OURS)] == []
        # QuestDB's own files have the modes that it gives them, in folders of which nobody else has the first.
        assert [path for path in wide if root not in path.parents or (path.parent == root and path.is_dir())] == []
        password = data / "questdb" / "password"
        for left in (b"", b"\0" * 32):
            ManagedServer(data).stop()
            password.write_bytes(left)  # as after a power cut
            endpoint = ManagedServer(data).ensure()
            assert endpoint.password == password.read_text()
            assert len(endpoint.password) >= 24
            assert mode(password) == 0o600
    finally:
        ManagedServer(data).stop()


def test_a_spool_says_whose_folder_it_is(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spool").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((UnsafeFile, SpoolError), match="symbolic link"):
        Spool(tmp_path / "spool").open()


def test_what_we_keep_in_a_data_folder_is_none_of_the_other_things(tmp_path):
    for name in (*map(pairs_file.pairs_file_name, ("binance", "testnet")), LISTING_FILE, practice.FILE):
        (tmp_path / name).touch()
    tmp_path.chmod(0o777)
    private.data_folder(tmp_path)
    assert mode(tmp_path) == 0o700


@pytest.fixture
def opened(tmp_path):
    """Opens the same file again and again: each is a holder of its own."""
    descriptors = []

    def open_once():
        descriptors.append(os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT))
        return descriptors[-1]

    yield open_once
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_lock_has_one_holder_until_its_file_is_closed(tmp_path, opened):
    assert not is_locked(tmp_path / "lock")  # there is none yet
    first, second = opened(), os.open(tmp_path / "lock", os.O_RDWR)
    assert take_lock(second)
    assert is_locked(tmp_path / "lock")
    assert not take_lock(first)
    os.close(second)
    assert not is_locked(tmp_path / "lock")
    assert take_lock(first)


def test_a_lock_is_waited_for(opened):
    first, second = opened(), opened()
    assert take_lock(first)
    free = threading.Timer(0.1, lambda: fcntl.flock(first, fcntl.LOCK_UN))
    free.start()
    assert take_lock(second, 30.0)
    free.join()
