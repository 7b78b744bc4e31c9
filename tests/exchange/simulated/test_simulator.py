"""The simulator speaks Binance's protocol over real sockets, keeps its limits, and fails as it is told to."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import urllib3
import websocket

from ingester.errors import OperationError, SettingsError
from ingester.exchange.simulated.books import book, update_id
from ingester.exchange.simulated.broadcast import hash_slot
from ingester.exchange.simulated.faults import parse_fault
from ingester.exchange.simulated.limits import Limits
from ingester.exchange.simulated.listing import Listing
from ingester.exchange.simulated.markets import market
from ingester.exchange.simulated.simulator import Simulator

RECORDING = Path(__file__).parents[2] / "data" / "btcusdt.jsonl.gz"
PAIRS = ("BTCUSDT", "ETHUSDT", "ADAUSDT")
SEED = 11
BTC, ETH, ADA = (f"{symbol.lower()}@depth5@100ms" for symbol in PAIRS)


class Client:
    """A websocket client that decodes what it gets."""

    def __init__(self, simulator: Simulator, path: str = "/stream", *streams: str) -> None:
        self.socket = websocket.create_connection(simulator.stream_url + path, timeout=5, skip_utf8_validation=True)
        if streams:
            assert self.ask("SUBSCRIBE", *streams) == {"result": None, "id": 1}

    def send(self, method: str, *streams: str, number: int = 1) -> None:
        self.socket.send(json.dumps({"method": method, "params": streams, "id": number}))

    def ask(self, method: str, *streams: str, number: int = 1) -> dict[str, Any]:
        """The answer to a request; frames of data before it are passed over."""
        self.send(method, *streams, number=number)
        return self.until(lambda message: "id" in message)[-1]

    def next(self) -> dict[str, Any]:
        return json.loads(self.socket.recv())

    def next_of(self, stream: str) -> dict[str, Any]:
        """The data of the next frame of a stream."""
        return self.until(lambda message: message.get("stream") == stream)[-1]["data"]

    def take(self, count: int) -> list[dict[str, Any]]:
        return [self.next() for _ in range(count)]

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """All messages up to the first wanted one."""
        messages = [self.next()]
        while not wanted(messages[-1]):
            messages.append(self.next())
        return messages

    def close_code(self) -> int:
        """Read on until the server closes; the code it gives."""
        while True:
            opcode, data = self.socket.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big")

    def read_until_cut(self) -> None:
        cut = (websocket.WebSocketConnectionClosedException, ConnectionResetError)
        with pytest.raises(cut):  # noqa: PT012 (which of the receives fails is open)
            while True:
                self.socket.recv()

    def close(self) -> None:
        self.socket.close(timeout=1)
        self.socket.shutdown()  # `close` leaves the socket open where the server has closed the connection first


def listen(simulator: Simulator, *streams: str, path: str = "/stream") -> closing[Client]:
    return closing(Client(simulator, path, *streams))


def get(simulator: Simulator, path: str) -> tuple[int, Any]:
    with urllib3.PoolManager() as http:
        response = http.request("GET", simulator.rest_url + path, timeout=5, retries=False)
        return response.status, response.json()


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """For what the simulator notices by itself and tells nobody."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition() and time.monotonic() < deadline:
        pause.wait(0.01)
    return condition()


def expected(symbol: str, data: dict[str, Any], depth: int = 5) -> bool:
    bids, asks = book(SEED, symbol, data["lastUpdateId"], depth)
    return data == {"lastUpdateId": data["lastUpdateId"], "bids": list(map(list, bids)), "asks": list(map(list, asks))}


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(PAIRS, seed=SEED, thin={"ADAUSDT": 2}, statuses={"ETHUSDT": "BREAK"}, speed=5, ledger=True) as it:
        yield it


@pytest.fixture
def fast() -> Iterator[Simulator]:
    """50 ticks a second, three plain pairs."""
    with Simulator(PAIRS, seed=SEED, speed=5, ledger=True) as it:
        yield it


# Streams and requests


def test_every_frame_can_be_recomputed_at_every_depth(simulator: Simulator) -> None:
    depths = (5, 10, 20)
    with listen(simulator, *(f"btcusdt@depth{depth}@100ms" for depth in depths)) as client:
        for message in client.take(30):
            name, _, depth = message["stream"].partition("@depth")
            assert name == "btcusdt"
            assert expected("BTCUSDT", message["data"], int(depth.removesuffix("@100ms")))


def test_ids_are_those_of_successive_ticks(fast: Simulator) -> None:
    with listen(fast, BTC) as client:
        ids = [message["data"]["lastUpdateId"] for message in client.take(20)]
    first = ids[0] // market(SEED, "BTCUSDT").stride
    assert ids == [update_id(SEED, "BTCUSDT", first + number) for number in range(20)]


def test_a_thin_book_has_fewer_levels(simulator: Simulator) -> None:
    with listen(simulator, ADA) as client:
        assert expected("ADAUSDT", client.next()["data"], depth=2)


@pytest.mark.parametrize("path", ["/stream?streams=btcusdt@depth5@100ms/adausdt@depth5@100ms", "/stream"])
def test_combined_streams_name_their_stream(simulator: Simulator, path: str) -> None:
    with listen(simulator, *(() if "?" in path else (BTC, ADA)), path=path) as client:
        assert {message["stream"] for message in client.take(6)} == {BTC, ADA}


@pytest.mark.parametrize("path", [f"/ws/{BTC}", f"/ws/{BTC}/{ADA}", "/ws"])
def test_raw_streams_carry_bare_payloads(simulator: Simulator, path: str) -> None:
    with listen(simulator, *(() if BTC in path else (BTC,)), path=path) as client:
        assert all(message.keys() == {"lastUpdateId", "bids", "asks"} for message in client.take(6))


def test_streams_without_an_interval_come_every_tenth_tick() -> None:
    with Simulator(PAIRS, seed=SEED, speed=20) as simulator, listen(simulator, "btcusdt@depth5") as client:
        ids = [message["data"]["lastUpdateId"] for message in client.take(4)]
    ticks = [number // market(SEED, "BTCUSDT").stride for number in ids]
    assert [after - before for before, after in pairwise(ticks)] == [10, 10, 10]


def test_all_connections_get_the_same_book_under_the_same_id(fast: Simulator) -> None:
    with listen(fast, BTC) as one, listen(fast, BTC, ETH, path="/ws") as other:
        raw = {data["lastUpdateId"]: data for data in other.take(20)}
        wrapped = [message["data"] for message in one.take(20)]
    shared = [data for data in wrapped if data["lastUpdateId"] in raw]
    assert len(shared) >= 5
    assert all(raw[data["lastUpdateId"]] == data for data in shared)


def test_requests_are_answered_and_obeyed(fast: Simulator) -> None:
    with listen(fast, BTC, ETH) as client:
        assert client.ask("LIST_SUBSCRIPTIONS", number=2) == {"result": [BTC, ETH], "id": 2}
        assert client.ask("UNSUBSCRIBE", ETH, number=3) == {"result": None, "id": 3}
        assert {message["stream"] for message in client.take(10)} == {BTC}
        assert client.ask("LIST_SUBSCRIPTIONS", number=4) == {"result": [BTC], "id": 4}


@pytest.mark.parametrize(
    ("request_text", "answer"),
    [
        ("nonsense", {"code": 3, "msg": "Invalid JSON"}),
        ("[]", {"code": 2, "msg": "Invalid request"}),
        ('{"method":"SUBSCRIBE","params":["a"]}', {"code": 2, "msg": "Invalid request: request ID"}),
        ('{"method":"SUBSCRIBE","params":["a"],"id":-1}', {"code": 2, "msg": "Invalid request: request ID"}),
        ('{"params":["a"],"id":5}', {"error": {"code": 2, "msg": "Invalid request: missing field"}, "id": 5}),
        ('{"method":"JOIN","id":5}', {"error": {"code": 2, "msg": "Invalid request: unknown variant `JOIN`"}, "id": 5}),
        ('{"method":"SUBSCRIBE","params":"a","id":5}', {"error": {"code": 2, "msg": "Invalid request"}, "id": 5}),
    ],
)
def test_bad_requests_are_answered_with_an_error(fast: Simulator, request_text: str, answer: dict[str, Any]) -> None:
    with listen(fast) as client:
        client.socket.send(request_text)
        got = client.next()
    error = got.get("error", got)
    assert error["msg"].startswith(answer.get("error", answer)["msg"])
    assert {**got, **({"error": 0} if "error" in got else {"msg": 0})} == {
        **answer, **({"error": 0} if "error" in answer else {"msg": 0})
    }  # fmt: skip


def test_unknown_and_halted_symbols_are_acknowledged_and_silent(simulator: Simulator) -> None:
    with listen(simulator, "nosuchusdt@depth5@100ms", ETH, BTC.upper(), BTC) as client:
        assert {message["stream"] for message in client.take(10)} == {BTC}


# Limits and the life of a connection


@pytest.mark.parametrize("send", ["messages", "pings"])
def test_a_sixth_message_within_a_second_closes_the_connection(fast: Simulator, send: str) -> None:
    with listen(fast) as client:
        for number in range(6):
            client.send("LIST_SUBSCRIPTIONS", number=number) if send == "messages" else client.socket.ping()
        assert client.close_code() == 1008


def test_five_messages_within_a_second_are_fine(fast: Simulator) -> None:
    with listen(fast) as client:
        assert [client.ask("LIST_SUBSCRIPTIONS", number=number)["id"] for number in range(5)] == list(range(5))


def test_too_many_streams_close_the_connection() -> None:
    with Simulator(PAIRS, limits=Limits(streams=2)) as simulator, listen(simulator, BTC, ETH) as client:
        client.send("SUBSCRIBE", ADA)
        assert client.close_code() == 1008


def test_the_server_pings_and_drops_a_client_that_does_not_answer() -> None:
    limits = Limits(ping_interval=0.2, pong_timeout=0.5)
    with Simulator(PAIRS, limits=limits) as simulator, listen(simulator) as alive, listen(simulator) as dead:
        dead.socket.pong = lambda payload="": None
        pings = 0
        while pings < 4:
            opcode, _ = alive.socket.recv_data(control_frame=True)
            pings += opcode == websocket.ABNF.OPCODE_PING
        dead.read_until_cut()
        assert simulator.connections == [1]


def test_a_connection_ends_with_its_life_time() -> None:
    with Simulator(PAIRS, limits=Limits(lifetime=0.2)) as simulator, listen(simulator, BTC) as client:
        assert client.close_code() == 1001


def test_too_many_attempts_are_refused() -> None:
    with Simulator(PAIRS, limits=Limits(attempts=1, patience=1)) as simulator, listen(simulator):
        for status in (429, 418):
            with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                Client(simulator)
            assert refused.value.status_code == status
            assert 290 <= int(refused.value.resp_headers["retry-after"]) <= 300


def test_a_client_that_does_not_read_is_dropped() -> None:
    pairs = [f"C{number}USDT" for number in range(200)]
    streams = [f"{pair.lower()}@depth20@100ms" for pair in pairs]
    limits = Limits(write_buffer=100_000)
    with Simulator(pairs, speed=20, limits=limits) as simulator, listen(simulator, *streams) as client:
        assert client.next()
        assert eventually(lambda: not simulator.connections)


# REST


def test_exchange_info_lists_pairs_with_assets_and_state(simulator: Simulator) -> None:
    status, info = get(simulator, "/api/v3/exchangeInfo")
    assert status == 200
    assert [(each["symbol"], each["status"], each["baseAsset"], each["quoteAsset"]) for each in info["symbols"]] == [
        ("BTCUSDT", "TRADING", "BTC", "USDT"),
        ("ETHUSDT", "BREAK", "ETH", "USDT"),
        ("ADAUSDT", "TRADING", "ADA", "USDT"),
    ]
    filters = {each["filterType"]: each for each in info["symbols"][0]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"


@pytest.mark.parametrize("question", ["symbol=ADAUSDT", "symbols=%5B%22ADAUSDT%22%5D"])
def test_exchange_info_can_be_asked_for_some_symbols(simulator: Simulator, question: str) -> None:
    _, info = get(simulator, f"/api/v3/exchangeInfo?{question}")
    assert [each["symbol"] for each in info["symbols"]] == ["ADAUSDT"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v3/exchangeInfo?symbol=NOSUCH", 400, -1121),
        ("/api/v3/exchangeInfo?symbols=[%22NOSUCH%22]", 400, -1121),
        ("/api/v3/ticker/24hr?symbol=NOSUCH", 400, -1121),
        ("/api/v3/depth?symbol=NOSUCH", 400, -1121),
        ("/api/v3/depth", 400, -1102),
        ("/api/v3/depth?symbol=BTCUSDT&limit=x", 400, -1100),
        ("/api/v3/nothing", 404, -1000),
    ],
)
def test_bad_rest_requests_get_binance_errors(simulator: Simulator, path: str, status: int, code: int) -> None:
    got, error = get(simulator, path)
    assert (got, error["code"]) == (status, code)


def test_depth_is_the_book_of_the_stream(simulator: Simulator) -> None:
    _, depth = get(simulator, "/api/v3/depth?symbol=BTCUSDT&limit=7")
    assert expected("BTCUSDT", depth, 7)
    assert abs(depth["lastUpdateId"] // market(SEED, "BTCUSDT").stride - time.time() * 10) < 600


def test_tickers_ping_and_time(simulator: Simulator) -> None:
    _, tickers = get(simulator, "/api/v3/ticker/24hr")
    assert [each["symbol"] for each in tickers] == list(PAIRS)
    assert all(float(each["quoteVolume"]) > 0 for each in tickers)
    assert get(simulator, "/api/v3/ticker/24hr?symbol=ADAUSDT")[1]["symbol"] == "ADAUSDT"
    assert get(simulator, "/api/v3/ping") == (200, {})
    assert abs(get(simulator, "/api/v3/time")[1]["serverTime"] / 1000 - time.time()) < 60


def test_the_list_of_a_whole_exchange_arrives_complete() -> None:
    pairs = [f"C{number}USDT" for number in range(3000)]
    with Simulator(pairs) as simulator:
        assert [each["symbol"] for each in get(simulator, "/api/v3/exchangeInfo")[1]["symbols"]] == pairs


def test_assets_can_be_named() -> None:
    with Simulator(["ABC"], assets={"ABC": ("A", "BC")}) as simulator:
        symbol = get(simulator, "/api/v3/exchangeInfo")[1]["symbols"][0]
    assert (symbol["baseAsset"], symbol["quoteAsset"]) == ("A", "BC")


# Recordings


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
    with Simulator(files=[RECORDING], speed=0, ledger=True) as simulator:
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
    with Simulator(["BTCUSDT"], files=[path], seed=SEED, speed=1) as simulator, listen(simulator, BTC) as client:
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


def test_connections_share_the_clock_of_a_recording(tmp_path: Path) -> None:
    path, stream = write_recording(tmp_path / "zec.gz", 60, 10**7), "zecusdt@depth5@100ms"
    last = 10**9 + 77 * 59
    with Simulator(files=[path]) as simulator, listen(simulator, stream) as early:
        early.take(20)
        with listen(simulator, stream) as late:
            messages = [client.until(lambda each: each["data"]["lastUpdateId"] == last) for client in (early, late)]
    ids = [[each["data"]["lastUpdateId"] for each in these] for these in messages]
    assert ids[1] == ids[0][-len(ids[1]) :]
    assert 0 < len(ids[1]) < 45


@pytest.mark.parametrize(("speed", "least", "most"), [(1.0, 0.5, 1.5), (5.0, 0.1, 0.45)])
def test_a_recording_keeps_its_pace(tmp_path: Path, speed: float, least: float, most: float) -> None:
    path = write_recording(tmp_path / "zec.gz", 6, 10**8)
    with Simulator(files=[path], speed=speed) as simulator, listen(simulator, "zecusdt@depth5@100ms") as client:
        client.next()
        start = time.monotonic()
        client.take(5)
        assert least * 0.9 < time.monotonic() - start < most


def test_a_bad_recording_is_named_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("1 {}\n")
    with pytest.raises(SettingsError, match=r"bad\.jsonl, line 1"):
        Simulator(files=[path])


# Faults


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
    def status() -> str:
        return get(fast, "/api/v3/exchangeInfo?symbol=BTCUSDT")[1]["symbols"][0]["status"]

    assert status() == "TRADING"
    fast.fault("halt", "BTCUSDT")
    assert status() == "HALT"
    with listen(fast, BTC, ETH) as client:
        assert {message["stream"] for message in client.take(10)} == {ETH}
    fast.fault("clear")
    assert status() == "TRADING"


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


@pytest.mark.parametrize("path", ["/stream", "/ws"])
def test_a_shutdown_is_announced_and_then_happens(fast: Simulator, path: str) -> None:
    with listen(fast, BTC, path=path) as client:
        fast.fault("shutdown", after=0.2)
        event = client.until(lambda message: "serverShutdown" in json.dumps(message))[-1]
        if path == "/stream":
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


# Ledger, clock, threads


def test_the_ledger_holds_what_arrived(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Simulator(PAIRS, speed=5, ledger_path=path) as simulator:
        with listen(simulator, BTC, ADA) as client, listen(simulator, BTC, path="/ws"):
            received = client.take(30)
            client.send("UNSUBSCRIBE", BTC, ADA, number=2)
            received += client.until(lambda message: message.get("id") == 2)[:-1]
        sent = simulator.sent
    for symbol, stream in (("BTCUSDT", BTC), ("ADAUSDT", ADA)):
        ids = [message["data"]["lastUpdateId"] for message in received if message["stream"] == stream]
        assert sent[symbol][: len(ids)] == ids or symbol == "BTCUSDT"
        assert set(ids) <= set(sent[symbol])
    assert [line.split() for line in path.read_text().splitlines() if line.startswith("ADA")] == [
        ["ADAUSDT", str(number)] for number in sent["ADAUSDT"]
    ]


def test_update_ids_go_on_rising_over_a_restart() -> None:
    with Simulator(PAIRS, ledger=True) as first, listen(first, BTC) as client:
        client.take(3)
        port = first.port
    with Simulator(PAIRS, port=port) as second, listen(second, BTC) as client:
        assert client.next()["data"]["lastUpdateId"] > first.sent["BTCUSDT"][-1]


def test_a_stall_is_caught_up_and_a_long_one_skips_ticks_and_says_so(fast: Simulator) -> None:
    def stall(seconds: float) -> None:
        assert fast._loop is not None
        fast._loop.call_soon_threadsafe(time.sleep, seconds)

    stride = market(SEED, "BTCUSDT").stride
    with listen(fast, BTC) as client:
        stall(0.4)
        ticks = [message["data"]["lastUpdateId"] // stride for message in client.take(40)]
        assert {after - before for before, after in pairwise(ticks)} == {1}
        assert fast.stats()["skipped_ticks"] == 0
        stall(1.3)
        ticks = ticks[-1:] + [message["data"]["lastUpdateId"] // stride for message in client.take(20)]
        assert max(after - before for before, after in pairwise(ticks)) == fast.stats()["skipped_ticks"] + 1 > 40


def test_frames_are_spread_over_the_tick() -> None:
    slots = [hash_slot(f"C{number}USDT", 20) for number in range(1500)]
    assert min(slots.count(slot) for slot in range(20)) > 40
    assert {hash_slot(f"C{number}USDT", 1) for number in range(100)} == {0}


def test_stats_count(fast: Simulator) -> None:
    with listen(fast, BTC) as client:
        client.take(5)
        _, stats = get(fast, "/simulator/stats")
    assert stats["connections"] == [1]
    assert stats["frames"] >= 5
    assert stats["bytes"] > 5 * 300
    assert stats["cpu_seconds"] > 0


def test_a_port_in_use_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperationError, match=str(port)):
            Simulator(PAIRS, port=port).start()


def test_serving_for_ever_ends_with_its_event() -> None:
    simulator, stop = Simulator(PAIRS), threading.Event()
    thread = threading.Thread(target=simulator.serve_forever, args=(stop,))
    thread.start()
    assert eventually(lambda: simulator.port != 0)
    assert get(simulator, "/api/v3/ping") == (200, {})
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_stopping_closes_connections_with_going_away() -> None:
    simulator = Simulator(PAIRS).start()
    with listen(simulator, BTC) as client:
        thread = threading.Thread(target=simulator.stop)
        thread.start()
        assert client.close_code() == 1001
        thread.join(5)
        assert not thread.is_alive()


def test_symbols_of_a_listing_trade_unless_stated() -> None:
    assert [Listing(0, ("A", "B"), {}, {"B": "HALT"}, {}).status(symbol) for symbol in ("A", "B")] == [
        "TRADING",
        "HALT",
    ]
