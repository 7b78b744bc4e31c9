"""Calls that are waited for so long and no longer."""

import threading
import time

import pytest

from ingester.deadline import beside, within


def test_a_call_in_time_gives_its_result_or_raises_what_it_raises():
    assert within(5, lambda: 7, "seven") == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0, "divide")


def test_a_call_that_takes_longer_is_left_behind_and_may_still_end():
    release = threading.Event()
    begun = time.monotonic()
    late = beside(lambda: release.wait(30), "late")
    with pytest.raises(TimeoutError):
        late.result(0.1)
    assert time.monotonic() - begun < 5
    release.set()
    assert late.result(5) is True
