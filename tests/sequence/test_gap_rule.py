"""gap_rule.py: the recorder, coverage, manifests and the SQL view come to the same verdict on the same times."""

import json
from itertools import pairwise

import numpy as np
import pytest
from books_in_table import store
from hypothesis import given, strategies as st
from recorder import url_of

import ingester
from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.datasets.dataset import parse_time
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.sequence.gap_detector import GapDetector
from ingester.sequence.gap_rule import gap_limit_ns

MIDNIGHT = parse_time("2018-11-02")
START, END = MIDNIGHT - 1800 * SECOND, MIDNIGHT + 3600 * SECOND
MS = SECOND // 1000


def limit_in_words(times):
    """How long the pause after these times may be: ten mean intervals of the last fifty, a minute each at most."""
    intervals = [min(after - before, 60 * SECOND) for before, after in pairwise(times)]
    return max(SECOND, 10 * sum(intervals) / len(intervals)) if intervals else 60 * SECOND


def gaps_in_words(times):
    pauses = enumerate(pairwise(times), 1)
    return [
        (since, until)
        for count, (since, until) in pauses
        if until - since > limit_in_words(times[max(0, count - 51) : count])
    ]


def recorders_gaps(times):
    """As the recorder finds them, book by book."""
    detector = GapDetector("BTCUSDT")
    detector.begin(times[0] - MS)
    found = [detector.accept(at, number) for number, at in enumerate(times, 1)]
    return [(gap.since_ns, gap.until_ns) for gap in found if gap]


@given(st.lists(st.sampled_from([1, 100, 900, 1_000, 1_001, 5_000, 5_001, 12_000, 61_000, 700_000]), max_size=200))
def test_the_recorder_finds_what_the_rule_says(steps):
    times = (START + np.cumsum([0, *steps]) * MS).tolist()
    assert recorders_gaps(times) == gaps_in_words(times)


def test_the_limit_has_its_bounds():
    assert gap_limit_ns(0, 0) == 60 * SECOND
    assert gap_limit_ns(50, 50 * SECOND // 10) == SECOND
    assert gap_limit_ns(2, 3 * SECOND) == 15 * SECOND
    assert gap_limit_ns(50, 50 * 60 * SECOND) == 600 * SECOND


def regular(step_s, pauses):
    """Steps in s, with a pause in place of each of these."""
    steps = np.full(round(5300 / step_s), step_s)
    steps[[place for place, _ in pauses]] = [pause for _, pause in pauses]
    return steps


CHANCE = np.random.default_rng(3)
RHYTHMS = {
    "RULEAUSDT": regular(0.1, [(100, 0.9), (5000, 1.0), (5100, 1.001), (17_990, 3.0), (18_400, 100.0), (18_420, 7.0)]),
    "RULEBUSDT": regular(7.0, [(1, 6.0), (100, 69.0), (200, 70.0), (250, 71.0), (257, 300.0), (300, 80.0)]),
    "RULECUSDT": CHANCE.exponential(3.0, 1700),
    "RULEDUSDT": regular(90.0, [(10, 590.0), (30, 601.0), (32, 0.5)]),
    "RULEEUSDT": np.where(CHANCE.random(3000) < 0.02, CHANCE.exponential(30.0, 3000), 0.4),
    "RULEFUSDT": np.array([61.0, 4.0, 700.0, 0.1, 0.1]),
}
"""Pairs with a rhythm, at the limit and beyond it; without one; slow ones; one whose rhythm has hardly begun."""


@pytest.fixture(scope="module")
def recorded(questdb):
    """The receive times of each pair in the table; midnight lies among them."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    times = {}
    for symbol, steps in RHYTHMS.items():
        at = START + np.cumsum(np.maximum(1, np.round(np.concatenate([[0.5], steps]) * 1000).astype(np.int64))) * MS
        times[symbol] = at[at < END].tolist()
        books = [
            OrderBook(symbol, each, number, [(1.0, 1.0)], [(2.0, 1.0)]) for number, each in enumerate(times[symbol])
        ]
        store(db, books, "rule")
    return db, times


def between_rows(gaps, times):
    """Those that lie between two books, without what is before the first and after the last."""
    return [gap for gap in gaps if gap[0] >= times[0] and gap[1] <= times[-1]]


@pytest.mark.parametrize("way", ["recorder", "coverage", "manifest", "view"])
def test_the_same_times_have_the_same_gaps_in_all_four_ways(questdb, recorded, tmp_path, way):
    db, times = recorded
    found = {}
    if way == "recorder":
        found = {symbol: recorders_gaps(own) for symbol, own in times.items()}
    elif way == "coverage":
        for pair in ingester.measure_coverage(START, END, pairs=list(times), questdb=url_of(questdb.endpoint)):
            found[pair.whole.symbol] = [(gap.since_ns, gap.until_ns) for gap in pair.whole.gaps]
    elif way == "manifest":
        where = {"questdb": url_of(questdb.endpoint), "root": tmp_path}
        data = ingester.export_dataset(START, END, pairs=list(times), **where)
        manifest = json.loads((data.path / "manifest.json").read_text())
        for symbol, pair in manifest["pairs"].items():
            found[symbol] = [(parse_time(gap["from"]), parse_time(gap["to"])) for gap in pair["gaps"]]
    else:
        rows = db.sql(
            "DECLARE @during := '2018-11-01T23:30;90m', @pair := 'RULE%' "
            "SELECT symbol, cast(timestamp AS LONG), cast(until AS LONG) FROM gaps ORDER BY timestamp"
        ).rows
        found = {
            symbol: [(since * 1000, until * 1000) for name, since, until in rows if name == symbol] for symbol in times
        }
    assert {symbol: between_rows(own, times[symbol]) for symbol, own in found.items()} == {
        symbol: gaps_in_words(own) for symbol, own in times.items()
    }
    assert sum(len(own) for own in found.values()) > 10
