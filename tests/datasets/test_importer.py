"""importer.py: files become rows of a real table."""

import numpy as np
import pandas as pd
import pytest
from data_sets import grid_pairs, make, received_pairs

from ingester.book import level_columns
from ingester.clock import SECOND
from ingester.datasets import lines, recordings
from ingester.datasets.columns import UnreadableRecording
from ingester.datasets.dataset import columns, parse_time
from ingester.datasets.importer import Importer, row_ids
from ingester.grid import as_frame
from ingester.questdb import schema
from ingester.questdb.client import QuestDB

START = parse_time("2018-03-01 23:00")


@pytest.fixture
def db(questdb):
    return QuestDB(questdb.endpoint)


def books(rows, levels=5, seed=1, every_ns=100_000_000):
    times = START + np.arange(rows, dtype=np.int64) * every_ns
    return as_frame(times, np.random.default_rng(seed).random((rows, 4 * levels)))


def written(folder, coin, frame, number=1):
    path = folder / f"{coin}_USDT_100ms_(2018-03-01 23꞉00)_({number}).pkl"
    frame.to_pickle(path)
    return path


def stored(db, coin, levels=5):
    names = ["cast(timestamp AS LONG)", "last_update_id", *level_columns(levels)]
    result = db.sql(
        f"SELECT {', '.join(names)} FROM orderbook "
        f"WHERE symbol = '{coin}USDT' AND collector = 'import' ORDER BY timestamp, last_update_id"
    )
    table = np.array(result.rows, dtype=object).reshape(-1, len(names))
    return table[:, 0].astype(np.int64) * 1000, table[:, 1].astype(np.int64), table[:, 2:].astype(float)


def test_rows_are_stored_exactly_and_once_however_often_they_come(db, tmp_path):
    frame = books(45_000)  # more than two batches, over midnight
    importer, path = Importer(db), written(tmp_path, "IMPA", frame)
    for new in (45_000, 0):
        (imported,) = importer.check([importer.take(path)])
        assert (imported.symbol, imported.rows, imported.new, imported.failure) == ("IMPAUSDT", 45_000, new, "")
        assert (imported.first_ns, imported.last_ns) == (frame.index.asi8[0], frame.index.asi8[-1])
        times, _, values = stored(db, "IMPA")
        assert np.array_equal(times, frame.index.asi8)
        assert np.array_equal(values, frame.to_numpy())


def test_the_same_rows_in_another_file_are_stored_once(db, tmp_path):
    frame = books(100)
    importer = Importer(db)
    whole = importer.take(written(tmp_path, "IMPB", frame))
    part = importer.take(written(tmp_path, "IMPB", frame[40:80].astype(str), 2))
    deeper = frame[50:60].assign(**dict.fromkeys(sorted(set(columns(10)) - set(columns(5))), np.nan))
    deep = importer.take(written(tmp_path, "IMPB", deeper, 3))
    checked = importer.check([whole, part, deep])
    assert [(file.rows, file.new, file.failure) for file in checked] == [(100, 100, ""), (40, 0, ""), (10, 0, "")]
    assert len(stored(db, "IMPB")[0]) == 100


def test_rows_of_one_time_with_different_books_are_all_kept(db, tmp_path):
    frame = pd.concat([books(50, seed=seed) for seed in range(4)])
    importer = Importer(db)
    assert importer.check([importer.take(written(tmp_path, "IMPC", frame))])[0].failure == ""
    times, ids, values = stored(db, "IMPC")
    assert np.array_equal(times, np.repeat(books(50).index.asi8, 4))
    assert len(set(ids)) == 200
    assert {tuple(row) for row in values} == {tuple(row) for row in frame.to_numpy()}


def test_thin_and_deep_books_have_null_where_there_is_no_level(db, tmp_path):
    frame = books(10, levels=7)
    frame.iloc[:, 2] = np.nan
    importer = Importer(db)
    assert importer.check([importer.take(written(tmp_path, "IMPD", frame))])[0].failure == ""
    _, _, values = stored(db, "IMPD", 10)
    assert np.array_equal(values[:, :14], frame.to_numpy()[:, :14], equal_nan=True)
    assert np.isnan(values[:, 14:20]).all()
    assert np.array_equal(values[:, 20:34], frame.to_numpy()[:, 14:])
    assert np.isnan(values[:, 34:]).all()


def test_times_are_cut_to_microseconds(db, tmp_path):
    frame = books(3, every_ns=1_000_000_999)
    importer = Importer(db)
    importer.check([importer.take(written(tmp_path, "IMPE", frame))])
    assert stored(db, "IMPE")[0].tolist() == [START, START + 1_000_000_000, START + 2_000_001_000]


def test_imported_rows_are_not_taken_for_copies_of_each_other(db, tmp_path):
    frame = pd.concat([books(30), books(30, seed=2)])
    frame.iloc[:10] = 1.0  # the same book over and over
    importer = Importer(db)
    importer.check([importer.take(written(tmp_path, "IMPF", frame))])
    assert db.sql("DECLARE @pair := 'IMPFUSDT' SELECT count() FROM books").rows == [[60]]


def test_rows_that_are_alike_count_once(db, tmp_path):
    frame = pd.concat([books(30), books(30)[:20], books(30, seed=2)])
    importer = Importer(db)
    (imported,) = importer.check([importer.take(written(tmp_path, "IMPH", frame))])
    assert (imported.rows, imported.new, imported.failure) == (60, 60, "")
    assert "20 rows are repeated in the file, and count once" in imported.notes
    assert len(stored(db, "IMPH")[0]) == 60


def test_a_file_that_cannot_be_read_brings_nothing_but_its_failure(db, tmp_path):
    path = tmp_path / "IMPG_USDT_100ms_(2018-03-01 23꞉00)_(1).pkl"
    path.write_bytes(b"no pickle")
    imported = Importer(db).take(path)
    assert (imported.path, imported.rows) == (path, 0)
    assert "no pickle" in imported.failure


def test_an_empty_recording_is_no_failure(db, tmp_path):
    imported = Importer(db).take(written(tmp_path, "IMPI", books(0)))
    assert (imported.symbol, imported.rows, imported.new, imported.failure) == ("IMPIUSDT", 0, 0, "")


def test_rows_that_never_became_visible_are_a_failure(db, tmp_path):
    importer = Importer(db)
    imported = importer.take(written(tmp_path, "IMPJ", books(30)))
    (checked,) = importer.check([imported._replace(visible=31)])
    assert "only 30 of its 31 rows" in checked.failure


def test_ids_rise_with_time_and_depend_on_the_row_alone():
    times = START + np.sort(np.random.default_rng(1).integers(0, 10**9, 5000))
    values = np.random.default_rng(2).random((5000, 20))
    ids = row_ids(times, values)
    rising = times // 1000
    assert (np.diff(ids)[np.diff(rising) > 0] > 0).all()
    assert len(set(ids)) == 5000
    assert np.array_equal(row_ids(times[1000:2000], values[1000:2000]), ids[1000:2000])


def test_ids_of_many_rows_of_one_time_differ():
    values = np.zeros((999, 20))
    ids = row_ids(np.full(999, START), values)
    assert len(set(ids)) == 999
    assert (ids // 1000 == START // 1000).all()
    with pytest.raises(UnreadableRecording, match="same time"):
        row_ids(np.full(1000, START), np.zeros((1000, 20)))


def test_ids_that_are_taken_are_not_given_again_and_wanted_ones_once():
    values = np.random.default_rng(1).random((20, 20))
    times = np.full(20, START)
    free = row_ids(times, values)
    again = row_ids(times, values, taken=np.sort(free))
    assert not set(free) & set(again)
    assert len(set(again)) == 20
    of_a_recorder = np.arange(5_000_000_000, 5_000_001_000)  # so many ids of one thousand are nothing of ours
    wanted = np.array([7, 7, *[-1] * 18])
    ids = row_ids(times, values, wanted, np.sort(np.concatenate([free, of_a_recorder, [7]])))
    assert ids[0] == 7
    assert len(set(ids)) == 20
    assert not set(ids[1:]) & {7, *free}


def test_a_deeper_file_takes_the_place_of_its_cut_and_the_cut_is_known_then(db, tmp_path):
    frame = books(100, levels=10)
    importer = Importer(db)
    answers = []
    for number, levels in enumerate((5, 10, 3, 10)):
        few = frame[[name for name in frame.columns if int(name.split("_")[1]) <= levels]]
        (checked,) = importer.check([importer.take(written(tmp_path, "IMPK", few, number))])
        answers.append((checked.rows, checked.new, checked.failure))
    assert answers == [(100, 100, ""), (100, 100, ""), (100, 0, ""), (100, 0, "")]
    _, _, values = stored(db, "IMPK", 10)
    assert np.array_equal(values, frame.to_numpy())  # each of them once


def test_a_deeper_copy_of_a_recorders_book_counts_as_that_book(db, tmp_path):
    frame = books(20, levels=10)
    names = ["timestamp", "exchange", "symbol", "collector", "last_update_id", *level_columns(5)]
    schema.ensure(db, 10)
    rows = [
        f"({at // 1000}, 'binance', 'IMPLUSDT', 'somebody', {place}, {', '.join(map(repr, cut))})"
        for place, (at, cut) in enumerate(
            zip(frame.index.asi8.tolist(), frame.to_numpy()[:, [*range(10), *range(20, 30)]].tolist(), strict=True)
        )
    ]
    db.sql(f"INSERT INTO orderbook ({', '.join(names)}) VALUES {', '.join(rows)}")
    db.sql("SELECT wait_wal_table('orderbook')")
    importer = Importer(db)
    for new in (20, 0):
        (checked,) = importer.check([importer.take(written(tmp_path, "IMPL", frame))])
        assert (checked.rows, checked.new, checked.failure) == (20, new, "")
    assert db.sql("DECLARE @pair := 'IMPLUSDT' SELECT count() FROM books").rows == [[20]]


def test_rows_as_received_come_before_those_of_a_grid(db, tmp_path):
    grid = make(tmp_path / "a", "csv", grid_pairs(3), every_ns=SECOND // 10)
    raw = make(tmp_path / "b", "csv", received_pairs(3))
    paths = [*sorted(grid.iterdir()), tmp_path / "c.txt", *sorted(raw.iterdir())]
    order = Importer(db).in_order(paths)
    assert {path.parent for path in order[-2:]} == {grid}
    assert sorted(order) == sorted(paths)


def test_two_books_of_one_microsecond_stay_in_whatever_files_they_come(db, tmp_path):
    """Of so many, two get the same three digits of their id."""
    frames = [books(1, seed=seed) for seed in range(40)]
    importer = Importer(db)
    files = [importer.take(written(tmp_path, "IMPM", frame, number)) for number, frame in enumerate(frames)]
    assert [(file.new, file.failure) for file in importer.check(files)] == [(1, "")] * 40
    times, ids, values = stored(db, "IMPM")
    assert set(times) == {START}
    assert len(set(ids)) == 40
    assert {tuple(row) for row in values} == {tuple(frame.to_numpy()[0]) for frame in frames}


def test_a_file_in_many_pieces_out_of_order_and_with_repeats(db, tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "PIECE_ROWS", 300)
    monkeypatch.setattr("ingester.datasets.importer.KEPT_ROWS", 1000)
    frame = books(2000)
    shuffled = pd.concat([frame[1500:], frame[:500], frame[1000:1500], frame[250:1250]]).iloc[
        np.random.default_rng(1).permutation(2500)
    ]
    importer = Importer(db)
    (imported,) = importer.check([importer.take(written(tmp_path, "IMPN", shuffled))])
    assert (imported.new, imported.failure) == (2000, "")
    times, _, values = stored(db, "IMPN")
    assert np.array_equal(times, frame.index.asi8)
    assert np.array_equal(values, frame.to_numpy())


def test_a_file_with_a_row_of_an_impossible_time_is_refused_as_a_whole_or_without_it(db, tmp_path):
    frame = books(5)
    path = tmp_path / "IMPO_USDT_100ms_(2018-03-01 23꞉00)_(1).csv"
    text = frame.to_csv().splitlines()
    text[3] = text[3].replace("2018-03-01 23:00", "1970-01-01 00:00")
    path.write_text("\n".join([*text, ""]))
    imported = Importer(db).take(path)
    assert "line 4 has the time 1970-01-01 00:00:00.2, before Binance opened" in imported.failure
    assert "--skip-bad" in imported.failure
    assert not len(stored(db, "IMPO")[0])
    importer = Importer(db, skip_bad=True)
    (imported,) = importer.check([importer.take(path)])
    assert (imported.rows, imported.new, imported.failure) == (4, 4, "")
    assert any("1 bad line left out: line 4 has the time 1970" in note for note in imported.notes)


def test_a_wrong_line_late_in_a_large_file_keeps_all_of_it_out(db, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 10_000)
    monkeypatch.setattr("ingester.datasets.importer.KEPT_ROWS", 100)
    path = tmp_path / "IMPP_USDT_100ms_(2018-03-01 23꞉00)_(1).csv"
    path.write_text(books(1000).to_csv() + "2018-03-02,1,2\n")
    assert "line 1002 has 3 fields, expected 21" in Importer(db).take(path).failure
    assert not len(stored(db, "IMPP")[0])
    importer = Importer(db, skip_bad=True)
    assert importer.check([importer.take(path)])[0].new == 1000
    assert len(stored(db, "IMPP")[0]) == 1000


def test_gaps_that_are_on_record_are_mended_where_rows_come_later(db, tmp_path):
    def gaps():
        return db.sql(
            "SELECT cast(timestamp AS LONG) * 1000, cast(until AS LONG) * 1000, detail FROM collector_events "
            "WHERE symbol = 'IMPQUSDT' AND until > timestamp ORDER BY timestamp"
        ).rows

    frame, ns = books(100), books(100).index.asi8.tolist()
    importer = Importer(db)
    part = importer.take(written(tmp_path, "IMPQ", pd.concat([frame[:10], frame[90:]])))
    importer.check([part._replace(gaps=((ns[9], ns[90], "connection lost"),))])
    assert gaps() == [[ns[9], ns[90], "connection lost"]]
    importer.check([importer.take(written(tmp_path, "IMPQ", frame[30:60], 2))])
    assert gaps() == [[ns[9], ns[30], "connection lost"], [ns[59], ns[90], "connection lost"]]
    importer.check([importer.take(written(tmp_path, "IMPQ", frame[:95], 3))])
    left = [[since, until] for since, until, _ in gaps()]
    assert all(until - since <= 100_000_000 for since, until in left)
