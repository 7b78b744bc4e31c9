"""vitals.py: gaps of the last minutes, and rows in bytes. Reading a whole recorder: tests/test_watching.py."""

import pytest

from ingester.clock import SECOND
from ingester.events import Event
from ingester.monitoring.monitor import recent_gaps, row_bytes
from ingester.sequence.event_counts import EventCounts

NOW = 1_700_000_000 * SECOND


def test_gaps_of_one_reason_are_told_together_and_old_ones_not_at_all():
    event_counts = EventCounts()
    for symbol, seconds, ago, reason in (
        ("BTCUSDT", 60, 10, "restart"),
        ("ETHUSDT", 90, 12, "restart"),
        ("ETHUSDT", 2, 5, "connection lost"),
        ("XRPUSDT", 900, 301, "restart"),
    ):
        until = NOW - ago * SECOND
        event_counts.add([Event(until - seconds * SECOND, "gap", symbol, detail=reason, until_ns=until)])
    restart, lost = recent_gaps(event_counts.read(NOW), NOW)
    assert (restart.reason, restart.pairs, restart.longest_seconds) == ("restart", 2, 90.0)
    assert restart.last_end.timestamp() == (NOW - 10 * SECOND) / SECOND
    assert (lost.reason, lost.pairs) == ("connection lost", 1)


def test_a_row_of_depth_5_takes_what_was_measured():
    assert row_bytes(5) == pytest.approx(220, abs=2)
