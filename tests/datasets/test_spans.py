"""spans.py: what an export counts is what the server finds, by the one rule for gaps."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.datasets.dataset import parse_time
from ingester.datasets.gaps import UNEXPLAINED, pair_gaps
from ingester.datasets.spans import Silence, Span, SpanCounter, by_key, recorded
from ingester.questdb import DAY, query, reader as bulk, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.reader import Slice, TableReader, TableRows

START = parse_time("2019-03-01 22:00")
END = parse_time("2019-03-02 02:00")
PAIRS = ["CENAUSDT", "CENBUSDT", "CENCUSDT", "CENDUSDT"]


def by_the_rule(times):
    """(since, until, limit) of the gaps between receive times, as `sequence/gap_rule.py` says it in words."""
    for place, (since, until) in enumerate(pairwise(times)):
        known = [min(after - before, 60 * SECOND) for before, after in pairwise(times[max(0, place - 50) : place + 1])]
        limit = max(SECOND, 10 * sum(known) // len(known)) if known else 60 * SECOND
        if until - since > limit:
            yield since, until, limit


@pytest.fixture(scope="module")
def db(questdb):
    """Two collectors: one with outages of its own, one that comes after midnight; one pair is rare, one irregular."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    chance = np.random.default_rng(7)
    medians = {"CENAUSDT": 1.0, "CENBUSDT": 0.25, "CENCUSDT": 20.0, "CENDUSDT": 2.0}
    for collector, since in (("census-1", START), ("census-2", START + 3 * 3600 * SECOND)):
        for symbol, median in medians.items():
            number = round((END - since) / SECOND / median)
            steps = chance.exponential(median, number) if symbol == "CENDUSDT" else chance.normal(median, 0.01, number)
            steps[chance.integers(0, number // 2, 16)] += median * np.repeat([4, 40], 8)  # no gaps, and gaps
            times = since + np.cumsum(np.maximum(steps, 0.001) * 1e6).astype(np.int64) * 1000
            rows = [
                OrderBook(symbol, at, number, [(1.0, 1.0)], [(2.0, 1.0)])
                for number, at in enumerate(times[times < END].tolist())
            ]
            db.write(RowEncoder(depth=5, exchange="binance", collector=collector).snapshots(rows))
    db.sql("SELECT wait_wal_table('orderbook')")
    return db


def counted(db, symbols, levels=5):
    reader = TableReader(db, symbols, levels, query.rows_by_symbol(db, START, END))
    counter = SpanCounter()
    for part in reader.slices(START, END):
        counter.take(reader.read(part))
    return counter.recorded()


@pytest.mark.parametrize("symbols", [PAIRS, PAIRS[1:2]])
@pytest.mark.parametrize("rows", [2_000, 1_000_000])
def test_an_export_counts_what_the_server_finds(db, symbols, rows, monkeypatch):
    monkeypatch.setattr(bulk, "SLICE_ROWS", rows)
    found, asked = counted(db, symbols), recorded(db, START, END, DAY, symbols)
    series = by_key(asked.spans)
    assert len(found.spans) == len(series) == 2 * len(symbols)
    for span in found.spans:
        own = series[span.key]
        assert span[2:5] == (own[0].first_ns, own[-1].last_ns, sum(each.rows for each in own))
    assert sorted(found.silences) == sorted(asked.silences)
    assert {silence.symbol for silence in found.silences} == set(symbols)


def test_gaps_are_those_that_the_server_finds(db):
    found = pair_gaps(db, START, END, PAIRS, known=counted(db, PAIRS))
    assert found == pair_gaps(db, START, END, PAIRS)
    assert all(sum(gap.reason == UNEXPLAINED for gap in gaps) > 2 for gaps in found.values())


def test_the_only_collector_of_a_range_is_known_without_reading_its_column(db):
    before = Slice(START, START + 3600 * SECOND)
    reader = TableReader(db, PAIRS, 5, query.rows_by_symbol(db, *before))
    known = reader.read(reader.slices(*before)[0])
    read = TableReader(db, PAIRS, 5, {}).read(Slice(before.start_ns, known.times.max() + 1000))
    assert known.collectors == read.collectors == ["census-1"]
    assert not known.by.any()


@given(
    steps=st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from([0, 1]), st.integers(1, 4000)), max_size=150),
    cuts=st.sets(st.integers(0, 4000)),
)
@settings(deadline=None)
def test_however_the_rows_are_sliced(steps, cuts):
    times = (DAY - 2000 * SECOND // 10) + np.cumsum([step for *_, step in steps], dtype=np.int64) * SECOND // 10
    rows = [(symbol, by, int(at)) for (symbol, by, _), at in zip(steps, times, strict=True)]
    bounds = sorted({0, DAY, DAY * 2, *(DAY - 2000 * SECOND // 10 + cut * SECOND // 10 for cut in cuts)})
    counter = SpanCounter()
    for since, until in pairwise(bounds):
        here = sorted((row for row in rows if since <= row[2] < until), key=lambda row: row[0])
        symbols = sorted({symbol for symbol, *_ in here})
        firsts = [next(n for n, row in enumerate(here) if row[0] == symbol) for symbol in symbols]
        at, by = (np.array([row[place] for row in here], np.int64) for place in (2, 1))
        counter.take(TableRows(symbols, [*firsts, len(here)], at, at, np.empty((len(here), 0)), ["x", "y"], by))
    found = counter.recorded()

    series = defaultdict(list)
    for symbol, by, at in rows:
        series[symbol, "xy"[by]].append(at)
    assert found.spans == [Span(*key, own[0], own[-1], len(own)) for key, own in sorted(series.items())]
    assert sorted(found.silences) == sorted(
        Silence(*key, since, until, limit) for key, own in series.items() for since, until, limit in by_the_rule(own)
    )
