"""writer.py: every record of the spool is sent, in order, however often that fails."""

import itertools
import time

import pytest

from ingester.errors import Unreachable
from ingester.metrics import StoreMetrics
from ingester.store.spool import Spool
from ingester.store.writer import Writer


class Failing:
    """Takes rows like a QuestDB, after the failures it was given."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.taken = []

    def write(self, body):
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(body)


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool", reserve_bytes=0)
    spool.open()
    yield spool
    spool.close()


def writer(db, spool, metrics):
    return Writer(db, spool, time.time_ns, metrics, lambda: itertools.repeat(0.01))


@pytest.mark.parametrize("failure", [Unreachable("gone"), RuntimeError("a bug")])
def test_after_failures_of_any_kind_all_rows_arrive_in_order_and_once(spool, failure):
    db, metrics = Failing(failure, failure, failure), StoreMetrics()
    bodies = [b"row %d\n" % number for number in range(50)]
    for body in bodies:
        assert spool.append(body, 1, 1, 1)
    sending = writer(db, spool, metrics)
    sending.start()
    assert sending.drain(30)
    assert b"".join(db.taken) == b"".join(bodies)
    assert metrics.stored == 50
    assert spool.rows_waiting == 0
    assert not metrics.failing


def test_what_is_not_taken_in_time_stays_in_the_spool(spool):
    class Away:
        def write(self, body):
            raise Unreachable("gone")

    spool.append(b"row\n", 1, 1, 1)
    metrics = StoreMetrics()
    sending = writer(Away(), spool, metrics)
    sending.start()
    assert not sending.drain(0.3)
    assert spool.rows_waiting == 1
    assert metrics.stored == 0
    assert metrics.failing
