"""importer.py: files become rows of a real table."""

import numpy as np
import pandas as pd
import pytest

from ingester.datasets.dataset import columns, parse_time
from ingester.datasets.importer import Importer, row_ids
from ingester.datasets.recordings import Recording, UnreadableRecording
from ingester.grid import as_frame
from ingester.snapshot import level_columns
from ingester.store.questdb import QuestDB

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
    for _ in range(2):
        (imported,) = importer.check([importer.take(path)])
        assert (imported.symbol, imported.rows, imported.failure) == ("IMPAUSDT", 45_000, "")
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
    assert [file.failure for file in importer.check([whole, part, deep])] == ["", "", ""]
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


def test_a_file_that_cannot_be_read_brings_nothing_but_its_failure(db, tmp_path):
    path = tmp_path / "IMPG_USDT_100ms_(2018-03-01 23꞉00)_(1).pkl"
    path.write_bytes(b"no pickle")
    imported = Importer(db).take(path)
    assert (imported.path, imported.rows) == (path, 0)
    assert "no pickle" in imported.failure


def test_an_empty_recording_is_no_failure(db, tmp_path):
    imported = Importer(db).take(written(tmp_path, "IMPI", books(0)))
    assert imported[1:] == ("IMPIUSDT", 0, 0, 0, "")


def test_rows_that_never_became_visible_are_a_failure(db, tmp_path):
    importer = Importer(db)
    imported = importer.take(written(tmp_path, "IMPJ", books(30)))
    (checked,) = importer.check([imported._replace(rows=31)])
    assert "only 30 of its 31 rows" in checked.failure


def test_ids_rise_with_time_and_depend_on_the_row_alone():
    times = START + np.sort(np.random.default_rng(1).integers(0, 10**9, 5000))
    values = np.random.default_rng(2).random((5000, 20))
    ids = row_ids(Recording("X", times, values))
    rising = times // 1000
    assert (np.diff(ids)[np.diff(rising) > 0] > 0).all()
    assert len(set(ids)) == 5000
    assert np.array_equal(row_ids(Recording("X", times[1000:2000], values[1000:2000])), ids[1000:2000])


def test_ids_of_many_rows_of_one_time_differ():
    values = np.zeros((999, 20))
    ids = row_ids(Recording("X", np.full(999, START), values))
    assert len(set(ids)) == 999
    assert (ids // 1000 == START // 1000).all()
    with pytest.raises(UnreadableRecording, match="same time"):
        row_ids(Recording("X", np.full(1000, START), np.zeros((1000, 20))))
