"""feed.py: which snapshots pass, and what is asked of the exchange."""

import dataclasses
import json
import time

from feed_bench import STREAMS, Bench
from hypothesis import given, settings, strategies as st

from ingester.clock import SECOND
from ingester.connection.websocket import PAUSED, Frames
from ingester.sequence.gap_detector import GapDetector


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
    assert bench.feed.watermark() == bench.now_ns
    bench.streams[1].reading_ns = began = bench.now_ns - 7
    bench.now_ns += SECOND
    assert bench.feed.watermark() == began
    bench.streams[1].reading_ns = None
    assert bench.feed.watermark() == bench.now_ns


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
    accept = GapDetector.accept

    def fails_once(detector, receive_ns, update_id):
        gap = accept(detector, receive_ns, update_id)
        if update_id == 2 and detector.symbol == "BTCUSDT":
            raise MemoryError
        return gap

    monkeypatch.setattr(GapDetector, "accept", fails_once)
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
    monkeypatch.setattr(bench.monitor, "tick", lambda *arguments: 1 / 0)
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


def test_a_start_without_a_connection_is_a_gap_from_the_start_on_for_every_pair():
    bench = Bench(copies=2)
    start = bench.now_ns
    bench.turn(12)
    assert bench.gaps() == [(symbol, start, None, "not connected") for symbol in ("BTCUSDT", "ETHUSDT")]
    bench.feed.add({"SUIUSDT": "pairs.txt"})
    bench.turn(14)
    (added,) = bench.kinds("pair_added")
    assert ("SUIUSDT", added.at_ns, None, "not connected") in bench.gaps()
    bench.open(0)
    bench.turn(1)
    for symbol in ("BTCUSDT", "ETHUSDT", "SUIUSDT"):
        bench.book(symbol, 1)
    bench.feed.poll()
    end = bench.now_ns
    assert bench.gaps() == [
        ("BTCUSDT", start, end, "not connected"),
        ("ETHUSDT", start, end, "not connected"),
        ("SUIUSDT", added.at_ns, end, "not connected"),
    ]


def test_what_an_earlier_run_left_is_a_gap_until_the_start_and_then_one_of_its_own():
    bench = Bench(symbols=("BTCUSDT",))
    start = bench.now_ns
    bench.monitor.resume(start - 60 * SECOND)
    bench.turn(12)
    assert bench.gaps() == [
        ("BTCUSDT", start - 60 * SECOND, start, "restart"),
        ("BTCUSDT", start, None, "not connected"),
    ]


def test_a_pair_added_while_all_connections_are_lost_has_the_reason_of_the_others():
    bench = Bench(symbols=("BTCUSDT",))
    bench.begin()
    bench.lose()
    bench.feed.add({"SUIUSDT": ""})
    bench.turn(14)
    assert {gap[3] for gap in bench.gaps() if gap[0] == "SUIUSDT"} == {"connection lost"}


def test_attempts_that_fail_are_told_less_and_less_often(caplog):
    bench = Bench(symbols=("BTCUSDT",))
    for _ in range(20):
        bench.lose(reason="stream.example:9443 refused the connection")
        bench.feed.poll()
    said = [record.message for record in caplog.records if "attempt failed" in record.message]
    assert len(said) == 5  # the 1st, 2nd, 4th, 8th, 16th
    assert "stream.example:9443" in said[0]
    assert "ingester doctor" in said[0]
    assert (bench.metrics.failed_attempts, bench.metrics.last_failure.split()[0]) == (20, "stream.example:9443")


def test_a_flood_of_error_answers_and_announcements_is_neither_told_nor_put_on_record_each_time(caplog):
    bench = Bench(symbols=("BTCUSDT",))
    bench.begin()
    error = b'{"error":{"code":2,"msg":"' + b"m" * 5000 + b'"},"id":99}'
    announcement = b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}'
    stream = bench.streams[0]
    bench.arrive(Frames(stream, bench.now_ns, [error, announcement] * 5000))
    bench.book("BTCUSDT", 7)
    assert bench.feed.poll() == []  # others had their turn in between
    assert bench.ids() == [("BTCUSDT", 7)]
    assert bench.metrics.refused == 5000
    assert len(bench.kinds("refused")) < 40
    assert len(bench.kinds("exchange_shutdown")) == 1
    assert max(len(event.detail) for event in bench.events) < 300
    assert len(caplog.records) < 60


def test_a_flood_of_error_answers_is_bounded_however_often_the_connection_is_replaced(caplog):
    bench = Bench(symbols=("BTCUSDT",), copies=2)
    bench.begin()
    caplog.clear()
    error = b'{"error":{"code":2,"msg":"no"},"id":99}'
    for _ in range(60):
        for stream in (0, 1):
            bench.arrive(Frames(bench.streams[stream], bench.now_ns, [error] * 100))
            bench.lose(stream)
            bench.open(stream)
        bench.turn(1)
    assert bench.metrics.refused == 12_000
    refused = [event.detail for event in bench.kinds("refused")]
    assert 20 <= len(refused) <= 26
    assert sum("refused a request" in record.message for record in caplog.records) == len(refused)
    assert refused[-1].startswith("2 no (")
    assert sum(int(each.partition("(")[2].split()[0].replace(",", "")) for each in refused if "(" in each) > 9_000


def test_a_frame_that_is_far_too_large_for_a_book_is_quarantined_undecoded():
    bench = Bench(symbols=("BTCUSDT", "ETHUSDT"))
    bench.begin()
    bench.book("BTCUSDT", 1)
    bench.book("ETHUSDT", 1)
    bench.ids()
    levels = b",".join([b'["1e-300","9e299"]'] * 20_000)
    large = b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":2,"bids":[%b],"asks":[]}}' % levels
    bench.arrive(Frames(bench.streams[0], bench.now_ns, [large], len(large)))
    bench.book("BTCUSDT", 3)
    bench.book("ETHUSDT", 3)
    begun = time.process_time()
    bench.streams[0].taken = lambda frames: None
    assert bench.ids() == [("BTCUSDT", 3), ("ETHUSDT", 3)]
    assert time.process_time() - begun < 0.05
    assert bench.metrics.malformed == 1
    assert [gap[0::3] for gap in bench.gaps()] == [("BTCUSDT", "quarantined")]


def frame_of(symbol, update_id, *, spaces=False, crossed=False):
    """A frame as Binance writes it; with `spaces`, one whose head cannot be read without decoding."""
    data = {"lastUpdateId": update_id, "bids": [["9.0" if crossed else "1.0", "1"]], "asks": [["2.0", "1"]]}
    message = {"stream": STREAMS.name(symbol).decode(), "data": data}
    return json.dumps(message, separators=None if spaces else (",", ":")).encode()


frames = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.builds(
            frame_of,
            st.sampled_from(["BTCUSDT", "ETHUSDT", "XUSDT"]),
            st.integers(1, 12) | st.sampled_from([900, 2**53]),
            spaces=st.sampled_from([False, False, False, True]),
            crossed=st.sampled_from([False, False, False, True]),
        )
        | st.sampled_from([b"{", b'{"result":null,"id":1}', frame_of("BTCUSDT", 5)[:40]]),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(frames, st.integers(2, 9))
def test_it_makes_no_difference_how_many_frames_a_read_brings(arrivals, at_once):
    """Copies are dropped before the others of a read are decoded: the outcome is that of one frame after the other."""
    outcomes = []
    for size in (1, at_once):
        bench = Bench(copies=2)
        bench.begin()
        reads = []
        for stream, payload in arrivals:
            if not reads or reads[-1][0] != stream or len(reads[-1][1]) == size:
                reads.append((stream, []))
            reads[-1][1].append(payload)
        for stream, payloads in reads:
            bench.arrive(Frames(bench.streams[stream], bench.now_ns, list(payloads)))
        passed = []
        while bench.feed.pending:
            passed += bench.feed.poll()
        bench.turn(1)
        bench.monitor.close(bench.now_ns + SECOND)
        outcomes.append((passed, bench.events, bench.metrics))
    assert outcomes[0] == outcomes[1]


def test_a_batch_that_cannot_be_decoded_costs_the_frame_at_fault_alone():
    def fail(payloads):
        if any(b":7," in each for each in payloads):
            raise RuntimeError("a bug")
        return STREAMS.channel.decode(payloads)

    bench = Bench(channel=dataclasses.replace(STREAMS.channel, decode=fail))
    bench.begin()
    payloads = [frame_of(symbol, update_id) for update_id in (6, 7, 8) for symbol in ("BTCUSDT",)]
    bench.arrive(Frames(bench.streams[0], bench.now_ns, [*payloads, frame_of("ETHUSDT", 1)]))
    assert bench.ids() == [("BTCUSDT", 6), ("BTCUSDT", 8), ("ETHUSDT", 1)]
    assert [gap[0] for gap in bench.gaps()] == ["BTCUSDT"]
