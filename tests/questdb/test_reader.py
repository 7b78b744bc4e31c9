"""reader.py against a real server: slices that lose nothing, and more exports at once than it allows."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.questdb import query, reader as bulk, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.reader import Slice, TableReader

START = 1_609_459_200 * SECOND  # 2021-01-01, which no other test writes to
END = START + 10 * 3600 * SECOND
SYMBOLS = ["QAUSDT", "QBUSDT", "QCUSDT"]


@pytest.fixture(scope="module")
def db(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    encoder, chance = RowEncoder(depth=5, exchange="binance", collector="query-test"), np.random.default_rng(1)
    for place, symbol in enumerate(SYMBOLS):
        times = np.sort(chance.integers(START, END, 4000 * (place + 1)) // 1000 * 1000)
        snapshots = [
            OrderBook(symbol, at, number, [(1.0 + number, 2.0)] * (5 - number % 2), [(3.0 + number, 4.0)] * 5)
            for number, at in enumerate(times.tolist())
        ]
        db.write(encoder.snapshots(snapshots))
    db.sql("SELECT wait_wal_table('orderbook')")
    return db


@pytest.mark.parametrize("chosen", [SYMBOLS, SYMBOLS[:1]])
@pytest.mark.parametrize("rows", [100, 1_000, 1_000_000])
def test_slices_together_hold_every_row_once_in_order(db, chosen, rows, monkeypatch):
    monkeypatch.setattr(bulk, "SLICE_ROWS", rows)
    counts = query.rows_by_symbol(db, START, END)
    assert counts == {"QAUSDT": 4000, "QBUSDT": 8000, "QCUSDT": 12000}
    reader = TableReader(db, chosen, 5, counts)
    slices = reader.slices(START, END)
    assert slices[0].start_ns == START
    assert slices[-1].end_ns == END
    assert all(before.end_ns == after.start_ns for before, after in pairwise(slices))
    seen = {symbol: [] for symbol in chosen}
    for part in slices:
        read = reader.read(part)
        assert len(read.times) < 3 * rows
        for symbol, (first, end) in zip(read.symbols, pairwise(read.bounds), strict=True):
            seen[symbol] += read.ids[first:end].tolist()
            times, ids = read.times[first:end], read.ids[first:end]
            assert (np.diff(times) >= 0).all()
            assert ((times >= part.start_ns) & (times < part.end_ns)).all()
            assert np.array_equal(read.values[first:end, 0], 1.0 + ids)
            assert np.array_equal(np.isnan(read.values[first:end, 8]), ids % 2 == 1)
    assert {symbol: len(ids) for symbol, ids in seen.items()} == {symbol: counts[symbol] for symbol in chosen}
    assert all(sorted(ids) == list(range(len(ids))) for ids in seen.values())


def test_more_reads_at_once_than_the_server_allows_are_all_answered(db):
    counts = query.rows_by_symbol(db, START, END)
    reader = TableReader(db, SYMBOLS, 5, counts)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(reader.read, [Slice(START, END)] * 32))
    assert {len(answer.times) for answer in answers} == {24_000}
