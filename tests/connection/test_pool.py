"""pool.py: connections and the requests that they owe answers to."""

from types import SimpleNamespace

import pytest
from feed_bench import STREAMS, VENUE, SilentStream

from ingester.connection import ConnectionPool
from ingester.exchange import Method

NAMES = [STREAMS.name(f"C{number}USDT") for number in range(700)]


@pytest.fixture
def pool():
    return ConnectionPool(VENUE, lambda *, name, inbox: SilentStream(name, inbox))


def opened(pool, label="1a"):
    connection = pool.open(SimpleNamespace(label=label))
    connection.open(1)
    return connection


def test_connections_start_with_the_pool_and_after_that_at_once(pool):
    early = opened(pool)
    assert not early.stream.started
    pool.start()
    assert early.stream.started
    assert opened(pool).stream.started


def test_each_stream_is_told_the_request_that_names_it(pool):
    connection = opened(pool)
    ids = pool.request(Method.SUBSCRIBE, connection, NAMES)
    sent = {name.encode(): request["id"] for request in connection.stream.sent for name in request["params"]}
    assert ids == sent
    assert list(ids) == NAMES
    again = pool.request(Method.UNSUBSCRIBE, connection, NAMES[:1])
    assert set(again.values()).isdisjoint(ids.values())


def test_answers_are_owed_until_they_come_or_the_connection_is_lost(pool):
    first, second = opened(pool), opened(pool, "1b")
    for connection in (first, second):
        pool.request(Method.SUBSCRIBE, connection, NAMES[:1])
    assert pool.owes_answers()
    pool.answered(first.stream.sent[0]["id"])
    assert pool.owes_answers()
    pool.lost(second.stream, final=False)
    assert not pool.owes_answers()
    assert second.stream in pool.connections
    pool.lost(second.stream, final=True)
    assert list(pool.connections) == [first.stream]


def test_the_watermark_is_the_begin_of_the_oldest_read_that_is_in_progress(pool):
    assert pool.watermark(100) == 100
    first, second = opened(pool), opened(pool, "1b")
    first.stream.reading_ns, second.stream.reading_ns = 70, 60
    assert pool.watermark(100) == 60
    second.stream.reading_ns = None
    assert pool.watermark(100) == 70
