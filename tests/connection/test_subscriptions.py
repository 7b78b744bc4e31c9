"""subscriptions.py: which pairs share connections, also while pairs come and go."""

import pytest
from feed_bench import Bench
from hypothesis import given, strategies as st

from ingester.clock import SECOND
from ingester.connection import Lost
from ingester.connection.subscriptions import place_streams, split_streams

sizes = st.lists(st.integers(0, 12), max_size=6)


def asked(stream):
    """What a connection was asked for: (method, number of streams or their names)."""
    return [(request["method"], [name.partition("@")[0] for name in request["params"]]) for request in stream.sent]


def flow(bench, seconds, *symbols, streams=(0,), step=SECOND // 2):
    """Books of these symbols, two a second, on these connections."""
    for _ in range(seconds * SECOND // step):
        bench.now_ns += step
        for symbol in symbols:
            for stream in streams:
                bench.book(symbol, bench.now_ns, stream)
        bench.feed.poll()


def acknowledge(bench, stream=0):
    for request in bench.streams[stream].sent:
        bench.say({"result": None, "id": request["id"]}, stream)
    bench.feed.poll()


def begun(**options):
    bench = Bench(**options)
    bench.begin()
    flow(bench, 3, "BTCUSDT", "ETHUSDT", streams=range(len(bench.streams)))
    return bench


def test_a_pair_begins_at_the_next_full_second_on_every_connection_of_the_others():
    bench = begun(copies=2)
    assert bench.now_ns % SECOND
    bench.feed.add({"SUIUSDT": "pairs.txt"})
    bench.now_ns = (bench.now_ns // SECOND + 1) * SECOND - 1
    bench.feed.poll()
    assert [len(stream.sent) for stream in bench.streams] == [1, 1]
    bench.now_ns += 1
    bench.feed.poll()
    assert [asked(stream)[1:] for stream in bench.streams] == [[("SUBSCRIBE", ["suiusdt"])]] * 2
    (event,) = bench.kinds("pair_added")
    assert (event.symbol, event.at_ns, event.detail) == ("SUIUSDT", bench.now_ns, "pairs.txt")
    bench.book("SUIUSDT", 1, 1)
    assert bench.ids() == [("SUIUSDT", 1)]
    assert bench.feed.connections == bench.feed.connected == 2
    assert bench.gaps() == []


def test_pairs_that_are_added_all_the_time_do_not_keep_each_other_waiting():
    bench = begun()
    for number in range(10):
        bench.feed.add({f"C{number}USDT": ""})
        bench.now_ns += 3 * SECOND // 10
        bench.feed.add({f"D{number}USDT": ""})
        bench.book("BTCUSDT", bench.now_ns)
        bench.feed.poll()
    assert 2 + 20 - 8 <= bench.feed.pairs < 2 + 20
    bench.turn(1)
    assert bench.feed.pairs == 2 + 20


def test_a_pair_that_goes_leaves_neither_a_gap_nor_a_bad_frame_nor_a_trace():
    bench = begun(copies=2)
    bench.feed.remove({"ETHUSDT": "alice"})
    assert [asked(stream)[1:] for stream in bench.streams] == [[("UNSUBSCRIBE", ["ethusdt"])]] * 2
    bench.book("ETHUSDT", bench.now_ns, 1)  # was on its way
    bench.book("BTCUSDT", bench.now_ns + 1, 1)
    assert [symbol for symbol, _ in bench.ids()] == ["BTCUSDT"]
    flow(bench, 60, "BTCUSDT", streams=(0, 1))
    assert [(event.symbol, event.detail) for event in bench.kinds("pair_removed")] == [("ETHUSDT", "alice")]
    assert bench.gaps() == []
    assert bench.metrics.malformed == 0
    assert all(len(stream.sent) == 2 for stream in bench.streams)  # nobody looks for it
    acknowledge(bench, 0)
    acknowledge(bench, 1)
    bench.book("ETHUSDT", bench.now_ns)  # the exchange need not stop at once
    assert bench.ids() == []
    assert bench.metrics.malformed == 0
    bench.turn(3)
    bench.book("ETHUSDT", bench.now_ns)  # but it should soon
    assert bench.ids() == []
    assert bench.metrics.malformed == 1
    assert [len(connection.remembered()) for connection in bench.pool.connections.values()] == [1] * len(
        bench.pool.connections
    )
    assert list(bench.monitor.detectors) == [b"btcusdt@depth5@100ms"]


def test_a_gap_that_lasts_ends_where_the_pair_goes():
    bench = begun()
    since = bench.now_ns
    flow(bench, 20, "BTCUSDT")
    assert [gap[2] for gap in bench.gaps()] == [None]
    bench.feed.remove({"ETHUSDT": ""})
    assert bench.gaps() == [("ETHUSDT", since, bench.now_ns, "exchange silent")]


def test_a_pair_that_comes_back_begins_anew_when_its_farewell_is_over():
    bench = begun()
    bench.feed.remove({"ETHUSDT": ""})
    bench.feed.add({"ETHUSDT": ""})
    flow(bench, 3, "BTCUSDT", "ETHUSDT")
    assert asked(bench.streams[0])[1:] == [("UNSUBSCRIBE", ["ethusdt"])]
    acknowledge(bench)
    flow(bench, 3, "BTCUSDT")
    assert asked(bench.streams[0])[2:] == [("SUBSCRIBE", ["ethusdt"])]
    bench.book("ETHUSDT", 1)  # smaller than before: nothing is remembered
    assert bench.ids() == [("ETHUSDT", 1)]
    assert [event.kind for event in bench.events if event.symbol] == ["pair_removed", "pair_added"]
    assert bench.gaps() == []


def test_a_farewell_that_is_never_answered_is_not_waited_for_for_ever():
    bench = begun()
    bench.feed.remove({"ETHUSDT": ""})
    bench.feed.add({"ETHUSDT": ""})
    flow(bench, 7, "BTCUSDT")
    assert asked(bench.streams[0])[2:] == [("SUBSCRIBE", ["ethusdt"])]


def test_what_is_taken_back_before_the_full_second_never_happened():
    bench = begun()
    bench.feed.add({"SUIUSDT": ""})
    bench.feed.remove({"SUIUSDT": "", "NEVERUSDT": ""})
    flow(bench, 3, "BTCUSDT", "ETHUSDT")
    bench.feed.add({"BTCUSDT": ""})  # is there
    flow(bench, 3, "BTCUSDT", "ETHUSDT")
    assert len(bench.streams[0].sent) == 1
    assert not [event for event in bench.events if event.symbol]


def test_1500_pairs_fill_the_connections_that_stand_and_open_others():
    bench = begun(copies=2)
    symbols = [f"C{number}USDT" for number in range(1500)]
    bench.feed.add(dict.fromkeys(symbols, ""))
    assert len(bench.streams) == 4
    assert all(stream.started for stream in bench.streams)
    bench.open(2)
    bench.open(3)
    bench.now_ns += SECOND
    bench.feed.poll()
    sizes = [sum(len(names) for _, names in asked(stream)) for stream in bench.streams]
    assert sizes == [1024, 1024, 478, 478]
    assert max(len(names) for stream in bench.streams for _, names in asked(stream)) <= 300
    assert bench.feed.pairs == 1502
    assert len(bench.kinds("pair_added")) == 1500
    bench.feed.remove(dict.fromkeys(symbols, ""))
    bench.turn(2)
    assert [stream.stopped for stream in bench.streams] == [False, False, True, True]
    assert bench.feed.connections == bench.feed.connected == 2
    for stream in (2, 3):
        bench.arrive(Lost(bench.streams[stream], bench.now_ns, "stopped", final=True))
    bench.feed.poll()
    assert len(bench.pool.connections) == 2
    assert [gap for gap in bench.gaps() if gap[0] not in ("BTCUSDT", "ETHUSDT")] == []


def test_a_connection_without_pairs_closes_and_what_comes_later_gets_another():
    bench = begun()
    bench.feed.remove({"BTCUSDT": "", "ETHUSDT": ""})
    bench.lose()  # before it is closed
    bench.turn(1)
    assert bench.streams[0].stopped
    assert bench.feed.connections == 0
    bench.open()  # too late
    bench.feed.add({"SUIUSDT": ""})
    bench.feed.poll()
    assert (bench.feed.connections, bench.feed.connected) == (1, 0)
    bench.open(1)
    bench.turn(1)
    assert asked(bench.streams[1]) == [("SUBSCRIBE", ["suiusdt"])]
    assert bench.streams[1].name == "2"


def test_while_one_connection_is_down_a_pair_begins_on_the_other_and_later_on_both():
    bench = begun(copies=2)
    bench.lose(0)
    bench.feed.add({"SUIUSDT": ""})
    bench.turn(1)
    assert asked(bench.streams[1])[1:] == [("SUBSCRIBE", ["suiusdt"])]
    assert len(bench.streams[0].sent) == 1
    bench.open(0)
    bench.feed.poll()
    assert asked(bench.streams[0])[1:] == [("SUBSCRIBE", ["btcusdt", "ethusdt", "suiusdt"])]
    bench.book("SUIUSDT", 1, 1)
    bench.feed.poll()
    assert "SUIUSDT" not in {gap[0] for gap in bench.gaps()}


def test_while_no_connection_stands_a_pair_waits_a_moment_and_then_what_is_missing_is_on_record():
    bench = begun()
    bench.lose()
    bench.feed.add({"SUIUSDT": ""})
    bench.turn(4)
    assert bench.feed.pairs == 2
    bench.turn(3)
    (event,) = bench.kinds("pair_added")
    bench.open()
    bench.feed.poll()
    assert asked(bench.streams[0])[1:] == [("SUBSCRIBE", ["btcusdt", "ethusdt", "suiusdt"])]
    bench.now_ns += SECOND // 10
    bench.book("SUIUSDT", 1)
    bench.feed.poll()
    assert ("SUIUSDT", event.at_ns, bench.now_ns, "connection lost") in bench.gaps()


def test_pairs_added_before_the_start_begin_together_with_the_others():
    bench = Bench()
    bench.feed.add({"SUIUSDT": ""})
    bench.feed.remove({"ETHUSDT": ""})
    bench.begin()
    assert asked(bench.streams[0]) == [("SUBSCRIBE", ["btcusdt", "suiusdt"])]
    bench.book("SUIUSDT", 1)
    assert bench.ids() == [("SUIUSDT", 1)]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_connection_that_is_replaced_hands_the_changed_pairs_on(when):
    bench = Bench(life=10)
    bench.begin()
    if when == "before":
        bench.feed.add({"SUIUSDT": ""})
        bench.feed.remove({"ETHUSDT": ""})
    flow(bench, 12, "BTCUSDT", "SUIUSDT" if when == "before" else "ETHUSDT")
    old, new = bench.streams
    bench.open(1)
    bench.feed.poll()
    if when == "meanwhile":
        bench.feed.add({"SUIUSDT": ""})
        bench.feed.remove({"ETHUSDT": ""})
        bench.now_ns += SECOND
        bench.feed.poll()
        assert asked(new)[1:] == [("UNSUBSCRIBE", ["ethusdt"]), ("SUBSCRIBE", ["suiusdt"])]
    else:
        assert asked(new) == [("SUBSCRIBE", ["btcusdt", "suiusdt"])]
    bench.book("SUIUSDT", bench.now_ns, 0)
    bench.book("BTCUSDT", bench.now_ns, 1)
    bench.turn(1)
    assert not old.stopped  # the new one lacks a pair
    bench.book("SUIUSDT", bench.now_ns, 1)
    bench.turn(1)
    assert old.stopped
    assert bench.gaps() == []


def test_a_pair_that_was_just_added_is_not_taken_for_a_silent_one():
    bench = begun()
    flow(bench, 30, "BTCUSDT", "ETHUSDT")
    bench.feed.add({"SUIUSDT": ""})
    flow(bench, 5, "BTCUSDT", "ETHUSDT")
    assert asked(bench.streams[0])[1:] == [("SUBSCRIBE", ["suiusdt"])]
    flow(bench, 20, "BTCUSDT", "ETHUSDT")
    assert [method for method, _ in asked(bench.streams[0])][2:4] == ["UNSUBSCRIBE", "SUBSCRIBE"]
    assert [(gap[0], gap[2]) for gap in bench.gaps()] == [("SUIUSDT", None)]
    bench.feed.remove({"SUIUSDT": ""})
    sent = len(bench.streams[0].sent)
    flow(bench, 30, "BTCUSDT", "ETHUSDT")
    assert len(bench.streams[0].sent) == sent
    assert bench.gaps()[0][2] is not None


def test_coins_that_come_and_go_for_months_leave_nothing_behind():
    bench = begun(copies=2)
    for number in range(300):
        bench.feed.add({f"C{number}USDT": ""})
        flow(bench, 1, "BTCUSDT", "ETHUSDT", f"C{number}USDT", streams=(0, 1))
        bench.feed.remove({f"C{number}USDT": ""})
        for stream in bench.streams[:2]:
            bench.say({"result": None, "id": stream.sent[-1]["id"]}, bench.streams.index(stream))
    bench.turn(2)
    assert len(bench.streams) == 2
    assert max(len(connection.remembered()) for connection in bench.pool.connections.values()) <= 3
    (group,) = bench.feed.subscriptions.groups
    assert (group.names, group.pending_pairs) == ([b"btcusdt@depth5@100ms", b"ethusdt@depth5@100ms"], {})
    assert bench.feed.pairs == 2


@given(sizes, st.integers(0, 60))
def test_no_group_is_too_large_nothing_is_lost_and_few_are_opened(sizes, count):
    """Groups of at most 10; some may be above it already, and get nothing."""
    names = [b"n%d" % number for number in range(count)]
    placed = place_streams(sizes, names, 10)
    assert sorted(name for group in placed for name in group) == sorted(names)
    after = [size + len(group) for size, group in zip([*sizes, *[0] * len(placed)], placed, strict=False)]
    assert all(total <= 10 for total, group in zip(after, placed, strict=True) if group)
    room = sum(max(0, 10 - size) for size in sizes)
    opened = len(placed) - len(sizes)
    assert opened == -(-max(0, count - room) // 10)
    new = after[len(sizes) :]
    assert not new or max(new) - min(new) <= 1


@given(sizes, st.integers(1, 30))
def test_the_emptiest_groups_are_filled_first(sizes, count):
    placed = place_streams(sizes, [b"n%d" % number for number in range(count)], 10)
    after = [size + len(group) for size, group in zip(sizes, placed, strict=False)]
    with_room = [total for total in after if total < 10]
    grown = [total for total, group in zip(after, placed, strict=False) if group]
    assert not grown or not with_room or max(grown) <= min(with_room) + 1


def test_every_pair_of_the_exchange_fits_on_few_connections_of_equal_size():
    names = [b"n%d" % number for number in range(1500)]
    assert [len(group) for group in split_streams(names, 1024)] == [750, 750]
    assert [len(group) for group in place_streams([44], names, 1024)] == [980, 520]
