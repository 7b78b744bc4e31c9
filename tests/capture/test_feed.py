"""feed.py: which snapshots pass, and what is asked of the exchange."""

from feed_bench import Bench

from ingester.capture.stream import PAUSED
from ingester.capture.track import Track
from ingester.clock import SECOND


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


def test_the_first_copy_wins_whichever_connection_brings_it():
    bench = Bench(copies=2)
    bench.book("BTCUSDT", 5, stream=1)
    bench.book("BTCUSDT", 5, stream=0)
    bench.book("BTCUSDT", 9, stream=0)
    bench.book("ETHUSDT", 5, stream=0)
    bench.book("BTCUSDT", 9, stream=1)
    assert bench.ids() == [("BTCUSDT", 5), ("BTCUSDT", 9), ("ETHUSDT", 5)]
    assert bench.metrics.copies == 2


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


def test_what_is_being_read_is_not_complete_yet():
    bench = Bench(copies=2)
    assert bench.feed.complete_until() == bench.now_ns
    bench.streams[1].reading_ns = began = bench.now_ns - 7
    bench.now_ns += SECOND
    assert bench.feed.complete_until() == began
    bench.streams[1].reading_ns = None
    assert bench.feed.complete_until() == bench.now_ns


NESTED = b'{"x":' + b"[" * 2_000 + b"]" * 2_000 + b"}"


def test_a_frame_of_nested_lists_costs_none_of_the_books_that_came_with_it():
    bench = Bench()
    bench.begin()
    for update_id in range(1, 4):
        bench.book("BTCUSDT", update_id)
        bench.say(NESTED)
        bench.book("ETHUSDT", update_id)
    assert len(bench.ids()) == 6
    assert bench.metrics.malformed == 3


def test_what_an_unforeseen_error_costs_is_on_record_and_all_else_is_handed_on(monkeypatch):
    bench = Bench()
    bench.begin()
    accept = Track.accept

    def fails_once(track, receive_ns, update_id):
        gap = accept(track, receive_ns, update_id)
        if update_id == 2 and track.symbol == "BTCUSDT":
            raise MemoryError
        return gap

    monkeypatch.setattr(Track, "accept", fails_once)
    for update_id in range(1, 4):
        bench.book("BTCUSDT", update_id)
        bench.book("ETHUSDT", update_id)
        bench.now_ns += SECOND // 10
    assert bench.ids() == [
        (symbol, i) for i in (1, 2, 3) for symbol in ("BTCUSDT", "ETHUSDT") if (symbol[0], i) != ("B", 2)
    ]
    assert bench.gaps() == [("BTCUSDT", bench.now_ns - SECOND // 5, bench.now_ns - SECOND // 10, "not taken in")]


def test_an_error_while_connections_are_looked_after_costs_no_book(monkeypatch):
    bench = Bench()
    bench.begin()
    monkeypatch.setattr(bench.continuity, "tick", lambda *arguments: 1 / 0)
    bench.book("BTCUSDT", 1)
    bench.now_ns += 2 * SECOND
    assert bench.ids() == [("BTCUSDT", 1)]


def test_after_a_pause_of_the_process_every_gap_has_that_reason():
    bench = Bench(copies=2)
    bench.begin()
    for stream in (0, 1):
        bench.book("BTCUSDT", 1, stream)
        bench.book("ETHUSDT", 1, stream)
    bench.feed.poll()
    since = bench.now_ns
    bench.now_ns += 60 * SECOND
    bench.feed.poll()  # before any stream could say what it found
    assert not any(stream.renewals for stream in bench.streams)
    for stream in (0, 1):
        bench.lose(stream, f"{PAUSED} for 60.0 s")
        bench.open(stream)
    bench.feed.poll()
    bench.now_ns += SECOND
    for symbol in ("BTCUSDT", "ETHUSDT"):
        bench.book(symbol, 500)
    bench.feed.poll()
    assert bench.gaps() == [(symbol, since, bench.now_ns, "process paused") for symbol in ("BTCUSDT", "ETHUSDT")]
