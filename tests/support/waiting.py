"""Waiting in tests for what happens in other threads and processes."""

import time


def eventually(condition, seconds=30, what="it"):
    """Waits until `condition` gives something true, and gives that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never came within {seconds} s"
        time.sleep(0.05)
    return found
