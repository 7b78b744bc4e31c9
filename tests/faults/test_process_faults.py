"""The recorder, its machine's clock and its names break: nothing is lost but the last moment before a kill."""

import itertools
import os
import random
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from evidence import due_of, events_in, stored_in, tick
from recorder import Recorder
from trial import COINS44, FEW, Trial, eventually

from ingester.book import OrderBook
from ingester.events import Event
from ingester.questdb import ilp
from ingester.questdb.encoder import RowEncoder
from ingester.simulator import Simulator
from ingester.simulator.books import book
from ingester.simulator.broadcast import SLOT_SECONDS, TICK_SECONDS, hash_slot
from ingester.spool import Spool

pytestmark = pytest.mark.slow

TAMPERED = Path(__file__).parent / "tampered"
SLOTS = round(TICK_SECONDS / SLOT_SECONDS)
KILLS = 8


def sent_at(symbol, number):
    """When the simulator sends a book, seconds since 1970."""
    return tick(0, symbol, number) * TICK_SECONDS + hash_slot(symbol, SLOTS) * SLOT_SECONDS


def before_kill(at, kills):
    """Seconds from a time until the next kill; what the simulator sends a little late may still be due before it."""
    return min(kill - at for kill in kills if kill > at - 0.5)


def test_kill_9_in_a_loop_costs_the_last_moment_only(place, report):
    kills, chance, starts = [], random.Random(5), []
    with Simulator(COINS44, keep_sent=True) as simulator:
        trial = Trial(simulator, place, "kill-9")
        for _ in range(KILLS):
            begin = time.time()
            with trial:
                starts.append(time.time() - begin)
                trial.flows(ticks=5)
                time.sleep(chance.uniform(0, 0.3))  # at any moment of the feed thread's rhythm
                kills.append(time.time())
                trial.recorder.kill()
        with trial:
            trial.flows(ticks=5)
            evidence = trial.end()
    assert not evidence.lost
    assert not evidence.duplicated
    assert not evidence.foreign
    for symbol in COINS44:
        restarts = [gap for gap in evidence.gaps if gap.symbol == symbol and gap.reason == "restart"]
        assert len(restarts) == KILLS
        assert all(gap.since < kill * 1e6 < gap.until for gap, kill in zip(restarts, kills, strict=True))
    sent = {(symbol, number) for symbol, numbers in evidence.sent.items() for number in numbers}
    ages = [
        min(kill - at for kill in kills if kill > at - 0.5)
        for at in (sent_at(*each) for each in evidence.missing & sent)
    ]
    oldest = max(ages, default=0.0)
    assert oldest < 0.25
    done = f"kill -9, {KILLS} times, 44 pairs"
    remark = f"of what was sent, only the last {oldest * 1000:.0f} ms before a kill are missing, within gaps “restart”"
    report(8, "recorder killed", done, evidence, max(starts), remark + "; recovery: from start to recording")


def test_sigterm_under_load_loses_nothing(place, report):
    pairs = [f"{letters}USDT" for letters in map("".join, itertools.product("ABCDEFG", repeat=3))][:320]
    with Simulator(pairs, keep_sent=True) as simulator, Trial(simulator, place, "sigterm") as trial:
        trial.flows(ticks=30)
        evidence = trial.end()
    assert not evidence.lost
    assert not evidence.unrecorded
    assert not evidence.duplicated
    assert not evidence.foreign
    assert not evidence.gaps
    report(
        9, "SIGTERM", f"SIGTERM while {len(pairs)} pairs run", evidence, None, "all that was sent before it is stored"
    )


def tampered(folder):
    paths = [str(TAMPERED), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "TAMPERED": str(folder)}


def test_names_that_do_not_resolve_for_a_while(place, tmp_path, report):
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Trial(
            *(simulator, place, "dns"),
            stream_url=f"ws://localhost:{simulator.port}",
            environment=tampered(tmp_path),
        ) as trial,
    ):
        (tmp_path / "dns").touch()
        simulator.fault("drop")
        dropped = time.time()
        trial.recorder.wait_for("name resolution")
        eventually(lambda: time.time() > dropped + 4)
        (tmp_path / "dns").unlink()
        back = time.time()
        seconds = trial.recovered(back)
        evidence = trial.end()
    assert not evidence.lost
    assert not evidence.unrecorded
    assert not evidence.duplicated
    assert not evidence.foreign
    assert {gap.symbol for gap in evidence.gaps} == set(FEW)
    assert evidence.reasons() == {"connection lost"}
    done = "connections cut while the exchange's name does not resolve for 4 s"
    report(18, "DNS failure", done, evidence, seconds, "from the return of the name")


def test_a_step_of_the_clock_neither_reorders_nor_overwrites(place, tmp_path, report):
    clock = tmp_path / "clock"
    clock.write_text("0")
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Trial(simulator, place, "clock", environment=tampered(tmp_path)) as trial,
    ):
        for number, step in enumerate((90, -60), 1):
            clock.write_text(str(step * 10**9))
            statement = "SELECT count() FROM collector_events WHERE collector = 'clock' AND kind = 'clock_step'"
            eventually(lambda: trial.db.sql(statement).rows[0][0] == number, what="the event")  # noqa: B023
            trial.flows(ticks=10)
        evidence = trial.end()
    assert not evidence.lost
    assert not evidence.unrecorded
    assert not evidence.duplicated
    assert not evidence.foreign
    assert not evidence.gaps
    for rows in evidence.stored.values():
        times, numbers = zip(*rows, strict=True)
        assert all(a < b for a, b in itertools.pairwise(times))
        assert list(numbers) == sorted(numbers)
    done = "the wall clock is set 90 s ahead, then 150 s back"
    report(19, "clock step", done, evidence, None, "events; receive times rise strictly")


def test_what_waits_while_the_process_is_paused_is_not_stored_as_new(place, report, thorough):
    paused = 20 if thorough else 4
    with Simulator(FEW, keep_sent=True) as simulator, Trial(simulator, place, "paused") as trial:
        trial.recovered(time.time())
        trial.recorder.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)  # until all of its threads stand
        stopped = time.time()
        trial.flows(ticks=10 * paused)
        resumed = time.time()
        trial.recorder.process.send_signal(signal.SIGCONT)
        seconds = trial.recovered(resumed)
        trial.flows(ticks=20)
        evidence = trial.end()
    assert not evidence.lost
    assert not evidence.unrecorded
    assert not evidence.duplicated
    assert not evidence.foreign
    one_gap_each(evidence, "process paused", stopped * 1e6, resumed * 1e6)
    for symbol, rows in evidence.stored.items():
        late = [at / 1e6 - sent_at(symbol, number) for at, number in rows]
        assert max(late) < 1.5, "stamped long after it was sent"
    done = f"SIGSTOP, and SIGCONT after {resumed - stopped:.0f} s"
    remark = "from SIGCONT; what waited in the sockets is within gaps “process paused”"
    report(24, "process paused", done, evidence, seconds, remark)


def one_gap_each(evidence, reason, since, until):
    """Every pair has one gap, for this reason, around a time (us since 1970), and no row lies within."""
    assert sorted(gap.symbol for gap in evidence.gaps) == sorted(evidence.stored)
    for gap in evidence.gaps:
        assert gap.reason == reason
        assert gap.since <= since + 0.3e6
        assert gap.until >= until
        assert not [at for at, _ in evidence.stored[gap.symbol] if gap.since < at < gap.until]


HOURS = 8 * 3600


@pytest.mark.parametrize(("file", "reason"), [("asleep", "process paused"), ("clock", "clock set")])
def test_a_machine_that_was_suspended_has_the_right_time_at_once(place, tmp_path, report, file, reason):
    """`asleep`: the clock since boot counts the time. `clock`: nothing does, as in a resumed virtual machine."""
    clock = tmp_path / file
    clock.write_text("0")
    name = f"suspended-{file}"
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Trial(simulator, place, name, environment=tampered(tmp_path)) as trial,
    ):
        trial.recovered(time.time())
        suspended = time.time()
        clock.write_text(str(HOURS * 10**9))
        seconds = trial.recovered(suspended + HOURS) + HOURS
        trial.flows(ticks=20)
        evidence = trial.end()
    assert not evidence.lost
    assert not evidence.duplicated
    assert not evidence.foreign
    one_gap_each(evidence, reason, suspended * 1e6 + 1.5e6, (suspended + HOURS) * 1e6)
    for rows in evidence.stored.values():
        times, numbers = zip(*rows, strict=True)
        assert all(a < b for a, b in itertools.pairwise(times))
        assert list(numbers) == sorted(numbers)
    counted = "with the clock since boot" if file == "asleep" else "without"
    done = f"the time of day moves {HOURS // 3600} h ahead, {counted}"
    report(25 + (file == "clock"), "suspended machine", done, evidence, seconds, f"a gap “{reason}” over these hours")


def test_a_second_recorder_on_one_folder_is_refused(place, report):
    with Simulator(FEW, keep_sent=True) as simulator, Trial(simulator, place, "folder") as trial:
        with Recorder(*trial.options) as refused:
            refused.process.wait(60)
            code, output = refused.stop()
        trial.flows()
        evidence = trial.end()
    assert code == 1
    assert str(trial.recorder.process.pid) in output
    assert "Traceback" not in output
    assert not evidence.lost
    assert not evidence.unrecorded
    assert not evidence.duplicated
    report(20, "two on one folder", "a second recorder is started", evidence, None, "refused with the first one's pid")


def test_two_recorders_fill_each_others_gaps(place, report):
    pairs = ["TWINAUSDT", "TWINBUSDT"]  # nobody else's, for the view knows no collector
    with Simulator(pairs, keep_sent=True) as simulator:
        trials = [Trial(simulator, place, name) for name in ("twin-a", "twin-b")]
        with trials[0], trials[1]:
            for trial in trials:  # both record before one of them is killed
                trial.flows(ticks=10)
            for trial in trials:
                trial.flows(ticks=10)
                trial.recorder.kill()
                trial.flows(ticks=30)
                trial.start().recovered(time.time())
            sent = simulator.sent
            evidences = [trial.end() for trial in trials]
        db = trials[0].db
        rows = db.sql("DECLARE @pair := 'TWIN%' SELECT symbol, last_update_id FROM books ORDER BY timestamp").rows
    assert not any(evidence.duplicated or evidence.foreign for evidence in evidences)
    for symbol in pairs:
        seen = [number for name, number in rows if name == symbol]
        assert len(set(seen)) == len(seen)
        first = tick(0, symbol, sent[symbol][0])
        assert not [tick(0, symbol, each) - first for each in due_of(sent, 0)[symbol] if each not in set(seen)]
    counts = [sum(map(len, sent.values())), len(rows), 0, 0, sum(len(evidence.in_gaps) for evidence in evidences)]
    done = "two recorders of the same pairs, killed in turn for 3 s"
    report(
        21,
        "two recorders",
        done,
        None,
        0.0,
        "stored: rows of the view `books`; gaps of one are filled by the other",
        counts,
    )


def test_a_clock_behind_the_newest_row_of_the_spool(place):
    """Some seconds: times begin after that row. An hour: it is said, and on record."""
    with Simulator(FEW, keep_sent=True) as simulator:
        for name, ahead in (("behind", 6), ("far-behind", 3600)):
            spool = Spool(place.data_dir / "spool" / name)
            spool.open()
            newest = time.time_ns() + ahead * 10**9
            row = f"orderbook,symbol=BTCUSDT,collector={name} bid_1=1.0,last_update_id=7i {newest}n\n".encode()
            assert spool.append(row, 1, newest, newest)
            spool.close()
            with Trial(simulator, place, name) as trial:
                trial.flows()
                trial.end()
            times = [at for at, number in stored_in(trial.db, name)["ETHUSDT"]]
            assert (min(times) > newest // 1000) == (ahead == 6)
            assert ("behind the newest row in the spool: new rows get" in trial.recorder.output) == (ahead > 6)
        (event,) = [each for each in events_in(trial.db, name) if each["kind"] == "clock_step"]
        assert "behind the newest row" in event["detail"]


def kept(evidence):
    assert not evidence.lost
    assert not evidence.unrecorded
    assert not evidence.duplicated
    assert not evidence.foreign


def test_without_free_descriptors_rows_wait_and_none_is_given_up(place, report):
    with Simulator(FEW, keep_sent=True) as simulator, Trial(simulator, place, "emfile") as trial:
        trial.recovered(time.time())
        pid = trial.recorder.process.pid
        # Three are stdin, stdout and stderr; sockets and files that are open already stay so.
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        trial.recorder.wait_for("rows wait")
        trial.flows(ticks=40)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        back = time.time()
        seconds = trial.recovered(back)
        evidence = trial.end()
    kept(evidence)
    assert not evidence.gaps
    assert "Too many open files" in trial.recorder.output
    assert not (trial.spool / "damaged").exists()
    done = "RLIMIT_NOFILE leaves no descriptor for 4 s (EMFILE)"
    report(30, "no descriptors", done, evidence, seconds, "from the end of it; rows waited")


def test_a_spool_that_cannot_be_read_for_a_while_gives_nothing_up(place, tmp_path, report):
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Trial(simulator, place, "eio", environment=tampered(tmp_path)) as trial,
    ):
        trial.recovered(time.time())
        (tmp_path / "eio").touch()
        trial.recorder.wait_for("rows wait in the spool")
        trial.flows(ticks=20)
        (tmp_path / "eio").unlink()
        seconds = trial.recovered(time.time())
        evidence = trial.end()
    kept(evidence)
    assert not evidence.gaps
    assert not (trial.spool / "damaged").exists()
    report(31, "spool unreadable", "reading the spool's files gives EIO for 2 s", evidence, seconds, "rows waited")


def test_a_spool_that_is_deleted_and_moved_while_it_records(place, tmp_path, report):
    with Simulator(FEW, keep_sent=True) as simulator, Trial(simulator, place, "folder") as trial:
        trial.recovered(time.time())
        shutil.rmtree(trial.spool)
        trial.recorder.wait_for("it is created again")
        trial.recovered(time.time())
        trial.spool.rename(tmp_path / "moved")
        trial.recorder.wait_for("it is created again")
        second = Recorder(*trial.options)
        assert second.process.wait(60) == 1
        assert f"process id {trial.recorder.process.pid}" in second.stop()[1]
        seconds = trial.recovered(time.time())
        evidence = trial.end()
    assert not evidence.lost  # that none was made up cannot be seen without the files
    assert not evidence.unrecorded
    assert not evidence.duplicated
    done = "the spool's folder is deleted, then moved away, while it records"
    remark = "made again at once; rows in files that were deleted would be a gap"
    report(32, "spool deleted", done, evidence, seconds, remark)


def test_damaged_spool_files_never_give_a_wrong_row(tmp_path, report):
    """Real rows in small segments; each time one file is cut or one bit is turned, and everything is read back."""
    encoder, rows = RowEncoder(depth=5, exchange="binance", collector="damaged"), []
    spool = Spool(tmp_path / "spool", limit_bytes=1 << 30, reserve_bytes=0, free_bytes=0, segment_bytes=3_000)
    spool.open()
    for number in range(150):
        symbol = FEW[number % 4]
        bids, asks = (
            [(float(price), float(quantity)) for price, quantity in side] for side in book(0, symbol, number * 50, 5)
        )
        body = encoder.snapshots([OrderBook(symbol, number + 1, number * 50, bids, asks)])
        rows.append(body)
        assert spool.append(body, 1, number + 1, number + 1)
    event = encoder.events([Event(151, "stopped")])
    assert spool.append(event, 0, 151, 151)
    spool.close()
    files = sorted((tmp_path / "spool").glob("*.seg"))
    assert len(files) > 10
    known, chance, lost, read = {*rows, event}, random.Random(1), 0, 0
    for _ in range(500):
        path = chance.choice(files)
        sound, place = path.read_bytes(), chance.randrange(path.stat().st_size)
        if chance.random() < 0.5:
            path.write_bytes(sound[:place])
        else:
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << chance.randrange(8)]) + sound[place + 1 :])
        found = read_back(tmp_path / "spool")
        path.write_bytes(sound)
        assert set(found) <= known
        assert len(set(found)) == len(found)
        lost += len(known) - len(found)
        read += len(found)
    done = "500 times a spool file is cut short or one bit is turned"
    remark = f"no wrong row; what follows in the damaged file of 3 kB is lost ({lost / 500:.0f} rows at a time)"
    report(22, "damaged spool", done, None, None, remark, counts=[500 * len(known), read, lost, 0, 0])


def read_back(folder):
    """All rows that a spool gives, in a copy of its folder."""
    copy = folder.with_name("copy")
    copy.mkdir()
    try:
        for path in folder.glob("*.seg"):
            os.link(path, copy / path.name)
        spool = Spool(copy, limit_bytes=1 << 30, reserve_bytes=0, free_bytes=0)
        spool.open()
        try:
            return [row for record in spool.peek(1 << 30) for row in ilp.rows(record.body)]
        finally:
            spool.close()
    finally:
        remove(copy)


def remove(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_threads_that_die_are_restarted_counted_and_reported(place, tmp_path, report):
    """Of two connections one after the other, the feed thread, the writer and the others die where they are."""
    victims = ["stream 1a", "stream 1b", "feed", "writer", "reconciler", "spool-sync", "pulse"]
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Trial(simulator, place, "threads", environment=tampered(tmp_path)) as trial,
    ):
        for victim in victims:
            (tmp_path / "named").write_text(victim)
            (tmp_path / "named").rename(tmp_path / "kill")  # so that nobody reads half of it
            killed = time.time()
            trial.recorder.wait_for(f"the thread '{victim}' died, it is restarted")
            trial.flows(ticks=10)
        seconds = trial.recovered(killed)
        eventually(lambda: trial.event("thread_died") == "pulse: SystemExit: ", what="event of the last one")
        evidence = trial.end(bugs=True)
    assert not evidence.duplicated
    assert not evidence.foreign
    assert not evidence.lost
    assert not evidence.gaps  # the other connection had what the dead one missed
    done = f"{len(victims)} threads die of an error, one after the other: {', '.join(victims)}"
    report(34, "dead thread", done, evidence, seconds, "each is restarted, counted, an alert and an event; no gap")
