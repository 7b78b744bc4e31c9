"""intake.py over real sockets: an exchange that does odd things costs no book, or the loss is on record."""

import json
import threading
import time
from types import SimpleNamespace

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from ingester import Recorder
from ingester.exchange import simulator_at
from ingester.live.buffer import LiveBuffer

NESTED = '{"x":' + "[" * 2_000 + "]" * 2_000 + "}"
EVERY = 0.02


@pytest.fixture
def exchange():
    """Sends a book of each pair every 20 ms over each connection, after what `odd(number)` gives."""
    exchange = SimpleNamespace(acknowledges=True, odd=lambda number: [], sent=set())

    def handle(connection):
        names, gone = set(), threading.Event()

        def listen():
            try:
                for text in connection:
                    request = json.loads(text)
                    (names.update if request["method"] == "SUBSCRIBE" else names.difference_update)(request["params"])
                    if exchange.acknowledges:
                        connection.send(json.dumps({"result": None, "id": request["id"]}))
            except ConnectionClosed:
                pass
            gone.set()

        threading.Thread(target=listen, daemon=True).start()
        try:
            while not gone.is_set():
                number = int(time.time() / EVERY)
                for name in sorted(names):
                    for text in exchange.odd(number):
                        connection.send(text)
                    data = {"lastUpdateId": number, "bids": [["1", "1"]], "asks": [["2", "1"]]}
                    connection.send(json.dumps({"stream": name, "data": data}, separators=(",", ":")))
                    exchange.sent.add(number)
                gone.wait(max(0.0, (number + 1) * EVERY - time.time()))
        except ConnectionClosed:
            pass

    server = serve(handle, "127.0.0.1", 0, compression=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.socket.getsockname()[1]}"
    exchange.place = simulator_at(f"ws://{address}", "http://127.0.0.1:1").at(name="odd")
    yield exchange
    server.shutdown()


def recorded(exchange, seconds=1.5, pairs=("BTCUSDT",), **options):
    """What a recorder has of the exchange after a while, and its gaps."""
    with Recorder(pairs, exchange=exchange.place, **options) as recorder:
        assert recorder.ready(30)
        time.sleep(seconds)
    return recorder


def test_an_exchange_that_never_acknowledges_ends_a_recording_without_a_gap(exchange):
    exchange.acknowledges = False
    recorder = recorded(exchange)
    assert recorder.gaps() == []


def test_nested_json_among_the_frames_costs_no_book(exchange):
    exchange.odd = lambda number: [NESTED]
    recorder = recorded(exchange, connections=1)
    rows = recorder.metrics.snapshots
    assert rows >= 0.9 * len(exchange.sent)
    assert recorder.metrics.malformed >= rows
    assert {gap.reason for gap in recorder.gaps()} <= {"quarantined"}


def test_one_id_that_is_far_too_large_costs_a_moment(exchange):
    told = set()

    def odd(number):
        if len(exchange.sent) > 20 and len(told) < 2:
            wrong = (2**63 - 1, 10**15)[len(told)]
            told.add(wrong)
            data = {"lastUpdateId": wrong, "bids": [["1", "1"]], "asks": [["2", "1"]]}
            return [json.dumps({"stream": "btcusdt@depth5@100ms", "data": data}, separators=(",", ":"))]
        return []

    exchange.odd = odd
    recorder = recorded(exchange)
    assert len(told) == 2
    assert recorder.metrics.snapshots >= 0.8 * len(exchange.sent)
    gaps = recorder.gaps()
    assert {gap.reason for gap in gaps} <= {"quarantined", "update ids restarted"}
    assert "update ids restarted" in {gap.reason for gap in gaps}
    assert sum(gap.length() for gap in gaps) < 1


def test_what_cannot_be_handed_on_is_a_gap_and_the_rest_goes_on(exchange, monkeypatch):
    take, taken, failed = LiveBuffer.take, [], []

    def fails_once(record, snapshots):
        taken.append(len(snapshots))
        if len(taken) == 5:
            failed.extend(snapshots)
            raise OSError("no room")
        take(record, snapshots)

    monkeypatch.setattr(LiveBuffer, "take", fails_once)
    recorder = recorded(exchange)
    (gap,) = recorder.gaps()
    assert gap.reason == "not taken in"
    assert gap.since_ns == failed[0].receive_ns
    times = recorder.window("BTCUSDT", 1_000).times
    assert not ((times >= gap.since_ns) & (times < gap.until_ns)).any()
    assert (times > gap.until_ns).any()
