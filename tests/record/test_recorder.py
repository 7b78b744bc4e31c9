"""recorder.py over real sockets: what a program that reads live books can rely on."""

import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import ingester
from ingester import Recorder
from ingester.datasets.dataset import INDEX, columns
from ingester.errors import NotRunning, SettingsError, UnknownPair, UsageError
from ingester.exchange import simulator_at
from ingester.simulator import Simulator
from ingester.simulator.rest_answers import SimulatedPair

PAIRS = ["BTCUSDT", "ETHUSDT", "XTHINUSDT"]


@pytest.fixture(scope="module")
def simulator():
    with Simulator([*PAIRS[:2], SimulatedPair("XTHINUSDT", levels=2), "SOLUSDT"], keep_sent=True) as simulator:
        yield simulator


def recorder_at(simulator, pairs=PAIRS, **options):
    exchange = simulator_at(simulator.stream_url, simulator.rest_url)
    return Recorder(pairs, exchange=exchange, **options)


@pytest.fixture(scope="module")
def recorder(simulator):
    """One that has been running for a moment."""
    with recorder_at(simulator) as recorder:
        assert recorder.ready(30)
        with recorder.subscribe("fixture") as consumer:
            while len(recorder.window("BTCUSDT", 5).times) < 5:
                assert consumer.wait(30)
        yield recorder


def test_the_public_name_is_there_and_costs_nothing_until_it_is_asked_for():
    assert ingester.Recorder is Recorder
    assert "Recorder" in dir(ingester)
    with pytest.raises(AttributeError, match="Recordr"):
        _ = ingester.Recordr


def test_windows_frames_and_latest_agree_in_the_form_of_a_data_set(recorder):
    times, values = recorder.window("btc-usdt", 5)
    assert times.dtype == np.int64
    assert values.dtype == np.float64
    assert values.shape == (5, 20)
    assert (np.diff(times) > 0).all()
    assert (times % 1_000 == 0).all()
    assert (values[:, 0] < values[:, 10]).all()  # best bid, best ask
    frame = recorder.frame("BTCUSDT")
    assert frame.index.name == INDEX
    assert frame.index.dtype == "datetime64[ns]"
    assert list(frame.columns) == columns(5)
    at = frame.index.get_indexer(times.view("datetime64[ns]"))
    assert (frame.to_numpy()[at] == values).all()
    assert len(recorder.frame("BTCUSDT", 2)) == 2
    latest = recorder.latest("BTCUSDT")
    assert latest.time >= times[-1]
    assert latest.values.shape == (20,)
    assert np.isnan(recorder.latest("XTHINUSDT").values).tolist() == ([False] * 4 + [True] * 6) * 2


def test_since_gives_what_came_at_that_time_or_later(recorder):
    times = recorder.window("ETHUSDT", 4).times
    assert recorder.since("ETHUSDT", int(times[1])).times[:3].tolist() == times[1:].tolist()
    assert recorder.since("ETHUSDT", int(times[1]) + 1).times[0] == times[2]
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(times[2]) // 1_000)
    assert recorder.since("ETHUSDT", at).times[0] == times[2]
    assert recorder.since("ETHUSDT", at.replace(tzinfo=None)).times[0] == times[2]
    assert len(recorder.since("ETHUSDT", at + timedelta(days=1)).times) == 0


def test_several_consumers_get_every_book_that_was_sent(recorder, simulator):
    first, second = recorder.subscribe("first"), recorder.subscribe("second", ["BTCUSDT"])
    got = {"first": [], "second": []}
    for consumer in (first, second):
        while len(got[consumer.name]) < 10:
            assert consumer.wait(30)
            got[consumer.name] += consumer.take("BTCUSDT").times.tolist()
    both = sorted(set(got["first"]) & set(got["second"]))
    kept = recorder.since("BTCUSDT", both[0]).times.tolist()
    assert kept[: len(both)] == both
    assert (first.lost, second.lost) == (0, 0)
    assert first.updated("ETHUSDT")
    for consumer in (first, second):
        consumer.close()
        consumer.close()


def test_rows_of_all_pairs_stand_on_whole_multiples_and_follow_each_other(recorder):
    grid = recorder.synchronous(["ETHUSDT", "XTHINUSDT"], every="50ms")
    assert grid.pairs == ("ETHUSDT", "XTHINUSDT")
    rows = [next(grid) for _ in range(6)]
    assert [row.time % 50_000_000 for row in rows] == [0] * 6
    assert np.diff([row.time for row in rows]).tolist() == [50_000_000] * 5
    for row in rows:
        assert row.values.shape == (2, 20)
        for place, pair in enumerate(grid.pairs):
            known = recorder.since(pair, row.time - 1_000_000_000)
            last = np.searchsorted(known.times, row.time, side="right") - 1
            assert np.array_equal(row.values[place], known.values[last], equal_nan=True)


def test_an_error_or_a_halt_of_a_callback_holds_up_nobody(recorder, caplog):
    stuck, free, seen, enough = threading.Event(), threading.Event(), [], threading.Event()

    @recorder.on_snapshot
    def fails(pair, row):
        raise ValueError(f"of {pair}")

    def halts(pair, row):
        stuck.set()
        free.wait(30)

    def sees(pair, row):
        seen.append((pair, row.time, row.values.shape))
        if len(seen) > 20:
            enough.set()

    before = recorder.callback_failures
    recorder.on_snapshot(halts, ["BTCUSDT"])
    recorder.on_snapshot(sees, ["ETHUSDT"])
    assert stuck.wait(30)
    assert enough.wait(30)
    free.set()
    assert recorder.callback_failures > before
    assert {(pair, shape) for pair, _, shape in seen} == {("ETHUSDT", (20,))}
    times = [time for _, time, _ in seen]
    assert times == sorted(set(times))
    told = [record for record in caplog.records if "the recording goes on" in record.getMessage()]
    assert 1 <= len(told) < recorder.callback_failures


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        (lambda r: r.latest("BTCUSD"), UnknownPair, "Nearest names: BTCUSDT"),
        (lambda r: r.window("BTCUSDT", 0), UsageError, "0 rows"),
        (lambda r: r.frame("BTCUSDT", -1), UsageError, "-1 rows"),
        (lambda r: r.subscribe("one", ["ETHUSDC"]), UnknownPair, "ETHUSDT"),
        (lambda r: [r.subscribe("same"), r.subscribe("same")], UsageError, "'same' already"),
        (lambda r: r.start(), NotRunning, "runs already"),
        (lambda r: r.synchronous(every="1.5ms"), UsageError, "whole number of milliseconds"),
        (lambda r: r.synchronous(every="soon"), SettingsError, "every 'soon'"),
        (lambda r: r.synchronous(fill="backward"), UsageError, "none, forward"),
        (lambda r: Recorder([]), SettingsError, "pairs is empty"),
        (lambda r: Recorder("BTCUSDT", 7), SettingsError, "^depth 7"),
        (lambda r: Recorder("BTCUSDT", interval="150ms"), SettingsError, "^interval '150ms'"),
        (lambda r: Recorder("BTCUSDT", exchange="kraken"), SettingsError, "binance-us"),
        (lambda r: Recorder("BTCUSDT", keep="long"), SettingsError, "keep 'long'"),
        (lambda r: Recorder("BTCUSDT", stream_url="http://x"), SettingsError, "^stream_url"),
        (lambda r: Recorder("BTCUSDT", exchange="simulator", rest_url="http://x"), SettingsError, "needs both"),
    ],
)
def test_misuse_is_told_in_words(recorder, mistake, error, words):
    with pytest.raises(error, match=words):
        mistake(recorder)


def test_what_was_never_started_has_nothing_and_a_second_stop_is_a_mistake(simulator):
    recorder = recorder_at(simulator, ["BTCUSDT"])
    for ask in (lambda: recorder.latest("BTCUSDT"), lambda: recorder.gaps(), lambda: recorder.synchronous()):
        with pytest.raises(NotRunning, match="never started"):
            ask()
    with pytest.raises(NotRunning, match="does not run"):
        recorder.stop()
    with recorder:
        recorder.stop()
        with pytest.raises(NotRunning, match="stopped already"):
            recorder.stop()


def test_a_pair_that_the_exchange_does_not_list_is_refused_at_the_start(simulator):
    recorder = recorder_at(simulator, ["BTCUSDC"])
    with pytest.raises(UnknownPair, match="Nearest names: BTCUSDT"):
        recorder.start()
    assert not recorder.running


def test_it_starts_again_and_the_time_between_is_a_gap():
    recorder, events = Recorder(["BTCUSDT"], exchange="simulator", keep="1min"), []
    recorder.on_event(events.append)
    consumer = recorder.subscribe("throughout")
    for _ in range(2):
        with recorder:
            assert recorder.ready(30)
            assert consumer.wait(30) == ["BTCUSDT"]
        taken = consumer.take("BTCUSDT")
        assert len(taken.times)
        assert consumer.wait() == []
    times = recorder.frame("BTCUSDT").index
    assert times.is_monotonic_increasing
    (gap,) = recorder.gaps("BTCUSDT")
    assert gap.reason == "restart"
    begin, end = times.searchsorted(np.array([gap.since_ns, gap.until_ns]).view("datetime64[ns]"))
    assert end - begin <= 1
    assert [event.kind for event in events].count("stopped") == 2
    assert events == recorder.events()
    recorder.clear()
    assert recorder.latest("BTCUSDT") is None
    assert len(recorder.frame("BTCUSDT")) == 0


def test_a_gap_is_seen_when_it_happens(simulator):
    seen = threading.Event()
    recorder = recorder_at(simulator, ["SOLUSDT"], connections=1)
    recorder.on_event(lambda event: seen.set() if event.kind == "gap" else None)
    with recorder:
        assert recorder.ready(30)
        simulator.fault("drop", connection=max(simulator.connections))
        assert seen.wait(30)
        (gap,) = recorder.gaps("SOLUSDT")
        assert gap.reason == "connection lost"
        assert gap.length() > 0
        assert recorder.metrics.reconnects == 1


def test_pairs_come_and_go_while_the_others_flow(simulator):
    with recorder_at(simulator, PAIRS[:2]) as recorder:
        assert recorder.ready(30)
        consumer = recorder.subscribe("all")
        with pytest.raises(UnknownPair, match="SOLUSDT"):
            recorder.add("SOLUSD")
        recorder.add(["sol-usdt", "BTCUSDT"])
        assert recorder.pairs == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
        while "SOLUSDT" not in consumer.wait(30):
            pass
        assert len(consumer.take("SOLUSDT").times)
        assert recorder.latest("SOLUSDT") is not None
        recorder.remove("ETHUSDT")
        assert recorder.pairs == ["BTCUSDT", "SOLUSDT"]
        with pytest.raises(UnknownPair, match="ETHUSDT"):
            recorder.latest("ETHUSDT")
        with pytest.raises(UsageError, match="No pair would be left"):
            recorder.remove(recorder.pairs)
        kinds = [event.kind for event in recorder.events()]
        assert kinds.count("pair_added") == kinds.count("pair_removed") == 1
    times = recorder.window("BTCUSDT", 10_000).times
    assert recorder.gaps() == []
    assert len(times) > 10
    with pytest.raises(NotRunning, match="only while it does"):
        recorder.add("ETHUSDT")


def test_a_pair_whose_name_is_not_ascii_comes_from_the_simulator_as_any_other():
    pairs = ["币安人生USDT", "BTCUSDT"]
    with Simulator(pairs) as simulator, recorder_at(simulator, ["币安人生usdt", "btcusdt"]) as recorder:
        assert recorder.pairs == pairs
        assert recorder.ready(30)
        simulator.fault("malformed", symbol="币安人生USDT", count=2)
        with recorder.subscribe("wait") as consumer:
            while not recorder.gaps():
                assert consumer.wait(30)
        assert {gap.symbol for gap in recorder.gaps()} == {"币安人生USDT"}
