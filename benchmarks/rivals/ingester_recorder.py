"""The project's own recorder, wired as `ingester start` wires it when no terminal is attached."""

import json
import logging
import sys
import tempfile
from pathlib import Path

from control import answer, tell

import ingester.cli.start  # noqa: F401 (what the command imports counts as its memory)
from ingester.cli.live import LogLines
from ingester.config import Settings
from ingester.exchange import simulator_at
from ingester.metrics import Histogram
from ingester.questdb import Endpoint, QuestDB, schema
from ingester.record import RecorderService


def main() -> None:
    task = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO)
    exchange = simulator_at(task["stream_url"], task["rest_url"])
    endpoint = Endpoint(task["http_url"], task["user"], task["password"])
    settings = Settings(tuple(task["symbols"]), exchange, depth=task["depth"], collector=task["name"])
    db = QuestDB(endpoint)
    schema.ensure(db, settings.depth)
    spool = tempfile.TemporaryDirectory()
    collector = RecorderService(settings, db, data_dir=Path(spool.name))
    store = collector.metrics.store

    def begin() -> None:
        store.lag = Histogram()

    def report() -> dict[str, object]:
        lag = [store.lag.quantile(0.5), store.lag.quantile(0.99)] if store.lag.total else None
        return {"lag": lag, "received": store.rows.received, "stored": store.rows.stored, "refused": store.rows.lost}

    stop = answer(report, begin)
    collector.start()
    with LogLines(collector) as view:
        while not stop.wait(view.seconds):
            view.show()
    collector.stop()
    spool.cleanup()
    tell(**report())


if __name__ == "__main__":
    main()
