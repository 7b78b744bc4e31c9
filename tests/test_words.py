"""words.py: numbers, durations and names in words."""

import pytest

from ingester.words import counted, duration_text, nearest_text, size_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "40 ms"),
        (119.96, "120.0 s"),
        (120, "2.0 min"),
        (7199, "120.0 min"),
        (19_080, "5.3 h"),
        (181_440, "2.1 d"),
    ],
)
def test_a_duration_has_the_unit_of_which_it_has_at_least_two(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(470_000, "470 kB"), (1_000_000, "1.0 MB"), (12_345_678_901, "12.3 GB"), (5e12, "5,000.0 GB")]
)
def test_a_size_has_the_largest_unit_that_fits(size, text):
    assert size_text(size) == text


def test_one_is_singular():
    assert [counted(number, "pair") for number in (0, 1, 1500)] == ["0 pairs", "1 pair", "1,500 pairs"]


def test_names_that_resemble_are_offered_each_once_or_something_else():
    known = ["BTCUSDT", "BTCUSDC", "BTCUSDT", "XRPUSDT"]
    assert nearest_text("BTCUSTD", known, "none") == "Nearest names: BTCUSDT, BTCUSDC."
    assert nearest_text("Q", known, "It records others.") == "It records others."
