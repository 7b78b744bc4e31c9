"""Reports of recorders for tests: all well, but for what is said."""

from datetime import UTC, datetime, timedelta

import msgspec

from ingester.metrics import FeedMetrics, RowMetrics, StoreState
from ingester.monitoring.report import (
    ConnectionReport,
    DiskReport,
    Gaps,
    Lag,
    Report,
    SpoolState,
)

AT = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
GIB = 1 << 30

WELL = Report(
    collector="one",
    host="machine",
    pid=4711,
    version="0.1.0",
    started=AT - timedelta(hours=1),
    at=AT,
    stopped=False,
    exchange="binance",
    depth=5,
    interval_ms=100,
    pairs=44,
    questdb="http://127.0.0.1:9000",
    managed=True,
    rows=RowMetrics(received=1000, received_bytes=440_000, per_second=440.0, stored=990),
    lag=Lag(0.28, 0.55),
    spool=SpoolState(10, 4400, 0.3, 100_000, 8 * GIB, False, False),
    connections=[ConnectionReport("1a", 3600.0, None), ConnectionReport("1b", 3600.0, None)],
    feed=FeedMetrics(connects=2, copies=1000),
    gaps=Gaps(0, 0, 0.0, ""),
    disk=DiskReport(100 * GIB, 200 * GIB, 8 * GIB),
    storing=StoreState(),
    clock_offset_seconds=0.0,
)


def report(**changes):
    """`report(rows={"missing": 3}, pairs=2)`: a part is changed in the fields named, anything else replaced."""
    parts = {
        name: msgspec.structs.replace(getattr(WELL, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return msgspec.structs.replace(WELL, **parts)
