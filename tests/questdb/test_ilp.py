"""ilp.py reads back what the questdb client writes."""

from hypothesis import given, settings, strategies as st

from ingester.book import OrderBook
from ingester.events import Event
from ingester.questdb import ilp
from ingester.questdb.encoder import RowEncoder

NS = 1_700_000_000_123_456_789
ODD = st.text(st.one_of(st.sampled_from('\\ ,="\n\r\x10A'), st.characters(codec="utf-8")), min_size=1, max_size=12)
NUMBERS = st.one_of(st.floats(allow_nan=False), st.sampled_from([7.2911220195563975e-304, 5e-324, 1.0]))
LEVELS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6)
TIMES = st.integers(0, 2**62)
SNAPSHOTS = st.builds(OrderBook, ODD, TIMES, st.integers(-(2**63) + 1, 2**63 - 1), LEVELS, LEVELS, st.none() | TIMES)
ENCODER = RowEncoder(depth=5, exchange="binance", collector='a b,c="\\\n')  # many of them in a row make the client warn
EVENTS = st.builds(Event, TIMES, ODD, ODD | st.just(""), ODD | st.just(""), ODD | st.just(""), st.none() | TIMES)


@settings(deadline=None)
@given(st.lists(SNAPSHOTS, max_size=8))
def test_each_snapshot_is_a_row_with_its_tags(snapshots):
    rows = ilp.rows(ENCODER.snapshots(snapshots))
    assert rows == [ENCODER.snapshots([snapshot]) for snapshot in snapshots]
    assert [ilp.tags(row) for row in rows] == [("orderbook", s.symbol, s.update_id, s.receive_ns) for s in snapshots]


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=8))
def test_each_event_is_a_row_with_its_tags(events):
    rows = ilp.rows(ENCODER.events(events))
    assert rows == [ENCODER.events([event]) for event in events]
    tags = [ilp.tags(row) for row in rows]
    assert tags == [("collector_events", event.symbol or None, None, event.at_ns) for event in events]


def test_a_double_may_hold_any_bytes():
    for byte in range(256):
        number = bytes([byte]) * 8
        row = b"orderbook,symbol=A bid_1==\x10" + number + b",bidv_1==\x10" + number + b" 1\n"
        assert ilp.rows(row * 3) == [row] * 3


@given(st.lists(SNAPSHOTS, min_size=1, max_size=3), st.binary(min_size=1))
def test_what_is_no_row_is_given_back_whole(snapshots, garbage):
    good = ENCODER.snapshots(snapshots)
    rows = ilp.rows(good + b",,," + garbage)
    assert rows[: len(snapshots)] == ilp.rows(good)
    assert b"".join(rows) == good + b",,," + garbage


def test_a_row_that_cannot_be_read_has_no_tags():
    assert ilp.tags(b"\xff no row") == (None, None, None, None)
