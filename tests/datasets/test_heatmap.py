"""heatmap.py: which cells of the picture glare."""

import numpy as np
import pytest

from ingester.clock import SECOND
from ingester.datasets.coverage import Coverage, PairCoverage
from ingester.datasets.dataset import parse_time
from ingester.datasets.gaps import NOT_RECORDED, MissingTime
from ingester.datasets.heatmap import CLASSES, MOST_BINS, bin_edges, classes, draw, missing_shares

START = parse_time("2024-08-01")
HOUR, DAY = 3600 * SECOND, 86400 * SECOND
NAMES = [*(name for name, *_ in CLASSES), NOT_RECORDED]


def gap(since, until, reason="connection lost"):
    return MissingTime("XUSDT", START + round(since * SECOND), START + round(until * SECOND), reason, "a")


@pytest.mark.parametrize(
    "length", [SECOND, 90 * SECOND, HOUR, 5 * HOUR, DAY, 30 * DAY, 400 * DAY, 3000 * DAY, 50_000 * DAY]
)
def test_bins_cover_the_range_and_are_not_too_many(length):
    start, end = START + 7 * SECOND, START + 7 * SECOND + length
    edges = bin_edges(start, end)
    assert edges[0] <= start < edges[1]
    assert edges[-2] < end <= edges[-1]
    assert len(edges) - 1 <= MOST_BINS
    if 300 * SECOND <= length <= 3000 * DAY:
        assert len(edges) - 1 >= 50


def test_shares_are_those_of_each_bins_part_of_the_range():
    edges = [START + n * 100 * SECOND for n in range(5)]
    gaps = [gap(90, 250), gap(260, 270), gap(395, 400)]
    shares = missing_shares(gaps, edges, START + 50 * SECOND, START + 400 * SECOND)
    assert shares.tolist() == pytest.approx([0.2, 1.0, 0.6, 0.05])


def test_shares_equal_those_counted_second_by_second():
    random = np.random.default_rng(5)
    edges = [START + n * 60 * SECOND for n in range(-1, 31)]
    for _ in range(200):
        cuts = np.unique(random.integers(0, 1790, 8))
        gaps = [gap(since, until) for since, until in zip(cuts[::2], cuts[1::2], strict=False)]
        missing = np.zeros(31 * 60)
        for since, until in zip(cuts[::2], cuts[1::2], strict=False):
            missing[since + 60 : until + 60] = 1
        expected = missing.reshape(31, 60).sum(axis=1) / 60
        found = missing_shares(gaps, edges, START - 60 * SECOND, START + 1800 * SECOND)
        assert found == pytest.approx(expected)


def test_small_and_large_gaps_and_time_that_was_not_recorded_are_told_apart():
    edges = [START + n * 10_000 * SECOND for n in range(9)]
    gaps = [
        gap(0, 12_000, NOT_RECORDED),
        gap(25_000, 25_001),
        gap(35_000, 35_050),
        gap(45_000, 45_900),
        gap(50_000, 54_000),
        gap(60_000, 70_000),
    ]
    found = [NAMES[place] for place in classes(gaps, edges, START, START + 80_000 * SECOND)]
    assert found == [
        NOT_RECORDED,
        "up to 50 %",
        "up to 0.1 % missing",
        "up to 1 %",
        "up to 10 %",
        "up to 50 %",
        "more",
        "complete",
    ]


@pytest.mark.parametrize(("pairs", "days"), [(1, 0.01), (44, 30), (600, 3)])
def test_a_picture_is_drawn_of_few_and_of_many_pairs(pairs, days):
    end = START + round(days * DAY)
    gaps = [gap(10, 60), gap(500, 700, NOT_RECORDED)]
    names = [f"P{number}USDT" for number in range(pairs)]
    coverages = [PairCoverage(Coverage(name, START, end, 5, SECOND, gaps), []) for name in names]
    assert draw(coverages, START, end).startswith(b"\x89PNG")


def test_names_of_any_letters_are_drawn_as_they_are(caplog, recwarn):
    """Without the fonts for them too; what looks like a formula is none."""
    names = ["币安人生USDT", "A$B$\\frac$USDT"]
    coverages = [PairCoverage(Coverage(name, START, START + DAY, 5, SECOND, []), []) for name in names]
    assert draw(coverages, START, START + DAY).startswith(b"\x89PNG")
    assert not recwarn.list
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert all("币安人生USDT" in text for text in told)
    assert len(told) <= 1
