"""What the system refuses, wherever in a command: one sentence with the file and the reason, exit code 1."""

import errno
import os

import pytest
from click.testing import CliRunner

from ingester.cli import cli
from ingester.questdb.server import ManagedServer


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize("names", [("/data/\x1b[31mfile",), ("a", None, "b"), ()])
def test_an_error_of_the_system_is_one_sentence(monkeypatch, tmp_path, number, names):
    def fail(self):
        raise OSError(number, os.strerror(number), *names)

    monkeypatch.setattr(ManagedServer, "ensure", fail)
    answer = CliRunner().invoke(cli, ["server", "start", "--data-dir", str(tmp_path)])
    assert answer.exit_code == 1
    assert "Traceback" not in answer.output
    assert os.strerror(number) in answer.output
    assert "\x1b" not in answer.output
    for name in filter(None, names or (str(tmp_path),)):
        assert name.replace("\x1b", "\\x1b") in answer.output
    assert len(answer.output.splitlines()) == 1
