"""The simulator fails as it is told to, over real sockets."""

import json
import time
from itertools import pairwise

import pytest
import websocket
from simulated_client import ADA, BTC, ETH, PAIRS, Client, expected, get, listen

from ingester.errors import OperationError, SettingsError
from ingester.simulator import Simulator
from ingester.simulator.faults import parse_fault


def test_drop_cuts_one_or_all_connections(fast: Simulator) -> None:
    with listen(fast, BTC) as one, listen(fast, BTC) as other:
        fast.fault("drop", connection=1)
        one.read_until_cut()
        other.take(5)
        fast.fault("drop")
        other.read_until_cut()
    with listen(fast, BTC) as again:
        assert expected("BTCUSDT", again.next()["data"])


def test_half_open_sends_nothing_not_even_pongs_and_then_goes_on(fast: Simulator) -> None:
    with listen(fast, BTC) as client:
        received = client.next()["data"]["lastUpdateId"]
        fast.fault("half_open", seconds=60)
        last = fast.sent["BTCUSDT"][-1]
        while received < last:
            received = client.next()["data"]["lastUpdateId"]
        client.socket.ping()
        client.socket.settimeout(0.3)
        with pytest.raises(websocket.WebSocketTimeoutException):
            client.socket.recv_data(control_frame=True)
        assert fast.connections == [1]
        fast.fault("clear")
        opcode, _ = client.socket.recv_data(control_frame=True)
        assert opcode in (websocket.ABNF.OPCODE_PONG, websocket.ABNF.OPCODE_TEXT)
        assert client.next_of(BTC)["lastUpdateId"] > last


def test_silence_takes_one_symbol_and_leaves_the_rest(fast: Simulator) -> None:
    with listen(fast, BTC, ETH) as client:
        fast.fault("silence", "BTCUSDT")
        client.take(2 * len(fast.sent.get("BTCUSDT", [])) + 2)
        assert {message["stream"] for message in client.take(10)} == {ETH}
        fast.fault("clear")
        assert expected("BTCUSDT", client.next_of(BTC))


def test_a_halted_symbol_is_silent_and_listed_as_such_until_it_trades_again(fast: Simulator) -> None:
    def statuses() -> list[str]:
        urls = ("/api/v3/exchangeInfo", "/fapi/v1/exchangeInfo")
        return [get(fast, url)[1]["symbols"][0]["status"] for url in urls]

    assert statuses() == ["TRADING", "TRADING"]
    fast.fault("halt", "BTCUSDT")
    assert statuses() == ["HALT", "TRADING_HALT"]
    for path in ("/stream", "/public/stream"):
        with listen(fast, BTC, ETH, path=path) as client:
            assert {message["stream"] for message in client.take(10)} == {ETH}
    fast.fault("clear")
    assert statuses() == ["TRADING", "TRADING"]


def test_silence_of_all_symbols_leaves_pings_and_ends_by_itself(fast: Simulator) -> None:
    with listen(fast, BTC) as client:
        client.next()
        fast.fault("silence", seconds=0.5)
        start = time.monotonic()
        last = fast.sent["BTCUSDT"][-1]
        client.socket.ping()
        opcodes = []
        while websocket.ABNF.OPCODE_PONG not in opcodes:
            opcodes.append(client.socket.recv_data(control_frame=True)[0])
        while client.next()["data"]["lastUpdateId"] <= last:
            pass
        assert 0.3 < time.monotonic() - start < 2


def test_futures_frames_are_spoilt_as_those_of_spot(fast: Simulator) -> None:
    with listen(fast, BTC, path="/public/stream") as client:
        fast.fault("crossed", "BTCUSDT")
        tops = [(float(each["data"]["b"][0][0]), float(each["data"]["a"][0][0])) for each in client.take(10)]
        assert sum(bid > ask for bid, ask in tops) == 1
        fast.fault("empty", "BTCUSDT")
        assert sum(each["data"]["b"] == each["data"]["a"] == [] for each in client.take(10)) == 1
        fast.fault("out_of_order", "BTCUSDT")
        ids = [message["data"]["u"] for message in client.take(10)]
        assert sum(after < before for before, after in pairwise(ids)) == 1
        fast.fault("drop")
        client.read_until_cut()


@pytest.mark.parametrize("kind", ["malformed", "garbage"])
def test_broken_frames_are_followed_by_sound_ones(fast: Simulator, kind: str) -> None:
    with listen(fast, BTC) as client:
        fast.fault(kind, "BTCUSDT", count=2)
        texts = [client.socket.recv() for _ in range(12)]
        broken = [text for text in texts if not text.endswith("}}") or not text.startswith("{")]
        assert len(broken) == 2
        received = {json.loads(text)["data"]["lastUpdateId"] for text in texts if text not in broken}
    assert received <= set(fast.sent["BTCUSDT"])
    assert len(received) == 10


def test_duplicates_disorder_crossed_and_empty_books(fast: Simulator) -> None:
    with listen(fast, BTC) as client:
        fast.fault("duplicate", "BTCUSDT")
        ids = [message["data"]["lastUpdateId"] for message in client.take(10)]
        assert len(ids) == len(set(ids)) + 1

        fast.fault("out_of_order", "BTCUSDT")
        ids = [message["data"]["lastUpdateId"] for message in client.take(10)]
        assert sum(after < before for before, after in pairwise(ids)) == 1
        assert sorted(ids) == sorted(set(fast.sent["BTCUSDT"]) & set(range(min(ids), max(ids) + 1)))

        fast.fault("crossed", "BTCUSDT")
        tops = [(float(each["data"]["bids"][0][0]), float(each["data"]["asks"][0][0])) for each in client.take(10)]
        assert sum(bid > ask for bid, ask in tops) == 1

        fast.fault("empty", "BTCUSDT")
        assert sum(each["data"]["bids"] == each["data"]["asks"] == [] for each in client.take(10)) == 1


def test_frozen_data_repeats_one_frame_until_it_ends(fast: Simulator) -> None:
    with listen(fast, BTC) as client:
        fast.fault("repeat", "BTCUSDT")
        ids = [message["data"]["lastUpdateId"] for message in client.take(20)]
        assert len(set(ids[10:])) == 1
        fast.fault("clear")
        client.until(lambda message: message["data"]["lastUpdateId"] > ids[-1])
        assert set(ids) <= set(fast.sent["BTCUSDT"])


@pytest.mark.parametrize("path", ["/stream", "/ws", "/public/stream"])
def test_a_shutdown_is_announced_and_then_happens(fast: Simulator, path: str) -> None:
    with listen(fast, BTC, path=path) as client:
        fast.fault("shutdown", after=0.2)
        event = client.until(lambda message: "serverShutdown" in json.dumps(message))[-1]
        if path.endswith("/stream"):
            assert event.keys() == {"stream", "data"}
            assert event["stream"] == "!serverShutdown"
            event = event["data"]
        assert event["e"] == "serverShutdown"
        assert abs(event["E"] / 1000 - time.time()) < 5
        client.next()
        assert client.close_code() == 1001


@pytest.mark.parametrize(("status", "retry_after"), [(429, "30"), (418, "30"), (503, "30"), (451, None)])
def test_upgrades_can_be_refused(fast: Simulator, status: int, retry_after: str | None) -> None:
    fast.fault("refuse", seconds=30, status=status)
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        Client(fast)
    assert refused.value.status_code == status
    assert refused.value.resp_headers.get("retry-after") == retry_after
    assert get(fast, "/api/v3/ping") == (200, {})
    fast.fault("clear")
    with listen(fast, BTC) as client:
        assert client.next()


def test_a_slow_connection_gets_few_bytes_but_whole_frames(fast: Simulator) -> None:
    with listen(fast, BTC, ETH, ADA) as client:
        client.next_of(BTC)
        start = time.monotonic()
        fast.fault("slow", rate=5000, seconds=1)
        last = fast.sent["BTCUSDT"][-1]
        received = 0
        while time.monotonic() - start < 0.9:
            message = client.socket.recv()
            if json.loads(message)["data"]["lastUpdateId"] > last or "btcusdt" not in message:
                received += len(message)
        assert 1000 < received < 15_000  # at full speed it would be 60,000
        now = fast.sent["BTCUSDT"][-1]
        assert client.until(lambda each: each["stream"] == BTC and each["data"]["lastUpdateId"] > now)


def test_faults_can_be_asked_for_over_http(fast: Simulator) -> None:
    with listen(fast, BTC) as client:
        assert get(fast, "/simulator/fault?kind=malformed&symbol=btcusdt&count=1") == (200, {})
        with pytest.raises(ValueError, match=r"\w"):
            client.take(10)
        status, error = get(fast, "/simulator/fault?kind=explode")
        assert status == 400
        assert "explode" in error["msg"]
        assert get(fast, "/simulator/fault?kind=silence&symbol=NOSUCH")[0] == 400


def test_faults_can_be_planned() -> None:
    with Simulator(PAIRS, faults=[parse_fault("drop@300ms")]) as simulator, listen(simulator, BTC) as client:
        client.read_until_cut()


def test_a_fault_that_cannot_be_is_an_error(fast: Simulator) -> None:
    for wrong in ({"kind": "explode"}, {"kind": "silence", "symbol": "NOSUCH"}, {"kind": "slow", "colour": 1}):
        with pytest.raises(SettingsError, match=r"explode|NOSUCH|colour"):
            fast.fault(**wrong)
    with pytest.raises(SettingsError, match="NOSUCH"):
        Simulator(PAIRS, faults=[parse_fault("silence:NOSUCH@1s")])
    with pytest.raises(OperationError, match="not running"):
        Simulator(PAIRS).fault("drop")
