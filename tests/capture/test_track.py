"""track.py: in which order ids pass, and what is a gap."""

from feed_bench import Bench

from ingester.capture.track import RESTART_AFTER
from ingester.clock import SECOND


def test_a_pause_within_a_pairs_own_rhythm_is_no_gap_and_one_beyond_it_is():
    bench = Bench(symbols=["BTCUSDT", "SLOWUSDT"])
    bench.begin()
    for second in range(240):
        bench.book("BTCUSDT", second)
        if second % 20 == 0:
            bench.book("SLOWUSDT", second)
        bench.turn(1)
    before = len(bench.gaps())
    assert before <= 2  # until its rhythm was known
    for second in range(240, 300):
        bench.book("BTCUSDT", second)
        bench.turn(1)
    bench.book("SLOWUSDT", 300)
    bench.turn(1)
    assert len(bench.gaps()) == before
    for second in range(300, 1100):
        bench.book("BTCUSDT", second)
        bench.turn(1)
    bench.book("SLOWUSDT", 1100)
    bench.turn(1)
    ((symbol, since, until, reason),) = bench.gaps()[before:]
    assert (symbol, reason) == ("SLOWUSDT", "exchange silent")
    assert until - since > 790 * SECOND


def test_after_a_restart_every_pair_has_a_gap_since_the_earlier_run():
    bench = Bench()
    bench.continuity.resume(900 * SECOND)
    bench.begin()
    bench.book("BTCUSDT", 1)
    bench.turn(2)
    assert bench.gaps() == [("BTCUSDT", 900 * SECOND, bench.now_ns - 2 * SECOND, "restart")]
    bench.turn(10)
    assert ("ETHUSDT", 900 * SECOND, None, "restart") in bench.gaps()
    bench.continuity.close(bench.now_ns)
    assert ("ETHUSDT", 900 * SECOND, bench.now_ns, "restart") in bench.gaps()


def test_a_crossed_book_is_a_gap_unless_a_sound_copy_comes():
    bench = Bench(copies=2)
    bench.begin()
    bench.book("BTCUSDT", 1)
    bench.feed.poll()
    since = bench.now_ns
    bench.book("BTCUSDT", 2, bids=((3.0, 1.0),))
    bench.book("BTCUSDT", 2, stream=1)
    bench.book("BTCUSDT", 3, bids=((3.0, 1.0),))
    assert bench.ids() == [("BTCUSDT", 2)]
    assert bench.gaps() == []
    bench.book("BTCUSDT", 4)
    bench.feed.poll()
    ((symbol, since_ns, _, reason),) = bench.gaps()
    assert (symbol, reason) == ("BTCUSDT", "quarantined")
    assert since_ns == since + 1_000  # the receive time of 2


def test_a_cut_frame_counts_as_its_pairs_and_garbage_as_that_of_a_pair_that_comes_late():
    bench = Bench()
    bench.begin()
    for tick in range(40):
        for symbol in ("BTCUSDT", "ETHUSDT"):
            bench.book(symbol, tick)
        bench.feed.poll()
        bench.now_ns += SECOND // 10
    assert bench.gaps() == []
    bench.say(b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":40,"bi')
    bench.book("ETHUSDT", 40)
    bench.feed.poll()
    bench.now_ns += SECOND // 10
    bench.book("BTCUSDT", 41)
    bench.book("ETHUSDT", 41)
    bench.feed.poll()
    assert [gap[0] for gap in bench.gaps()] == ["BTCUSDT"]
    bench.say(b"<html>")
    bench.now_ns += SECOND // 10
    bench.book("BTCUSDT", 42)
    bench.feed.poll()
    bench.now_ns += SECOND // 10
    bench.book("ETHUSDT", 43)
    bench.feed.poll()
    assert [gap[0] for gap in bench.gaps()] == ["BTCUSDT", "ETHUSDT"]


def test_a_connection_that_lags_behind_another_brings_nothing_twice():
    bench = Bench(copies=2)
    bench.begin()
    for update_id in range(1, 200):
        bench.book("BTCUSDT", update_id, 0)
        bench.feed.poll()
    bench.lose(0)
    for update_id in range(1, 203):
        bench.book("BTCUSDT", update_id, 1)
    assert bench.ids() == [("BTCUSDT", 200), ("BTCUSDT", 201), ("BTCUSDT", 202)]
    assert bench.kinds("update_ids_restarted") == []


def test_update_ids_that_fall_behind_wait_until_the_exchange_is_seen_to_count_anew():
    bench = Bench()
    bench.book("BTCUSDT", 1000)
    for update_id in range(1, RESTART_AFTER + 3):
        bench.book("BTCUSDT", update_id)
    assert bench.ids() == [("BTCUSDT", 1000), *(("BTCUSDT", i) for i in range(RESTART_AFTER, RESTART_AFTER + 3))]
    assert [event.kind for event in bench.events] == ["update_ids_restarted"]


def test_an_odd_late_frame_does_not_count_towards_a_restart():
    bench = Bench()
    for update_id in range(1000, 1000 + 2 * RESTART_AFTER):
        bench.book("BTCUSDT", update_id)
        bench.book("BTCUSDT", 7)
    assert len(bench.ids()) == 2 * RESTART_AFTER


def test_receive_times_rise_by_the_tables_resolution_even_within_one_read():
    bench = Bench()
    bench.book("BTCUSDT", 1)
    bench.book("BTCUSDT", 2)
    bench.book("ETHUSDT", 2)
    first, second, other = bench.feed.poll()
    assert second.receive_ns - first.receive_ns == 1_000
    assert other.receive_ns == first.receive_ns == bench.now_ns


def test_what_a_lagging_connection_did_not_bring_before_another_joined_is_a_gap():
    for late in (True, False):  # it comes too late, or not at all
        bench = Bench(copies=2)
        bench.begin()
        bench.book("BTCUSDT", 1, 0)
        bench.feed.poll()
        since = bench.now_ns
        bench.now_ns += 300_000_000
        bench.book("BTCUSDT", 5, 1)
        bench.feed.poll()
        until = bench.now_ns
        if late:
            bench.book("BTCUSDT", 3, 0)
        else:
            bench.lose(0)
        bench.feed.poll()
        assert bench.gaps() == [("BTCUSDT", since, until, "connection lost")]


def test_where_a_connection_joins_that_is_not_ahead_nothing_is_missing():
    bench = Bench(copies=2)
    bench.begin()
    bench.book("BTCUSDT", 1, 0)
    bench.book("BTCUSDT", 3, 1)
    bench.book("BTCUSDT", 3, 0)
    bench.lose(0)
    bench.book("BTCUSDT", 5, 1)
    bench.feed.poll()
    assert bench.gaps() == []
