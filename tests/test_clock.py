"""clock.py: time that does not jump, and waits."""

import time
from itertools import islice, pairwise

import pytest

from ingester.clock import (
    LEAP_NS,
    SECOND,
    Clock,
    PauseDetector,
    Throttle,
    backoff,
    busy_ns,
    check_clock,
    elapsed_ns,
    next_full_second,
)
from ingester.errors import ClockWrong


def test_a_step_of_the_wall_clock_does_not_move_receive_times():
    wall, monotonic = [1_000 * SECOND], [5 * SECOND]
    clock = Clock(lambda: wall[0], lambda: monotonic[0])
    assert clock.now() == 1_000 * SECOND
    wall[0] -= 3600 * SECOND
    monotonic[0] += 1
    assert clock.now() == 1_000 * SECOND + 1
    assert clock.step() == -3600 * SECOND - 1


@pytest.mark.parametrize("set_by", [-30 * SECOND, 30 * SECOND])
def test_a_step_is_told_once_and_followed_slowly_until_the_clocks_agree(set_by):
    wall, monotonic = [1_000 * SECOND], [5 * SECOND]
    clock = Clock(lambda: wall[0], lambda: monotonic[0])
    wall[0] += set_by
    told, before = [], clock.now()
    for _ in range(7_000):
        wall[0] += SECOND
        monotonic[0] += SECOND
        told.append(clock.follow())
        assert 0.99 * SECOND < clock.now() - before < 1.01 * SECOND
        before = clock.now()
    assert told[0] == set_by
    assert not any(told[1:])
    assert clock.step() == 0


@pytest.mark.parametrize("set_by", [-SECOND, SECOND])
def test_while_it_follows_the_wall_clock_it_never_goes_back(set_by):
    wall, monotonic = [1_000 * SECOND], [5 * SECOND]
    clock = Clock(lambda: wall[0], lambda: monotonic[0])
    wall[0] += set_by
    read = []
    for step in range(3_000):
        wall[0] += 1_000_003
        monotonic[0] += 1_000_003
        read.append(clock.now())
        if step % 1_000 == 0:
            clock.follow()
            read.append(clock.now())
    passed = [later - earlier for earlier, later in pairwise(read)]
    assert min(passed) >= 0
    assert max(passed) < 1_006_000
    assert abs(clock.step()) < abs(set_by)


def test_the_next_full_second_lies_after_now():
    assert next_full_second(5 * SECOND) == 6 * SECOND
    assert next_full_second(5 * SECOND + 1) == 6 * SECOND


def test_waits_double_up_to_the_cap_with_jitter_in_the_upper_half():
    assert list(islice(backoff(0.5, 3.0, lambda low, high: high), 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert list(islice(backoff(0.5, 3.0, lambda low, high: low), 5)) == [0.25, 0.5, 1.0, 1.5, 1.5]


@pytest.mark.parametrize("ahead", [LEAP_NS, 8 * 3600 * SECOND, 57 * 365 * 86_400 * SECOND])
def test_a_wall_clock_that_is_far_ahead_is_followed_at_once_and_time_still_rises(ahead):
    wall, monotonic = [1_000 * SECOND], [5 * SECOND]
    clock = Clock(lambda: wall[0], lambda: monotonic[0])
    before = clock.now()
    wall[0] += ahead
    assert clock.now() == before
    assert clock.follow() == ahead
    assert clock.leapt_ns == ahead
    assert clock.now() == wall[0]
    wall[0] += SECOND
    monotonic[0] += SECOND
    assert clock.follow() == 0
    assert clock.leapt_ns == 0
    assert clock.now() == wall[0]


def test_while_the_machine_is_suspended_the_time_goes_on():
    """CLOCK_BOOTTIME counts it, so it is no step."""
    wall, boot = [1_000 * SECOND], [5 * SECOND]
    clock = Clock(lambda: wall[0], lambda: boot[0])
    wall[0] += 8 * 3600 * SECOND
    boot[0] += 8 * 3600 * SECOND
    assert clock.now() == wall[0]
    assert clock.follow() == 0
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before <= elapsed_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("set_by", [-8 * 3600 * SECOND, -30 * SECOND, 30 * SECOND, 8 * 3600 * SECOND])
def test_whatever_is_set_time_never_goes_back(set_by):
    wall, monotonic = [10**6 * SECOND], [5 * SECOND]
    clock = Clock(lambda: wall[0], lambda: monotonic[0])
    wall[0] += set_by
    read = []
    for _ in range(10):
        clock.follow()
        for _ in range(4):
            read.append(clock.now())
            wall[0] += SECOND // 4
            monotonic[0] += SECOND // 4
    assert all(later > earlier for earlier, later in pairwise(read))


def test_a_clock_that_was_never_set_or_is_absurd_is_refused():
    with pytest.raises(ClockWrong, match=r"1970-01-01 00:01 .*timedatectl"):
        check_clock(60 * SECOND)
    with pytest.raises(ClockWrong, match=r"2106-02-07 06:28 UTC, which cannot be"):
        check_clock((2**32 - 1) * SECOND)
    check_clock(time.time_ns())


def test_a_thread_that_comes_back_late_was_paused_unless_work_held_it_up():
    at, busy = [0], [0]
    detector = PauseDetector(lambda: at[0], lambda: busy[0])

    def look_after(seconds, worked=0.0):
        at[0] += int(seconds * SECOND)
        busy[0] += int(worked * SECOND)
        return detector.look() / SECOND

    assert [look_after(0.5) for _ in range(3)] == [0, 0, 0]
    assert look_after(1.9) == 0
    assert look_after(3) == 3
    assert look_after(0.5) == 0
    assert look_after(3, worked=2.5) == 0
    assert look_after(0.1, worked=0.1) == 0
    assert look_after(4, worked=0.5) == 4
    assert look_after(8 * 3600, worked=1) == 8 * 3600


def test_work_of_the_process_is_seen():
    before, begun = busy_ns(), time.process_time_ns()
    while time.process_time_ns() - begun < SECOND // 20:
        pass
    assert busy_ns() - before >= SECOND // 20


def test_a_burst_passes_and_then_one_now_and_then():
    clock = [1000.0]
    throttle = Throttle(3, 10.0, lambda: clock[0])
    assert [throttle.take() for _ in range(5)] == [0, 0, 0, None, None]
    clock[0] += 9.9
    assert throttle.take() is None
    clock[0] += 0.2
    assert [throttle.take(), throttle.take()] == [3, None]
    clock[0] += 1000
    assert [throttle.take() for _ in range(4)] == [1, 0, 0, None]
    clock[0] -= 500  # a clock that goes back gives nothing
    assert throttle.take() is None
