"""The simulator speaks Binance's protocol over real sockets; its clock, what it keeps and its threads."""

import socket
import threading
from contextlib import closing
from itertools import pairwise
from typing import Any

import pytest
from simulated_client import ADA, BTC, ETH, PAIRS, SEED, eventually, expected, get, listen

from ingester.errors import OperationError
from ingester.simulator import Simulator, synthetic_pair
from ingester.simulator.books import book, update_id
from ingester.simulator.broadcast import hash_slot


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
    first = ids[0] // synthetic_pair(SEED, "BTCUSDT").stride
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
    ticks = [number // synthetic_pair(SEED, "BTCUSDT").stride for number in ids]
    assert [after - before for before, after in pairwise(ticks)] == [10, 10, 10]


def test_all_connections_get_the_same_book_under_the_same_id(fast: Simulator) -> None:
    with listen(fast, BTC) as one, listen(fast, BTC, ETH, path="/ws") as other:
        raw = {data["lastUpdateId"]: data for data in other.take(20)}
        wrapped = [message["data"] for message in one.take(20)]
    shared = [data for data in wrapped if data["lastUpdateId"] in raw]
    assert len(shared) >= 5
    assert all(raw[data["lastUpdateId"]] == data for data in shared)


def futures_book(symbol: str, data: dict[str, Any], depth: int = 5) -> dict[str, Any]:
    """What the futures market says of the book with this update id, but for its times and the id before."""
    bids, asks = book(SEED, symbol, data["u"], depth, "futures")
    made = {"e": "depthUpdate", "s": symbol, "u": data["u"], "b": list(map(list, bids)), "a": list(map(list, asks))}
    return data | made


@pytest.mark.parametrize(("speed", "ticks"), [("@100ms", 1), ("@500ms", 5), ("", 2.5)])
def test_futures_books_tell_symbol_times_and_the_id_before(speed: str, ticks: float) -> None:
    symbols = ("BTCUSDT", "BTCUSDT_261225")
    streams = [f"{symbol.lower()}@depth5{speed}" for symbol in symbols]
    with Simulator(symbols, seed=SEED, speed=10, keep_sent=True) as simulator:
        with listen(simulator, *streams, path="/public/stream") as client:
            messages = client.take(42)
        sent = simulator.sent_futures
        assert simulator.sent == {}
    for symbol, stream in zip(symbols, streams, strict=True):
        events = [message["data"] for message in messages if message["stream"] == stream]
        assert len(events) == 21
        stride = synthetic_pair(SEED, symbol, "futures").stride
        for before, event in pairwise(events):
            assert event == futures_book(symbol, event)
            assert event["pu"] == before["u"] == event["U"] - 1
            assert event["T"] == event["u"] // stride * 100 <= event["E"] < event["T"] + 100
        assert sent[symbol][:21] == [event["u"] for event in events]
        assert (events[20]["T"] - events[0]["T"]) / 20 == ticks * 100


@pytest.mark.parametrize("path", ["/market/stream", "/private/stream"])
def test_futures_books_flow_on_the_public_path_only(fast: Simulator, path: str) -> None:
    with listen(fast, BTC, path=path) as silent, listen(fast, BTC, path="/public/stream") as client:
        client.take(20)
        assert silent.ask("LIST_SUBSCRIPTIONS", number=2) == {"result": [BTC], "id": 2}


def test_a_raw_futures_stream_carries_the_bare_event(fast: Simulator) -> None:
    with listen(fast, path=f"/public/ws/{BTC}") as client:
        event = client.next()
    assert event == futures_book("BTCUSDT", event)


def test_both_markets_are_served_at_once_and_a_dated_contract_is_none_of_spot() -> None:
    dated = "btcusdt_261225@depth5@100ms"
    with (
        Simulator(["BTCUSDT", "BTCUSDT_261225"], seed=SEED, speed=5) as simulator,
        listen(simulator, BTC, dated) as spot,
        listen(simulator, BTC, dated, path="/public/stream") as futures,
    ):
        assert all(expected("BTCUSDT", message["data"]) for message in spot.take(10))
        assert {message["stream"] for message in futures.take(10)} == {BTC, dated}


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


def test_what_was_sent_holds_what_arrived() -> None:
    with Simulator(PAIRS, speed=5, keep_sent=True) as simulator:
        with listen(simulator, BTC, ADA) as client, listen(simulator, BTC, path="/ws"):
            received = client.take(30)
            client.send("UNSUBSCRIBE", BTC, ADA, number=2)
            received += client.until(lambda message: message.get("id") == 2)[:-1]
        sent = simulator.sent
    for symbol, stream in (("BTCUSDT", BTC), ("ADAUSDT", ADA)):
        ids = [message["data"]["lastUpdateId"] for message in received if message["stream"] == stream]
        assert sent[symbol][: len(ids)] == ids or symbol == "BTCUSDT"
        assert set(ids) <= set(sent[symbol])


def test_update_ids_go_on_rising_over_a_restart() -> None:
    with Simulator(PAIRS, keep_sent=True) as first, listen(first, BTC) as client:
        client.take(3)
        port = first.port
    with Simulator(PAIRS, port=port) as second, listen(second, BTC) as client:
        assert client.next()["data"]["lastUpdateId"] > first.sent["BTCUSDT"][-1]


def test_a_stall_is_caught_up_and_a_long_one_skips_ticks_and_says_so(fast: Simulator) -> None:
    stride = synthetic_pair(SEED, "BTCUSDT").stride
    with listen(fast, BTC) as client:
        fast.fault("stall", seconds=0.4)
        ticks = [message["data"]["lastUpdateId"] // stride for message in client.take(40)]
        assert {after - before for before, after in pairwise(ticks)} == {1}
        assert fast.stats()["skipped_ticks"] == 0
        fast.fault("stall", seconds=1.3)
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
