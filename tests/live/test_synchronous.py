"""aligned.py: the same grid as a data set's, no row too early, none lost in silence."""

import gzip
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from frames_of import read
from recorder import url_of

from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.config.settings import Settings
from ingester.datasets.dataset import time_text
from ingester.errors import FellBehind
from ingester.exchange import simulator_at
from ingester.live.buffer import LiveBuffer
from ingester.live.synchronous import SynchronousRows
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.record.recorder_service import RecorderService
from ingester.simulator import Simulator, tape_of_file
from ingester.simulator.rest_answers import SimulatedPair

RECORDING = Path(__file__).parents[1] / "data" / "btcusdt.jsonl.gz"
PAIRS = ["XLIVEUSDT", "XTHINUSDT"]
GRIDS = [("50ms", "1s", "none"), ("20ms", "7ms", "none"), ("100ms", "50ms", "forward")]


@pytest.fixture(scope="module")
def lived(questdb, tmp_path_factory):
    """Recorded books, and thin synthetic ones, on their way into the table and in the live record of the same feed."""
    folder = tmp_path_factory.mktemp("lived")
    with gzip.open(RECORDING, "rt") as lines, gzip.open(folder / "books.gz", "wt") as own:
        own.writelines(line.replace("btcusdt", "xliveusdt") for line, _ in zip(lines, range(1_000), strict=False))
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    rows = {}
    pairs = [SimulatedPair(PAIRS[1], levels=3), *PAIRS[2:]]
    with Simulator(pairs, tapes=[tape_of_file(folder / "books.gz")], speed=20) as simulator:
        exchange = simulator_at(simulator.stream_url, simulator.rest_url)
        record = LiveBuffer(PAIRS, depth=5, rows=10_000)
        collector = RecorderService(
            Settings(tuple(PAIRS), exchange, collector="lived"), db, data_dir=folder, live=record
        )
        collector.start()
        wake, now = collector.feed.monitor.detectors.keys, collector.clock.now  # nothing has to be woken here

        def iterate(every, max_age, fill):
            every_ns, max_age_ns = (int(text[:-2]) * 1_000_000 if "ms" in text else SECOND for text in (every, max_age))
            rows[every] = list(
                SynchronousRows(record, PAIRS, every_ns=every_ns, max_age_ns=max_age_ns, fill=fill, now=now, wake=wake)
            )

        threads = [threading.Thread(target=iterate, args=each) for each in GRIDS]
        for thread in threads:
            thread.start()
        assert simulator.wait_finished(60)
        assert collector.stop()
        for thread in threads:
            thread.join(30)
    db.sql("SELECT wait_wal_table('orderbook')")
    return rows


@pytest.mark.parametrize(("every", "max_age", "fill"), GRIDS)
def test_what_is_iterated_live_is_what_the_export_of_the_table_gives(lived, questdb, tmp_path, every, max_age, fill):
    rows = lived[every]
    times = np.array([row.time for row in rows])
    step = int(times[1] - times[0])
    assert len(rows) > 4 * SECOND // step
    span = "--from", time_text(int(times[0])), "--to", time_text(int(times[-1]) + step)
    how = "--every", every, "--max-age", max_age, "--fill", fill, "--format", "npz", "--pairs", ",".join(PAIRS)
    where = "--questdb", url_of(questdb.endpoint), "--root", str(tmp_path)
    result = CliRunner().invoke(cli, ["export", *span, *how, *where])
    assert result.exit_code == 0, result.output
    for place, pair in enumerate(PAIRS):
        (path,) = tmp_path.rglob(f"{pair[:-4]}_USDT_*.npz")
        exported = read(path)
        assert exported.index.to_numpy("datetime64[ns]").view(np.int64).tolist() == times.tolist()
        live = np.array([row.values[place] for row in rows])
        assert live.tobytes() == exported.to_numpy().tobytes()
        known = ~np.isnan(live[:, 0])
        assert known.sum() > len(rows) // 10
        assert len(np.unique(live[known], axis=0)) > 40
    if max_age == "7ms":
        assert not known.all()
    assert np.isnan(live[:, 6:10]).all()  # a thin book


def book(symbol, at_ns, price=1.0):
    return OrderBook(symbol, at_ns, at_ns, [(price, 1.0)], [(price + 1, 1.0)])


class Bench:
    """A record whose time is turned by hand; grids of one second."""

    def __init__(self, rows=100):
        self.now_ns = 100 * SECOND + 5
        self.record = LiveBuffer(["A", "B"], depth=1, rows=rows)
        self.record.open()
        self.woken = 0

    def grid(self, every_ns=SECOND, max_age_ns=SECOND, fill="none"):
        return SynchronousRows(
            self.record, ["A", "B"], every_ns=every_ns, max_age_ns=max_age_ns, fill=fill, now=self.now, wake=self.wake
        )

    def now(self):
        """Time passes by being looked at."""
        self.now_ns += 1
        return self.now_ns

    def wake(self):
        """The feed thread looks how far it is."""
        self.woken += 1
        self.record.watermark(self.now())

    def reach(self, at_ns):
        self.now_ns = at_ns
        self.record.watermark(at_ns)


def prices(row):
    return [None if np.isnan(value) else value for value in row.values[:, 0].tolist()]


def test_a_grid_begins_at_the_next_whole_multiple_with_what_came_before():
    bench = Bench()
    bench.record.take([book("A", 99 * SECOND + 500_000_000, 7.0), book("B", 98 * SECOND, 8.0)])
    grid, forward = bench.grid(max_age_ns=2 * SECOND), bench.grid(fill="forward")
    bench.reach(103 * SECOND)
    assert [next(grid).time for _ in range(2)] == [101 * SECOND, 102 * SECOND]
    assert prices(next(forward)) == [7.0, 8.0]
    again = bench.grid(max_age_ns=2 * SECOND)
    bench.reach(104 * SECOND)
    assert prices(next(again)) == [None, None]


def test_what_came_a_minute_before_a_grid_begins_is_not_in_it_as_it_is_not_in_an_export():
    bench = Bench()
    bench.record.take([book("A", 41 * SECOND - 1_000), book("B", 41 * SECOND, 8.0)])
    grid = bench.grid(fill="forward")
    bench.reach(102 * SECOND)
    assert prices(next(grid)) == [None, 8.0]


def test_no_row_is_given_before_all_that_the_table_will_have_up_to_its_time_is_in():
    bench = Bench()
    grid = bench.grid()
    bench.now_ns = 101 * SECOND + 990
    bench.record.watermark(bench.now_ns)
    bench.record.take([book("A", 101 * SECOND + 999, 5.0)])  # in the table it has the time of the grid row
    assert prices(next(grid)) == [5.0, None]
    assert bench.woken > 0
    assert bench.record.until_ns > 101 * SECOND + 1_000


def test_who_is_late_gets_every_row_and_each_with_what_was_known_then():
    bench = Bench()
    grid = bench.grid()
    for second in range(100, 180):
        bench.record.take([book("A", second * SECOND + 7_000, float(second))])
    bench.reach(180 * SECOND + 2_000)
    rows = [next(grid) for _ in range(80)]
    assert [row.time // SECOND for row in rows] == list(range(101, 181))
    assert [prices(row)[0] for row in rows] == [float(second) for second in range(100, 180)]


def test_who_is_so_late_that_rows_are_gone_is_told():
    bench = Bench(rows=10)
    grid = bench.grid()
    for tenth in range(200):
        bench.record.take([book("A", 100 * SECOND + tenth * SECOND // 10)])
    bench.reach(121 * SECOND)
    with pytest.raises(FellBehind, match=r"rows of A are gone .* keep more"):
        next(grid)


def test_rows_that_no_grid_time_needs_may_be_gone():
    bench = Bench(rows=10)
    grid = bench.grid(every_ns=20 * SECOND)
    for tenth in range(200):
        bench.record.take([book("A", 100 * SECOND + tenth * SECOND // 10, float(tenth))])
    bench.reach(121 * SECOND)
    row = next(grid)
    assert (row.time, prices(row)) == (120 * SECOND, [199.0, None])


def test_it_ends_with_the_recorder_and_what_was_cleared_stays_in_it():
    bench = Bench()
    grid = bench.grid()
    bench.record.take([book("A", 100 * SECOND + 7_000)])
    bench.record.clear(["A"])
    bench.reach(102 * SECOND)
    bench.record.close()
    assert [(row.time // SECOND, prices(row)) for row in grid] == [(101, [1.0, None])]
    bench.record.open()
    assert list(grid) == []
