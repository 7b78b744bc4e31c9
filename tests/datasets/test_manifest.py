"""folder.py: a manifest that does not fit its files, or is none, is told before anything is read."""

import json

import numpy as np
import pytest
from data_sets import grid_pairs, make

from ingester.datasets.manifest import Folder
from ingester.errors import UnreadableDataSet

EVERY = 100_000_000


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path, "csv", grid_pairs(50), EVERY, span_ns=50 * EVERY)


def changed(folder, change):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_sound_data_set_is_verified(folder):
    opened = Folder(folder)
    opened.verify()
    assert opened.symbols == ("BTCUSDT", "ETHUSDT")
    assert len(opened.rows("BTCUSDT")) == len(opened.grid) == 50


def test_a_changed_byte_is_found_by_verify_alone(folder):
    (path,) = folder.glob("BTC*")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    opened = Folder(folder)
    with pytest.raises(UnreadableDataSet, match="BTC_USDT_100ms"):
        opened.verify()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "is no data set"),
        (lambda folder: (folder / "manifest.json").write_text('{"version": 1'), "damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda folder: changed(folder, lambda told: told.update(version=9)), "later version"),
        (lambda folder: changed(folder, lambda told: told.update({"from": "noon"})), "'noon'"),
        (lambda folder: changed(folder, lambda told: told["pairs"]["BTCUSDT"].pop("bytes")), "bytes"),
        (lambda folder: changed(folder, lambda told: told["pairs"]["BTCUSDT"].update(file="../x.csv")), "elsewhere"),
        (lambda folder: changed(folder, lambda told: told["pairs"]["BTCUSDT"].update(file="..")), "elsewhere"),
        (lambda folder: changed(folder, lambda told: told["pairs"]["BTCUSDT"].update(file="a\0b")), "elsewhere"),
        (lambda folder: changed(folder, lambda told: told["pairs"]["BTCUSDT"].update(file="a" * 300)), "elsewhere"),
        (lambda folder: changed(folder, lambda told: told["pairs"]["BTCUSDT"].update(rows=-1)), "damaged"),
        (lambda folder: changed(folder, lambda told: told["grid"].update(every_ms=0)), "damaged"),
        (lambda folder: changed(folder, lambda told: told["grid"].update(every_ms=10**18)), "damaged"),
        (lambda folder: changed(folder, lambda told: told.update(levels=1_000_000_000)), "damaged"),
        (lambda folder: changed(folder, lambda told: told.update(levels=0)), "damaged"),
        (lambda folder: changed(folder, lambda told: told.update(to="9999-12-31")), "not a range of time"),
        (lambda folder: changed(folder, lambda told: told.update(to=told["from"])), "not a range of time"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 200_000), "damaged"),
        (lambda folder: next(folder.glob("BTC*")).unlink(), "BTC_USDT.*No such file"),
        (lambda folder: next(folder.glob("BTC*")).write_bytes(b"x"), "bytes"),
    ],
)
def test_what_is_missing_or_changed_is_told_at_once(folder, break_it, words):
    break_it(folder)
    with pytest.raises(UnreadableDataSet, match=words):
        Folder(folder)


@pytest.mark.parametrize("name", ["rows", "to"])
def test_files_that_hold_other_rows_than_the_manifest_tells_are_refused(folder, name):
    changed(
        folder,
        lambda told: (
            told["pairs"]["ETHUSDT"].update(rows=49) if name == "rows" else told.update({"to": "2020-09-14T13:00Z"})
        ),
    )
    with pytest.raises(UnreadableDataSet, match="ETH_USDT"):
        Folder(folder).rows("ETHUSDT")


def test_the_folder_above_names_what_is_in_it(folder):
    with pytest.raises(UnreadableDataSet, match=r"In it are: from_\("):
        Folder(folder.parent)
    assert np.array_equal(Folder(folder).rows("BTCUSDT").times(0, 2), list(Folder(folder).grid[:2]))
