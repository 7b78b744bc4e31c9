"""slot.py: connections watched for silence, and replaced before their end."""

from feed_bench import Bench

from ingester.connection.websocket import Lost
from ingester.exchange import ListingStatus


def test_a_connection_without_moving_ids_is_made_anew_with_growing_patience():
    bench = Bench()
    bench.begin()
    for second in range(16):  # the same book again and again is no life
        bench.book("BTCUSDT", 1 + min(second, 1))
        bench.turn(1)
    (reason,) = bench.streams[0].renewals
    assert "no data" in reason
    bench.lose(reason=reason)
    bench.open()
    bench.turn(19)  # twice the patience now: of ten times the rhythm
    assert len(bench.streams[0].renewals) == 1
    bench.turn(4)
    assert len(bench.streams[0].renewals) == 2


def test_a_silent_pair_is_subscribed_anew_then_asked_about_and_halted_it_is_left_alone():
    bench = Bench()
    bench.begin()
    for second in range(60):
        bench.book("BTCUSDT", second)
        bench.turn(1)
    (opened,) = (gap for gap in bench.gaps() if gap[0] == "ETHUSDT")
    assert opened[2] is None
    methods = [request["method"] for request in bench.streams[0].sent[1:]]
    assert methods[:2] == ["UNSUBSCRIBE", "SUBSCRIBE"]
    assert all(request["params"] == ["ethusdt@depth5@100ms"] for request in bench.streams[0].sent[1:])
    assert bench.inquiry.asked == 1
    bench.inquiry.answers.append({"BTCUSDT": ListingStatus.TRADING, "ETHUSDT": ListingStatus.BREAK})
    bench.turn(1)
    sent = len(bench.streams[0].sent)
    for second in range(60, 500):
        bench.book("BTCUSDT", second)
        bench.turn(1)
    assert len(bench.streams[0].sent) == sent
    assert bench.streams[0].renewals == []
    assert 2 <= bench.inquiry.asked <= 4
    bench.book("ETHUSDT", 1)
    bench.feed.poll()
    assert [event.detail for event in bench.kinds("status")] == ["BREAK", "TRADING"]
    (closed,) = (gap for gap in bench.gaps() if gap[0] == "ETHUSDT")
    assert closed == ("ETHUSDT", opened[1], bench.now_ns, "exchange silent (BREAK)")


def test_a_pair_that_one_connection_lost_is_subscribed_anew_there_and_has_no_gap():
    bench = Bench(copies=2)
    bench.begin()
    for second in range(26):
        for stream in (0, 1):
            bench.book("BTCUSDT", second, stream)
        bench.book("ETHUSDT", second, 0)
        bench.turn(1)
    assert len(bench.streams[0].sent) == 1
    assert [request["method"] for request in bench.streams[1].sent] == ["SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE"]
    assert bench.gaps() == []


def rotate(bench):
    """Lets the connection grow old, while books come every second."""
    for second in range(12):
        bench.book("BTCUSDT", second)
        bench.book("ETHUSDT", second)
        bench.turn(1)
    old, new = bench.streams
    assert new.started
    assert not old.stopped
    return old, new


def test_a_connection_is_replaced_when_the_new_one_delivers_every_pair():
    bench = Bench(life=10)
    bench.begin()
    old, new = rotate(bench)
    bench.open(1)
    bench.feed.poll()
    assert [request["method"] for request in new.sent] == ["SUBSCRIBE"]
    bench.book("BTCUSDT", 50, 1)
    bench.turn(1)
    assert not old.stopped
    bench.book("ETHUSDT", 50, 1)
    bench.turn(1)
    assert old.stopped
    assert len(bench.kinds("rotated")) == 1
    bench.book("BTCUSDT", 51, 0)  # still on the way from the old one
    bench.arrive(Lost(old, bench.now_ns, "stopped", final=True))
    bench.book("BTCUSDT", 52, 1)
    assert bench.ids() == [("BTCUSDT", 51), ("BTCUSDT", 52)]
    assert bench.gaps() == []


def test_a_replacement_that_lacks_a_pair_goes_and_another_one_is_tried():
    bench = Bench(life=10)
    bench.begin()
    old, new = rotate(bench)
    bench.open(1)
    for second in range(50, 180):
        bench.book("BTCUSDT", second, 0)
        bench.book("ETHUSDT", second, 0)
        bench.book("BTCUSDT", second, 1)
        bench.turn(1)
    assert new.stopped
    assert not old.stopped
    assert len(bench.streams) == 3
    assert bench.gaps() == []


def test_a_pair_that_is_silent_on_both_does_not_keep_the_old_connection():
    bench = Bench(life=10)
    bench.begin()
    for second in range(12):
        bench.book("BTCUSDT", second)
        bench.turn(1)
    bench.open(1)
    for second in range(12, 30):
        bench.book("BTCUSDT", second, 0)
        bench.book("BTCUSDT", second, 1)
        bench.turn(1)
    assert bench.streams[0].stopped


def test_an_announced_shutdown_has_the_connection_replaced_at_once():
    bench = Bench(symbols=["BTCUSDT"])
    bench.begin()
    bench.book("BTCUSDT", 1)
    bench.say({"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": 1}})
    bench.feed.poll()
    assert len(bench.streams) == 2
    assert bench.streams[1].started
    bench.open(1)
    bench.feed.poll()
    bench.lose(0)  # before the new one delivers
    since = bench.now_ns
    bench.now_ns += 100_000_000
    bench.book("BTCUSDT", 2, 1)
    bench.feed.poll()
    assert bench.streams[0].stopped
    assert bench.gaps() == [("BTCUSDT", since, bench.now_ns, "connection lost")]
    assert bench.feed.connections == bench.feed.connected == 1
