"""Reports of recorders for tests: all well, but for what is said."""

from datetime import UTC, datetime, timedelta

import msgspec

from ingester.monitoring.report import (
    ConnectionReport,
    DiskReport,
    FeedReport,
    Gaps,
    Lag,
    Report,
    RowsReport,
    SpoolState,
    Storing,
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
    rows=RowsReport(1000, 440_000, 440.0, 990, 0, 0, 0, 0),
    lag=Lag(0.28, 0.55),
    spool=SpoolState(10, 4400, 0.3, 100_000, 8 * GIB, False, False),
    connections=[ConnectionReport("1a", 3600.0, None), ConnectionReport("1b", 3600.0, None)],
    feed=FeedReport(2, 0, 0, 0, 0, 0, 1000, 0),
    gaps=Gaps(0, 0, 0.0, ""),
    disk=DiskReport(100 * GIB, 200 * GIB, 8 * GIB),
    storing=Storing(None, "", 0, False, 0, None, 0, None),
    clock_offset_seconds=0.0,
)


def report(**changes):
    """`report(rows={"missing": 3}, pairs=2)`: a part is changed in the fields named, anything else replaced."""
    parts = {
        name: msgspec.structs.replace(getattr(WELL, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return msgspec.structs.replace(WELL, **parts)
