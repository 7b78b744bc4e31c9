"""What tests of the spool share: records that tell which they are, and small limits."""

import random
import time

from ingester.book import OrderBook
from ingester.questdb.encoder import RowEncoder
from ingester.record.unsent import spools
from ingester.spool import Spool

SECOND = 10**9
RESERVE = 1 << 16
SMALL = {"limit_bytes": 1 << 20, "reserve_bytes": 1 << 16, "free_bytes": 0, "segment_bytes": 4096}


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def body_of(number, length=100):
    """Bytes that tell which record they are, and fail to compare where a single one is wrong."""
    return random.Random(number).randbytes(length) + b"%d" % number


def append(spool, number, length=100):
    return spool.append(body_of(number, length), number % 7, number * 10, number * 10 + 9)


def numbers(records):
    """Which records these are, after all that is in them was checked."""
    found = [record.first_ns // 10 for record in records]
    for number, record in zip(found, records, strict=True):
        length = len(record.body) - len(b"%d" % number)
        assert record.body == body_of(number, length)
        assert record.rows == number % 7
        assert record.last_ns == number * 10 + 9
    return found


def take_all(spool, at_most=1000):
    """Reads and acknowledges until nothing waits."""
    taken = []
    while records := spool.peek(at_most):
        taken += records
        spool.acknowledge(records)
    return taken


def segment_files(folder):
    return sorted(folder.glob("*.seg"))


def fill(spool, number=0):
    while append(spool, number):
        number += 1
    return number


def wait_in_spool(data_dir, collector, portions=3, acknowledged=0, depth=5, segment_bytes=64 << 20):
    """Ten rows a portion, of which the first ones are acknowledged; gives the receive time of the first row."""
    first = time.time_ns() // SECOND * SECOND - 60 * SECOND
    spool = Spool(spools(data_dir) / collector, reserve_bytes=RESERVE, free_bytes=0, segment_bytes=segment_bytes)
    spool.open()
    encoder = RowEncoder(depth=depth, exchange="binance", collector=collector)
    for portion in range(portions):
        times = [first + portion * SECOND + row * 100_000_000 for row in range(10)]
        levels = [(100.0 - level, 1.0) for level in range(depth)]
        rows = [OrderBook("BTCUSDT", at, at, levels, levels) for at in times]
        assert spool.append(encoder.snapshots(rows), len(rows), times[0], times[-1])
    for _ in range(acknowledged):
        spool.acknowledge(spool.peek(1))
    spool.close()
    return first
