"""The exchange and the network to it break: nothing received is lost, and every hole is a gap on record."""

import time

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from proxy import Proxy
from trial import COINS44, FEW, Trial, eventually
from unanswering import Late, Unanswering

from ingester.simulator import ExchangeLimits, Simulator

pytestmark = pytest.mark.slow


def sound(evidence):
    """Nothing lost, nothing twice, nothing made up."""
    assert not evidence.lost
    assert not evidence.unrecorded
    assert not evidence.duplicated
    assert not evidence.foreign


def test_a_half_open_connection_costs_nothing_beside_a_second_one(place, report):
    with Simulator(COINS44, keep_sent=True) as simulator, Trial(simulator, place, "half-open") as trial:
        first, _ = simulator.connections
        simulator.fault("half_open", connection=first)
        eventually(lambda: [each for each in simulator.connections if each > 2], what="a new connection")
        trial.flows(ticks=10)
        evidence = trial.end()
    sound(evidence)
    assert not evidence.gaps
    done = "one of two connections stays open and sends nothing"
    report(10, "half-open socket", done, evidence, None, "no gap: the second one delivers; the dead one is replaced")


def test_a_half_open_connection_alone_is_replaced_after_five_seconds(place, report):
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Trial(simulator, place, "half-open-1", "--connections", 1) as trial,
    ):
        simulator.fault("half_open", connection=1)
        since = time.time()
        seconds = trial.recovered(since + 1)
        evidence = trial.end()
    sound(evidence)
    assert {gap.symbol for gap in evidence.gaps} == set(FEW)
    assert evidence.reasons() <= {"connection lost", "exchange silent"}
    assert 4 < evidence.longest_gap < 20
    done = "the only connection stays open and sends nothing"
    report(10, "half-open socket", done, evidence, seconds + 1, f"gap of {evidence.longest_gap:.1f} s recorded")


def test_pongs_are_no_life(place, report):
    """Ten seconds without data on a connection that answers pings."""
    with (
        Simulator(FEW, keep_sent=True, limits=ExchangeLimits(ping_interval=1)) as simulator,
        Trial(simulator, place, "pongs", "--connections", 1) as trial,
    ):
        simulator.fault("silence", seconds=10)
        since = time.time()
        eventually(lambda: simulator.connections not in ([1], []), 20, "a new connection")
        seconds = trial.recovered(since + 10)
        evidence = trial.end()
    sound(evidence)
    assert {gap.symbol for gap in evidence.gaps} == set(FEW)
    assert evidence.reasons() == {"exchange silent"}
    assert evidence.longest_gap >= 9
    done = "10 s of pings without data"
    report(11, "pongs without data", done, evidence, seconds, "from the end of the silence; connected again after 5 s")


def test_a_silent_and_a_halted_symbol_do_not_touch_the_others(place, report):
    with Simulator(FEW, keep_sent=True) as simulator, Trial(simulator, place, "one-silent") as trial:
        simulator.fault("silence", "ETHUSDT", seconds=9)
        simulator.fault("halt", "ADAUSDT")
        silent = time.time()
        trial.event("resubscribed", "ETHUSDT")
        seconds = trial.recovered(silent + 9, "ETHUSDT")
        assert trial.event("status", "ADAUSDT") == "HALT"
        simulator.fault("clear")
        trial.recovered(time.time(), "ADAUSDT")
        trial.flows()
        evidence = trial.end()
    sound(evidence)
    assert {gap.symbol for gap in evidence.gaps} == {"ETHUSDT", "ADAUSDT"}
    assert evidence.reasons("ETHUSDT") == {"exchange silent"}
    assert all(reason.startswith("exchange silent") for reason in evidence.reasons("ADAUSDT"))
    assert [each["detail"] for each in evidence.of_kind("status", "ADAUSDT")] == ["HALT", "TRADING"]
    assert {each["symbol"] for each in evidence.of_kind("resubscribed")} == {"ETHUSDT", "ADAUSDT"}
    done = "one symbol is silent for 9 s, one is halted"
    report(12, "silent symbol", done, evidence, seconds, "from the end of the silence; other symbols untouched")


def test_a_dripping_rest_interface_does_not_hold_up_a_start(place, report):
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Unanswering(drip=1.0) as unanswering,
    ):
        trial = Trial(simulator, place, "drip")
        trial.options[trial.options.index("--rest-url") + 1] = unanswering.url
        begun = time.monotonic()
        with trial:
            until_recording = time.monotonic() - begun
            seconds = trial.recovered(time.time())
            evidence = trial.end()
    sound(evidence)
    assert until_recording < 20
    assert not evidence.gaps
    done = "the list of pairs comes a byte a second, and never to an end"
    remark = f"recording began after {until_recording:.0f} s with all named pairs"
    report(12, "dripping REST", done, evidence, seconds, remark)


def test_a_short_list_for_some_seconds_narrows_no_recording(place, report):
    """The exchange lists one of four pairs at the start, as during maintenance, and all of them again later."""
    with Simulator(FEW, keep_sent=True) as simulator, Late(simulator) as rest:
        rest.release.set()
        trial = Trial(simulator, place, "short-list")
        trial.options[trial.options.index("--rest-url") + 1] = rest.url
        with trial:
            trial.recovered(time.time())
            trial.end()
        rest.only = {FEW[0]}
        with trial:
            for symbol in FEW:
                seconds = trial.recovered(time.time(), symbol)
            evidence = trial.end()
    sound(evidence)
    assert evidence.reasons() <= {"restart"}
    assert not evidence.of_kind("pair_removed")
    done = f"a recorder of {len(FEW)} pairs is started again while the exchange lists one of them"
    report(12, "short list", done, evidence, seconds, "what was recorded before is recorded on")


def test_one_slow_connection_costs_nothing_beside_a_fast_one(place, report):
    with Simulator(COINS44, keep_sent=True) as simulator, Trial(simulator, place, "slow-1") as trial:
        simulator.fault("slow", seconds=6, connection=simulator.connections[0], rate=10_000)
        trial.flows(ticks=60)
        evidence = trial.end()
    sound(evidence)
    assert not evidence.gaps
    report(13, "slow network", "one of two connections gets 10 kB/s of 120", evidence, None, "no gap")


def test_what_a_slow_network_drops_is_a_gap(place, report):
    """Both connections too slow for what is sent, until the exchange drops them with what it holds for them."""
    limits = ExchangeLimits(write_buffer=100_000)
    with Simulator(COINS44, keep_sent=True, limits=limits) as simulator, Trial(simulator, place, "slow-2") as trial:
        simulator.fault("slow", seconds=6, rate=20_000)
        slow = time.time()
        eventually(lambda: simulator.stats()["connections_ever"] > 2, what="a dropped connection")
        seconds = trial.recovered(slow + 6)
        trial.flows(ticks=10)
        eventually(lambda: not simulator.stats()["backlog_bytes"], what="an empty backlog")
        evidence = trial.end()
    sound(evidence)
    assert evidence.in_gaps
    done = "both connections get 20 kB/s of 120 for 6 s, and are dropped with what waits for them"
    report(13, "slow network", done, evidence, seconds, "from the end of the slowness")


KINDS = ["malformed", "garbage", "duplicate", "out_of_order", "crossed", "empty", "repeat"]
# An empty book is stored but not in `sent`, so that one which is late behind it would not be known as late.
unlike = {"empty", "out_of_order"}
spoilt = st.tuples(st.sampled_from(KINDS), st.sampled_from([None, *FEW]), st.integers(1, 4))


def test_spoilt_frames_neither_end_the_recording_nor_take_sound_ones_along(place, report):
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Trial(simulator, place, "fuzz", "--connections", 1) as trial,
    ):
        committed = dict.fromkeys(KINDS, 0)

        @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(
            st.lists(spoilt, min_size=1, max_size=4).filter(lambda faults: not unlike <= {each[0] for each in faults})
        )
        def spoil(faults):
            for kind, symbol, count in faults:
                simulator.fault(kind, symbol, count=count)
                committed[kind] += count
            trial.flows(ticks=8)
            assert trial.recorder.process.poll() is None

        spoil()
        trial.recovered(time.time())
        evidence = trial.end()
    assert not evidence.lost
    assert not evidence.duplicated
    assert not evidence.foreign
    # Repeated ones were never sent, for less than a second; and a frame that shows neither symbol nor id is a gap where
    # the next one of a symbol is late, which cannot be exact.
    assert len(evidence.unrecorded) <= committed["repeat"] + committed["garbage"]
    assert evidence.of_kind("quarantined")
    assert len(evidence.of_kind("connected")) == 1
    done = f"{sum(committed.values())} frames cut, garbled, doubled, swapped, crossed, emptied, repeated at random"
    remark = f"spoilt ones are gaps; {len(evidence.late)} came late and are left out by rule"
    report(14, "bad frames", done, evidence, None, remark)


def test_thirty_rotations_cost_nothing(place, report, thorough):
    """Connections that live 20 s at most, replaced before; five recorders at once, each on a single connection."""
    every, each_rotates = (15, 6) if thorough else (5, 6)
    trials = []
    with Simulator(FEW[:2], keep_sent=True, limits=ExchangeLimits(lifetime=20)) as simulator:
        try:
            for number in range(5):
                options = ("--connections", 1, "--rotate-every", f"{every}s")
                trials.append(Trial(simulator, place, f"rotating-{number}", *options).start())
            for trial in trials:
                for _ in range(each_rotates):
                    trial.recorder.wait_for("was replaced", 60)
            evidences = [trial.end() for trial in trials]
        finally:
            for trial in trials:
                trial.recorder.kill()
    for evidence in evidences:
        assert not evidence.gaps
        assert not evidence.duplicated
        assert not evidence.foreign
        assert not _within_own_time(evidence)
        assert not evidence.of_kind("disconnected")
    rotations = sum(len(evidence.of_kind("rotated")) for evidence in evidences)
    assert rotations >= 30
    stored = sum(evidence.rows_stored for evidence in evidences)
    done = f"{rotations} rotations of single connections, one every {every} s of the 20 s they may live"
    report(15, "rotation", done, None, None, "five recorders at once, no gap", counts=[stored, stored, 0, 0, 0])


def _within_own_time(evidence):
    """Missing books between the first and the last row of each symbol: others ran before and after."""
    missing = set()
    for symbol, rows in evidence.stored.items():
        first, last = rows[0][1], rows[-1][1]
        missing |= {(symbol, n) for s, n in evidence.missing if s == symbol and first < n < last}
    return missing


def test_an_announced_shutdown_costs_nothing(place, report):
    with (
        Simulator(COINS44, keep_sent=True) as simulator,
        Trial(simulator, place, "shutdown", "--connections", 1) as trial,
    ):
        simulator.fault("shutdown", after=8)
        eventually(lambda: simulator.connections and 1 not in simulator.connections, 20, "the end of the old one")
        trial.flows(ticks=10)
        evidence = trial.end()
    sound(evidence)
    assert not evidence.gaps
    assert evidence.of_kind("exchange_shutdown")
    assert evidence.of_kind("rotated")
    done = "the only connection is told that it ends in 8 s"
    report(16, "shutdown event", done, evidence, None, "replaced at once, no gap")


def test_refused_upgrades_are_not_tried_again_before_their_time(place, report):
    with (
        Simulator(FEW, keep_sent=True) as simulator,
        Proxy(("127.0.0.1", simulator.port)) as proxy,
        Trial(
            *(simulator, place, "refused", "--connections", 1),
            stream_url=f"ws://127.0.0.1:{proxy.port}",
        ) as trial,
    ):
        assert len(proxy.accepted) == 1
        simulator.fault("refuse", status=429, retry_after=3)
        simulator.fault("drop")
        dropped = time.time()
        eventually(lambda: len(proxy.accepted) == 3, what="a second attempt")  # refused with 429 as the first one
        trial.recorder.wait_for("HTTP 429")
        trial.recorder.wait_for("HTTP 429")
        simulator.fault("refuse", status=418, retry_after=4)
        trial.recorder.wait_for("HTTP 418")
        simulator.fault("clear")
        seconds = trial.recovered(dropped + 1) + 1
        evidence = trial.end()
    sound(evidence)
    assert evidence.reasons() == {"connection lost"}
    first, second, third, fourth = proxy.accepted[1:]
    assert min(second - first, third - second) >= 3
    assert fourth - third >= 4
    remark = "four attempts, each after the Retry-After of the one before"
    report(17, "refused upgrades", "429, 429, 418 with Retry-After 3, 3, 4 s after a cut", evidence, seconds, remark)
