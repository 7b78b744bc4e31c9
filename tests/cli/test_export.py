"""`ingester export`: a real table in, a data set out, held against what went in."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from books_in_table import RECORDING, flat, snapshots_of, store
from click.testing import CliRunner
from frames_of import read
from recorder import interruptible, url_of

from ingester import open_dataset
from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.datasets.dataset import columns
from ingester.events import Event
from ingester.questdb import reader, schema
from ingester.questdb.client import QuestDB

DAY = 1_600_041_600 * SECOND  # 2020-09-14, which no other test writes to


@pytest.fixture(scope="module")
def db(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    return db


@pytest.fixture(scope="module")
def recorded(db):
    """The recorded books as rows of a pair of its own; their receive times and values as they went in."""
    snapshots = list(snapshots_of(RECORDING, "XRECUSDT"))
    store(db, snapshots, "export-test")
    times = np.array([snapshot.receive_ns // 1000 * 1000 for snapshot in snapshots])  # the table has microseconds
    return times, np.array([flat(snapshot) for snapshot in snapshots])


@pytest.fixture(scope="module")
def made(db):
    """An hour of three made pairs with holes of all lengths, recorded by two collectors."""
    chance = np.random.default_rng(11)
    rows = {}
    for place, symbol in enumerate(("XAUSDT", "XBUSDT", "XCUSDT")):
        steps = chance.choice([100, 110, 250, 1700, 60_000], 2000, p=[0.5, 0.3, 0.15, 0.04, 0.01]) * 1_000_000
        times = DAY + place * 1000 + np.cumsum(steps)
        times = times[times < DAY + 3600 * SECOND]
        snapshots = []
        for number, at in enumerate(times.tolist()):
            price = 100.0 + number
            levels = [(price - level, 1.0 + number) for level in range(5)]
            snapshots.append(OrderBook(symbol, at, 1000 + 3 * number, levels, [(p + 10, q) for p, q in levels]))
        copies = [each._replace(receive_ns=each.receive_ns + 7_000_000) for each in snapshots[::2]]
        first, second = snapshots[: len(snapshots) // 2], snapshots[len(snapshots) // 2 - 5 :]
        gap = Event(times[10].item(), "gap", symbol, detail="connection lost", until_ns=times[11].item())
        store(db, first, "export-a", [gap])
        store(db, second, "export-b")
        store(db, copies, "export-c")
        rows[symbol] = (times, np.array([flat(each) for each in snapshots]))
    return rows


def run(questdb, tmp_path, *options):
    where = ("--questdb", url_of(questdb.endpoint), "--root", str(tmp_path))
    return CliRunner().invoke(cli, ["export", *map(str, options), *where])


def exported(questdb, tmp_path, *options):
    result = run(questdb, tmp_path, *options)
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "extracted datasets").iterdir()
    return folder


def times_of(frame):
    return frame.index.to_numpy("datetime64[ns]").view(np.int64)


@pytest.mark.parametrize("form", ["pkl", "csv", "parquet", "npz"])
def test_the_recorded_books_come_out_to_the_last_bit(questdb, recorded, tmp_path, form):
    folder = exported(
        questdb, tmp_path, "--from", "2024-08-08", "--to", "2024-08-09", "--pairs", "XRECUSDT", "--format", form
    )
    assert folder.name == "from_(2024-08-08 00\ua78900)_to_(2024-08-09 00\ua78900)"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"XREC_USDT_100ms_(2024-08-08 00\ua78900)_(2024-08-09 00\ua78900).{form}", "manifest.json"]
    frame = read(folder / names[0])
    times, values = recorded
    assert list(frame.columns) == columns(5)
    assert (frame.dtypes == "float64").all()
    assert np.array_equal(times_of(frame), times)
    assert np.array_equal(frame.to_numpy(), values)


def brute_grid(times, values, start, end, every, max_age):
    grid = np.arange(start, end, every)
    rows = np.full((len(grid), values.shape[1]), np.nan)
    for place, at in enumerate(grid):
        before = np.flatnonzero(times <= at)
        if len(before) and at - times[before[-1]] <= max_age:
            rows[place] = values[before[-1]]
    return grid, rows


@pytest.mark.parametrize(("every", "max_age"), [("250ms", "1s"), ("1s", "30s"), ("70ms", "70ms")])
def test_a_grid_is_the_same_for_all_pairs_and_never_looks_ahead(questdb, made, tmp_path, every, max_age):
    start, end = DAY + 60 * SECOND, DAY + 600 * SECOND
    options = ("--from", "2020-09-14 00:01", "--to", "2020-09-14 00:10", "--every", every, "--max-age", max_age)
    folder = exported(questdb, tmp_path, *options, "--pairs", "XAUSDT,XBUSDT,XCUSDT", "--format", "npz")
    step, age = (int(pd.Timedelta(text).value) for text in (every, max_age))
    for symbol, (times, values) in made.items():
        name = f"{symbol[:2]}_USDT_{every}_(2020-09-14 00\ua78901)_(2020-09-14 00\ua78910).npz"
        frame = read(folder / name)
        grid, rows = brute_grid(times, values, start, end, step, age)
        assert np.array_equal(times_of(frame), grid)
        assert np.array_equal(frame.to_numpy(), rows, equal_nan=True)


def test_copies_of_several_collectors_are_merged_and_the_manifest_tells_everything(questdb, made, tmp_path):
    options = ("--from", "2020-09-14", "--to", "2020-09-14 01:00", "--pairs", "XAUSDT,XBUSDT,XCUSDT", "--levels", 2)
    folder = exported(questdb, tmp_path, *options)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["from"], manifest["to"]) == ("2020-09-14T00:00Z", "2020-09-14T01:00Z")
    assert manifest["source"] == {"table": "orderbook", "collectors": ["export-a", "export-b", "export-c"]}
    assert manifest["levels"] == 2
    for symbol, (times, values) in made.items():
        pair = manifest["pairs"][symbol]
        path = folder / pair["file"]
        assert pair["sha256"] == sha256(path.read_bytes()).hexdigest()
        frame = pd.read_pickle(path)
        assert np.array_equal(times_of(frame), times)
        kept = [name in columns(2) for name in columns(5)]
        assert np.array_equal(frame.to_numpy(), values[:, kept])
        assert pair["rows"] == len(times) == len(frame)
        assert pd.Timestamp(pair["first_row"]).value == times[0]
        assert pd.Timestamp(pair["last_row"]).value == times[-1]
        assert 0 < pair["coverage_percent"] < 100
        assert all(set(gap) >= {"from", "to", "reason"} for gap in pair["gaps"])


def test_the_same_command_gives_the_same_bytes_and_needs_overwrite(questdb, made, tmp_path):
    options = ("--from", "2020-09-14", "--to", "2020-09-14 01:00", "--pairs", "XAUSDT", "--every", "500ms")
    folder = exported(questdb, tmp_path, *options)
    (path,) = folder.glob("*.pkl")
    before = path.read_bytes()
    again = run(questdb, tmp_path, *options)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    assert run(questdb, tmp_path, *options, "--overwrite").exit_code == 0
    assert path.read_bytes() == before
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_adjacent_ranges_together_hold_each_row_once(questdb, made, tmp_path):
    parts = []
    for number, (start, end) in enumerate([("00:00", "00:10"), ("00:10", "01:00")]):
        options = ("--from", f"2020-09-14 {start}", "--to", f"2020-09-14 {end}", "--pairs", "XBUSDT")
        (path,) = exported(questdb, tmp_path / str(number), *options).glob("*.pkl")
        parts.append(times_of(pd.read_pickle(path)))
    assert np.array_equal(np.concatenate(parts), made["XBUSDT"][0])


def test_a_grid_opens_for_training_and_its_windows_keep_clear_of_the_gaps(questdb, made, tmp_path):
    options = ("--from", "2020-09-14", "--to", "2020-09-14 01:00", "--pairs", ",".join(made), "--every", "500ms")
    folder = exported(questdb, tmp_path, *options, "--max-age", "2s", "--format", "npz")
    data = open_dataset(folder)
    data.verify()
    gaps = [gap for pair in data.manifest["pairs"].values() for gap in pair["gaps"]]
    for pair in made:
        frame = read(next(folder.glob(f"{pair[:2]}_*")))
        assert frame.equals(data[pair])
    windows = list(data.episodes(4, stride=1, seed=5))
    assert len(windows) > 50
    assert len(gaps) > 10
    for gap in gaps:
        since, until = (np.datetime64(gap[end].removesuffix("Z"), "ns") for end in ("from", "to"))
        assert not any(since < times[-1] and until > times[0] for times, _ in windows)
    array, first = data.to_numpy(), data.times[0]
    for times, values in windows:
        begin = (times[0] - first) // np.timedelta64(500, "ms")
        assert np.array_equal(values, array[begin : begin + 4])


def test_fill_forward_carries_on_what_is_too_old(questdb, made, tmp_path):
    options = ("--from", "2020-09-14", "--to", "2020-09-14 01:00", "--pairs", "XAUSDT", "--every", "1s")
    (path,) = exported(questdb, tmp_path / "a", *options).glob("*.pkl")
    (filled,) = exported(questdb, tmp_path / "b", *options, "--fill", "forward").glob("*.pkl")
    holes, whole = pd.read_pickle(path), pd.read_pickle(filled)
    assert holes.isna().any(axis=1).sum() > 10
    assert whole.iloc[1:].notna().all(axis=None)
    known = holes.notna().all(axis=1)
    assert holes[known].equals(whole[known])


@pytest.mark.parametrize("where", ["none", "some", "all"])
@pytest.mark.parametrize("levels", [2, 5])
def test_partitions_in_parquet_read_like_native_ones(questdb, db, tmp_path, where, levels):
    day = 1_601_251_200 * SECOND  # 2020-09-28
    symbol = f"XP{where.upper()}{levels}USDT"
    snapshots = [
        OrderBook(symbol, day + n * 600 * SECOND, n + 1, [(2.0 + n, 1.0)] * 5, [(9.0 + n, 1.0)] * 5) for n in range(300)
    ]
    store(db, snapshots, "export-test")
    some = {"none": None, "some": "2020-09-28", "all": "2020-09"}[where]
    when = ("--from", "2020-09-28", "--to", "2020-10-01", "--levels", levels)
    try:
        if some:
            db.sql(f"ALTER TABLE orderbook CONVERT PARTITION TO PARQUET WHERE timestamp IN '{some}'")
            converted(db, "2020-09-28")
        folder = exported(questdb, tmp_path, *when, "--pairs", symbol)
        everything = exported(questdb, tmp_path / "all", *when)
    finally:
        if some:
            db.sql(f"ALTER TABLE orderbook CONVERT PARTITION TO NATIVE WHERE timestamp IN '{some}'")
    for each in (folder, everything):
        (path,) = each.glob(f"XP{where.upper()}{levels}_*.pkl")
        frame = pd.read_pickle(path)
        assert times_of(frame).tolist() == [snapshot.receive_ns for snapshot in snapshots]
        assert frame["Bid_1"].tolist() == [2.0 + n for n in range(300)]


def converted(db, day):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        partitions = dict(db.sql("SELECT name, isParquet FROM table_partitions('orderbook')").rows)
        if partitions.get(day):
            return
        time.sleep(0.1)
    raise AssertionError(f"{day} is not in Parquet")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--from", "2020-09-14", "--to", "2020-09-14"], 2, "is empty"),
        (["--from", "2020-09-15", "--to", "2020-09-14"], 2, "lies after --to"),
        (["--from", "2020-09-14", "--to", "2099-01-01"], 2, "lies in the future"),
        (["--from", "noon", "--to", "2020-09-14"], 2, "'noon'"),
        (["--from", "2020-09-14", "--to", "2020-09-15", "--pairs", "XAUSDTT"], 2, "XAUSDT"),
        (["--from", "2001-01-01", "--to", "2001-01-02"], 1, "no rows"),
        (["--from", "2001-01-01", "--to", "2001-01-02", "--pairs", "XAUSDT"], 1, "no rows"),
        (["--from", "2020-09-14", "--to", "2020-09-15", "--levels", "21"], 2, "--levels 21"),
        (["--from", "2020-09-14", "--to", "2020-09-15", "--every", "0.5ms"], 2, "'0.5ms'"),
        (["--from", "2020-09-14", "--to", "2020-09-15", "--format", "xls"], 2, "xls"),
        (["--from", "2020-09-14", "--to", "2020-09-15", "--questdb", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_sentence_and_leaves_nothing(
    questdb, made, tmp_path, options, code, words
):
    where = [] if "--questdb" in options else ["--questdb", url_of(questdb.endpoint)]
    result = CliRunner().invoke(cli, ["export", *options, *where, "--root", str(tmp_path / "root")])
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "root").exists()


def test_a_root_that_cannot_be_written_is_named(questdb, made, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(questdb, tmp_path / "file" / "x", "--from", "2020-09-14", "--to", "2020-09-15", "--pairs", "XAUSDT")
    assert result.exit_code == 1
    assert "--root" in result.output


class Interrupted:
    """A child that exports and is interrupted after so many slices, by a signal to itself."""

    CODE = """
import os, sys, time
from ingester.questdb import reader
reader.SLICE_ROWS = ROWS
read, slices, number = reader.TableReader.read, 0, int(sys.argv[1])
def counted(self, part):
    global slices
    slices += 1
    if slices == 6:
        os.kill(os.getpid(), number)
        time.sleep(1)
    return read(self, part)
reader.TableReader.read = counted
sys.argv[1:] = sys.argv[2:]
from ingester.cli import main
main()
"""

    def run(self, number, *options, slice_rows=50):
        return subprocess.run(
            [
                sys.executable,
                "-c",
                self.CODE.replace("= ROWS", f"= {slice_rows}"),
                str(int(number)),
                "export",
                *map(str, options),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ,
            preexec_fn=interruptible,
        )


def test_ctrl_c_leaves_nothing_and_a_killed_export_is_resumed_to_the_same_bytes(questdb, made, tmp_path):
    options = ("--from", "2020-09-14", "--to", "2020-09-14 01:00", "--pairs", "XAUSDT,XBUSDT", "--every", "100ms")
    (tmp_path / "plain").mkdir()
    plain = exported(questdb, tmp_path / "plain", *options, "--fill", "forward")
    where = ("--questdb", url_of(questdb.endpoint), "--root", tmp_path / "killed")
    pressed = Interrupted().run(signal.SIGINT, *options, "--fill", "forward", *where)
    assert pressed.returncode != 0
    extracted = tmp_path / "killed" / "extracted datasets"
    assert list(extracted.iterdir()) == []
    killed = Interrupted().run(signal.SIGKILL, *options, "--fill", "forward", *where)
    assert killed.returncode == -signal.SIGKILL
    (partial,) = extracted.iterdir()
    assert json.loads((partial / "progress.json").read_text())["rows"]
    other = run(questdb, tmp_path / "killed", *options, "--resume")
    assert other.exit_code == 2
    assert "--resume" in other.output
    resumed = exported(questdb, tmp_path / "killed", *options, "--fill", "forward", "--resume")
    for path in plain.iterdir():
        assert (resumed / path.name).read_bytes() == path.read_bytes()
    assert len(list(resumed.iterdir())) == len(list(plain.iterdir())) == 3


@pytest.mark.parametrize("power_cut", [False, True])
def test_rows_that_came_after_an_export_was_killed_are_in_what_is_resumed(questdb, db, tmp_path, power_cut):
    symbol, day = f"XLATE{power_cut}USDT".upper(), DAY + 86400 * SECOND
    snapshots = [
        OrderBook(symbol, day + number * SECOND // 10, number, [(100.0 + number % 7, 1.0)] * 5, [(110.0, 2.0)] * 5)
        for number in range(20_000)
    ]
    store(db, snapshots, "export-test")
    options = ("--from", "2020-09-15", "--to", "2020-09-15 01:00", "--pairs", symbol)
    where = ("--questdb", url_of(questdb.endpoint), "--root", tmp_path)
    killed = Interrupted().run(signal.SIGKILL, *options, *where, slice_rows=2000)
    assert killed.returncode == -signal.SIGKILL
    (partial,) = (tmp_path / "extracted datasets").iterdir()
    state = json.loads((partial / "progress.json").read_text())
    assert 0 < state["rows"][symbol] < 20_000
    if power_cut:
        (partial / "progress.json").write_text(json.dumps(state | {"boot": "another"}))
        (partial / f"{symbol}.values").write_bytes(bytes((partial / f"{symbol}.values").stat().st_size))
    late = [each._replace(receive_ns=each.receive_ns + 2000 * SECOND, update_id=each.update_id + 20_000)
            for each in snapshots[:3000]]  # fmt: skip
    store(db, late, "export-test")
    resumed = exported(questdb, tmp_path, *options, "--resume")
    fresh = exported(questdb, tmp_path / "fresh", *options)
    (name,) = (path.name for path in fresh.glob("*.pkl"))
    assert len(pd.read_pickle(fresh / name)) == 23_000
    assert (resumed / name).read_bytes() == (fresh / name).read_bytes()


def test_a_disk_that_would_not_hold_it_is_noticed_before(questdb, made, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    result = run(questdb, tmp_path, "--from", "2020-09-14", "--to", "2020-09-14 01:00", "--pairs", "XAUSDT")
    assert result.exit_code == 1
    assert "needs about" in result.output
    assert list((tmp_path / "extracted datasets").iterdir()) == []


@pytest.mark.parametrize("form", ["pkl", "csv"])
def test_what_is_exported_then_imported_is_exported_the_same(questdb, recorded, tmp_path, form):
    when = ("--from", "2024-08-08", "--to", "2024-08-09", "--format", form)
    (first,) = exported(questdb, tmp_path / "first", *when, "--pairs", "XRECUSDT").glob(f"*.{form}")
    other = f"XBACK{form.upper()}"
    copy = tmp_path / first.name.replace("XREC", other)
    copy.write_bytes(first.read_bytes())
    for _ in range(2):
        result = CliRunner().invoke(cli, ["import", str(copy), "--questdb", url_of(questdb.endpoint)])
        assert result.exit_code == 0, result.output
    (again,) = exported(questdb, tmp_path / "again", *when, "--pairs", f"{other}USDT").glob(f"*.{form}")
    assert again.name == copy.name
    assert again.read_bytes() == first.read_bytes()


MERGED = 1_602_892_800 * SECOND  # 2020-10-17, which no other test writes to


@pytest.fixture(scope="module")
def twice(db):
    """Books that a recorder of two levels and a slower one of five received, some only by one of them."""

    def book(update_id, ms, levels):
        sides = [[(update_id + level / 8, 1.0) for level in range(levels)] for _ in range(2)]
        return OrderBook("XTWICEUSDT", MERGED + ms * 1_000_000, update_id, *sides)

    store(db, [book(4, 0, 2), book(5, 300, 2), book(8, 500, 2), book(9, 60_000, 2)], "twice-a")
    store(db, [book(4, 20, 5), book(6, 200, 5), book(7, 400, 5), book(9, 60_020, 5)], "twice-b")
    return ("--pairs", "XTWICEUSDT", "--from", "2020-10-17", "--format", "npz")


def test_two_recorders_give_each_book_once_in_order_with_the_levels_of_the_deeper(questdb, twice, tmp_path):
    folder = exported(questdb, tmp_path, *twice, "--to", "2020-10-17 00:02")
    frame = read(next(folder.glob("*.npz")))
    assert ((times_of(frame) - MERGED) // 1_000_000).tolist() == [0, 200, 400, 500, 60_000]
    assert frame["Bid_1"].tolist() == [4, 6, 7, 8, 9]
    assert frame["Ask_5"].tolist()[:3] == [4.5, 6.5, 7.5]
    assert np.isnan(frame["Bid_3"].tolist()[3])
    assert frame["Bid_5"].tolist()[4] == 9.5


def test_a_range_that_ends_between_a_book_and_its_deeper_copy_has_its_levels_all_the_same(questdb, twice, tmp_path):
    folder = exported(questdb, tmp_path, *twice, "--to", "2020-10-17 00:01:00.010")
    assert read(next(folder.glob("*.npz")))["Bid_5"].tolist()[-1] == 9.5
    folder = exported(questdb, tmp_path / "b", *twice[:2], *twice[4:], "--from", "2020-10-17 00:01:00.010",
                      "--to", "2020-10-17 00:02", "--every", "5s", "--max-age", "1h")  # fmt: skip
    assert read(next(folder.glob("*.npz")))["Bid_5"].tolist()[0] == 9.5


def test_a_grid_holds_merged_books(questdb, twice, tmp_path):
    folder = exported(questdb, tmp_path, *twice, "--to", "2020-10-17 00:01", "--every", "100ms", "--max-age", "150ms")
    frame = read(next(folder.glob("*.npz")))
    assert frame["Bid_1"].tolist()[:7] == pytest.approx([4, 4, 6, 6, 7, 8, 8], nan_ok=True)
    assert frame["Bid_5"].tolist()[:5] == [4.5, 4.5, 6.5, 6.5, 7.5]


def test_a_long_look_back_is_read_in_slices_and_only_as_far_as_it_is_needed(questdb, db, tmp_path, monkeypatch):
    begin = 1_602_979_200 * SECOND  # 2020-10-18
    levels = [(1.0, 1.0)] * 5
    rows = [OrderBook("XLBAUSDT", begin + n * SECOND // 10, n + 1, levels, levels) for n in range(36_050)]
    store(db, [*rows, OrderBook("XLBBUSDT", begin + 1800 * SECOND, 1, [(7.0, 1.0)] * 5, levels)], "look-back")
    read_parts, read_one = [], reader.TableReader.read

    def noted(self, part):
        rows = read_one(self, part)
        read_parts.append((part, len(rows.times)))
        return rows

    monkeypatch.setattr(reader, "SLICE_ROWS", 3000)
    monkeypatch.setattr(reader.TableReader, "read", noted)
    options = ("--from", "2020-10-18 01:00", "--to", "2020-10-18 01:00:10", "--every", "1s", "--format", "npz")
    folder = exported(questdb, tmp_path, *options, "--max-age", "1d", "--pairs", "XLBAUSDT,XLBBUSDT")
    assert read(next(folder.glob("XLBB*")))["Bid_1"].tolist() == [7.0] * 10
    assert max(rows for _, rows in read_parts) <= 4000
    assert min(part.start_ns for part, _ in read_parts) >= begin + 1600 * SECOND
    assert sum(rows for _, rows in read_parts) < 21_000


def test_where_the_file_system_has_no_hard_links_the_same_bytes_are_written(questdb, db, tmp_path, monkeypatch):
    options = ("--from", "2020-09-14", "--to", "2020-09-14 01:00", "--every", "100ms", "--pairs", "XNOLINKUSDT")
    store(db, [OrderBook("XNOLINKUSDT", DAY + SECOND, 1, [(1.0, 1.0)] * 5, [(2.0, 1.0)] * 5)], "export-test")
    plain = exported(questdb, tmp_path / "plain", *options)

    def refuse(*arguments, **more):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder = exported(questdb, tmp_path / "without", *options)
    for path in plain.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert len(list(folder.iterdir())) == 2


def test_an_interrupted_export_is_offered_before_it_is_given_up(questdb, made, tmp_path, monkeypatch):
    options = ("--from", "2020-09-14", "--to", "2020-09-14 01:00", "--pairs", "XAUSDT,XBUSDT")
    killed = Interrupted().run(signal.SIGKILL, *options, "--questdb", url_of(questdb.endpoint), "--root", tmp_path)
    assert killed.returncode == -signal.SIGKILL
    (partial,) = (tmp_path / "extracted datasets").iterdir()
    before = sorted(partial.iterdir())
    again = run(questdb, tmp_path, *options)
    assert again.exit_code == 2
    assert "--resume" in again.output
    assert "--overwrite" in again.output
    assert sorted(partial.iterdir()) == before
    other = run(questdb, tmp_path, "--from", "2020-09-14", "--to", "2020-09-14 00:10", "--pairs", "XAUSDT")
    assert other.exit_code == 0
    assert str(partial) in other.output
    told = CliRunner().invoke(cli, ["doctor", "--exchange", "simulator", "--root", str(tmp_path), "--json",
                                    "--questdb", url_of(questdb.endpoint), "--data-dir", str(tmp_path)])  # fmt: skip
    (finding,) = (each for each in json.loads(told.stdout)["findings"] if each["subject"] == "data sets")
    assert finding["state"] == "warning"
    assert str(partial) in finding["text"]
    for _ in range(2):  # the second time nothing is left
        resumed = run(questdb, tmp_path, *options, "--resume")
        assert resumed.exit_code == 0, resumed.output
    assert "finished already" in resumed.output
    assert not partial.exists()


def test_what_the_system_refuses_is_one_sentence_and_leaves_nothing(questdb, made, tmp_path):
    limit = 200_000

    def limited():
        interruptible()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    options = ("--from", "2020-09-14", "--to", "2020-09-14 01:00", "--pairs", "XAUSDT", "--format", "csv")
    result = subprocess.run(
        [sys.executable, "-m", "ingester", "export", *options, "--root", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"INGESTER_QUESTDB": url_of(questdb.endpoint)},
        preexec_fn=limited,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "File too large" in result.stderr
    assert str(tmp_path) in result.stderr
    assert list((tmp_path / "extracted datasets").iterdir()) == []
