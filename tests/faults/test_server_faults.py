"""QuestDB and the disks break: rows wait in the spool, and all arrive once and whole."""

import json
import os
import time

import psutil
import pytest
from proxy import Proxy
from trial import COINS44, FEW, Managed, Place, Trial, eventually

from ingester.errors import StoreError
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint
from ingester.questdb.server import ManagedServer
from ingester.simulator import Simulator
from ingester.spool import Spool

pytestmark = pytest.mark.slow

RATE = 10 * len(COINS44)
"""Rows that 44 pairs bring in a second."""
MEGABYTE = 1 << 20
SMALL_PAGES = "".join(
    f"cairo.{each}=16K\n"
    for each in (
        "writer.data.append.page.size",
        "wal.writer.data.append.page.size",
        "system.writer.data.append.page.size",
        "o3.column.memory.size",
    )
)
"""QuestDB takes space in small pieces, so that a full disk is felt soon."""


def whole(evidence):
    """Nothing lost, nothing twice, nothing made up, no gap."""
    sound(evidence)
    assert not evidence.gaps


def sound(evidence):
    assert not evidence.lost
    assert not evidence.unrecorded
    assert not evidence.duplicated
    assert not evidence.foreign


@pytest.fixture
def own_place(own_server, tmp_path):
    """A server to be broken, and a folder of one's own for the spool; the tables are made again."""
    db = QuestDB(own_server.endpoint)
    for table in ("orderbook", "collector_events"):
        db.sql(f"DROP TABLE IF EXISTS {table}")
    return Place(own_server.endpoint, tmp_path)


@pytest.fixture
def managed(tmp_path):
    """A QuestDB that a recorder starts by itself."""
    server = ManagedServer(tmp_path)
    yield server
    server.stop()


def behind(proxy, place):
    """The way to a QuestDB through a proxy."""
    return Endpoint(f"http://127.0.0.1:{proxy.port}", place.endpoint.user, place.endpoint.password)


def address_of(place):
    host, port = place.endpoint.http_url.removeprefix("http://").split(":")
    return host, int(port)


def test_a_killed_server_is_started_again_and_nothing_is_lost(managed, report):
    recoveries = []
    with Simulator(COINS44, keep_sent=True) as simulator, Managed(simulator, managed, "server-kill") as trial:
        for _ in range(4):
            trial.recovered(time.time())
            killed = time.time()
            psutil.Process(managed.status().pid).kill()
            recoveries.append(trial.recovered(killed))
        evidence = trial.end()
    whole(evidence)
    assert len(evidence.of_kind("server_restarted")) == 4
    remark = f"longest of {', '.join(f'{each:.0f}' for each in recoveries)} s"
    report(1, "server killed", "kill -9, 4 times, 44 pairs", evidence, max(recoveries), remark)


def test_a_server_that_is_away_is_caught_up_with(own_server, own_place, report, thorough):
    away = 60 if thorough else 15
    with Simulator(COINS44, keep_sent=True) as simulator, Trial(simulator, own_place, "server-down") as trial:
        trial.recovered(time.time())
        own_server.stop()
        stopped = time.time()
        trial.flows(ticks=10 * away)
        assert own_server.ensure() == own_server.endpoint
        back, found = time.time(), trial.count()
        seconds, rate = catch_up(trial, found, back)
        evidence = trial.end()
    whole(evidence)
    assert rate > 2 * RATE
    done = f"QuestDB is down for {back - stopped:.0f} s, 44 pairs"
    remark = f"from its return; then {rate:,.0f} rows/s against {RATE} that come in ({rate / RATE:.0f}x)"
    report(2, "server down", done, evidence, seconds, remark)


def catch_up(trial, found, back):
    """Waits until what was received before `back` is visible; gives the seconds, and rows per second once it goes."""
    eventually(lambda: trial.count() > found, what="the first row after the return")
    begun = time.time()
    eventually(lambda: trial.newest_us() >= back * 1e6, what="the last row from before the return")
    now = time.time()
    return now - back, (trial.count() - found) / max(now - begun, 0.1)


def test_an_acknowledgement_that_is_lost_doubles_nothing(place, report):
    with (
        Proxy(address_of(place)) as proxy,
        Simulator(COINS44, keep_sent=True) as simulator,
        Trial(simulator, place, "ack-lost", questdb=behind(proxy, place)) as trial,
    ):
        for count in range(1, 6):
            proxy.swallow(1)
            eventually(lambda: proxy.swallowed == count, what="rows to write")  # noqa: B023
            seconds = trial.recovered(time.time())
        evidence = trial.end()
    whole(evidence)
    done = "5 times rows are written, and the connection is cut before the answer"
    report(3, "acknowledgement lost", done, evidence, seconds, "sent again, absorbed by DEDUP")


def test_a_server_that_hangs_holds_up_neither_a_recorder_nor_its_next_start(place, report):
    """It takes connections and says nothing while a recorder runs, ends, and another one of its name starts."""
    with (
        Proxy(address_of(place)) as proxy,
        Simulator(FEW, keep_sent=True) as simulator,
        Trial(simulator, place, "hung", questdb=behind(proxy, place)) as trial,
    ):
        trial.recovered(time.time())
        proxy.hang()
        trial.flows(ticks=20)
        code, output = trial.recorder.stop()
        assert code == 0, output
        begun = time.monotonic()
        trial.start()
        until_recording = time.monotonic() - begun
        trial.flows(ticks=20)
        proxy.resume()
        back = time.time()
        seconds = trial.recovered(back)
        evidence = trial.end()
    sound(evidence)
    assert until_recording < 20
    assert evidence.reasons() <= {"restart"}
    done = "QuestDB takes connections and says nothing while a recorder runs, ends, and starts again"
    remark = f"from its next answer; the start recorded after {until_recording:.0f} s, its rows waited in the spool"
    report(2, "hung QuestDB", done, evidence, seconds, remark)


def test_a_full_disk_under_the_server_loses_nothing(managed, small_disk, report):
    root = small_disk(managed.data_dir / "questdb" / "root", "700m")
    (root / "conf").mkdir()
    (root / "conf" / "server.conf").write_text(SMALL_PAGES)
    with Simulator(COINS44, keep_sent=True) as simulator, Managed(simulator, managed, "server-full") as trial:
        trial.recovered(time.time())
        ballast = root / "ballast"
        fill(ballast, 0)
        filled = time.time()
        eventually(lambda: newest_visible(trial) < (time.time() - 3) * 1e6, what="the lack of space")
        trial.flows(ticks=10)
        ballast.unlink()
        freed = time.time()
        seconds = trial.recovered(freed)
        evidence = trial.end()
    whole(evidence)
    deaths = len(evidence.of_kind("server_restarted"))
    done = f"the disk under QuestDB is full for {freed - filled:.0f} s, 44 pairs"
    how = f"QuestDB died and was started again ({deaths}x)" if deaths else "QuestDB survived"
    report(4, "server disk full", done, evidence, seconds, f"from the freeing; {how}")


def newest_visible(trial):
    """Receive time of the newest visible row; 0 where the server does not answer."""
    try:
        return trial.newest_us()
    except StoreError:
        return 0


def fill(ballast, leave):
    """Leaves so many bytes of a disk."""
    with ballast.open("wb") as file:
        while (free := os.statvfs(ballast.parent).f_bavail * 4096 - leave) > 0:
            try:
                os.posix_fallocate(file.fileno(), file.tell(), free)
                file.seek(0, os.SEEK_END)
            except OSError:
                return


def test_a_full_disk_under_the_spool_is_a_gap(place, small_disk, report):
    """QuestDB is away, and nothing that waits may be dropped: what there is no room for is refused and on record."""
    spool = small_disk(place.data_dir / "spool", "450m")
    with (
        Proxy(address_of(place)) as proxy,
        Simulator(COINS44, keep_sent=True) as simulator,
        Trial(simulator, place, "spool-full", questdb=behind(proxy, place)) as trial,
    ):
        proxy.refuse()
        trial.flows(ticks=10)
        ballast = spool / "ballast"
        fill(ballast, 250 * MEGABYTE)  # of which 256 are to stay free
        trial.recorder.wait_for("the spool takes no more rows")
        trial.flows(ticks=20)
        ballast.unlink()
        trial.recorder.wait_for("the spool takes rows again")
        trial.flows(ticks=10)
        proxy.admit()
        back = time.time()
        seconds = trial.recovered(back)
        evidence = trial.end()
    sound(evidence)
    assert {gap.symbol for gap in evidence.gaps} == set(COINS44)
    assert evidence.reasons() == {"spool full"}
    assert len(evidence.in_gaps) > 10 * len(COINS44)
    done = "QuestDB away and the disk under the spool full for 2 s"
    report(5, "spool disk full", done, evidence, seconds, "what was refused is within gaps “spool full”")


def test_a_suspended_table_hides_nothing_for_good(own_server, own_place, report):
    db = QuestDB(own_server.endpoint)
    with Simulator(FEW, keep_sent=True) as simulator, Trial(simulator, own_place, "suspended") as trial:
        trial.recovered(time.time())
        db.sql("ALTER TABLE orderbook SUSPEND WAL")
        suspended = time.time()
        seconds = trial.recovered(suspended)
        trial.event("table_resumed")
        evidence = trial.end()
    whole(evidence)
    assert evidence.of_kind("table_suspended")
    report(6, "table suspended", "ALTER TABLE orderbook SUSPEND WAL", evidence, seconds, "resumed by the recorder")


def test_a_wrong_column_type_makes_rows_wait(own_server, own_place, report):
    db = QuestDB(own_server.endpoint)
    with Simulator(COINS44, keep_sent=True) as simulator, Trial(simulator, own_place, "column") as trial:
        trial.recovered(time.time())
        db.sql("ALTER TABLE orderbook ALTER COLUMN bid_1 TYPE VARCHAR")
        trial.recorder.wait_for("rows wait")
        trial.flows(ticks=20)
        db.sql("ALTER TABLE orderbook ALTER COLUMN bid_1 TYPE DOUBLE")
        mended = time.time()
        seconds = trial.recovered(mended)
        evidence = trial.end()
    whole(evidence)
    assert not dead_letters(own_place, "column")
    done = "bid_1 becomes a VARCHAR, and 2 s later a DOUBLE again"
    report(7, "wrong column type", done, evidence, seconds, "from the mending; rows waited")


def test_a_bad_row_is_set_aside_and_holds_up_nothing(place, report):
    spool = Spool(place.data_dir / "spool" / "bad-row")
    spool.open()
    at = time.time_ns() - 10**9
    row = b'orderbook,symbol=BTCUSDT,collector=bad-row bid_1="much",last_update_id=7i %dn\n' % at
    assert spool.append(row, 1, at, at)
    spool.close()
    with Simulator(FEW, keep_sent=True) as simulator, Trial(simulator, place, "bad-row") as trial:
        trial.event("dead_letter", "BTCUSDT")
        seconds = trial.recovered(time.time())
        evidence = trial.end()
    (letter,) = dead_letters(place, "bad-row")
    assert letter["symbol"] == "BTCUSDT"
    assert "bid_1" in letter["error"]
    assert evidence.lost == {("BTCUSDT", 7)}  # from the table; it is in the dead letters
    assert not evidence.unrecorded
    assert not evidence.duplicated
    assert not evidence.foreign
    counts = [evidence.rows_sent, evidence.rows_stored, 0, 0, len(evidence.in_gaps)]
    done = "a row with a text in bid_1 waits in the spool before sound ones"
    report(7, "bad row", done, None, seconds, "it is in `dead-letter/` with QuestDB's words", counts)


def dead_letters(place, collector):
    folder = place.data_dir / "dead-letter" / collector
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
