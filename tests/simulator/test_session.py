"""The limits that the simulator keeps over real sockets, and the life of a connection."""

import pytest
import websocket
from simulated_client import ADA, BTC, ETH, PAIRS, Client, eventually, listen

from ingester.simulator import ExchangeLimits, Simulator


@pytest.mark.parametrize("send", ["messages", "pings"])
def test_a_sixth_message_within_a_second_closes_the_connection(fast: Simulator, send: str) -> None:
    with listen(fast) as client:
        for number in range(6):
            client.send("LIST_SUBSCRIPTIONS", number=number) if send == "messages" else client.socket.ping()
        assert client.close_code() == 1008


def test_five_messages_within_a_second_are_fine(fast: Simulator) -> None:
    with listen(fast) as client:
        assert [client.ask("LIST_SUBSCRIPTIONS", number=number)["id"] for number in range(5)] == list(range(5))


def test_ten_messages_within_a_second_are_fine_on_futures_and_an_eleventh_is_not(fast: Simulator) -> None:
    with listen(fast, path="/public/stream") as client:
        assert [client.ask("LIST_SUBSCRIPTIONS", number=number)["id"] for number in range(10)] == list(range(10))
        client.send("LIST_SUBSCRIPTIONS", number=10)
        assert client.close_code() == 1008


def test_too_many_streams_close_the_connection() -> None:
    with Simulator(PAIRS, limits=ExchangeLimits(streams=2)) as simulator, listen(simulator, BTC, ETH) as client:
        client.send("SUBSCRIBE", ADA)
        assert client.close_code() == 1008


def test_the_server_pings_and_drops_a_client_that_does_not_answer() -> None:
    limits = ExchangeLimits(ping_interval=0.2, pong_timeout=0.5)
    with Simulator(PAIRS, limits=limits) as simulator, listen(simulator) as alive, listen(simulator) as dead:
        dead.socket.pong = lambda payload="": None
        pings = 0
        while pings < 4:
            opcode, _ = alive.socket.recv_data(control_frame=True)
            pings += opcode == websocket.ABNF.OPCODE_PING
        dead.read_until_cut()
        assert simulator.connections == [1]


def test_a_connection_ends_with_its_life_time() -> None:
    with Simulator(PAIRS, limits=ExchangeLimits(lifetime=0.2)) as simulator, listen(simulator, BTC) as client:
        assert client.close_code() == 1001


def test_too_many_attempts_are_refused() -> None:
    with Simulator(PAIRS, limits=ExchangeLimits(attempts=1, patience=1)) as simulator, listen(simulator):
        for status in (429, 418):
            with pytest.raises(websocket.WebSocketBadStatusException) as refused:
                Client(simulator)
            assert refused.value.status_code == status
            assert 290 <= int(refused.value.resp_headers["retry-after"]) <= 300


def test_a_client_that_does_not_read_is_dropped() -> None:
    pairs = [f"C{number}USDT" for number in range(200)]
    streams = [f"{pair.lower()}@depth20@100ms" for pair in pairs]
    limits = ExchangeLimits(write_buffer=100_000)
    with Simulator(pairs, speed=20, limits=limits) as simulator, listen(simulator, *streams) as client:
        assert client.next()
        assert eventually(lambda: not simulator.connections)
