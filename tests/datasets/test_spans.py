"""census.py: what is noted from passing rows is what the server finds in them."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.datasets import spans as tallied
from ingester.datasets.dataset import parse_time
from ingester.datasets.gaps import UNEXPLAINED, pair_gaps
from ingester.datasets.spans import DAY, MICROSECOND, SpanCounter, by_key, limit_ns, recorded_spans
from ingester.questdb import query, reader as bulk, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.reader import Slice, TableReader, TableRows

START = parse_time("2019-03-01 22:00")
END = parse_time("2019-03-02 02:00")
PAIRS = ["CENAUSDT", "CENBUSDT", "CENCUSDT", "CENDUSDT"]


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
    census = SpanCounter()
    for part in reader.slices(START, END):
        census.take(part, reader.read(part))
    return census.recorded()


@pytest.mark.parametrize("symbols", [PAIRS, PAIRS[1:2]])
@pytest.mark.parametrize("rows", [2_000, 1_000_000])
def test_spans_are_those_that_the_server_finds(db, symbols, rows, monkeypatch):
    monkeypatch.setattr(bulk, "SLICE_ROWS", rows)
    found = {(span.key, span.first_ns // DAY): span for span in counted(db, symbols).spans}
    asked = {(span.key, span.first_ns // DAY): span for span in recorded_spans(db, START, END, DAY, symbols)}
    assert found.keys() == asked.keys()
    assert len(found) == 3 * len(symbols)
    for key, span in found.items():
        assert span[:5] == asked[key][:5]
        assert span.longest_ns == asked[key].longest_ns
        assert span.interval_ns == pytest.approx(asked[key].interval_ns, rel=0.08)


def test_gaps_are_those_that_the_server_finds(db):
    recorded = counted(db, PAIRS)
    assert recorded.steps.keys() == by_key(recorded.spans).keys()
    found = pair_gaps(db, START, END, PAIRS, recorded=recorded)
    assert found == pair_gaps(db, START, END, PAIRS, recorded=recorded._replace(steps={}))
    regular = [pair for pair in PAIRS if pair != "CENDUSDT"]  # its limit lies somewhere in the midst of its steps
    assert {pair: found[pair] for pair in regular} == pair_gaps(db, START, END, regular)
    assert all(sum(gap.reason == UNEXPLAINED for gap in gaps) > 2 for gaps in found.values())


def test_the_server_is_asked_for_a_pair_with_more_silences_than_are_kept(db, monkeypatch):
    found = pair_gaps(db, START, END, PAIRS, recorded=counted(db, PAIRS))
    monkeypatch.setattr(tallied, "MOST_STEPS", 4)
    recorded = counted(db, PAIRS)
    assert not recorded.steps.keys() & {(symbol, "census-1") for symbol in PAIRS}
    assert pair_gaps(db, START, END, PAIRS, recorded=recorded) == found


def test_the_only_collector_of_a_range_is_known_without_reading_its_column(db):
    before = Slice(START, START + 3600 * SECOND)
    reader = TableReader(db, PAIRS, 5, query.rows_by_symbol(db, *before))
    known = reader.read(reader.slices(*before)[0])
    read = TableReader(db, PAIRS, 5, {}).read(Slice(before.start_ns, known.times.max() + 1000))
    assert known.collectors == read.collectors == ["census-1"]
    assert not known.by.any()


@given(
    steps=st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from([0, 1]), st.integers(1, 400)), max_size=80),
    cuts=st.sets(st.integers(0, 4000)),
)
@settings(deadline=None)
def test_however_the_rows_are_sliced(steps, cuts):
    times = (DAY - 2000 * SECOND // 10) + np.cumsum([step for *_, step in steps], dtype=np.int64) * SECOND // 10
    rows = [(symbol, by, int(at)) for (symbol, by, _), at in zip(steps, times, strict=True)]
    bounds = sorted({0, DAY, DAY * 2, *(DAY - 2000 * SECOND // 10 + cut * SECOND // 10 for cut in cuts)})
    census = SpanCounter()
    for part in (Slice(*ends) for ends in pairwise(bounds)):
        here = sorted((row for row in rows if part.start_ns <= row[2] < part.end_ns), key=lambda row: row[0])
        symbols = sorted({symbol for symbol, *_ in here})
        firsts = [next(n for n, row in enumerate(here) if row[0] == symbol) for symbol in symbols]
        at, by = (np.array([row[place] for row in here], np.int64) for place in (2, 1))
        census.take(part, TableRows(symbols, [*firsts, len(here)], at, at, np.empty((len(here), 0)), ["x", "y"], by))
    recorded = census.recorded()

    series = defaultdict(list)
    for symbol, by, at in rows:
        series[symbol, "xy"[by], at // DAY].append(at)
    assert [(*span.key, span.first_ns // DAY) for span in recorded.spans] == sorted(
        series, key=lambda key: (key[2], key)
    )
    long = Counter()
    for span in recorded.spans:
        own = series[(*span.key, span.first_ns // DAY)]
        between = np.diff(own)
        assert (span.first_ns, span.last_ns, span.rows) == (own[0], own[-1], len(own))
        assert span.longest_ns == max(between, default=0)
        if len(between):
            median = float(np.sort(between)[(len(between) + 1) // 2 - 1])
            assert span.interval_ns == pytest.approx(median, rel=1 / 32, abs=MICROSECOND)
        limit = limit_ns(by_key(recorded.spans)[span.key])
        long.update((span.key, since, until) for since, until in pairwise(own) if until - since > limit)
    for key, spans in by_key(recorded.spans).items():
        if key in recorded.steps:
            steps = [step for step in recorded.steps[key] if step[1] - step[0] > limit_ns(spans)]
            assert Counter((key, *step) for step in steps) == Counter({k: n for k, n in long.items() if k[0] == key})
