"""Secrets in files: what is read, what is refused, and that no message holds one."""

import os

import pytest

from ingester.errors import SettingsError
from ingester.questdb.secrets import read_secret


@pytest.mark.parametrize(
    ("content", "secret"), [(b"pa ss", "pa ss"), (b"pass\n", "pass"), (b"pass\r\n", "pass"), ("päß ".encode(), "päß ")]
)
def test_the_lines_end_is_not_part_of_it(tmp_path, content, secret):
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    assert read_secret(path) == secret


@pytest.mark.parametrize("content", [b"", b"\n", b"hidden\nhidden\n", b"\xff\xfehidden", b"hidden" * 20_000])
def test_what_cannot_be_one_is_refused_with_the_files_name_and_without_its_content(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        read_secret(path)
    assert str(path) in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SettingsError, match=f"{path} cannot be read"):
            read_secret(path)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_file_that_everybody_may_read_is_told(tmp_path, caplog, mode, warned):
    path = tmp_path / "secret"
    path.write_text("hidden")
    os.chmod(path, mode)
    assert read_secret(path) == "hidden"
    assert (f"{path}" in caplog.text) is warned
    assert "hidden" not in caplog.text


def test_a_file_that_others_may_change_is_not_used(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_text("hidden")
    path.chmod(0o666)
    with pytest.raises(SettingsError, match=rf"{path} can be changed by every user .*chmod 600") as refused:
        read_secret(path)
    assert "hidden" not in str(refused.value)
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    os.chown(path, 65534, -1) if os.getuid() == 0 else None
    with pytest.raises(SettingsError, match=r"can be changed by user \S+, who owns it"):
        read_secret(path)
