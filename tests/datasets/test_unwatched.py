"""unwatched.py: times in which a pair was not to be recorded are told from gaps."""

import pytest

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.datasets.dataset import parse_time
from ingester.datasets.gaps import NOT_RECORDED, NOT_WATCHED, MissingTime, pair_gaps
from ingester.datasets.unwatched import Absence, PairChange, absences, changes
from ingester.events import Event
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder


def came(at, symbol="SUIUSDT", collector="a"):
    return PairChange(symbol, collector, at, True)


def went(at, symbol="SUIUSDT", collector="a"):
    return PairChange(symbol, collector, at, False)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([], []),
        ([came(120)], [(100, 120)]),  # nobody had asked for it before
        ([went(130)], [(130, 200)]),
        ([came(120), went(150)], [(100, 120), (150, 200)]),
        ([went(120), came(150), went(190)], [(120, 150), (190, 200)]),
        ([came(10), went(50)], [(100, 200)]),  # before the range
        ([came(10)], []),
        ([went(10), came(150)], [(100, 150)]),
        ([went(120), went(140), came(150), came(160)], [(120, 150)]),  # said twice, at a restart
    ],
)
def test_a_pair_is_absent_from_its_removal_to_its_return(told, expected):
    assert list(absences(told, 100, 200)) == [Absence("SUIUSDT", "a", *times) for times in expected]


def test_pairs_and_collectors_come_and_go_by_themselves():
    told = [came(110, collector="b"), went(120), went(130, "BTCUSDT"), came(140)]
    assert set(absences(told, 100, 200)) == {
        Absence("SUIUSDT", "b", 100, 110),
        Absence("SUIUSDT", "a", 120, 140),
        Absence("BTCUSDT", "a", 130, 200),
    }


START = parse_time("2018-03-01 12:00")
END = START + 100 * SECOND


def at(second):
    return START + second * SECOND


def test_coverage_tells_a_pair_that_was_not_wanted_from_one_that_was_missed(questdb):
    """UNWAUSDT comes at 10, goes at 40, comes again at 60; UNWBUSDT, beside it, is silent from 30 to 50."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    encoder = RowEncoder(depth=5, exchange="binance", collector="unwatched")

    def rows(symbol, seconds):
        return [OrderBook(symbol, at(each), each + 1, [(1.0, 1.0)], [(2.0, 1.0)]) for each in seconds]

    db.write(encoder.snapshots(rows("UNWAUSDT", [*range(11, 40), *range(61, 100)])))
    db.write(encoder.snapshots(rows("UNWBUSDT", [*range(0, 31), *range(50, 100)])))
    told = [(10, "pair_added"), (40, "pair_removed"), (60, "pair_added")]
    db.write(encoder.events(Event(at(second), kind, "UNWAUSDT", detail="pairs.txt") for second, kind in told))
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"SELECT wait_wal_table('{table}')")
    assert len(changes(db, END, ["UNWAUSDT"], ["unwatched"])) == 3
    gaps = pair_gaps(db, START, END, ["UNWAUSDT", "UNWBUSDT", "UNWCUSDT"], ["unwatched"])
    assert gaps["UNWAUSDT"] == [
        MissingTime("UNWAUSDT", START, at(11), NOT_WATCHED, "unwatched"),
        MissingTime("UNWAUSDT", at(39), at(61), NOT_WATCHED, "unwatched"),
    ]
    assert [gap[1:4] for gap in gaps["UNWBUSDT"]] == [(at(30), at(50), "unexplained")]
    assert [gap.reason for gap in gaps["UNWCUSDT"]] == [NOT_RECORDED]
    assert [gap.reason for gap in pair_gaps(db, at(45), at(55), ["UNWAUSDT"])["UNWAUSDT"]] == [NOT_WATCHED]
