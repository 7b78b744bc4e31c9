"""retry_after.py: whatever an exchange sends becomes seconds that can be waited for."""

import email.utils
import threading

import pytest
from hypothesis import given, settings, strategies as st

from ingester.exchange.retry_after import LONGEST_SECONDS, retry_after

NOW = 1_795_784_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("2.5", 2.5),
        ("3600", 3600.0),
        ("86400", LONGEST_SECONDS),  # a ban of a day is asked about again after an hour
        ("259200", LONGEST_SECONDS),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90.0),
        (email.utils.formatdate(NOW - 90, usegmt=True), 0.0),
        (str(round(NOW) + 60), 60.0),  # Unix time in s
        (str(round(NOW * 1000) + 60_000), 60.0),  # and in ms
        ("1618228675371", 0.0),  # a moment that is over
        *((text, None) for text in ("99999999999", "inf", "-inf", "nan", "1e400", "-5", "", "soon", "9" * 4000)),
        (None, None),
    ],
)
def test_what_a_header_means(header, seconds):
    assert retry_after(header, now=lambda: NOW) == (seconds if seconds is None else pytest.approx(seconds, abs=1.0))


def test_without_a_header_the_text_of_a_ban_counts():
    body = b'{"code":-1003,"msg":"Way too much request weight used; IP banned until %d."}'
    assert retry_after(None, body % (NOW * 1000 + 42_000), lambda: NOW) == pytest.approx(42.0)
    assert retry_after("inf", body % (NOW * 1000 + 42_000), lambda: NOW) == pytest.approx(42.0)
    assert retry_after("5", body % (NOW * 1000 + 42_000), lambda: NOW) == 5.0
    assert retry_after(None, body % 9999999999999999, lambda: NOW) is None


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30) | st.floats().map(str) | st.integers().map(str), st.binary(max_size=60))
def test_nothing_ends_a_wait_with_an_error(header, body):
    seconds = retry_after(header, b"banned until " + body)
    assert seconds is None or 0 <= seconds <= LONGEST_SECONDS <= threading.TIMEOUT_MAX
