"""gaps.py: rows and events in a real table, and what is found missing."""

import pytest

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.datasets.coverage import pair_coverages, recorded_range
from ingester.datasets.dataset import parse_time
from ingester.datasets.gaps import (
    DROPPED,
    NOT_RECORDED,
    NOT_WATCHED,
    UNEXPLAINED,
    Absence,
    MissingTime,
    PairChange,
    absences,
    changes,
    coverage_gaps,
    explained,
    length_ns,
    pair_gaps,
    percent_covered,
    recorded_gaps,
    without,
)
from ingester.datasets.spans import DAY, Span
from ingester.events import Event
from ingester.questdb import query, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.reader import TableReader

START = parse_time("2019-05-01 23:59")
END = START + 120 * SECOND
"""Midnight lies in the middle."""


@pytest.fixture
def db(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 20)
    return db


def at(second):
    return START + round(second * 10) * SECOND // 10


def record(db, collector, symbol, seconds, events=()):
    """Stores a row at each of the seconds; events are (symbol, since, until, reason), `until` None: still open."""
    encoder = RowEncoder(depth=5, exchange="binance", collector=collector)
    rows = [OrderBook(symbol, at(second), number, [(1.0, 1.0)], [(2.0, 1.0)]) for number, second in enumerate(seconds)]
    db.write(encoder.snapshots(rows))
    if events:
        db.write(
            encoder.events(
                Event(at(since), "gap", name, "", reason, None if until is None else at(until))
                for name, since, until, reason in events
            )
        )
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"SELECT wait_wal_table('{table}')")


def every(step, *ranges):
    """Seconds in steps, in each of the half-open ranges."""
    return [begin + n * step for begin, end in ranges for n in range(round((end - begin) / step))]


def told(gaps):
    return [((gap.since_ns - START) / SECOND, (gap.until_ns - START) / SECOND, gap.reason) for gap in gaps]


def test_a_reported_gap_keeps_its_reason_and_a_silence_that_nobody_reported_is_found(db):
    seconds = every(0.1, (0, 20.1), (40, 60.1), (62, 120))
    record(db, "gap-1", "GAPAUSDT", seconds, [("GAPAUSDT", 20, 40, "connection lost")])
    gaps = pair_gaps(db, START, END, ["GAPAUSDT"])["GAPAUSDT"]
    assert told(gaps) == [(20, 40, "connection lost"), (60, 62, UNEXPLAINED)]
    assert percent_covered(gaps, START, END) == pytest.approx(100 * 98 / 120)


def test_a_silence_over_midnight_is_one_gap(db):
    record(db, "gap-2", "GAPBUSDT", every(0.1, (0, 50.1), (70, 120)))
    assert told(pair_gaps(db, START, END, ["GAPBUSDT"])["GAPBUSDT"]) == [(50, 70, UNEXPLAINED)]


def test_a_slow_pair_has_no_gap_where_its_rhythm_allows_the_silence(db):
    record(db, "gap-3", "GAPCUSDT", every(3, (0, 60), (81, 120)))
    assert told(pair_gaps(db, START, END, ["GAPCUSDT"])["GAPCUSDT"]) == []
    record(db, "gap-3", "GAPCFAST", every(0.5, (0, 10.5), (14.2, 40.2), (46, 120)))
    assert told(pair_gaps(db, START, END, ["GAPCFAST"])["GAPCFAST"]) == [(39.7, 46, UNEXPLAINED)]


def test_what_lies_before_the_first_and_after_the_last_row_was_not_recorded(db):
    record(db, "gap-4", "GAPDUSDT", every(0.1, (30, 90.1)))
    assert told(pair_gaps(db, START, END, ["GAPDUSDT"])["GAPDUSDT"]) == [
        (0, 30, NOT_RECORDED),
        (90, 120, NOT_RECORDED),
    ]
    inside = pair_gaps(db, at(29.5), at(90.5), ["GAPDUSDT"])["GAPDUSDT"]
    assert inside == []


def test_a_pair_without_rows_has_one_gap_and_pairs_that_are_not_named_are_left_out(db):
    record(db, "gap-4", "GAPDUSDT", every(0.1, (30, 90.1)))
    gaps = pair_gaps(db, START, END, ["GAPNONE"])
    assert gaps == {"GAPNONE": [MissingTime("GAPNONE", START, END, NOT_RECORDED, "")]}
    assert percent_covered(gaps["GAPNONE"], START, END) == 0


def test_with_two_collectors_only_what_both_lack_is_a_gap(db):
    record(
        db,
        "gap-5",
        "GAPEUSDT",
        every(0.1, (0, 20.1), (40, 60.1), (65, 120)),
        [("GAPEUSDT", 20, 40, "connection lost"), ("GAPEUSDT", 60, 65, "exchange silent")],
    )
    # began later, and did not run in between
    record(db, "gap-6", "GAPEUSDT", every(0.1, (10, 30.1), (62, 120)), [("GAPEUSDT", 30, 62, "restart")])
    gaps = pair_gaps(db, START, END, ["GAPEUSDT"])["GAPEUSDT"]
    assert [(since, until) for since, until, _ in told(gaps)] == [(30, 40), (60, 62)]
    alone = pair_gaps(db, START, END, ["GAPEUSDT"], ["gap-5"])["GAPEUSDT"]
    assert told(alone) == [(20, 40, "connection lost"), (60, 65, "exchange silent")]


def test_an_open_gap_ends_with_the_next_row_or_the_range(db):
    events = [("GAPFUSDT", 20, None, "connection lost"), ("GAPFUSDT", 90, None, "exchange silent")]
    record(db, "gap-7", "GAPFUSDT", every(0.1, (0, 20.1), (33, 90.1)), events)
    assert told(recorded_gaps(db, START, END, ["GAPFUSDT"])) == [
        (20, 33, "connection lost"),
        (90, 120, "exchange silent"),
    ]
    later = recorded_gaps(db, at(40), at(80), ["GAPFUSDT"])
    assert later == []


def test_reported_gaps_are_cut_to_the_range(db):
    record(db, "gap-8", "GAPGUSDT", every(0.1, (0, 20.1), (40, 120)), [("GAPGUSDT", 20, 40, "connection lost")])
    assert told(recorded_gaps(db, at(25), at(30), ["GAPGUSDT"])) == [(25, 30, "connection lost")]
    assert told(pair_gaps(db, at(10), at(30), ["GAPGUSDT"])["GAPGUSDT"]) == [(20, 30, "connection lost")]
    assert recorded_gaps(db, at(40), END, ["GAPGUSDT"]) == []


def test_a_gap_without_a_pair_is_one_of_every_pair_of_its_collector(db):
    record(db, "gap-9", "GAPHUSDT", every(0.1, (0, 120)), [("", 50, 52, "spool damaged: 20 rows")])
    record(db, "gap-9", "GAPIUSDT", every(0.1, (0, 120)))
    record(db, "gap-10", "GAPJUSDT", every(0.1, (0, 120)))
    gaps = pair_gaps(db, START, END, ["GAPHUSDT", "GAPIUSDT", "GAPJUSDT"])
    assert told(gaps["GAPHUSDT"]) == told(gaps["GAPIUSDT"]) == [(50, 52, "spool damaged: 20 rows")]
    assert gaps["GAPJUSDT"] == []


def test_the_reason_is_that_of_the_longest_part():
    spans = [Span("X", name, 0, 100 * SECOND, 1000, SECOND // 10, SECOND) for name in ("a", "b")]
    gaps = [
        MissingTime("X", 10 * SECOND, 20 * SECOND, "restart", "a"),
        MissingTime("X", 12 * SECOND, 14 * SECOND, "connection lost", "b"),
        MissingTime("X", 14 * SECOND, 19 * SECOND, UNEXPLAINED, "b"),
        MissingTime("X", 13 * SECOND, 18 * SECOND, "exchange silent", "b"),
    ]
    (gap,) = coverage_gaps(gaps, spans, 0, 100 * SECOND)["X"]
    assert gap == MissingTime("X", 12 * SECOND, 19 * SECOND, "restart", "a")


def test_absences_that_only_touch_leave_the_row_between_them():
    spans = [Span("X", name, 0, 100 * SECOND, 1000, SECOND // 10, SECOND) for name in ("a", "b")]
    gaps = [
        MissingTime("X", 10 * SECOND, 20 * SECOND, "restart", "a"),
        MissingTime("X", 20 * SECOND, 30 * SECOND, "restart", "a"),
        MissingTime("X", 5 * SECOND, 40 * SECOND, "connection lost", "b"),
        MissingTime("X", 50 * SECOND, 55 * SECOND, UNEXPLAINED, "a", SECOND),
        MissingTime("X", 54 * SECOND + SECOND // 2, 59 * SECOND, UNEXPLAINED, "b", SECOND),
    ]
    found = coverage_gaps(gaps, spans, 0, 100 * SECOND)["X"]
    assert [(gap.since_ns // SECOND, gap.until_ns // SECOND) for gap in found] == [(10, 20), (20, 30)]


@pytest.mark.parametrize("reasons", [("restart", "connection lost"), ("connection lost", "restart")])
def test_of_two_reasons_that_explain_as_much_it_is_always_the_same(reasons):
    spans = [Span("X", name, 0, 100 * SECOND, 1000, SECOND // 10, SECOND) for name in ("a", "b")]
    gaps = [
        MissingTime("X", 10 * SECOND, 20 * SECOND, reason, name) for reason, name in zip(reasons, "ab", strict=True)
    ]
    (gap,) = coverage_gaps(gaps, spans, 0, 100 * SECOND)["X"]
    assert gap.reason == "restart"


def test_pairs_too_many_for_one_statement_are_asked_for_all_the_same(db):
    many = [f"GAPMANY{number:04}USDT" for number in range(1600)]
    assert query.one_of("symbol", many) == ""
    encoder = RowEncoder(depth=5, exchange="binance", collector="gap-many")
    for second in (*range(20), *range(50, 70)):
        some = many if second % 10 == 0 else many[:100]  # the others have a row in ten seconds
        db.write(encoder.snapshots([OrderBook(each, at(second), second, [(1.0, 1.0)], [(2.0, 1.0)]) for each in some]))
    db.sql(f"SELECT wait_wal_table('{schema.ORDERBOOK}')")
    end, chosen = at(70), many[:1500]
    gaps = pair_gaps(db, START, end, chosen)
    assert {symbol for symbol, own in gaps.items() if told(own) == [(19, 50, UNEXPLAINED)]} == set(many[:100])
    assert all(gaps[symbol] == [] for symbol in many[100:1500])
    assert list(gaps) == sorted(chosen)
    coverages = pair_coverages(db, START, end, chosen)
    assert [each.whole.symbol for each in coverages] == chosen
    assert {each.whole.rows for each in coverages} == {40, 4}
    assert recorded_range(db, chosen) == (START, at(69) + 1000)
    rare = many[100:]
    reader = TableReader(db, rare, 5, query.rows_by_symbol(db, START, end))
    assert reader.read(reader.slices(START, end)[0]).symbols == rare


DAYS = [(10 * DAY, 12 * DAY)]


def gap(since_ns, until_ns, reason=NOT_RECORDED):
    return MissingTime("AUSDT", since_ns, until_ns, reason, "a")


def parts_of(gaps):
    return [(each.since_ns, each.until_ns, each.reason) for each in gaps]


@pytest.mark.parametrize(
    ("since_ns", "until_ns", "parts"),
    [
        (9 * DAY, 10 * DAY, [(9 * DAY, 10 * DAY, NOT_RECORDED)]),
        (12 * DAY, 13 * DAY, [(12 * DAY, 13 * DAY, NOT_RECORDED)]),
        (10 * DAY, 12 * DAY, [(10 * DAY, 12 * DAY, DROPPED)]),
        (10 * DAY + 5, 11 * DAY, [(10 * DAY + 5, 11 * DAY, DROPPED)]),
        (
            9 * DAY,
            13 * DAY,
            [(9 * DAY, 10 * DAY, NOT_RECORDED), (10 * DAY, 12 * DAY, DROPPED), (12 * DAY, 13 * DAY, NOT_RECORDED)],
        ),
        # up to the first book after it, however soon that comes
        (10 * DAY - SECOND // 10, 12 * DAY + SECOND // 10, [(10 * DAY, 12 * DAY + SECOND // 10, DROPPED)]),
        (
            10 * DAY - SECOND // 10,
            12 * DAY + 420 * SECOND,
            [(10 * DAY, 12 * DAY, DROPPED), (12 * DAY, 12 * DAY + 420 * SECOND, NOT_RECORDED)],
        ),
    ],
)
def test_a_gap_is_told_apart_from_what_was_dropped_of_it(since_ns, until_ns, parts):
    assert parts_of(explained([gap(since_ns, until_ns)], DAYS)) == parts
    assert parts_of(without([gap(since_ns, until_ns)], DAYS)) == [part for part in parts if part[2] != DROPPED]


def test_a_moment_that_the_rhythm_of_the_pair_allows_is_no_gap_of_its_own():
    slow = [gap(10 * DAY - 20 * SECOND, 12 * DAY + 30 * SECOND)]
    assert parts_of(explained(slow, DAYS, 60 * SECOND)) == [(10 * DAY, 12 * DAY + 30 * SECOND, DROPPED)]
    assert without(slow, DAYS, 60 * SECOND) == []
    assert [each.length_ns for each in without(slow, DAYS, 25 * SECOND)] == [30 * SECOND]


def test_a_short_gap_beside_stays_whole():
    short = gap(9 * DAY, 9 * DAY + 1, UNEXPLAINED)
    assert explained([short], DAYS) == [short]


def test_only_what_lies_in_a_range_counts():
    assert length_ns(DAYS, 0, 20 * DAY) == 2 * DAY
    assert length_ns(DAYS, 11 * DAY, 20 * DAY) == DAY
    assert length_ns(DAYS, 12 * DAY, 20 * DAY) == 0


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


WATCH_START = parse_time("2018-03-01 12:00")
WATCH_END = WATCH_START + 100 * SECOND


def second(number):
    return WATCH_START + number * SECOND


def test_coverage_tells_a_pair_that_was_not_wanted_from_one_that_was_missed(questdb):
    """UNWAUSDT comes at 10, goes at 40, comes again at 60; UNWBUSDT, beside it, is silent from 30 to 50."""
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    encoder = RowEncoder(depth=5, exchange="binance", collector="unwatched")

    def rows(symbol, seconds):
        return [OrderBook(symbol, second(each), each + 1, [(1.0, 1.0)], [(2.0, 1.0)]) for each in seconds]

    db.write(encoder.snapshots(rows("UNWAUSDT", [*range(11, 40), *range(61, 100)])))
    db.write(encoder.snapshots(rows("UNWBUSDT", [*range(0, 31), *range(50, 100)])))
    told = [(10, "pair_added"), (40, "pair_removed"), (60, "pair_added")]
    db.write(encoder.events(Event(second(when), kind, "UNWAUSDT", detail="pairs.txt") for when, kind in told))
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"SELECT wait_wal_table('{table}')")
    assert len(changes(db, WATCH_END, ["UNWAUSDT"], ["unwatched"])) == 3
    gaps = pair_gaps(db, WATCH_START, WATCH_END, ["UNWAUSDT", "UNWBUSDT", "UNWCUSDT"], ["unwatched"])
    assert gaps["UNWAUSDT"] == [
        MissingTime("UNWAUSDT", WATCH_START, second(11), NOT_WATCHED, "unwatched"),
        MissingTime("UNWAUSDT", second(39), second(61), NOT_WATCHED, "unwatched"),
    ]
    assert [gap[1:4] for gap in gaps["UNWBUSDT"]] == [(second(30), second(50), "unexplained")]
    assert [gap.reason for gap in gaps["UNWCUSDT"]] == [NOT_RECORDED]
    assert [gap.reason for gap in pair_gaps(db, second(45), second(55), ["UNWAUSDT"])["UNWAUSDT"]] == [NOT_WATCHED]
