"""origins.py: what names and manifests tell of a file."""

import bz2
import gzip

import pytest
from data_sets import NOON, grid_pairs, make, received_pairs

from ingester.clock import SECOND
from ingester.datasets.dataset import COLON
from ingester.datasets.origins import Origins, kind_of, symbol_of
from ingester.datasets.unpacking import UnreadableRecording

RAW = f"ADA_USDT_100ms_(2023-06-01 08{COLON}31)_(1)"
OLDER = f"ADA_USDT_100ms_(2023-06-01-08{COLON}31)_(2023-06-01-09{COLON}30)_(1)"
EXTRACTED = f"ADA_USDT_100ms_(2023-06-01 12{COLON}00)_(2023-06-03 00{COLON}00)"


@pytest.mark.parametrize("name", [RAW, OLDER, EXTRACTED, RAW.replace(COLON, ":"), EXTRACTED.lower()])
@pytest.mark.parametrize(
    "ending", [".pkl", ".csv", ".pkl.gz", ".csv.bz2", ".CSV", ".csv.XZ", ".csv.zst", ".npz", ".parquet"]
)
def test_names_of_all_styles_tell_the_pair(name, ending):
    assert symbol_of(name + ending) == "ADAUSDT"


def test_names_that_are_not_ascii_tell_the_pair():
    assert symbol_of(f"币安人生_USDT_100ms_(2023-06-01 08{COLON}31)_(1).pkl") == "币安人生USDT"
    assert symbol_of(f"BTC_USDT%5F240628_100ms_(2023-06-01 08{COLON}31)_(1).pkl") == "BTCUSDT_240628"


@pytest.mark.parametrize(
    "name",
    ["books.pkl", "ADA_USDT.csv", "_USDT_100ms_(2023-06-01 12:00).pkl", "A%FF_B_1s_(1).csv", "A%00_B_1s_(1).csv"],
)
def test_other_names_tell_no_pair(name):
    assert symbol_of(name) == ""


@pytest.mark.parametrize("name", ["books.txt", "books", f"{RAW}.npz.gz", f"{RAW}.gz", ".csv", "manifest.json"])
def test_files_of_other_endings_are_refused(name):
    assert kind_of(name) == ""
    with pytest.raises(UnreadableRecording, match=r"expected \.pkl"):
        symbol_of(name)


def test_the_manifest_tells_pair_grid_and_gaps(tmp_path):
    gaps = {"BTCUSDT": [(NOON + SECOND, NOON + 3 * SECOND)]}
    folder = make(tmp_path, "csv", grid_pairs(100), every_ns=SECOND // 10, gaps=gaps)
    origins = Origins()
    btc, eth = (origins.of(path) for path in sorted(folder.glob("*.csv")))
    assert btc == ("BTCUSDT", SECOND // 10, ((NOON + SECOND, NOON + 3 * SECOND, "test"),), 0, "")
    assert eth[:3] == ("ETHUSDT", SECOND // 10, ())
    packed = sorted(folder.glob("BTC*.csv"))[0]
    packed = packed.rename(packed.with_name(f"{packed.name}.gz"))
    assert Origins().of(packed) == btc
    plain = make(tmp_path / "other", "csv", received_pairs(100))
    assert origins.of(next(plain.glob("BTC*.csv")))[:3] == ("BTCUSDT", 0, ())


def test_a_renamed_file_is_found_in_the_manifest_by_its_content(tmp_path):
    gaps = {"BTCUSDT": [(NOON + SECOND, NOON + 3 * SECOND)]}
    folder = make(tmp_path, "csv", grid_pairs(100), every_ns=SECOND // 10, gaps=gaps)
    path = next(folder.glob("BTC*.csv"))
    told, content = Origins().of(path), path.read_bytes()
    (folder / f"{RAW}.csv").write_bytes(content)  # of another pair, by its name
    (folder / "copy.csv.gz").write_bytes(gzip.compress(content))
    (folder / "copy.csv.bz2").write_bytes(bz2.compress(content))
    path = path.rename(folder / "books.csv")
    origins = Origins()
    for name in ("books.csv", f"{RAW}.csv", "copy.csv.gz", "copy.csv.bz2"):
        assert origins.of(folder / name) == told
    (folder / f"{RAW}.csv").write_bytes(content[:-1] + b"x")
    (folder / "copy.csv.gz").write_bytes(gzip.compress(content)[:-20])
    (folder / "copy.csv.bz2").write_bytes(b"BZh9" + content[:100])
    assert Origins().of(folder / f"{RAW}.csv")[:2] == ("ADAUSDT", 0)
    assert Origins().of(folder / "missing.csv")[:2] == ("", 0)
    for ending in ("gz", "bz2"):
        assert Origins().of(folder / f"copy.csv.{ending}")[:2] == ("", 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"pairs": {"A\\u0000": {"file": "x"}}}',
        '{"pairs": {}, "grid": {"every_ms": 0}}',
        '{"pairs": {"ADAUSDT": {"file": "NAME", "gaps": [{"from": "soon", "to": "later"}]}}}',
    ],
)
def test_a_damaged_manifest_is_told_and_the_name_still_tells_the_pair(tmp_path, text):
    name = f"{EXTRACTED}.csv"
    (tmp_path / "manifest.json").write_text(text.replace("NAME", name))
    origin = Origins().of(tmp_path / name)
    assert origin.symbol == "ADAUSDT"
    assert "manifest.json beside it" in origin.note
