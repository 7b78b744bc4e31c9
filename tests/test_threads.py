"""threads.py: a thread that dies is restarted, counted and reported; each long-lived one is killed once."""

import ctypes
import threading
import time
from contextlib import ExitStack

import pytest
from receiver import Receiver
from waiting import eventually

from ingester import threads
from ingester.config.settings import Settings
from ingester.datasets.backup import Backup
from ingester.exchange import simulator_at
from ingester.monitoring.alerts import AlertLimits, Notice
from ingester.monitoring.metrics_server import MonitoringServer
from ingester.monitoring.monitor import Monitor, Observer
from ingester.monitoring.webhook import Webhook
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.leases import EXPORT, Lease
from ingester.questdb.retention import Policy, RetentionThread as Retention, RetentionWorker
from ingester.questdb.server import watch
from ingester.record.pairs_file import PairsFile, PairsWatcher
from ingester.record.recorder import Recorder
from ingester.record.recorder_service import RecorderService
from ingester.simulator import Simulator
from ingester.threads import SupervisedThread, beside, within

PAIRS = ["BTCUSDT", "ETHUSDT"]


def test_what_dies_is_called_again_and_is_on_record(caplog):
    before, calls, done = threads.deaths(), [], threading.Event()

    def work():
        calls.append(threading.current_thread())
        if len(calls) == 1:
            raise OSError("too many open files")
        if len(calls) == 2:
            raise SystemExit
        done.set()

    thread = SupervisedThread(work, "a worker")
    thread.start()
    assert done.wait(10)
    thread.join(10)
    deaths = threads.deaths().since(before)
    assert deaths.counts == {"a worker": 2}
    assert (deaths.last, deaths.error) == ("a worker", "SystemExit: ")
    assert abs(deaths.at - time.time()) < 10
    assert not deaths.down
    said = next(record.message for record in caplog.records if "died" in record.message)
    assert said == "the thread 'a worker' died, it is restarted: OSError: too many open files"


def test_one_that_dies_again_and_again_waits_longer_and_ends_when_it_is_to_stop():
    stopping, calls = threading.Event(), []

    def work():
        calls.append(time.monotonic())
        raise ValueError("always")

    thread = SupervisedThread(work, "hopeless", stopping)
    thread.start()
    eventually(lambda: len(calls) == 4)
    assert "hopeless" in threads.deaths().down
    assert calls[3] - calls[2] > calls[1] - calls[0]
    stopping.set()
    thread.join(5)
    assert not thread.is_alive()
    assert len(calls) <= 6  # one more try after it was to stop


def kill(thread):
    """Makes the function of a running thread raise where it is now."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)) == 1


class Away:
    """A managed server that always runs."""

    def alive(self):
        return True

    def stopped(self):
        return False


@pytest.mark.slow
def test_each_long_lived_thread_is_killed_once_and_the_recording_goes_on(questdb, tmp_path):
    before, others = threads.deaths(), set(threading.enumerate())
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    with ExitStack() as closing:
        simulator = closing.enter_context(Simulator(pairs=PAIRS))
        source = simulator_at(simulator.stream_url, simulator.rest_url).at(name="practice")
        collector = RecorderService(Settings(tuple(PAIRS), source, collector="killed"), db, data_dir=tmp_path)
        receiver, stop = Receiver(), threading.Event()
        closing.callback(receiver.stop)
        webhook, door = Webhook(receiver.url), MonitoringServer("127.0.0.1:0")
        pulse = Monitor(
            Observer(collector, data_dir=tmp_path, questdb="", managed=False, limits=AlertLimits()), tell=webhook.tell
        )
        watched = PairsFile(tmp_path / "pairs.txt")
        (tmp_path / "pairs.txt").write_text("\n".join(PAIRS))
        following = PairsWatcher(
            watched, known=PAIRS, change=collector.change, record=collector.record, now=collector.clock.now
        )
        retention_worker = RetentionWorker(db, Policy(), now=collector.clock.now)
        retention = Retention(
            retention_worker,
            now=collector.clock.now,
            on_event=collector.record,
            first_seconds=0.2,
            every_seconds=0.2,
        )
        folder = tmp_path / "raw"
        folder.mkdir()
        lease = Lease(db, EXPORT, 0, 1)
        collector.start()
        backup = Backup(
            *(db, collector.spool, collector.settings),
            started_ns=collector.started_ns,
            now=collector.clock.now,
            folder=folder,
            every_minutes=1 / 60,
            format="csv",
        )
        for each in (pulse, following, retention, backup):
            each.start()
        watch(Away(), stop, lambda endpoint: None)
        program = Recorder(PAIRS, stream_url=simulator.stream_url, rest_url=simulator.rest_url)
        seen, happened = [], []
        program.on_snapshot(lambda pair, row: seen.append(pair))
        program.on_event(happened.append)
        program.start()
        lease.begin()
        eventually(lambda: collector.metrics.store.rows.stored > 20 and seen)

        started = [thread for thread in threading.enumerate() if thread not in others]
        # The one that looks for changed listings sleeps for an hour; only then would it feel that it was killed.
        living = [each for each in started if isinstance(each, SupervisedThread) and each.name != "instruments"]
        names = {thread.name.split(" on_")[0] for thread in living}
        assert names >= {
            *("stream 1a", "stream 1b", "feed", "writer", "reconciler", "spool-sync", "server watch", "watch", "pulse"),
            *("retention", "backup", "metrics", "webhook", "callback", "hold"),
        }
        died = threads.deaths().since(before)
        for thread in living:
            kill(thread)
        lease._ending.set()  # these two sleep until they have something to do
        webhook.tell(Notice("gap", "raised", "warning", "a gap"), pulse.latest().report)
        simulator.fault("drop")  # an event, for those who wait for one
        for thread in living:
            eventually(
                lambda name=thread.name: threads.deaths().since(before).counts.get(name), what=f"death of {thread.name}"
            )
        eventually(lambda: not threads.deaths().down & {thread.name for thread in living}, what="restart")
        assert not died.counts

        stored, taken = collector.metrics.store.rows.stored, len(seen)
        eventually(lambda: collector.metrics.store.rows.stored > stored + 20, what="more rows")
        eventually(lambda: len(seen) > taken + 20, what="more calls")
        report = eventually(lambda: (now := pulse.latest().report).threads.deaths and now)
        assert report.threads.deaths.keys() >= {"stream 1a", "feed", "writer"}
        assert "thread_died" in {problem.kind for problem in report.problems}
        eventually(
            lambda: collector.event_counts.read(collector.clock.now()).events.get("thread_died"), what="the event"
        )
        lease.end()
        stop.set()
        program.stop()
        for each in (following, retention):
            each.stop()
        assert collector.stop()
        backup.stop()
        pulse.stop()
        webhook.close()
        door.close()
    assert not [thread for thread in living if thread.is_alive() and thread.name != "server watch"]
    rows = db.sql("SELECT count(), count_distinct(last_update_id) FROM orderbook WHERE collector = 'killed'").rows
    assert rows[0][0] == collector.metrics.store.rows.received


def test_a_call_in_time_gives_its_result_or_raises_what_it_raises():
    assert within(5, lambda: 7, "seven") == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0, "divide")


def test_a_call_that_takes_longer_is_left_behind_and_may_still_end():
    release = threading.Event()
    begun = time.monotonic()
    late = beside(lambda: release.wait(30), "late")
    with pytest.raises(TimeoutError):
        late.result(0.1)
    assert time.monotonic() - begun < 5
    release.set()
    assert late.result(5) is True
