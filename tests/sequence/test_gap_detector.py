"""Which ids pass, in which order, and what is a gap."""

from itertools import accumulate

import pytest
from feed_bench import Bench
from hypothesis import given, strategies as st
from worlds import World

from ingester.clock import SECOND
from ingester.sequence.gap_detector import CONTRADICTED_AFTER, HIGHEST_ID, RESTART_AFTER


def test_a_pause_within_a_pairs_own_rhythm_is_no_gap_and_one_beyond_it_is():
    bench = Bench(symbols=["BTCUSDT", "SLOWUSDT"])
    bench.begin()
    for second in range(240):
        bench.book("BTCUSDT", second)
        if second % 20 == 0:
            bench.book("SLOWUSDT", second)
        bench.turn(1)
    before = len(bench.gaps())
    assert before <= 2  # until its rhythm was known
    for second in range(240, 300):
        bench.book("BTCUSDT", second)
        bench.turn(1)
    bench.book("SLOWUSDT", 300)
    bench.turn(1)
    assert len(bench.gaps()) == before
    for second in range(300, 1100):
        bench.book("BTCUSDT", second)
        bench.turn(1)
    bench.book("SLOWUSDT", 1100)
    bench.turn(1)
    ((symbol, since, until, reason),) = bench.gaps()[before:]
    assert (symbol, reason) == ("SLOWUSDT", "exchange silent")
    assert until - since > 790 * SECOND


def test_after_a_restart_every_pair_has_a_gap_since_the_earlier_run():
    bench = Bench()
    bench.monitor.resume(900 * SECOND)
    bench.begin()
    bench.book("BTCUSDT", 1)
    bench.turn(2)
    assert bench.gaps() == [("BTCUSDT", 900 * SECOND, bench.now_ns - 2 * SECOND, "restart")]
    bench.turn(10)
    assert ("ETHUSDT", 900 * SECOND, None, "restart") in bench.gaps()
    bench.monitor.close(bench.now_ns)
    assert ("ETHUSDT", 900 * SECOND, bench.now_ns, "restart") in bench.gaps()


def test_a_crossed_book_is_a_gap_unless_a_sound_copy_comes():
    bench = Bench(copies=2)
    bench.begin()
    bench.book("BTCUSDT", 1)
    bench.feed.poll()
    since = bench.now_ns
    bench.book("BTCUSDT", 2, bids=((3.0, 1.0),))
    bench.book("BTCUSDT", 2, stream=1)
    bench.book("BTCUSDT", 3, bids=((3.0, 1.0),))
    assert bench.ids() == [("BTCUSDT", 2)]
    assert bench.gaps() == []
    bench.book("BTCUSDT", 4)
    bench.feed.poll()
    ((symbol, since_ns, _, reason),) = bench.gaps()
    assert (symbol, reason) == ("BTCUSDT", "quarantined")
    assert since_ns == since + 1_000  # the receive time of 2


def test_a_cut_frame_counts_as_its_pairs_and_garbage_as_that_of_a_pair_that_comes_late():
    bench = Bench()
    bench.begin()
    for tick in range(40):
        for symbol in ("BTCUSDT", "ETHUSDT"):
            bench.book(symbol, tick)
        bench.feed.poll()
        bench.now_ns += SECOND // 10
    assert bench.gaps() == []
    bench.say(b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":40,"bi')
    bench.book("ETHUSDT", 40)
    bench.feed.poll()
    bench.now_ns += SECOND // 10
    bench.book("BTCUSDT", 41)
    bench.book("ETHUSDT", 41)
    bench.feed.poll()
    assert [gap[0] for gap in bench.gaps()] == ["BTCUSDT"]
    bench.say(b"<html>")
    bench.now_ns += SECOND // 10
    bench.book("BTCUSDT", 42)
    bench.feed.poll()
    bench.now_ns += SECOND // 10
    bench.book("ETHUSDT", 43)
    bench.feed.poll()
    assert [gap[0] for gap in bench.gaps()] == ["BTCUSDT", "ETHUSDT"]


def test_a_connection_that_lags_behind_another_brings_nothing_twice():
    bench = Bench(copies=2)
    bench.begin()
    for update_id in range(1, 200):
        bench.book("BTCUSDT", update_id, 0)
        bench.feed.poll()
    bench.lose(0)
    for update_id in range(1, 203):
        bench.book("BTCUSDT", update_id, 1)
    assert bench.ids() == [("BTCUSDT", 200), ("BTCUSDT", 201), ("BTCUSDT", 202)]
    assert bench.kinds("update_ids_restarted") == []


def test_update_ids_that_fall_behind_wait_until_the_exchange_is_seen_to_count_anew():
    bench = Bench()
    bench.book("BTCUSDT", 1000)
    for update_id in range(1, RESTART_AFTER + 3):
        bench.book("BTCUSDT", update_id)
    assert bench.ids() == [("BTCUSDT", 1000), *(("BTCUSDT", i) for i in range(RESTART_AFTER, RESTART_AFTER + 3))]
    assert [event.kind for event in bench.events] == ["update_ids_restarted", "gap"]


def test_an_odd_late_frame_does_not_count_towards_a_restart():
    bench = Bench()
    for update_id in range(1000, 1000 + 2 * RESTART_AFTER):
        bench.book("BTCUSDT", update_id)
        bench.book("BTCUSDT", 7)
    assert len(bench.ids()) == 2 * RESTART_AFTER


def test_receive_times_rise_by_the_tables_resolution_even_within_one_read():
    bench = Bench()
    bench.book("BTCUSDT", 1)
    bench.book("BTCUSDT", 2)
    bench.book("ETHUSDT", 2)
    first, second, other = bench.feed.poll()
    assert second.receive_ns - first.receive_ns == 1_000
    assert other.receive_ns == first.receive_ns == bench.now_ns


def test_what_a_lagging_connection_did_not_bring_before_another_joined_is_a_gap():
    for late in (True, False):  # it comes too late, or not at all
        bench = Bench(copies=2)
        bench.begin()
        bench.book("BTCUSDT", 1, 0)
        bench.feed.poll()
        since = bench.now_ns
        bench.now_ns += 300_000_000
        bench.book("BTCUSDT", 5, 1)
        bench.feed.poll()
        until = bench.now_ns
        if late:
            bench.book("BTCUSDT", 3, 0)
        else:
            bench.lose(0)
        bench.feed.poll()
        assert bench.gaps() == [("BTCUSDT", since, until, "connection lost")]


def test_where_a_connection_joins_that_is_not_ahead_nothing_is_missing():
    bench = Bench(copies=2)
    bench.begin()
    bench.book("BTCUSDT", 1, 0)
    bench.book("BTCUSDT", 3, 1)
    bench.book("BTCUSDT", 3, 0)
    bench.lose(0)
    bench.book("BTCUSDT", 5, 1)
    bench.feed.poll()
    assert bench.gaps() == []


SEEDS = [*range(100), 106, 114, 117, 134, 135, 139, 167, 184, 214, 216, 260, 306, 309, 323, 345, 352, 374]
"""Some of an earlier rule's failures are among them."""
STEPS = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 10**12)), min_size=1, max_size=80)


class Carried:
    """The same books over several connections, each as far as it has come; time passes with every book."""

    def __init__(self, steps, copies):
        self.bench = Bench(symbols=["BTCUSDT"], copies=copies)
        self.bench.begin()
        self.books = list(accumulate(steps))
        self.watermark = [0] * copies
        self.passed = []
        self.brought = []

    def bring(self, stream, update_id=None):
        """The next book of a connection, or another one."""
        if update_id is None and self.watermark[stream] == len(self.books):
            return
        if update_id is None:
            update_id = self.books[self.watermark[stream]]
            self.watermark[stream] += 1
            self.brought.append(update_id)
        self.bench.now_ns += SECOND // 100
        self.bench.book("BTCUSDT", update_id, stream)
        self.passed += [update_id for _, update_id in self.bench.ids()]

    def replace(self, stream, back):
        """Another connection in its place, which lags behind by some books more."""
        self.bench.lose(stream)
        self.bench.open(stream)
        self.watermark[stream] = max(0, self.watermark[stream] - back)

    def lost(self):
        """What came and did not pass, and was greater than all sound ids before it."""
        return [each for each in dict.fromkeys(self.brought) if each not in self.passed]


@given(STEPS, st.integers(1, 3), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=200))
def test_of_connections_that_lag_and_are_replaced_every_book_passes_that_is_newer_than_all_before(steps, copies, moves):
    carried = Carried(steps, copies)
    newest, expected = -1, []
    for stream, move in moves:
        if move == 12:
            carried.replace(stream % copies, 40)
            continue
        carried.bring(stream % copies)
        if carried.brought and carried.brought[-1] > newest:
            newest = carried.brought[-1]
            expected.append(newest)
    assert carried.passed == expected
    assert carried.bench.kinds("update_ids_restarted") == []
    assert carried.bench.metrics.malformed == 0


@given(
    st.lists(st.integers(1, 50), min_size=40, max_size=60),
    st.integers(1, 2),
    st.integers(1, 10),
    st.one_of(st.just(2**63 - 1), st.integers(10**6, 2**63 - 1)),
    st.booleans(),
    st.integers(0, 1),
)
def test_after_an_id_that_is_far_too_large_its_pair_goes_on_within_moments_and_the_gap_is_on_record(
    steps, copies, at, wrong, again, by
):
    carried = Carried(steps, copies)
    for number in range(len(steps)):
        carried.bring(0)
        if number == at or (again and number == at + 15):
            carried.bring(by % copies, wrong)
        for stream in range(1, copies):
            carried.bring(stream)
    assert carried.passed[-1] == carried.books[-1]
    assert len(carried.lost()) <= 2 * CONTRADICTED_AFTER
    assert [each for each in carried.passed if each != wrong] == sorted({*carried.books} - {*carried.lost()})
    assert carried.passed.count(wrong) == (wrong < HIGHEST_ID)
    reasons = {gap[3] for gap in carried.bench.gaps()}
    assert reasons <= {"update ids restarted", "quarantined"}
    assert reasons


def test_an_id_too_large_whose_connection_is_gone_is_refuted_by_two_that_agree_or_by_one_that_cannot_lag_so_far():
    for copies in (1, 2):
        carried = Carried([1] * 100, copies)
        for _ in range(50):
            for stream in range(copies):
                carried.bring(stream)
        carried.bring(0, 10**9)
        for stream in range(copies):
            carried.replace(stream, 0)
        for _ in range(RESTART_AFTER + 1):
            for stream in range(copies):
                carried.bring(stream)
        assert carried.passed[-1] == 50 + RESTART_AFTER + 1
        (event,) = carried.bench.kinds("update_ids_restarted")
        assert event.detail == f"from 1000000000 to {50 + RESTART_AFTER}"


def test_a_count_that_really_goes_on_far_ahead_is_followed_from_the_second_book_on():
    bench = Bench()
    bench.book("BTCUSDT", 5)
    for update_id in range(9 * 10**18, 9 * 10**18 + 4):
        bench.now_ns += SECOND // 10
        bench.book("BTCUSDT", update_id)
    assert [each - 9 * 10**18 for _, each in bench.ids()[1:]] == [1, 2, 3]
    assert [gap[3] for gap in bench.gaps()] == ["quarantined"]


def test_a_spoilt_frame_with_a_far_too_large_id_does_not_hide_the_gaps_that_follow():
    bench = Bench(symbols=["BTCUSDT"])
    bench.begin()
    for update_id in range(1, 20):
        bench.book("BTCUSDT", update_id)
        bench.feed.poll()
        bench.now_ns += SECOND // 10
    for too_large in (10**17, 10**9):
        bench.say(b'{"stream":"btcusdt@depth5@100ms","data":{"lastUpdateId":%d,"bi' % too_large)
        bench.feed.poll()
    since = bench.now_ns - SECOND // 10
    bench.turn(4)
    bench.book("BTCUSDT", 30)
    bench.feed.poll()
    assert bench.gaps() == [("BTCUSDT", since, bench.now_ns, "quarantined")]


def test_around_a_leap_of_the_clock_there_is_one_gap_whatever_was_stamped_before_it():
    bench = Bench()
    bench.begin()
    bench.book("BTCUSDT", 1)
    bench.feed.poll()
    leap_ns = bench.now_ns + 8 * 3600 * SECOND
    bench.monitor.clock_set(leap_ns)
    bench.now_ns += SECOND // 10
    bench.book("BTCUSDT", 2)  # stamped before the leap, taken in after it
    bench.feed.poll()
    since = bench.now_ns
    bench.now_ns = leap_ns + SECOND // 10
    bench.book("BTCUSDT", 3)
    bench.book("ETHUSDT", 1)
    bench.feed.poll()
    assert bench.gaps()[:1] == [("BTCUSDT", since, bench.now_ns, "clock set")]


@pytest.mark.parametrize("ends", [False, True])
def test_books_below_an_id_that_was_a_little_too_large_are_a_gap_also_where_the_count_catches_up_with_it(ends):
    carried = Carried([1] * 30, 1)
    for _ in range(10):
        carried.bring(0)
    carried.bring(0, 13)  # between the books 10 and 11
    since_ns = carried.bench.now_ns
    for _ in range(1 if ends else 4):
        carried.bring(0)
    if ends:
        carried.bench.now_ns += SECOND // 100
        carried.bench.monitor.close(carried.bench.now_ns)
    assert carried.lost() == ([11] if ends else [11, 12])
    ((_, begun_ns, ended_ns, reason),) = carried.bench.gaps()
    assert (begun_ns, ended_ns, reason) == (since_ns, carried.bench.now_ns, "update ids restarted")


def begun(copies, last_id=10):
    """A feed whose connections have all brought the ids up to this one, ten a second."""
    bench = Bench(symbols=["BTCUSDT"], copies=copies)
    bench.begin()
    for update_id in range(1, last_id + 1):
        bring(bench, *[(stream, update_id) for stream in range(copies)])
    return bench


def bring(bench, *brought):
    """Each connection brings an id, one after the other; returns the ids that passed."""
    passed = []
    for stream, update_id in brought:
        bench.now_ns += SECOND // 20
        bench.book("BTCUSDT", update_id, stream)
        passed += [update_id for _, update_id in bench.ids()]
    return passed


def test_a_wrong_id_that_another_connection_passes_first_is_a_gap():
    bench = begun(copies=2)
    wrong_ns = bench.now_ns + SECOND // 20
    assert bring(bench, (0, 13), (1, 11), (1, 12), (1, 14)) == [13, 14]
    assert bench.gaps() == [("BTCUSDT", wrong_ns, bench.now_ns, "update ids restarted")]
    assert bring(bench, (0, 11), (0, 12), (0, 14), (0, 15)) == [15]
    assert bench.kinds("update_ids_restarted") == []


@pytest.mark.parametrize("wrong", [0, 5])
def test_a_book_that_came_with_a_smaller_id_is_a_gap_where_its_sound_copy_comes_too_late(wrong):
    bench = begun(copies=2)
    since_ns = bench.now_ns - SECOND // 20  # when 10 first came
    assert bring(bench, (0, wrong), (0, 12)) == [12]
    assert ("BTCUSDT", since_ns, bench.now_ns, "update ids restarted") in bench.gaps()
    assert bring(bench, (0, 13), (1, 11), (1, 12)) == [13]


def test_a_book_that_never_passed_and_comes_much_too_late_is_a_gap_between_its_neighbours():
    bench = begun(copies=2)
    since_ns = bench.now_ns - SECOND // 20
    assert bring(bench, (0, 20)) == [20]  # with the book of 30: its id was read wrong
    until_ns = bench.now_ns
    assert bring(bench, *[(0, update_id) for update_id in range(40, 60)]) == list(range(40, 60))
    assert bring(bench, (1, 15), (1, 16), (1, 40)) == []
    assert bench.gaps() == [("BTCUSDT", since_ns, until_ns, "connection lost")]


def test_a_count_that_restarts_within_the_ids_of_late_goes_on_after_some_books_and_the_rest_is_a_gap():
    bench = begun(copies=1, last_id=100)
    since_ns = bench.now_ns
    ids = range(50, 80)
    assert bring(bench, *[(0, update_id) for update_id in ids]) == list(ids)[RESTART_AFTER - 1 :]
    ((_, begun_ns, until_ns, reason),) = bench.gaps()
    assert (begun_ns, until_ns, reason) == (since_ns, since_ns + RESTART_AFTER * SECOND // 20, "update ids restarted")


def test_a_count_that_restarts_just_before_the_end_is_a_gap_until_the_end():
    bench = begun(copies=1, last_id=100)
    since_ns = bench.now_ns
    assert bring(bench, (0, 50)) == []
    bench.now_ns += SECOND // 20
    bench.monitor.close(bench.now_ns)
    assert bench.gaps() == [("BTCUSDT", since_ns, bench.now_ns, "update ids restarted")]


@pytest.mark.parametrize("first", [1, 950])
def test_a_connection_that_still_lags_in_the_old_count_brings_nothing_twice(first):
    bench = begun(copies=2, last_id=5)
    old, new = range(1000, 1030), range(first, first + 40)
    assert bring(bench, *[(0, update_id) for update_id in old]) == list(old)
    passed = bring(bench, *[(0, update_id) for update_id in new])
    assert passed == list(new)[RESTART_AFTER - 1 :]
    assert bring(bench, *[(1, update_id) for update_id in [*old, *new]]) == []
    assert bring(bench, (0, new[-1] + 1), (1, new[-1] + 1), (1, new[-1] + 2)) == [new[-1] + 1, new[-1] + 2]
    assert len(bench.kinds("update_ids_restarted")) == 1


def test_books_that_are_lost_within_one_read_are_a_gap():
    bench = begun(copies=1)
    for update_id in (13, 11, 12, 14):
        bench.book("BTCUSDT", update_id)
    assert [update_id for _, update_id in bench.ids()] == [13, 14]
    assert [gap[3] for gap in bench.gaps()] == ["update ids restarted"]


def test_in_random_worlds_nothing_is_stored_twice_and_nothing_is_lost_without_a_gap():
    for seed in SEEDS:
        world = World(seed)
        assert (seed, world.twice, world.lost_without_a_gap(), world.log) == (seed, [], [], world.log)
        if not world.wrong and not world.restarts and not world.lost():
            assert world.bench.kinds("update_ids_restarted") == []
            assert {gap[3] for gap in world.gaps} <= {"connection lost", "exchange silent"}
        if not world.restarts and not world.losses:
            assert len(world.lost()) <= CONTRADICTED_AFTER * world.wrong
