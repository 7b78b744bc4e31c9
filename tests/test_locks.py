"""locks.py: locks between processes."""

import fcntl
import os
import threading

import pytest

from ingester.locks import is_locked, take_lock


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
