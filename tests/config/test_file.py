"""file.py: which file is in force, what is wrong with it, and what is never shown."""

import logging
import os

import pytest

from ingester import private
from ingester.config.file import (
    Configuration,
    find_configuration,
    is_secret,
    masked,
    masked_text,
    read_configuration,
    user_config_file,
)
from ingester.errors import SettingsError

NOBODY = 65534


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty folder to stand in, and a user's folder for configuration beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def write(path, content, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def test_the_named_file_comes_first_then_this_folder_then_the_users(home):
    assert find_configuration(None) is None
    assert read_configuration(None) == Configuration()
    users = write(user_config_file(), "")
    assert users == home / "config" / "ingester" / "ingester.toml"
    assert find_configuration(None) == users
    here = write(home / "here" / "ingester.toml", "")
    assert find_configuration(None).resolve() == here
    assert find_configuration(home / "other.toml") == home / "other.toml"


@pytest.mark.parametrize("kind", ["every user may write", "a group may write", "owned", "a link"])
def test_a_file_that_another_user_could_have_written_is_ignored_unless_it_is_named(home, caplog, monkeypatch, kind):
    here, users = write(home / "here" / "ingester.toml", "depth = 20\n"), write(user_config_file(), "")
    monkeypatch.delenv("SUDO_UID", raising=False)
    if kind == "every user may write":
        here.chmod(0o666)
    elif kind == "a group may write":
        here.chmod(0o660)
        monkeypatch.setattr(private, "_is_of_one", lambda group, user: False)
    elif os.geteuid() != 0:
        pytest.skip("only root can make files of another user")
    elif kind == "owned":
        os.chown(here, NOBODY, NOBODY)
    else:
        here.rename(home / "elsewhere.toml")
        here.symlink_to(home / "elsewhere.toml")
        os.chown(here, NOBODY, NOBODY, follow_symlinks=False)
    assert find_configuration(None) == users
    assert "ingester.toml is ignored, because it can be changed by " in caplog.text
    assert "--config ingester.toml" in caplog.text
    assert find_configuration(here) == here
    assert read_configuration(here, "--config").values == {"depth": 20}
    if kind in ("owned", "a link"):  # sudo in one's own folder
        monkeypatch.setenv("SUDO_UID", str(NOBODY))
        assert find_configuration(None).resolve() == here.resolve()


def test_a_file_that_is_exchanged_after_it_was_found_is_refused(home):
    here = write(home / "here" / "ingester.toml", "", mode=0o666)
    with pytest.raises(SettingsError, match=r"can be changed by every user.*--config"):
        read_configuration(here)


def test_a_file_that_cannot_be_read_is_an_error_that_tells_who_named_it(home):
    with pytest.raises(SettingsError, match=r"--config names .*other.toml, .*No such file.*ingester init .*other.toml"):
        read_configuration(home / "other.toml", "--config")
    with pytest.raises(SettingsError, match=r"INGESTER_CONFIG names .*Is a directory"):
        read_configuration(home, "INGESTER_CONFIG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[start]\nexchange = binance\n", r"ingester.toml: this is not TOML: Invalid value \(at line 2, column 12\)"),
        ("depth 5\n", "ingester.toml: this is not TOML: .*line 1, column 7"),
        ("\n[start\n", "line 2, column 7"),
        ("a = 1\na = 2\n", "line 2"),
        ("[start]\nx = 1\n[start]\n", "line 3"),
        ('a = "no end', "Unterminated string"),
        (b'a = 1\r\nb = "\xff"\r\n', r"ingester.toml: this is not UTF-8 \(byte 13\)"),
        ("a = 1\n".encode("utf-16"), "this is not UTF-8"),
        ("a = " + "[" * 5000 + "]" * 5000, "too deep"),
        ("a = " + "9" * 5000, "this is not TOML: .*digits"),
    ],
)
def test_what_is_not_toml_is_refused_with_the_parsers_words(home, content, message):
    write(home / "here" / "ingester.toml", content)
    with pytest.raises(SettingsError, match=message):
        read_configuration(find_configuration(None))


def test_an_editor_on_another_system_does_no_harm(home):
    found = read_configuration(
        write(home / "here" / "ingester.toml", b"\xef\xbb\xbf# \xd1\x84\r\n[start]\r\ndepth = 10\r\n")
    )
    assert found.values == {"start": {"depth": 10}}


def test_errors_name_the_file_and_keep_passwords(home):
    found = read_configuration(write(home / "elsewhere" / "i.toml", 'a = 1\n[b]\n  c = "x"\n'))
    assert str(found.refuse("no: http://u:geheim@h")) == f"{home}/elsewhere/i.toml: no: http://u:***@h"


@pytest.mark.parametrize(
    ("content", "mode", "warned"),
    [
        ('questdb = "http://admin:geheim@db:9000"', 0o644, True),
        ('questdb-password = "geheim"', 0o604, True),
        ('[start]\nwebhook = "https://hooks.example/T0/geheim"', 0o644, True),
        ('[start]\nurls = ["http://db:9000", "https://h/?token=geheim"]', 0o644, True),
        ('questdb = "http://admin:geheim@db:9000"', 0o640, False),  # a service's group may have to read it
        ('questdb = "http://db:9000"\nquestdb-password-file = "/run/secrets/x"\n[start]\ndepth = 5', 0o644, False),
    ],
)
def test_a_password_that_everybody_can_read_is_warned_of(home, caplog, content, mode, warned):
    with caplog.at_level(logging.WARNING):
        read_configuration(write(home / "here" / "ingester.toml", content, mode))
    assert [record.getMessage() for record in caplog.records] == [
        "ingester.toml holds a password, and every user of this machine can read it: chmod 600 ingester.toml"
    ] * warned
    assert "geheim" not in caplog.text


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("questdb", "http://admin:geheim@db:9000", "http://admin:***@db:9000"),
        ("questdb", "https://admin:ge@heim/:x@db:9000/", "https://admin:***@db:9000/"),
        ("questdb", "http://db:9000", "http://db:9000"),
        ("questdb-password", "geheim", "***"),
        ("token", "geheim", "***"),
        ("INGESTER_QUESTDB_PASSWORD", "geheim", "***"),
        ("webhook", ["https://hooks.example/geheim"], ["***"]),
        ("questdb-password-file", "/run/secrets/db", "/run/secrets/db"),
        ("rest-url", "https://h/x?api_key=geheim&a=1", "https://h/x?api_key=***&a=1"),
        ("password", None, None),
        ("password", "", ""),
        ("keyboard", "x", "x"),
        ("depth", 5, 5),
    ],
)
def test_secrets_are_masked_and_nothing_else(key, value, shown):
    assert masked(key, value) == shown


def test_a_text_keeps_the_form_in_which_an_address_is_to_be_written():
    text = "Write https://user:password@host:9000, not https://u:geheim@h."
    assert masked_text(text) == "Write https://user:password@host:9000, not https://u:***@h."


def test_secrets_are_known_by_their_names():
    assert is_secret("questdb-token")
    assert not is_secret("questdb-token-file")
