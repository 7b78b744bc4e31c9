"""Consumers take each row once, each at its own pace."""

import threading

import pytest

from ingester.book import OrderBook
from ingester.errors import UnknownPair
from ingester.live.buffer import NOTIFY_ROWS, LiveBuffer
from ingester.live.subscribers import Consumer


def books(symbol, *numbers):
    return [OrderBook(symbol, number * 1_000, number, [(1.0, 1.0)], [(2.0, 1.0)]) for number in numbers]


@pytest.fixture
def record():
    record = LiveBuffer(["AUSDT", "BUSDT"], depth=1, rows=10)
    record.open()
    return record


def arrive(record, *snapshots):
    record.take(snapshots)
    record.watermark(snapshots[-1].receive_ns)


def consumer(record, pairs=None):
    return Consumer(record, name="one", symbols=pairs)


def test_each_consumer_takes_each_row_once_whatever_the_others_do(record):
    arrive(record, *books("AUSDT", 1))
    quick, slow = consumer(record), consumer(record)
    assert not quick.updated("AUSDT")  # what came before is nothing new
    arrive(record, *books("AUSDT", 2, 3), *books("BUSDT", 2))
    assert quick.wait(0) == ["AUSDT", "BUSDT"]
    assert quick.take("a-usdt").times.tolist() == [2_000, 3_000]
    assert not quick.updated("AUSDT")
    assert slow.updated("AUSDT")
    arrive(record, *books("AUSDT", 4))
    assert quick.take("AUSDT").times.tolist() == [4_000]
    assert slow.take("AUSDT").times.tolist() == [2_000, 3_000, 4_000]
    assert slow.take("AUSDT").times.tolist() == []
    assert quick.wait(0) == ["BUSDT"]


def test_a_slow_consumer_is_told_what_it_lost_and_goes_on_with_what_is_kept(record):
    slow = consumer(record)
    for number in range(1, 26):
        arrive(record, *books("AUSDT", number))
    taken = slow.take("AUSDT")
    assert (taken.times // 1_000).tolist() == list(range(16, 26))
    assert (taken.lost, slow.lost) == (15, 15)
    arrive(record, *books("AUSDT", 26))
    assert slow.take("AUSDT").lost == 0


def test_what_was_cleared_is_not_taken_and_not_counted_as_lost(record):
    one = consumer(record)
    arrive(record, *books("AUSDT", 1, 2))
    record.clear(["AUSDT"])
    assert record.latest("AUSDT") is None
    arrive(record, *books("AUSDT", 3))
    taken = one.take("AUSDT")
    assert (taken.times.tolist(), taken.lost) == ([3_000], 0)


def test_a_wait_ends_with_the_first_row_and_a_consumer_of_some_pairs_sleeps_through_the_others(record):
    one, woken = consumer(record, ["BUSDT"]), []
    thread = threading.Thread(target=lambda: woken.append(one.wait(20)))
    thread.start()
    arrive(record, *books("AUSDT", 1))
    arrive(record, *books("BUSDT", 1))
    thread.join(20)
    assert woken == [["BUSDT"]]
    arrive(record, *books("AUSDT", 2))
    assert one.wait(0.01) == []


def test_a_burst_wakes_those_who_wait_before_it_is_over(record):
    one = consumer(record)
    record.take(books("AUSDT", *range(1, NOTIFY_ROWS)))
    assert one.wait(0) == []
    record.take(books("AUSDT", NOTIFY_ROWS))
    assert one.wait(0) == ["AUSDT"]


def test_the_end_of_the_recording_wakes_those_who_wait(record):
    one, woken = consumer(record), []
    thread = threading.Thread(target=lambda: woken.append(one.wait()))
    thread.start()
    record.close()
    thread.join(20)
    assert woken == [[]]


def test_pairs_come_and_go_while_consumers_look_on(record):
    one = consumer(record)
    arrive(record, *books("BUSDT", *range(1, 9)))
    record.remove(["BUSDT"])
    record.add(["CUSDT", "AUSDT"])
    assert list(record.pairs) == list(record.rings) == ["AUSDT", "CUSDT"]
    arrive(record, *books("BUSDT", 9), *books("CUSDT", 9))  # the last of the old one was on its way
    assert one.wait(0) == ["CUSDT"]
    with pytest.raises(UnknownPair, match=r"Nearest names: .*AUSDT"):
        one.take("BUSDT")
    record.add(["BUSDT"])
    arrive(record, *books("BUSDT", 10))
    assert one.take("BUSDT").times.tolist() == [10_000]
