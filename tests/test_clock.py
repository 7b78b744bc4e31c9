"""clock.py: time that does not jump, and waits."""

from itertools import islice, pairwise

import pytest

from ingester.clock import SECOND, Clock, backoff, next_full_second


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
