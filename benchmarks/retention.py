"""What a day weighs as Parquet: bytes per row, the time that the conversion takes, and what queries cost afterwards.

    python benchmarks/retention.py
    python benchmarks/retention.py --pairs 4 --hours 2 --encoders zstd:3,lz4_raw

Prints the machine and two Markdown tables. The day is the recorded BTCUSDT books (`tests/data`), replayed by each pair
from a place of its own. Prices and quantities of each replay are shifted by ticks of their own, so that no replay holds
a copy of another one, which a compressor would find. Nothing is asserted but that no row or value changes.
"""

import argparse
import contextlib
import gzip
import json
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from load import symbols
from processes import machine
from questdb import Sender
from table import HOUR_TICKS, INTERVAL_NS, JITTER_NS, RECORDING, START, WRITE_ROWS

from ingester.book import level_columns
from ingester.questdb import ManagedServer, QuestDB, launch, partitions, schema

MARKER = "<!-- benchmarks/retention.py -->"
OWN = "zstd:3"
"""What the managed server uses."""
ENCODERS = ["zstd:1", OWN, "zstd:9", "lz4_raw"]
DEPTHS = (5, 10, 20)
PRICE_TICK, QUANTITY_TICK = 0.1, 0.001
ROWS_PER_PAIR_AND_MONTH = 10 * 86400 * 30
GOAL_BYTES = 48
QUERIES = {
    "one pair's bars, 1 h": "SELECT timestamp, first(bid_1), max(bid_1), min(bid_1), last(bid_1) FROM orderbook "
    "WHERE symbol = '{pair}' AND timestamp IN '{day}T00' SAMPLE BY 1s",
    "spread of all, whole day": "SELECT symbol, avg((ask_1 - bid_1) / bid_1) FROM orderbook WHERE timestamp IN '{day}'",
}


@contextlib.contextmanager
def encoding(encoder: str) -> Iterator[None]:
    """Servers that are started meanwhile have another encoder for Parquet."""
    codec, _, level = encoder.partition(":")
    settings = {"CODEC": codec.upper()} | ({"LEVEL": level} if level else {})
    prefix, own = "QDB_CAIRO_PARTITION_ENCODER_PARQUET_COMPRESSION_", launch.environment

    def environment(*given: Any) -> dict[str, str]:
        return own(*given) | {prefix + name: value for name, value in settings.items()}

    launch.environment = environment
    try:
        yield
    finally:
        launch.environment = own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--hours", type=float, default=24.0, help="of the day at depth 5; a quarter of it when deeper")
    parser.add_argument("--encoders", type=lambda text: text.split(","), default=ENCODERS, help=",".join(ENCODERS))
    options = parser.parse_args()
    logging.getLogger("ingester").setLevel(logging.ERROR)  # that port 9000 is taken is no matter here
    print(f"{MARKER}\n{machine()}; QuestDB {launch.VERSION}; {options.pairs} pairs.\n", flush=True)
    by_depth = []
    for depth in DEPTHS:
        hours = options.hours if depth == DEPTHS[0] else options.hours / 4
        lines = measured(depth, options.pairs, hours, options.encoders if depth == DEPTHS[0] else [OWN])
        if depth == DEPTHS[0]:
            print(compared(lines, round(options.pairs * hours * HOUR_TICKS)), flush=True)
        by_depth.append((depth, lines))
    print(sized(by_depth))
    print(MARKER)


Line = dict[str, float]


def measured(depth: int, pairs: int, hours: float, encoders: list[str]) -> dict[str, Line]:
    """Bytes per row, seconds per million rows and milliseconds of each query: native, and by each encoder."""
    folder = Path(tempfile.mkdtemp(prefix="ingester-benchmark-"))
    server = ManagedServer(folder)
    try:
        db = QuestDB(server.ensure())
        fill(db, depth, pairs, hours)
        lines, held = {"native": line(db, pairs)}, content(db)
        for encoder in encoders:
            server.stop()
            with encoding(encoder):
                db = QuestDB(server.ensure())
            begun = time.monotonic()
            partitions.convert(db, START, lambda: False)
            took = time.monotonic() - begun
            lines[encoder] = line(db, pairs)
            lines[encoder]["seconds"] = took / (lines[encoder]["rows"] / 1e6)
            if content(db) != held:
                raise RuntimeError(f"{encoder} changed rows or values")
            db.sql(f"ALTER TABLE {schema.ORDERBOOK} CONVERT PARTITION TO NATIVE LIST '{START}'")
            while partitions.list_partitions(db)[0].is_parquet:
                time.sleep(0.1)
            print(f"depth {depth}, {encoder}: {lines[encoder]}", file=sys.stderr)
        return lines
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def line(db: QuestDB, pairs: int) -> Line:
    """What the day weighs as it is, and what queries take: medians of five, after one that does not count."""
    day = partitions.list_partitions(db)[0]
    found: Line = {"rows": day.rows, "bytes": day.bytes_per_row}
    for name, query in QUERIES.items():
        statement, took = query.format(pair=symbols(pairs)[0], day=START), []
        for _ in range(6):
            begun = time.monotonic()
            db.sql(statement)
            took.append((time.monotonic() - begun) * 1000)
        found[name] = statistics.median(took[1:])
    return found


def content(db: QuestDB) -> list[list[object]]:
    """Count and checksums of each pair, in whole thousandths: sums of floating point depend on their order."""
    names = [row[0] for row in db.sql(f"SELECT \"column\" FROM table_columns('{schema.ORDERBOOK}')").rows]
    sums = ", ".join(f"sum(cast(round({name} * 1000) AS LONG))" for name in names if name[:3] in ("bid", "ask"))
    where = f"timestamp IN '{START}'"
    return db.sql(f"SELECT symbol, count(), {sums} FROM {schema.ORDERBOOK} WHERE {where} ORDER BY symbol").rows


def fill(db: QuestDB, depth: int, pairs: int, hours: float) -> None:
    """Makes the table with one closed day; returns when all its rows are to be seen."""
    schema.ensure(db, depth)
    with Sender.from_conf("http::addr=127.0.0.1:1;protocol_version=2;auto_flush=off;") as encoder:
        for frame in [*frames(depth, pairs, hours), next(frames(depth, 1, 1 / HOUR_TICKS, pd.Timedelta(1, "D")))]:
            rows = encoder.new_buffer()
            rows.dataframe(frame, table_name=schema.ORDERBOOK, symbols=["symbol", "collector"], at="timestamp")
            db.write(bytes(rows))
    db.sql(f"SELECT wait_wal_table('{schema.ORDERBOOK}')")


def frames(depth: int, pairs: int, hours: float, later: pd.Timedelta | None = None) -> Iterator[pd.DataFrame]:
    """The day's rows in the order of time, about WRITE_ROWS at once."""
    books, random = recorded_books(depth), np.random.default_rng(1)
    ticks, piece = round(hours * HOUR_TICKS), max(1, WRITE_ROWS // depth // pairs)
    replays = ticks // len(books) + 2
    prices = random.integers(-200_000, 200_000, (pairs, replays)) * PRICE_TICK
    quantities = random.integers(0, 5_000, (pairs, replays)) * QUANTITY_TICK
    start = (pd.Timestamp(START) + (later or pd.Timedelta(0))).value
    for first in range(0, ticks, piece):
        tick, pair = (each.ravel() for each in np.mgrid[first : min(first + piece, ticks), :pairs])
        times = start + tick * INTERVAL_NS + pair * (INTERVAL_NS - JITTER_NS) // pairs
        times += random.integers(0, JITTER_NS // 1000, len(times)) * 1000
        order = np.argsort(times)
        tick, pair = tick[order], pair[order]
        replay, place = np.divmod(tick + 101 * pair, len(books))
        values = books[place].copy()
        replay %= replays
        values[..., 0] = np.round(values[..., 0] + prices[pair, replay][:, None], 1)
        values[..., 1] = np.round(values[..., 1] + quantities[pair, replay][:, None], 3)
        frame = pd.DataFrame(values.reshape(len(tick), -1), columns=level_columns(depth))
        frame.insert(0, "timestamp", times[order].view("datetime64[ns]"))
        frame.insert(1, "symbol", pd.Categorical.from_codes(pair, np.array(symbols(pairs))))
        frame.insert(2, "collector", pd.Categorical.from_codes(np.zeros_like(pair), ["bench"]))
        frame.insert(3, "last_update_id", 4 * 10**12 + 37 * tick + random.integers(0, 30, len(tick)))
        yield frame


def recorded_books(depth: int) -> np.ndarray:
    """The recording's levels: (books, 2 x depth, 2), bids first."""
    with gzip.open(RECORDING, "rt") as lines:
        books = [json.loads(line.partition(" ")[2])["data"] for line in lines]
    return np.array([[*book["bids"][:depth], *book["asks"][:depth]] for book in books], float)


def compared(lines: dict[str, Line], rows: int) -> str:
    """Depth 5 by encoder, as Markdown."""
    table = [
        f"A day of {rows:,} rows at depth {DEPTHS[0]}:",
        "",
        f"| form | bytes/row | s per million rows to make | {' | '.join(f'{name}, ms' for name in QUERIES)} |",
        "|---|---|---|" + "---|" * len(QUERIES),
    ]
    for name, each in lines.items():
        title = f"Parquet, {name.replace(':', ' ')}{' (the managed server)' if name == OWN else ''}"
        seconds = f"{each['seconds']:.2f}" if "seconds" in each else ""
        cells = " | ".join(f"{each[query]:.0f}" for query in QUERIES)
        table.append(f"| {title if name != 'native' else name} | {each['bytes']:.1f} | {seconds} | {cells} |")
    if OWN in lines:
        watermark = "reached" if lines[OWN]["bytes"] <= GOAL_BYTES else "**missed**"
        table += ["", f"- the goal of {GOAL_BYTES} bytes per row is {watermark}"]
    return "\n".join([*table, ""])


def sized(by_depth: list[tuple[int, dict[str, Line]]]) -> str:
    """Depths side by side, as Markdown."""
    table = [
        "| depth | bytes/row native | as Parquet | GB a month and pair at 10 rows/s, native | as Parquet |",
        "|---|---|---|---|---|",
    ]
    for depth, lines in by_depth:
        weights = [lines["native"]["bytes"], next(each["bytes"] for name, each in lines.items() if name != "native")]
        if OWN in lines:
            weights[1] = lines[OWN]["bytes"]
        month = [weight * ROWS_PER_PAIR_AND_MONTH / 1e9 for weight in weights]
        table.append(f"| {depth} | {weights[0]:.1f} | {weights[1]:.1f} | {month[0]:.1f} | {month[1]:.2f} |")
    return "\n".join(table)


if __name__ == "__main__":
    main()
