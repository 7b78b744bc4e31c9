"""feed.py: which snapshots pass, and what is asked of the exchange."""

import json
from collections import deque

from ingester.capture.feed import RESTART_AFTER, Feed, split
from ingester.capture.stream import Frames, Lost, Opened
from ingester.clock import SECOND
from ingester.exchange import binance
from ingester.metrics import FeedMetrics


class SilentStream:
    """Stands where a connection would; keeps what it was asked to send."""

    def __init__(self, name, inbox):
        self.name, self.inbox = name, inbox
        self.sent = []

    def start(self):
        pass

    def send(self, text):
        self.sent.append(json.loads(text))


class Bench:
    """A feed with its world: a clock to turn, connections to put words into the mouth of."""

    def __init__(self, symbols=("BTCUSDT", "ETHUSDT"), keep_every=1, copies=1):
        self.now_ns = 1_000 * SECOND + 300_000_000
        self.metrics = FeedMetrics()
        self.events = []
        self.streams = []
        self.feed = Feed(
            list(symbols), 5, keep_every, copies, self.make, lambda: self.now_ns, self.metrics, self.events.append
        )
        self.feed.start()

    def make(self, name, inbox: deque):
        self.streams.append(SilentStream(name, inbox))
        return self.streams[-1]

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


def test_after_a_loss_the_connection_subscribes_at_once_and_the_gap_is_an_event():
    bench = Bench()
    bench.open()
    bench.now_ns += 10 * SECOND
    bench.feed.poll()
    bench.arrive(Lost(bench.streams[0], bench.now_ns, "reset", None))
    lost_ns = bench.now_ns
    bench.now_ns += 3 * SECOND
    bench.open()
    bench.book("BTCUSDT", 1)
    assert bench.ids() == [("BTCUSDT", 1)]
    assert len(bench.streams[0].sent) == 2
    (gap,) = [event for event in bench.events if event.kind == "gap"]
    assert (gap.at_ns, gap.until_ns) == (lost_ns, bench.now_ns)
    assert bench.metrics.reconnects == 1


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
    names = [f"n{i}" for i in range(1500)]
    groups = split(names, 1024)
    assert [len(group) for group in groups] == [750, 750]
    assert sorted(name for group in groups for name in group) == sorted(names)
