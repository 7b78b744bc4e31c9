"""What no export can be faster than: the slices of a table downloaded alone, a data set's pickles written alone.

`python -m limits download|pickle TASK` prints the seconds that it took.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import table

from ingester.datasets.slices import AHEAD
from ingester.grid import as_frame
from ingester.questdb import ORDERBOOK, Endpoint, QuestDB, Slice, TableReader, between, rows_by_symbol


def download(task: dict[str, Any]) -> float:
    """Slices of all pairs in Parquet, as many at once as the exporter reads, in the quickest codec, thrown away."""
    db = QuestDB(Endpoint(task["http_url"], task["user"], task["password"]))
    start_ns, end_ns = task["start_ns"], task["end_ns"]
    counts = rows_by_symbol(db, start_ns, end_ns)

    rooms = threading.local()

    def fetch(part: Slice) -> int:
        room = rooms.__dict__.setdefault("room", bytearray())
        with db.parquet(f"SELECT * FROM {ORDERBOOK} WHERE {between(*part)}", room) as data:
            return len(data)

    began = time.perf_counter()
    slices = TableReader(db, list(counts), table.DEPTH, counts).slices(start_ns, end_ns)
    with ThreadPoolExecutor(AHEAD) as pool:
        sum(pool.map(fetch, slices))
    return time.perf_counter() - began


def pickle(task: dict[str, Any]) -> float:
    """Frames of as many rows, which are in memory, through `to_pickle`."""
    books = table.recorded_books()
    rows = (task["end_ns"] - task["start_ns"]) // table.INTERVAL_NS
    frame = as_frame(task["start_ns"] + np.arange(rows) * table.INTERVAL_NS, books[np.arange(rows) % len(books)])
    began = time.perf_counter()
    for path in task["files"].values():
        frame.to_pickle(path)
    return time.perf_counter() - began


if __name__ == "__main__":
    print({"download": download, "pickle": pickle}[sys.argv[1]](json.loads(sys.argv[2])))
