"""The disk fills while a day becomes Parquet: the day stays as it was, rows go on, and it works when there is room."""

import os
import shutil

import pytest

from ingester.book import OrderBook
from ingester.clock import SECOND
from ingester.errors import StoreError
from ingester.questdb import partitions, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.server import ManagedServer

pytestmark = pytest.mark.slow

DAY = "2024-08-08"
LEFT_BYTES = 2 << 20


def test_a_disk_that_fills_while_a_day_becomes_parquet_loses_nothing(small_disk, tmp_path):
    folder = small_disk(tmp_path / "small", "440m")
    server = ManagedServer(folder, heap="256m")
    conf = folder / "questdb" / "root" / "conf"
    conf.mkdir(parents=True)
    # Space is taken in small pieces, so that there is room for everything but the conversion.
    (conf / "server.conf").write_text("cairo.writer.data.append.page.size=16K\ncairo.o3.column.memory.size=16K\n")
    try:
        db = QuestDB(server.ensure())
        schema.ensure(db, 5)
        store(db, [*range(60_000), 86_400_00])  # the last one begins the next day
        padding = folder / "padding"
        with padding.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - LEFT_BYTES)
        with pytest.raises(StoreError, match=rf"cannot make {DAY} Parquet and keeps it as it was: .*No space left"):
            partitions.convert(db, DAY, lambda: False)
        padding.unlink()
        assert partitions.find(db, DAY)[1:4:2] == (60_000, False)
        store(db, [86_400_10])  # no suspended table stands in its way
        assert db.sql("SELECT count(), sum(last_update_id) FROM orderbook").rows == [
            [60_002, sum(range(60_000)) + 2 * 86_400_00 + 10]
        ]
        assert partitions.convert(db, DAY, lambda: False)
        assert partitions.find(db, DAY)[1:4:2] == (60_000, True)
    finally:
        server.stop()


def store(db, ticks):
    """Rows that hardly compress, 10 ms apart."""
    encoder, begin = RowEncoder(depth=5, exchange="binance", collector="full"), partitions.start_of(DAY)
    for first in range(0, len(ticks), 10_000):
        db.write(
            encoder.snapshots(
                [
                    OrderBook("AUSDT", begin + tick * SECOND // 100, tick, levels(tick, 0.1), levels(tick, 0.7))
                    for tick in ticks[first : first + 10_000]
                ]
            )
        )
    db.sql("SELECT wait_wal_table('orderbook')")


def levels(tick, share):
    return [((tick * 0.7548776662 + share * level) % 1, (tick * 0.5698402910 * (level + 1)) % 1) for level in range(5)]
