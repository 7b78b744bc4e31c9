"""settings.py: values that can be used, and words for those that cannot."""

import pytest

from ingester.config.settings import Settings, default_collector, interval_ms, seconds
from ingester.errors import SettingsError
from ingester.exchange import VENUES


@pytest.mark.parametrize(("text", "value"), [("60s", 60), ("100ms", 0.1), ("5m", 300), ("1.5h", 5400), ("1d", 86400)])
def test_durations(text, value):
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["60", "", "s", "-5s", "0s", "5 parsecs", "1e3s"])
def test_what_is_no_duration_is_named(text):
    with pytest.raises(SettingsError, match="100ms, 60s"):
        seconds(text)


def test_intervals_are_multiples_of_what_the_exchange_sends():
    assert interval_ms("300ms", VENUES["binance"].books) == 300
    assert interval_ms("1s", VENUES["binance"].books) == 1000
    for text in ("50ms", "250ms", "0.15s"):
        with pytest.raises(SettingsError, match=text):
            interval_ms(text, VENUES["binance"].books)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"symbols": ()}, "--coins"),
        ({"depth": 7}, "5, 10 or 20"),
        ({"connections": 0}, "--connections 0"),
        ({"rotate_seconds": 25 * 3600}, "--rotate-every 90000s"),
        (
            {"exchange": VENUES["binance"].at(name="a, b", stream_url="wss://books.example")},
            "name 'a, b' is not usable",
        ),
        ({"collector": "with space"}, "'with space'"),
        ({"collector": ""}, "--collector"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_name(change, words):
    with pytest.raises(SettingsError, match=words):
        Settings(**({"symbols": ("BTCUSDT",), "exchange": VENUES["binance"]} | change))


def test_the_default_collector_is_a_valid_name():
    assert Settings(("BTCUSDT",), VENUES["binance"]).collector == default_collector()
