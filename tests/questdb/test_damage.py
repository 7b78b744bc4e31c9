"""A table whose files a crash has damaged: told by status, doctor and a recorder's health, never "all is well"."""

import errno
import os
from pathlib import Path

import pytest

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.errors import QueryError
from ingester.metrics import StoreMetrics
from ingester.monitoring.doctor import examine
from ingester.monitoring.doctor_questdb import questdb_checks
from ingester.monitoring.overview import build_overview
from ingester.questdb import partitions, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.damage import find_damage
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.partitions import DAY
from ingester.questdb.reconciler import Reconciler, StoreContext
from ingester.questdb.server import ManagedServer
from ingester.spool import Spool

pytestmark = pytest.mark.slow

FIRST = partitions.start_of("2024-08-08")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A server with a native, a Parquet and a newest day, some of them with columns that came later."""
    server = ManagedServer(tmp_path_factory.mktemp("damaged"), heap="384m")
    db = QuestDB(server.ensure())
    schema.ensure(db, 5)
    encoder = RowEncoder(depth=5, exchange="binance", collector="damaged")
    for day in range(3):
        at = FIRST + day * DAY
        rows = [OrderBook("AUSDT", at + n * SECOND, n, [(1.0, 1.0)] * 5, [(2.0, 1.0)] * 5) for n in range(2000)]
        db.write(encoder.snapshots(rows))
    db.sql("SELECT wait_wal_table('orderbook')")
    schema.ensure(db, 10)
    partitions.convert(db, "2024-08-09", lambda: False)
    yield server, db
    server.stop()


@pytest.fixture
def lose(recorded):
    """Takes what is behind so many bytes of a file of the table away, or a whole day; after the test it is back."""
    server, db = recorded
    ((name,),) = db.sql("SELECT directoryName FROM tables() WHERE table_name = 'orderbook'").rows
    folder, kept = server.data_dir / "questdb" / "root" / "db" / name, []

    def lose(pattern, left=0):
        (path,) = folder.glob(pattern)
        if path.is_dir():
            kept.append((path, path.rename(folder / "lost")))
        else:
            kept.append((path, path.read_bytes()))
            path.write_bytes(kept[-1][1][:left])
        return path.name

    yield lose
    for path, before in kept:
        path.write_bytes(before) if isinstance(before, bytes) else before.rename(path)


def test_a_sound_table_is_not_called_damaged(recorded):
    _, db = recorded
    assert find_damage(db) == ""


@pytest.mark.parametrize(("file", "left"), [("bid_1.d", 0), ("timestamp.d", 4096), ("symbol.d", 0), ("askv_5.d", 4096)])
def test_a_file_that_lost_its_end_is_told_by_status_doctor_and_health(recorded, lose, file, left):
    server, db = recorded
    lose(f"2024-08-08*/{file}", left)
    assert file in find_damage(db)
    overview = build_overview(server.data_dir, db, server)
    assert not overview.ok
    assert "table_damaged" in {problem.kind for problem in overview.problems}
    findings = {finding.subject: finding for finding in examine(questdb_checks(server, None))}
    assert findings["table"].state == "fail"
    assert file in findings["table"].text
    spool, metrics = Spool(server.data_dir / f"spool-{file}", keep_until_verified=True), StoreMetrics()
    spool.open()
    store = StoreContext(db=db, spool=spool, now=lambda: FIRST, metrics=metrics, on_event=lambda event: None)
    reconciler = Reconciler(store, collector="damaged", exchange="binance")
    reconciler.start()
    reconciler.stop(5.0)
    spool.close()
    assert file in metrics.damage


@pytest.mark.parametrize("lost", ["2024-08-09*/data.parquet", "_txn", "_cv", "symbol.o", "txn_seq/_txnlog"])
def test_other_files_that_hold_nothing_are_told_too(recorded, lose, lost):
    _, db = recorded
    assert lose(lost) in find_damage(db)


def test_a_lost_day_is_told(recorded, lose):
    _, db = recorded
    lose("2024-08-08*")
    assert find_damage(db).startswith("2024-08-08 in ")


def test_an_answer_that_breaks_off_at_a_damaged_file_is_an_error(recorded, lose):
    server, db = recorded
    server.stop()
    db.endpoint = server.ensure()
    lose("2024-08-08*/bid_1.d")
    with pytest.raises(QueryError, match="aborted its answer"):
        db.sql("SELECT * FROM orderbook LIMIT 1")


def test_files_that_cannot_be_looked_at_now_are_not_called_damaged(recorded, monkeypatch, caplog):
    def refused(path, *arguments, **options):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "open", refused)
    assert find_damage(recorded[1]) == ""
    assert "Too many open files" in caplog.text
