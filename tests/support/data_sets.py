"""Data sets made of arrays, by the code that writes those of an export."""

import hashlib

import numpy as np

from ingester.clock import SECOND
from ingester.datasets.dataset import Request, folder_name
from ingester.datasets.formats import WRITERS
from ingester.datasets.gaps import MissingTime
from ingester.datasets.manifest import PairFile, build_manifest, write_manifest

NOON = 1_600_084_800 * SECOND  # 2020-09-14 12:00


def make(root, form, pairs, every_ns=None, gaps=None, span_ns=None, levels=2):
    """The folder of a data set from noon on: `pairs` are (times, values), `gaps` (since, until), both by symbol."""
    last = max((int(times[-1]) for times, _ in pairs.values() if len(times)), default=NOON)
    end = NOON + span_ns if span_ns else last + 1
    request = Request(NOON, end, tuple(pairs), levels, form, every_ns)
    folder = root / folder_name(NOON, end)
    folder.mkdir(parents=True)
    files = []
    for symbol, (times, values) in pairs.items():
        path = folder / request.file_name(symbol)
        WRITERS[form](path, times, values)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(PairFile(symbol, path.name, len(times), 0, None, None, path.stat().st_size, digest))
    told = {
        symbol: [MissingTime(symbol, *each, "test", "") for each in found] for symbol, found in (gaps or {}).items()
    }
    write_manifest(folder, build_manifest(request, files, told, ["test"]))
    return folder


def grid_pairs(rows, symbols=("BTCUSDT", "ETHUSDT"), every_ns=100_000_000, levels=2, seed=4):
    """(times, values) of rows on a grid from noon on, whose numbers need all their digits."""
    times = NOON + every_ns * np.arange(rows)
    chance = np.random.default_rng(seed)
    return {symbol: (times, chance.random((rows, 4 * levels)) * 1000) for symbol in symbols}


def received_pairs(rows, symbols=("BTCUSDT", "ETHUSDT"), levels=2, seed=4):
    """(times, values) of rows as received, some of which share a µs."""
    chance = np.random.default_rng(seed)
    pairs = {}
    for symbol in symbols:
        times = NOON + np.cumsum(chance.choice([0, 1, 400, 100_000_000, 1_700_000_000], rows))
        pairs[symbol] = (times, chance.random((rows, 4 * levels)) * 1000)
    return pairs
