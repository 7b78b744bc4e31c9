"""docs/new-exchange.md is complete: the exchange that its code blocks make is recorded, and rows come out."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest
from recorder import rows_of, url_of
from shown import blocks
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response
from websockets.sync.server import serve

from ingester.book import level_columns

PAGE = Path(__file__).parents[1] / "docs" / "new-exchange.md"
MODULE, REGISTRATION, TESTS = blocks(PAGE.read_text(encoding="utf-8"), "python")

RUN = f"""
import sys
from acme import ACME
from ingester.exchange import VENUES
{REGISTRATION}
from ingester.cli import cli
cli(sys.argv[1:])
"""


def page_tests():
    """The test functions of the page."""
    module = ModuleType("acme_page")
    exec(compile(MODULE, str(PAGE), "exec"), module.__dict__)
    exec(compile(TESTS, str(PAGE), "exec"), module.__dict__)
    return {name: value for name, value in vars(module).items() if name.startswith("test_")}


@pytest.mark.parametrize("name", ["test_acme_frames", "test_acme_lists", "test_acme_requests"])
def test_the_tests_on_the_page_pass(name):
    tests = page_tests()
    assert len(tests) == 3
    tests[name]()


class Acme:
    """The invented exchange itself, as its documentation on the page says."""

    def __init__(self):
        self.paths = set()
        self.sent = {"BTCUSD": [], "ETHUSD": []}
        self._lock = threading.Lock()

    def answer(self, connection, request):
        path = request.path.partition("?")[0]
        if path == "/feed":
            self.paths.add(path)
            return None
        listed = [{"name": name, "base": name[:3], "quote": "USD", "open": True, "tick": 0.5} for name in self.sent]
        known = {"/instruments": listed, "/time": time.time_ns() // 1000}
        body = json.dumps(known.get(path)).encode()
        status = (200, "OK") if path in known else (404, "Not Found")
        return Response(*status, Headers({"Content-Length": str(len(body)), "Connection": "close"}), body)

    def attend(self, connection):
        streams = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                with contextlib.suppress(TimeoutError):
                    request = json.loads(connection.recv(timeout=0.05))
                    assert request["op"] == "subscribe"
                    streams += request["channels"]
                    connection.send(json.dumps({"id": request["id"], "ok": True}))
                for stream in streams:
                    connection.send(json.dumps(self.book(stream)))

    def book(self, stream):
        """The book of a stream now; its numbers follow from `seq`."""
        _, symbol, depth = stream.split(".")
        seq = time.time_ns() // 10**7
        with self._lock:
            self.sent[symbol].append(seq)
        levels = range(int(depth))
        return {
            "channel": stream,
            "seq": seq,
            "time": seq * 10_000,
            "bids": [[seq % 1000 + 1000.5 - level, level + 1.0] for level in levels],
            "asks": [[seq % 1000 + 1001.5 + level, level + 2.0] for level in levels],
        }


@pytest.fixture
def acme():
    exchange = Acme()
    with serve(exchange.attend, "127.0.0.1", 0, process_request=exchange.answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        exchange.address = f"127.0.0.1:{server.socket.getsockname()[1]}"
        yield exchange
        server.shutdown()
        thread.join(10)


def test_the_exchange_of_the_page_is_recorded(questdb, acme, tmp_path):
    (tmp_path / "acme.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, tmp_path / "run.py", "start", "--exchange", "acme", "--pairs", "BTCUSD,ETHUSD"),
            *("--stream-url", f"ws://{acme.address}", "--rest-url", f"http://{acme.address}"),
            *("--depth", "10", "--interval", "50ms", "--for", "4s", "--collector", "acme"),
            *("--questdb", url_of(questdb.endpoint), "--data-dir", questdb.data_dir),
            *("--pairs-file", tmp_path / "pairs.txt"),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert acme.paths == {"/feed"}
    columns = ["symbol", "last_update_id", "cast(event_time AS long)", *level_columns(10)]
    rows = rows_of(questdb, "acme", ", ".join(columns))
    for symbol in ("BTCUSD", "ETHUSD"):
        own = [row[1:] for row in rows if row[0] == symbol]
        assert len(own) >= 40
        assert len({seq for seq, *_ in own}) == len(own)
        assert {seq for seq, *_ in own} <= set(acme.sent[symbol])
        for seq, event_us, *levels in own:
            assert event_us == seq * 10_000
            best = seq % 1000
            assert levels == [
                *(number for level in range(10) for number in (best + 1000.5 - level, level + 1.0)),
                *(number for level in range(10) for number in (best + 1001.5 + level, level + 2.0)),
            ]
