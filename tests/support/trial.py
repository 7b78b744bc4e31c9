"""What every fault needs: a recorder between a simulator and a QuestDB, patience, and an end that is compared."""

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

from evidence import gather
from recorder import Recorder, url_of

from ingester.errors import StoreError
from ingester.exchange.pairs import DEFAULT_COINS, symbols_of
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint

COINS44 = symbols_of(DEFAULT_COINS, "USDT")
FEW = ["BTCUSDT", "ETHUSDT", "LTCUSDT", "ADAUSDT"]


class Place(NamedTuple):
    """Where a recorder writes to."""

    endpoint: Endpoint
    data_dir: Path


def endpoint_of(server):
    """Of a managed server that was started by someone else."""
    status = server.status()
    return Endpoint(status.http, status.user, Path(status.password_file).read_text().strip())


def eventually(condition, seconds=60, what="what was waited for"):
    """Waits until `condition` gives something true, and gives that; a QuestDB that is away is not true."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(StoreError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, f"{what} never came within {seconds} s"
        time.sleep(0.05)


class Trial:
    """A recorder of a simulator's pairs, started as often as asked for, and what became of its recording."""

    def __init__(self, simulator, place, collector, *options, questdb=None, stream_url=None, environment=None):
        """`questdb`, `stream_url`: other ways to the same QuestDB and exchange, for the recorder only."""
        self.simulator = simulator
        self.place = place
        self.collector = collector
        self.recorder = None
        self._environment = environment
        self.options = ["--collector", collector, "--pairs", ",".join(simulator.symbols), *self._server(questdb)]
        self.options += ["--stream-url", stream_url or simulator.stream_url, "--rest-url", simulator.rest_url]
        self.options += ["--data-dir", place.data_dir, *options]

    def _server(self, questdb):
        return ["--questdb", url_of(questdb or self.place.endpoint)]

    @property
    def db(self):
        return QuestDB(self.place.endpoint)

    @property
    def spool(self):
        return self.place.data_dir / "spool" / self.collector

    def start(self):
        """Starts a recorder, and waits until it records."""
        before = self.sent_count()
        self.recorder = Recorder(*self.options, environment=self._environment)
        self.recorder.wait_for("is open")
        self.flows(before)
        return self

    def sent_count(self):
        return sum(map(len, self.simulator.sent.values()))

    def flows(self, before=None, ticks=3):
        """Waits until the exchange has sent some more of each pair: so many tenths of a second."""
        wanted = (self.sent_count() if before is None else before) + ticks * len(self.simulator.symbols)
        eventually(lambda: self.sent_count() >= wanted, 60 + ticks / 5, "more frames")

    def newest_us(self, symbol=None):
        """Receive time of the newest visible row, us since 1970; 0 where there is none."""
        where = f"collector = '{self.collector}'" + (f" AND symbol = '{symbol}'" if symbol else "")
        rows = self.db.sql(f"SELECT cast(max(timestamp) AS long) FROM orderbook WHERE {where}").rows
        return rows[0][0] or 0 if rows else 0

    def count(self):
        """Visible rows."""
        return self.db.sql(f"SELECT count() FROM orderbook WHERE collector = '{self.collector}'").rows[0][0]

    def recovered(self, since, symbol=None, seconds=90):
        """Waits until a row received after `since` (wall clock) is visible; gives the seconds from then until now."""
        eventually(lambda: self.newest_us(symbol) > since * 1e6, seconds, "a newer row")
        return time.time() - since

    def event(self, kind, symbol=None, seconds=60):
        """Waits until an event of this kind is on record, and gives its detail."""
        condition = f"kind = '{kind}'" + (f" AND symbol = '{symbol}'" if symbol else "")
        statement = f"SELECT detail FROM collector_events WHERE collector = '{self.collector}' AND {condition}"
        return eventually(lambda: self.db.sql(statement).rows, seconds, f"the event {kind}")[-1][0]

    def end(self, bugs=False):
        """Ends the recorder in order; gives the evidence. `bugs`: the log may hold tracebacks."""
        sent = self.simulator.sent
        code, output = self.recorder.stop()
        assert code == 0, output
        assert bugs or "Traceback" not in output, output
        return gather(self.db, self.collector, sent, self.spool)

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        if self.recorder is not None:
            self.recorder.kill()


class Managed(Trial):
    """A recorder that starts a QuestDB in its data folder by itself."""

    def __init__(self, simulator, server, collector):
        self._managed = server
        super().__init__(simulator, Place(None, server.data_dir), collector)

    def _server(self, questdb):
        return []

    @property
    def db(self):
        return QuestDB(endpoint_of(self._managed))
