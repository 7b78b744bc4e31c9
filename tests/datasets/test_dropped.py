"""What retention has dropped, taken out of gaps."""

import pytest

from ingester.clock import SECOND
from ingester.datasets.dropped import DROPPED, explained, length_ns, without
from ingester.datasets.gaps import NOT_RECORDED, UNEXPLAINED, MissingTime
from ingester.datasets.spans import DAY

DAYS = [(10 * DAY, 12 * DAY)]


def gap(since_ns, until_ns, reason=NOT_RECORDED):
    return MissingTime("AUSDT", since_ns, until_ns, reason, "a")


def told(gaps):
    return [(each.since_ns, each.until_ns, each.reason) for each in gaps]


@pytest.mark.parametrize(
    ("since_ns", "until_ns", "parts"),
    [
        (9 * DAY, 10 * DAY, [(9 * DAY, 10 * DAY, NOT_RECORDED)]),
        (12 * DAY, 13 * DAY, [(12 * DAY, 13 * DAY, NOT_RECORDED)]),
        (10 * DAY, 12 * DAY, [(10 * DAY, 12 * DAY, DROPPED)]),
        (10 * DAY + 5, 11 * DAY, [(10 * DAY + 5, 11 * DAY, DROPPED)]),
        (
            9 * DAY,
            13 * DAY,
            [(9 * DAY, 10 * DAY, NOT_RECORDED), (10 * DAY, 12 * DAY, DROPPED), (12 * DAY, 13 * DAY, NOT_RECORDED)],
        ),
        # up to the first book after it, however soon that comes
        (10 * DAY - SECOND // 10, 12 * DAY + SECOND // 10, [(10 * DAY, 12 * DAY + SECOND // 10, DROPPED)]),
        (
            10 * DAY - SECOND // 10,
            12 * DAY + 420 * SECOND,
            [(10 * DAY, 12 * DAY, DROPPED), (12 * DAY, 12 * DAY + 420 * SECOND, NOT_RECORDED)],
        ),
    ],
)
def test_a_gap_is_told_apart_from_what_was_dropped_of_it(since_ns, until_ns, parts):
    assert told(explained([gap(since_ns, until_ns)], DAYS)) == parts
    assert told(without([gap(since_ns, until_ns)], DAYS)) == [part for part in parts if part[2] != DROPPED]


def test_a_moment_that_the_rhythm_of_the_pair_allows_is_no_gap_of_its_own():
    slow = [gap(10 * DAY - 20 * SECOND, 12 * DAY + 30 * SECOND)]
    assert told(explained(slow, DAYS, 60 * SECOND)) == [(10 * DAY, 12 * DAY + 30 * SECOND, DROPPED)]
    assert without(slow, DAYS, 60 * SECOND) == []
    assert [each.length_ns for each in without(slow, DAYS, 25 * SECOND)] == [30 * SECOND]


def test_a_short_gap_beside_stays_whole():
    short = gap(9 * DAY, 9 * DAY + 1, UNEXPLAINED)
    assert explained([short], DAYS) == [short]


def test_only_what_lies_in_a_range_counts():
    assert length_ns(DAYS, 0, 20 * DAY) == 2 * DAY
    assert length_ns(DAYS, 11 * DAY, 20 * DAY) == DAY
    assert length_ns(DAYS, 12 * DAY, 20 * DAY) == 0
