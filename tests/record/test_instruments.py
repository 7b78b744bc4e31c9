"""The table `instruments`: a row of each pair whenever its listing changed, and none besides."""

import itertools
import time

import msgspec
import pytest

from ingester.errors import ExchangeError
from ingester.exchange import Listing, ListingStatus, simulator_at
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.record import instruments
from ingester.record.instruments import InstrumentWatcher, changes

A = Listing("AUSDT", "A", "USDT", ListingStatus.TRADING, 0.01, 0.1)
B = Listing("BUSDT", "B", "USDT", ListingStatus.TRADING, None, None)
FINER = Listing("AUSDT", "A", "USDT", ListingStatus.TRADING, 0.001, 0.1)
VENUE = simulator_at("ws://127.0.0.1:1", "http://127.0.0.1:1")
SPARE = 20.0


def gone(listing):
    return msgspec.structs.replace(listing, status=ListingStatus.NOT_LISTED)


def test_only_what_differs_from_the_last_row_is_a_change():
    assert changes({}, [A, B]) == [A, B]
    assert changes({"AUSDT": A, "BUSDT": B}, [B, A]) == []
    assert changes({"AUSDT": A, "BUSDT": B}, [FINER]) == [FINER, gone(B)]
    assert changes({"AUSDT": A, "BUSDT": gone(B)}, [A]) == []
    assert changes({"BUSDT": gone(B)}, [B]) == [B]


@pytest.fixture
def db(questdb):
    db = QuestDB(questdb.endpoint)
    db.sql("DROP TABLE IF EXISTS instruments")
    schema.ensure(db, 5)
    return db


def found_by(watcher):
    deadline = time.monotonic() + SPARE
    while (found := watcher.take()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_the_table_has_each_change_once_across_looks_restarts_and_failures(db, monkeypatch):
    answers = [[A, B], ExchangeError("away"), [A, B], [FINER, B], [FINER]]
    asked = itertools.count()

    def fetch(venue):
        answer = answers[min(next(asked), len(answers) - 1)]
        if isinstance(answer, Exception):
            raise answer
        return {each.symbol: each for each in answer}

    monkeypatch.setattr(instruments, "fetch_listings", fetch)
    monkeypatch.setattr(instruments, "AGAIN_SECONDS", 0.05)
    times = itertools.count(1_700_000_000, 60)
    encoder = RowEncoder(depth=5, exchange="simulator", collector="any")
    rows = []
    for _ in range(2):  # the second one finds nothing: what it sees is in the table
        watcher = InstrumentWatcher(db, VENUE, lambda: next(times) * 10**9, 0.05)
        watcher.start()
        try:
            if not rows:
                for _ in range(3):
                    at_ns, listings = found_by(watcher)
                    rows += listings
                    db.write(encoder.instruments(at_ns, listings))
                db.sql("SELECT wait_wal_table('instruments')")
            else:
                before = next(asked)
                while next(asked) < before + 8:
                    time.sleep(0.05)
                assert watcher.take() is None
        finally:
            watcher.stop()
    assert rows == [A, B, FINER, gone(B)]
    stored = db.sql("SELECT exchange, symbol, base, quote, status, tick_size, step_size FROM instruments").rows
    assert sorted(map(str, stored)) == sorted(
        str(["simulator", each.symbol, each.base, each.quote, each.status.value, each.tick_size, each.step_size])
        for each in rows
    )


def test_what_could_not_be_stored_comes_again(db):
    watcher = InstrumentWatcher(db, VENUE, time.time_ns)
    assert watcher.take() is None
    watcher.give_back((7, [A]))
    assert watcher.take() == (7, [A])
    assert watcher.take() is None
