"""feed.py: which snapshots pass, and what is asked of the exchange."""

import json
from collections import deque

from ingester.capture.continuity import Continuity
from ingester.capture.feed import Feed
from ingester.capture.link import split
from ingester.capture.stream import Frames, Lost, Opened
from ingester.capture.track import RESTART_AFTER
from ingester.clock import SECOND
from ingester.exchange import binance
from ingester.metrics import FeedMetrics


class SilentStream:
    """Stands where a connection would; keeps what it was asked to do."""

    def __init__(self, name, inbox):
        self.name, self.inbox = name, inbox
        self.sent = []
        self.renewals = []
        self.started = self.stopped = False

    def start(self):
        self.started = True

    def send(self, text):
        self.sent.append(json.loads(text))

    def renew(self, reason):
        self.renewals.append(reason)

    def stop(self):
        self.stopped = True

    def join(self, timeout):
        pass


class Bench:
    """A feed with its world: a clock to turn, connections to put words into the mouth of."""

    def __init__(self, symbols=("BTCUSDT", "ETHUSDT"), keep_every=1, copies=1, life=10_000):
        self.now_ns = 1_000 * SECOND + 300_000_000
        self.metrics = FeedMetrics()
        self.events = []
        self.streams = []
        self.asked = 0
        self.continuity = Continuity(list(symbols), 5, self.metrics, self.events.append, self.ask)
        self.feed = Feed(
            self.continuity,
            keep_every,
            copies,
            lambda: life * SECOND,
            self.make,
            lambda: self.now_ns,
            self.metrics,
            self.events.append,
        )
        self.feed.start()

    def ask(self):
        self.asked += 1

    def make(self, name, inbox: deque):
        self.streams.append(SilentStream(name, inbox))
        return self.streams[-1]

    def begin(self):
        """All connections stand and are subscribed."""
        for number in range(len(self.streams)):
            self.open(number)
        self.turn(3)

    def turn(self, seconds):
        """Time passes, second by second."""
        for _ in range(seconds):
            self.now_ns += SECOND
            self.feed.poll()

    def lose(self, stream=0, reason="reset"):
        self.arrive(Lost(self.streams[stream], self.now_ns, reason, None))

    def kinds(self, kind):
        return [event for event in self.events if event.kind == kind]

    def gaps(self):
        """The gaps on record, each with what was last said of it, like the table's rows."""
        latest = {(event.symbol, event.at_ns): event for event in self.kinds("gap")}
        return [(e.symbol, e.at_ns, e.until_ns, e.detail) for e in latest.values()]

    def open(self, stream=0):
        self.arrive(Opened(self.streams[stream], self.now_ns))

    def arrive(self, arrival):
        arrival.stream.inbox.append(arrival)

    def book(self, symbol, update_id, stream=0, bids=((1.0, 1.0),), asks=((2.0, 1.0),)):
        data = {
            "lastUpdateId": update_id,
            "bids": [list(map(str, b)) for b in bids],
            "asks": [list(map(str, a)) for a in asks],
        }
        name = binance.stream_name(symbol, 5)
        self.say({"stream": name, "data": data}, stream)

    def say(self, message, stream=0):
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.arrive(Frames(self.streams[stream], self.now_ns, [payload]))

    def ids(self):
        return [(snapshot.symbol, snapshot.update_id) for snapshot in self.feed.poll()]


def test_pairs_are_subscribed_together_at_the_next_full_second():
    bench = Bench(copies=2)
    bench.open(0)
    assert bench.ids() == []
    bench.open(1)
    bench.feed.poll()
    bench.now_ns = 1_001 * SECOND - 1
    bench.feed.poll()
    assert [stream.sent for stream in bench.streams] == [[], []]
    bench.now_ns = 1_001 * SECOND
    bench.feed.poll()
    for stream in bench.streams:
        (request,) = stream.sent
        assert request["method"] == "SUBSCRIBE"
        assert request["params"] == ["btcusdt@depth5@100ms", "ethusdt@depth5@100ms"]


def test_a_connection_that_never_comes_does_not_hold_up_the_others():
    bench = Bench(copies=2)
    bench.open(0)
    bench.feed.poll()
    bench.now_ns += 10 * SECOND
    bench.feed.poll()
    assert [len(stream.sent) for stream in bench.streams] == [1, 0]


def test_after_a_loss_the_connection_subscribes_at_once_and_the_gap_of_each_pair_is_on_record():
    bench = Bench()
    bench.begin()
    bench.book("BTCUSDT", 1)
    bench.book("ETHUSDT", 1)
    bench.feed.poll()
    before_ns = bench.now_ns
    bench.now_ns += 100_000_000
    bench.lose()
    bench.now_ns += 100_000_000
    bench.open()
    bench.book("BTCUSDT", 2)
    bench.feed.poll()
    between_ns = bench.now_ns
    bench.now_ns += 400_000_000
    bench.book("ETHUSDT", 2)
    bench.feed.poll()
    assert len(bench.streams[0].sent) == 2
    assert bench.gaps() == [
        ("BTCUSDT", before_ns, between_ns, "connection lost"),
        ("ETHUSDT", before_ns, bench.now_ns, "connection lost"),
    ]
    assert bench.metrics.reconnects == 1


def test_while_another_connection_delivers_a_loss_is_no_gap():
    bench = Bench(copies=2)
    bench.begin()
    for stream in (0, 1):
        bench.book("BTCUSDT", 1, stream)
    bench.lose(0)
    bench.now_ns += 100_000_000
    bench.book("BTCUSDT", 2, 1)
    assert bench.ids() == [("BTCUSDT", 1), ("BTCUSDT", 2)]
    assert bench.gaps() == []


def test_what_the_other_connection_has_not_delivered_yet_it_does_not_cover():
    bench = Bench(copies=2)
    bench.begin()
    bench.book("BTCUSDT", 1, 0)
    bench.feed.poll()
    since = bench.now_ns
    bench.lose(0)
    bench.now_ns += 100_000_000
    bench.book("BTCUSDT", 2, 1)
    bench.feed.poll()
    assert bench.gaps() == [("BTCUSDT", since, bench.now_ns, "connection lost")]


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
    assert bench.asked == 1
    bench.continuity.answer({"BTCUSDT": "TRADING", "ETHUSDT": "BREAK"})
    bench.turn(1)
    sent = len(bench.streams[0].sent)
    for second in range(60, 500):
        bench.book("BTCUSDT", second)
        bench.turn(1)
    assert len(bench.streams[0].sent) == sent
    assert bench.streams[0].renewals == []
    assert 2 <= bench.asked <= 4
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


def test_the_first_copy_wins_whichever_connection_brings_it():
    bench = Bench(copies=2)
    bench.book("BTCUSDT", 5, stream=1)
    bench.book("BTCUSDT", 5, stream=0)
    bench.book("BTCUSDT", 9, stream=0)
    bench.book("ETHUSDT", 5, stream=0)
    bench.book("BTCUSDT", 9, stream=1)
    assert bench.ids() == [("BTCUSDT", 5), ("BTCUSDT", 9), ("ETHUSDT", 5)]
    assert bench.metrics.copies == 2


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


def test_down_sampling_keeps_every_kth_snapshot_of_each_pair():
    bench = Bench(keep_every=3)
    for update_id in range(1, 8):
        bench.book("BTCUSDT", update_id)
        bench.book("BTCUSDT", update_id)  # a copy does not count
        if update_id > 1:
            bench.book("ETHUSDT", update_id)
    ids = bench.ids()
    assert [i for symbol, i in ids if symbol == "BTCUSDT"] == [1, 4, 7]
    assert [i for symbol, i in ids if symbol == "ETHUSDT"] == [2, 5]


def test_bad_frames_are_counted_and_the_good_ones_around_them_pass():
    bench = Bench()
    bench.book("BTCUSDT", 1)
    bench.say(b'{"stream":"btcusdt@depth5@100ms","data":{"lastUp')
    bench.book("BTCUSDT", 2, bids=((3.0, 1.0),))  # crossed
    bench.book("DOGEUSDT", 3)  # never asked for
    bench.book("BTCUSDT", 4, bids=(), asks=())  # empty, as a halted pair's book is
    assert bench.ids() == [("BTCUSDT", 1), ("BTCUSDT", 4)]
    assert bench.metrics.malformed == 3


def test_answers_settle_requests_and_errors_become_events():
    bench = Bench()
    bench.open()
    bench.now_ns += 10 * SECOND
    bench.feed.poll()
    assert bench.feed.unanswered()
    bench.say({"error": {"code": 2, "msg": "Invalid request"}, "id": bench.streams[0].sent[0]["id"]})
    bench.feed.poll()
    assert not bench.feed.unanswered()
    assert [event.detail for event in bench.events if event.kind == "refused"] == ["2 Invalid request"]
    bench.feed.unsubscribe()
    assert bench.feed.unanswered()
    bench.say({"result": None, "id": bench.streams[0].sent[1]["id"]})
    bench.feed.poll()
    assert not bench.feed.unanswered()


def test_every_pair_of_the_exchange_fits_on_few_connections_of_equal_size():
    names = [b"n%d" % i for i in range(1500)]
    groups = split(names, 1024)
    assert [len(group) for group in groups] == [750, 750]
    assert sorted(name for group in groups for name in group) == sorted(names)


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
