"""Recordings played over real sockets."""

import gzip
import json
import time
from pathlib import Path

import pytest
from simulated_client import BTC, RECORDING, SEED, get, listen

from ingester.errors import SettingsError
from ingester.simulator import Simulator, tape_of_file
from ingester.simulator.books import book


def write_recording(path: Path, count: int, gap_ns: int) -> Path:
    with gzip.open(path, "wt") as file:
        for number in range(count):
            bids, asks = book(0, "ZECUSDT", 10**9 + 77 * number, 20)
            data = {"lastUpdateId": 10**9 + 77 * number, "bids": bids, "asks": asks}
            line = json.dumps({"stream": "zecusdt@depth20@100ms", "data": data}, separators=(",", ":"))
            file.write(f"{10**18 + gap_ns * number} {line}\n")
    return path


def test_a_recording_arrives_complete_and_exact_at_every_depth() -> None:
    with gzip.open(RECORDING) as lines:
        recorded = [json.loads(line.partition(b" ")[2])["data"] for line in lines]
    with Simulator(tapes=[tape_of_file(RECORDING)], speed=0, keep_sent=True) as simulator:
        streams = {f"btcusdt@depth{depth}@100ms": depth for depth in (5, 10, 20)}
        with listen(simulator, *streams) as client:
            messages = client.take(3 * len(recorded))
        assert simulator.wait_finished(5)
        assert simulator.sent == {"BTCUSDT": [data["lastUpdateId"] for data in recorded]}
    for stream, depth in streams.items():
        assert [message["data"] for message in messages if message["stream"] == stream] == [
            {**data, "bids": data["bids"][:depth], "asks": data["asks"][:depth]} for data in recorded
        ]


def test_a_recording_is_listed_starts_when_subscribed_and_is_silent_after_its_end(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "zec.gz", 3, 10**6)
    with (
        Simulator(["BTCUSDT"], tapes=[tape_of_file(path)], seed=SEED, speed=1) as simulator,
        listen(simulator, BTC) as client,
    ):
        assert simulator.symbols == ("BTCUSDT", "ZECUSDT")
        client.take(3)
        assert not simulator.finished
        client.ask("SUBSCRIBE", "zecusdt@depth5@100ms")
        assert simulator.wait_finished(5)
        assert get(simulator, "/simulator/stats")[1]["recordings"] == {str(path): True}
        streams = [message["stream"] for message in client.take(10)]
        assert streams.count("zecusdt@depth5@100ms") == 3
        assert [message["stream"] for message in client.take(3)] == [BTC] * 3
        last = get(simulator, "/api/v3/depth?symbol=ZECUSDT&limit=5")[1]
        assert last["lastUpdateId"] == 10**9 + 77 * 2
        ticker = get(simulator, "/api/v3/ticker/24hr?symbol=ZECUSDT")[1]
        assert [ticker["bidPrice"], ticker["bidQty"]] == last["bids"][0]
        assert [ticker["askPrice"], ticker["askQty"]] == last["asks"][0]


def test_a_recording_is_played_as_futures_too_and_keeps_its_event_times(tmp_path: Path) -> None:
    path = tmp_path / "futures"
    ids = [7, 9, 12, 13]
    events = [
        {"e": "depthUpdate", "E": 10**12 + number * 100, "T": 10**12, "s": "BTCUSDT_261225", "U": 1, "u": ids[number],
         "pu": 0, "b": [["2.10", "1"], ["2.0", "3"]], "a": [["3.0", "5"]]}
        for number in range(4)
    ]  # fmt: skip
    lines = (
        f"{10**18 + number * 10**8} {json.dumps({'stream': 'btcusdt_261225@depth20@100ms', 'data': event})}\n"
        for number, event in enumerate(events)
    )
    path.write_text("".join(lines))
    with Simulator(tapes=[tape_of_file(path)], speed=0) as simulator:
        streams = ("btcusdt_261225@depth5@100ms", "btcusdt_261225@depth5")
        with listen(simulator, *streams, path="/public/stream") as client:
            messages = client.take(6)
        last = get(simulator, "/fapi/v1/depth?symbol=BTCUSDT_261225&limit=5")[1]
    got = {stream: [each["data"] for each in messages if each["stream"] == stream] for stream in streams}
    assert got[streams[0]] == [
        {**event, "T": event["E"], "U": before + 1, "pu": before}
        for event, before in zip(events, [6, *ids], strict=False)
    ]
    assert [(event["pu"], event["u"]) for event in got[streams[1]]] == [(6, 7), (7, 13)]
    assert last == {
        "lastUpdateId": 13,
        "E": 10**12 + 300,
        "T": 10**12 + 300,
        "bids": events[3]["b"],
        "asks": [["3.0", "5"]],
    }


def test_connections_share_the_clock_of_a_recording(tmp_path: Path) -> None:
    path, stream = write_recording(tmp_path / "zec.gz", 60, 10**7), "zecusdt@depth5@100ms"
    last = 10**9 + 77 * 59
    with Simulator(tapes=[tape_of_file(path)]) as simulator, listen(simulator, stream) as early:
        early.take(20)
        with listen(simulator, stream) as late:
            messages = [client.until(lambda each: each["data"]["lastUpdateId"] == last) for client in (early, late)]
    ids = [[each["data"]["lastUpdateId"] for each in these] for these in messages]
    assert ids[1] == ids[0][-len(ids[1]) :]
    assert 0 < len(ids[1]) < 45


@pytest.mark.parametrize(("speed", "least", "most"), [(1.0, 0.5, 1.5), (5.0, 0.1, 0.45)])
def test_a_recording_keeps_its_pace(tmp_path: Path, speed: float, least: float, most: float) -> None:
    path = write_recording(tmp_path / "zec.gz", 6, 10**8)
    with (
        Simulator(tapes=[tape_of_file(path)], speed=speed) as simulator,
        listen(simulator, "zecusdt@depth5@100ms") as client,
    ):
        client.next()
        start = time.monotonic()
        client.take(5)
        assert least * 0.9 < time.monotonic() - start < most


def test_a_bad_recording_is_named_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("1 {}\n")
    with pytest.raises(SettingsError, match=r"bad\.jsonl, line 1"):
        tape_of_file(path)
