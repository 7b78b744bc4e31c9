"""backup.py: rows through a real spool into a real table, and the files that are cut out of it meanwhile."""

import dataclasses
import itertools
import logging
import socket
import time

import numpy as np
import pandas as pd
import pytest

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.config.settings import Settings
from ingester.datasets import backup as backups
from ingester.datasets.backup import Backup, interval_ends, run_folder
from ingester.datasets.dataset import COLON, columns, parse_time, time_text
from ingester.errors import OperationError
from ingester.exchange import VENUES
from ingester.metrics import StoreMetrics
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.endpoint import Endpoint
from ingester.questdb.reconciler import StoreContext
from ingester.questdb.server import ManagedServer
from ingester.questdb.writer import DeadLetters, Writer
from ingester.spool import Spool

MINUTE = 60 * SECOND
PAIRS = ("BTCUSDT", "ADAUSDT")
AWAY = Endpoint.parse("http://127.0.0.1:9")


def ends(text, every, count):
    return [time_text(end)[-5:] for end in itertools.islice(interval_ends(parse_time(text), every), count)]


def test_intervals_end_on_multiples_of_the_minutes_of_the_day():
    assert ends("2023-06-01 10:49", 30, 3) == ["11:00", "11:30", "12:00"]
    assert ends("2023-06-01 10:49:59.999", 30, 2) == ["11:00", "11:30"]
    assert ends("2023-06-01 11:00", 30, 2) == ["11:30", "12:00"]
    assert ends("2023-06-01 10:49", 1440, 2) == ["00:00", "00:00"]


def test_the_last_interval_of_a_day_ends_at_midnight():
    assert ends("2023-06-01 23:50", 7, 4) == ["23:55", "00:00", "00:07", "00:14"]


def test_an_interval_may_be_part_of_a_minute():
    start = parse_time("2023-06-01 10:49:01")
    assert list(itertools.islice(interval_ends(start, 1 / 30), 2)) == [start + SECOND, start + 3 * SECOND]


# --- the folder


STARTED = parse_time("2023-06-01 08:31:42.5")
NAME = f"since_2023-06-01 08{COLON}31"


def test_a_folder_in_use_is_refused_until_it_is_not(tmp_path):
    with run_folder(tmp_path, STARTED) as folder:
        assert folder == tmp_path / "raw fetched data" / NAME
        with pytest.raises(OperationError, match=f"{NAME} is in use.*--backup-root"), run_folder(tmp_path, STARTED):
            pass
        assert folder.is_dir()
        with run_folder(tmp_path, STARTED + MINUTE) as later:
            assert later.name == f"since_2023-06-01 08{COLON}32"
        (folder / "file").touch()
    with run_folder(tmp_path, STARTED) as again:
        assert again == folder


def test_what_stayed_empty_is_removed(tmp_path):
    (tmp_path / "data").mkdir()
    with run_folder(tmp_path / "data" / "new", STARTED) as folder:
        assert folder.is_dir()
    assert list(tmp_path.rglob("*")) == [tmp_path / "data"]


def test_what_holds_a_file_stays(tmp_path):
    with run_folder(tmp_path, STARTED) as folder:
        (folder / "file").touch()
    assert (folder / "file").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OperationError, match=r"file/raw fetched data.*--backup-root"),
        run_folder(tmp_path / "file", STARTED),
    ):
        pass


# --- the rows of a run


@pytest.fixture
def db(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    return db


class Run:
    """A recorder's spool and writer without its feed: rows are received by `receive`."""

    def __init__(self, db, root, collector, started_ns, every_minutes, format):
        self.settings = Settings(PAIRS[:1], VENUES["binance"], collector=collector)  # the other came later
        self.started_ns = started_ns
        self.every_minutes = every_minutes
        self.spool = Spool(root / "spool")
        self.spool.open()
        self.metrics = StoreMetrics()
        self.writer = Writer(
            StoreContext(db=db, spool=self.spool, now=time.time_ns, metrics=self.metrics, on_event=lambda event: None),
            prepare=lambda: schema.ensure(db, 5),
            dead_letters=DeadLetters(root / "dead"),
            waits=lambda: itertools.repeat(0.1),
        )
        self.held = run_folder(root, started_ns)
        self.folder = self.held.__enter__()
        self.backup = Backup(
            db,
            self.spool,
            self.settings,
            started_ns=started_ns,
            now=time.time_ns,
            folder=self.folder,
            every_minutes=every_minutes,
            format=format,
        )
        self.received = {symbol: [] for symbol in PAIRS}
        self._ids = itertools.count(1)
        self._encoder = RowEncoder(depth=5, exchange="binance", collector=collector)

    def receive(self, *times_ns):
        """A row of each pair at each of the times."""
        for at_ns in times_ns:
            rows = [OrderBook(symbol, at_ns, next(self._ids), *self._book()) for symbol in PAIRS]
            body = self._encoder.snapshots(rows)
            assert self.spool.append(body, len(rows), at_ns, at_ns)
            for row in rows:
                flat = [number for side in (row.bids, row.asks) for level in side for number in level]
                self.received[row.symbol].append((at_ns // 1000 * 1000, flat))

    def _book(self):
        price = float(time.time_ns())
        return [[(price + place, 1 / (place + 3)) for place in places] for places in (range(5, 0, -1), range(6, 11))]

    def store(self):
        """Waits until all rows are acknowledged."""
        self.writer.start()
        assert self.writer.drain(30)

    def end(self):
        """As a recorder ends, after its writer has; rows may be left in the spool."""
        self.spool.close()
        self.backup.stop()
        self.held.__exit__(None, None, None)

    def names(self):
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []

    def intervals(self, symbol):
        """(number, file) in the order of numbers."""
        found = {int(path.stem.rpartition("(")[2][:-1]): path for path in self.folder.glob(f"{symbol[:3]}_USDT_*")}
        return sorted(found.items())

    def backed_up(self, symbol, read=pd.read_pickle):
        """The rows of all files, as `received`; each interval's rows have to lie in it."""
        rows = []
        limits = [self.started_ns, *itertools.islice(interval_ends(self.started_ns, self.every_minutes), 1000)]
        for number, path in self.intervals(symbol):
            frame = read(path)
            assert list(frame.columns) == columns(5)
            times = frame.index.astype("datetime64[ns]").asi8
            assert len(times)
            assert limits[number - 1] <= times[0]
            assert times[-1] < limits[number]
            rows += zip(times.tolist(), frame.to_numpy().tolist(), strict=True)
        return rows


@pytest.fixture
def run(db, tmp_path):
    runs = []

    def run(collector, started_ns, every_minutes=10, format="pkl", db=db):
        runs.append(Run(db, tmp_path, collector, started_ns, every_minutes, format))
        return runs[-1]

    yield run
    for made in runs:
        made.spool.close()


def until(condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result


def minutes_ago(minutes):
    """As exact as the table's times."""
    return (time.time_ns() - round(minutes * MINUTE)) // 1000 * 1000


def test_each_interval_holds_its_rows_and_all_together_each_row_once(run, db):
    started = minutes_ago(35)
    this = run("backup-all", started)
    first_end = next(interval_ends(started, 10))
    this.receive(started, first_end - 1000, first_end, first_end + 1000, minutes_ago(5), minutes_ago(0.2))
    this.store()
    other = RowEncoder(depth=5, exchange="binance", collector="somebody-else")
    db.write(other.snapshots([OrderBook("BTCUSDT", first_end + 5000, 777, [(1.0, 1.0)], [(2.0, 1.0)])]))
    earlier = RowEncoder(
        depth=5, exchange="binance", collector="backup-all"
    )  # an earlier run, whose last book came again
    db.write(earlier.snapshots([OrderBook("BTCUSDT", started - SECOND, 1, [(1.0, 1.0)], [(2.0, 1.0)])]))
    this.backup.start()
    until(lambda: len(this.intervals("BTCUSDT")) >= 2)
    this.end()
    for symbol in PAIRS:
        assert this.backed_up(symbol) == this.received[symbol]
    since = time_text(started // MINUTE * MINUTE).replace(":", COLON)
    assert this.folder.name == f"since_{since}"
    assert f"ADA_USDT_100ms_({since})_(1).pkl" in this.names()
    assert all(name.endswith(".pkl") for name in this.names())


def test_a_pickle_holds_the_frame_of_a_data_set(run):
    this = run("backup-frame", minutes_ago(5))
    this.receive(minutes_ago(4))
    this.store()
    this.backup.start()
    this.end()
    (_, path), *_ = this.intervals("BTCUSDT")
    frame = pd.read_pickle(path)
    assert frame.index.name == "Request Time"
    assert frame.index.dtype == np.dtype("datetime64[ns]")
    assert (frame.dtypes == np.float64).all()


def test_csv_holds_the_same(run):
    this = run("backup-csv", minutes_ago(5), format="csv")
    this.receive(minutes_ago(4), minutes_ago(3))
    this.store()
    this.backup.start()
    this.end()

    def read(path):
        return pd.read_csv(path, index_col="Request Time", parse_dates=True)

    assert this.backed_up("ADAUSDT", read) == this.received["ADAUSDT"]


def test_an_interval_is_written_while_rows_of_the_next_ones_come(run):
    this = run("backup-live", time.time_ns(), every_minutes=1 / 30)
    this.writer.start()
    this.backup.start()

    def receive_and_look():
        this.receive(time.time_ns())
        return len(this.intervals("BTCUSDT")) >= 2

    until(receive_and_look)
    assert this.writer.drain(30)
    this.end()
    for symbol in PAIRS:
        assert this.backed_up(symbol) == this.received[symbol]


def test_what_waits_in_the_spool_is_waited_for(run, db):
    """QuestDB is away when two intervals end."""
    away = QuestDB(dataclasses.replace(db.endpoint, http_url=AWAY.http_url))
    this = run("backup-away", minutes_ago(25), db=away)
    this.receive(minutes_ago(24), minutes_ago(12), minutes_ago(1))
    this.writer.start()
    this.backup.start()
    until(lambda: this.metrics.failures >= 3)
    assert this.names() == []
    away.endpoint = db.endpoint
    until(lambda: len(this.intervals("BTCUSDT")) >= 2)
    assert this.writer.drain(30)
    this.end()
    for symbol in PAIRS:
        assert this.backed_up(symbol) == this.received[symbol]


def test_where_questdb_is_away_at_the_end_one_line_tells_how_to_get_the_rest(run, monkeypatch, caplog):
    monkeypatch.setattr(backups, "STOP_SECONDS", 1.0)
    started = minutes_ago(25)
    this = run("backup-away-at-the-end", started, db=QuestDB(AWAY))
    this.receive(minutes_ago(24), minutes_ago(1))
    this.writer.start()
    this.backup.start()
    assert not this.writer.drain(0.1)
    this.end()
    assert not this.folder.exists()
    (line,) = [record.getMessage() for record in caplog.records if "not in the raw backup" in record.getMessage()]
    assert f"ingester export --from '{time_text(started // SECOND * SECOND)}' --to '" in line


def test_a_hanging_questdb_does_not_keep_the_end_from_coming(run, monkeypatch, caplog):
    monkeypatch.setattr(backups, "STOP_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        this = run(
            "backup-hang", minutes_ago(5), db=QuestDB(Endpoint.parse(f"http://127.0.0.1:{mute.getsockname()[1]}"))
        )
        this.backup.start()
        this.end()
    assert "not in the raw backup" in caplog.text
    assert not this.folder.exists()


def test_a_disk_that_fails_is_told_and_tried_again_with_the_next_interval(run, caplog):
    this = run("backup-disk", time.time_ns(), every_minutes=1 / 30)
    this.receive(time.time_ns())
    this.store()
    obstacle = this.folder / ".cut"
    obstacle.write_text("in the way")
    this.backup.start()
    until(lambda: caplog.text.count("raw backup 1 is not written") >= 2)
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert all(record.getMessage().startswith("raw backup 1 is not written") for record in failures)
    last_ns = failures[-1].created * SECOND
    over = itertools.takewhile(lambda end: end <= last_ns, interval_ends(this.started_ns, this.every_minutes))
    assert len(failures) <= len(list(over))
    obstacle.unlink()
    until(lambda: this.intervals("BTCUSDT"))
    this.end()
    assert this.backed_up("BTCUSDT") == this.received["BTCUSDT"]
    assert "not in the raw backup" not in caplog.text


def test_a_disk_that_fails_to_the_end_is_told_with_what_is_missing(run, caplog):
    this = run("backup-disk-to-the-end", minutes_ago(5))
    this.receive(minutes_ago(4))
    this.store()
    this.folder.rmdir()
    this.folder.write_text("in the way")
    this.backup.start()
    this.end()
    assert "raw backup 1 is not written" in caplog.text
    assert "not in the raw backup" in caplog.text


def test_without_rows_there_are_no_files_and_the_folder_goes(run):
    this = run("backup-nothing", minutes_ago(25))
    this.backup.start()
    this.end()
    assert not this.folder.exists()


def test_a_run_that_begins_again_in_the_same_minute_overwrites_nothing(run):
    started = minutes_ago(5)
    contents = {}
    for seconds in (0, 1):
        this = run(f"backup-again-{seconds}", started // MINUTE * MINUTE + seconds * SECOND, every_minutes=1440)
        this.receive(minutes_ago(4))
        this.store()
        this.backup.start()
        this.end()
        now = {path: path.read_bytes() for _, path in this.intervals("BTCUSDT")}
        assert contents.items() < now.items()
        contents = now
    assert len(contents) >= 2


@pytest.mark.slow
def test_rows_that_a_suspended_table_does_not_show_yet_are_waited_for(run, tmp_path):
    server = ManagedServer(tmp_path / "own", heap="384m")
    conf = server.data_dir / "questdb" / "root" / "conf"
    conf.mkdir(parents=True)
    (conf / "server.conf").write_text("dev.mode.enabled=true\n")  # ALTER TABLE … SUSPEND WAL
    try:
        db = QuestDB(server.ensure())
        schema.ensure(db, 5)
        db.sql("ALTER TABLE orderbook SUSPEND WAL")
        this = run("backup-suspended", minutes_ago(25), db=db)
        this.receive(minutes_ago(24), minutes_ago(1))
        this.store()
        looks = []
        sql = db.sql
        db.sql = lambda statement: looks.append(statement) or sql(statement)
        this.backup.start()
        until(lambda: len(looks) >= 2)
        assert set(looks) == {backups._STATE}
        assert this.names() == []
        sql("ALTER TABLE orderbook RESUME WAL")
        until(lambda: this.names())
        this.end()
        for symbol in PAIRS:
            assert this.backed_up(symbol) == this.received[symbol]
    finally:
        server.stop()
