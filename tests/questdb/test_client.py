"""questdb.py against a real server."""

import time

import pytest
from small_servers import Accepting
from unanswering import Unanswering

from ingester.book import OrderBook
from ingester.errors import NoAnswer, StoreError, Unreachable
from ingester.questdb import schema
from ingester.questdb.client import QuestDB, RowsRefused
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.endpoint import Endpoint


def test_rows_for_a_table_that_was_dropped_or_made_anew_do_not_vanish(questdb):
    db = QuestDB(questdb.endpoint)
    body = RowEncoder(depth=5, exchange="binance", collector="questdb-1").snapshots(
        [OrderBook("BTCUSDT", time.time_ns(), 1, [(1.0, 2.0)], [])]
    )
    schema.ensure(db, 5)
    db.write(body)
    db.sql("DROP TABLE orderbook")
    with pytest.raises(RowsRefused, match="does not exist"):
        db.write(body)
    schema.ensure(db, 5)
    db.write(body)
    db.sql("SELECT wait_wal_table('orderbook')")
    assert db.sql("SELECT count() FROM orderbook WHERE collector = 'questdb-1'").rows == [[1]]


def test_why_a_server_does_not_answer_is_told_in_a_few_words():
    with Accepting(lambda client: client.recv(1000)) as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(Unreachable) as dropped:
            QuestDB(Endpoint(url)).sql("SELECT 1")
    with pytest.raises(Unreachable) as refused:
        QuestDB(Endpoint(url)).sql("SELECT 1")
    assert str(dropped.value) == f"QuestDB at {url} does not answer: Remote end closed connection without response"
    assert str(refused.value) == f"QuestDB at {url} does not answer: [Errno 111] Connection refused"


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize(
    "ask",
    [
        lambda db: db.sql("SELECT 1"),
        lambda db: list(db.csv("SELECT 1")),
        lambda db: db.parquet("x", bytearray()),
        lambda db: db.write(b"x"),
    ],
)
def test_an_answer_of_20_digits_of_bytes_is_none(ask, status):
    def answer(client):
        client.recv(1000)
        client.sendall(b"HTTP/1.1 %d x\r\nContent-Length: 99999999999999999999\r\n\r\n{}" % status)

    with Accepting(answer) as server, pytest.raises(StoreError):
        ask(QuestDB(Endpoint(f"http://127.0.0.1:{server.port}")))


@pytest.mark.parametrize("drip", [None, 0.05], ids=["silent", "dripping"])
def test_a_server_that_does_not_come_to_an_answer_is_given_up_in_time(drip):
    with Unanswering(drip) as server:
        db, begun = QuestDB(Endpoint(server.url)), time.monotonic()
        for _ in range(3):
            with pytest.raises(NoAnswer, match=r"has not responded for 0\.3 s"):
                db.ping(0.3)
        assert time.monotonic() - begun < 3
        assert server.connections == 1  # the three have waited for one question: nothing piles up


def test_a_server_that_answers_is_ready(questdb):
    QuestDB(questdb.endpoint).ping()
    with pytest.raises(Unreachable, match="refused"):
        QuestDB(Endpoint("http://127.0.0.1:9")).ping()
