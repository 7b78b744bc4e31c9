"""What becomes of old days: decided without a server."""

import pytest

from ingester.errors import SettingsError
from ingester.questdb.partitions import DAY, Partition
from ingester.questdb.retention import CONVERT, DROP, HOUR, Policy, RetentionState, plan

FIRST = Partition("2024-08-08", 1000, 220_000)
PARQUET = FIRST._replace(bytes=40_000, is_parquet=True)
NOW = FIRST.end_ns + 10 * DAY


def step(day=FIRST, parquet=None, drop=None, **state):
    policy = Policy(*(None if days is None else days * DAY for days in (parquet, drop)))
    (step,) = plan([day], policy, RetentionState(**{"now_ns": NOW} | state))
    return step


@pytest.mark.parametrize(
    ("parquet", "drop", "words"),
    [
        (HOUR - 1, None, "--parquet-after is less than 1h"),
        (None, DAY - 1, "--drop-after is less than 1d"),
        (DAY, DAY, "not later than --parquet-after"),
        (9 * DAY, 3 * DAY, r"--drop-after \(3d\) is not later than --parquet-after \(9d\)"),
    ],
)
def test_what_would_drop_too_soon_or_convert_in_vain_is_refused(parquet, drop, words):
    with pytest.raises(SettingsError, match=words):
        Policy(parquet, drop)


def test_nothing_becomes_of_any_day_unless_it_is_said():
    assert not Policy().is_active
    assert step().action == ""
    assert not step().is_due(NOW)


def test_a_day_is_converted_so_long_after_its_end_and_later_dropped():
    assert step(parquet=3, drop=90)[1:] == (CONVERT, FIRST.end_ns + 3 * DAY, "")
    assert step(PARQUET, parquet=3, drop=90)[1:] == (DROP, FIRST.end_ns + 90 * DAY, "")
    assert step(PARQUET, parquet=3).action == ""
    assert step(drop=90)[1:3] == (DROP, FIRST.end_ns + 90 * DAY)
    due = step(parquet=3)
    assert due.is_due(due.due_ns)
    assert not due.is_due(due.due_ns - 1)


def test_a_day_that_is_to_go_by_now_is_not_converted_first():
    assert step(parquet=3, drop=10).action == DROP
    assert step(parquet=3, drop=11).action == CONVERT


@pytest.mark.parametrize(
    ("day", "state", "words"),
    [
        (FIRST._replace(is_active=True), {}, "the newest day"),
        (FIRST._replace(is_read_only=True), {}, "read-only"),
        (FIRST, {"suspended": "no space"}, "suspended the table: no space"),
        (FIRST, {"waits_since_ns": FIRST.end_ns - 1}, "wait in the spool"),
        (FIRST, {"rows_before": {"2024-08-08": 999}}, "rows still come in"),
        (FIRST, {"free_bytes": 100}, "0.5 GB are needed on the server's disk, 0.0 GB are free"),
    ],
)
def test_what_hinders_a_step_that_is_due_is_said(day, state, words):
    assert words in step(day, parquet=3, **state).hindrance


@pytest.mark.parametrize(
    "state",
    [
        {"waits_since_ns": FIRST.end_ns},
        {"rows_before": {"2024-08-08": 1000}},
        {"rows_before": {"2024-08-07": 5}},
        {"free_bytes": 600 << 20},
    ],
)
def test_what_does_not_concern_a_day_does_not_hinder(state):
    assert step(parquet=3, **state).hindrance == ""


def test_a_full_disk_does_not_keep_days_from_being_dropped():
    assert step(drop=3, free_bytes=0).hindrance == ""


def test_a_step_that_is_not_due_is_not_said_to_be_hindered():
    assert step(FIRST._replace(is_active=True), parquet=30).hindrance == ""
