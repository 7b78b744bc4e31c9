"""How far the spool is acknowledged: a file that cannot be read now is not a file that is not there."""

import contextlib
import errno
import os
import resource
from pathlib import Path

import pytest
from spools import SMALL, append, numbers, take_all

from ingester.errors import SpoolError
from ingester.spool.spool import Spool


@pytest.fixture
def unreadable(monkeypatch):
    """Lets the file of the position fail with an error of the system."""

    def unreadable(number):
        read_bytes = Path.read_bytes

        def refuse(path):
            if path.name == "position":
                raise OSError(number, os.strerror(number))
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)

    return unreadable


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("segments", [True, False])
def test_a_position_that_cannot_be_read_now_is_kept_and_numbers_go_on_from_it(
    tmp_path, opened, monkeypatch, unreadable, number, segments
):
    spool = opened(tmp_path)
    for each in range(100):
        append(spool, each)
    take_all(spool)
    spool.close()
    if not segments:
        for path in tmp_path.glob("0*"):
            path.unlink()
    before = (tmp_path / "position").read_bytes()
    unreadable(number)
    with pytest.raises(SpoolError, match=os.strerror(number)):
        Spool(tmp_path, **SMALL).open()
    monkeypatch.undo()
    assert (tmp_path / "position").read_bytes() == before
    spool = opened(tmp_path)
    append(spool, 100)
    assert [record.sequence for record in spool.peek(1000)] == [101]
    assert numbers(take_all(spool)) == [100]


def test_without_a_free_descriptor_no_position_is_taken_for_lost(tmp_path, opened):
    """Whichever of the files that a start opens is the first for which there is no descriptor."""
    spool = opened(tmp_path)
    for each in range(20):
        append(spool, each)
    take_all(spool)
    spool.close()
    before = (tmp_path / "position").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opens = 0
    for free in range(12):
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
        spool = Spool(tmp_path, **SMALL)
        try:
            with contextlib.suppress(SpoolError):
                recovery = spool.open()
                assert (recovery.position_missing, recovery.rows_waiting) == (False, 0)
                opens += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            spool.close()
        assert (tmp_path / "position").read_bytes() == before
    assert 0 < opens < 12
