"""journal.py: what is counted, and for how long it is remembered."""

from ingester.clock import SECOND
from ingester.events import REASONS, Event
from ingester.sequence.event_counts import DAY_NS, EventCounts, GapSum, PastGap

NOW = 1_700_000_000 * SECOND


def gap(seconds, until_ns=NOW, symbol="BTCUSDT", detail="connection lost"):
    return Event(until_ns - int(seconds * SECOND), "gap", symbol, detail=detail, until_ns=until_ns)


def test_events_are_counted_by_kind_with_the_time_of_the_last():
    event_counts = EventCounts()
    event_counts.add([Event(NOW, "connected", connection="1a"), Event(NOW + 1, "connected", connection="1b")])
    event_counts.add([Event(NOW + 2, "dead_letter")])
    entries = event_counts.read(NOW)
    assert entries.events == {"connected": 2, "dead_letter": 1}
    assert entries.last_ns == {"connected": NOW + 1, "dead_letter": NOW + 2}


def test_gaps_count_once_they_are_over_by_reason_without_the_state_behind_it():
    event_counts = EventCounts()
    event_counts.add([gap(3.0), gap(2.0, detail="exchange silent (HALT)")])
    event_counts.add([Event(NOW, "gap", "ETHUSDT", detail="exchange silent")])  # not over
    entries = event_counts.read(NOW)
    assert set(entries.gaps) == set(REASONS)  # also those that never happened: a rate needs a zero to rise from
    assert entries.gaps["connection lost"] == GapSum(1, 3.0)
    assert entries.gaps["exchange silent"] == GapSum(1, 2.0)
    assert entries.recent[0] == PastGap("BTCUSDT", NOW, 3.0, "connection lost")
    assert entries.events["gap"] == 3


def test_a_day_later_a_gap_counts_only_in_the_total():
    event_counts = EventCounts()
    event_counts.add([gap(3.0)])
    assert event_counts.read(NOW + DAY_NS // 2).day == GapSum(1, 3.0)
    event_counts.add([gap(4.0, NOW + DAY_NS // 2)])
    assert event_counts.read(NOW + DAY_NS + 120 * SECOND).day == GapSum(1, 4.0)
    assert event_counts.read(NOW + 2 * DAY_NS).day == GapSum()
    assert event_counts.read(NOW + 2 * DAY_NS).gaps["connection lost"] == GapSum(2, 7.0)


def test_the_last_gaps_are_told_together_the_longest_first():
    event_counts = EventCounts()
    assert event_counts.gaps_text() == "none"
    event_counts.add([gap(9.0, NOW - 60 * SECOND, "EDUUSDT")])
    event_counts.add([gap(2.0, symbol="ADAUSDT"), gap(3.5, symbol="BTCUSDT"), gap(1.0, symbol="SOLUSDT")])
    event_counts.add([gap(1.5, NOW + SECOND // 2, "ETHUSDT")])
    assert event_counts.last_gap() == "3.5 s on BTCUSDT, ADAUSDT, ETHUSDT and 1 more: connection lost"
    event_counts.add([gap(30.0, symbol="", detail="spool damaged: 12 rows")])
    assert event_counts.gaps_text() == "6, the last 30.0 s on all pairs: spool damaged: 12 rows"
