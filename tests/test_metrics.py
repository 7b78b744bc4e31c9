"""metrics.py: quantiles."""

import math
import random

import pytest

from ingester.metrics import Histogram


def test_quantiles_are_within_five_percent():
    chance = random.Random(1)
    values = sorted(chance.lognormvariate(-2, 1.5) for _ in range(10_000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for q in (0.01, 0.5, 0.9, 0.99, 0.999):
        assert histogram.quantile(q) == pytest.approx(values[math.ceil(q * len(values)) - 1], rel=0.06)


def test_before_the_first_observation_there_is_no_quantile():
    assert math.isnan(Histogram().quantile(0.5))


def test_extremes_are_kept_in_the_outermost_buckets():
    histogram = Histogram()
    histogram.add(0.0)
    histogram.add(1e9)
    assert histogram.quantile(0.1) < 2e-5
    assert histogram.quantile(1.0) > 1000


def test_a_range_spreads_its_count_and_loses_none():
    histogram = Histogram()
    histogram.add_range(0.1, 1.1, 1003)
    assert histogram.total == 1003
    assert histogram.quantile(0.5) == pytest.approx(0.6, rel=0.1)
