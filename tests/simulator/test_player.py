"""Tapes are read ahead in a thread, start again where asked for, and whatever they raise ends the simulator."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import websocket
from simulated_client import eventually

from ingester.book import OrderBook
from ingester.errors import StoreError
from ingester.simulator.simulator import Simulator
from ingester.simulator.tape import Tape, tape_of_snapshots

STREAMS = ["adausdt@depth5@100ms", "zecusdt@depth5@100ms"]


def books(count: int, step_ns: int = 10**6) -> list[OrderBook]:
    """Of two pairs in turn, with ids of their own."""
    return [
        OrderBook(*(("ADAUSDT", n * step_ns, 10 + 3 * n) if n % 2 else ("ZECUSDT", n * step_ns, 7_000 + n)),
                 [(n + 1.0, 0.5)], [(n + 2.0, 0.25)])
        for n in range(count)
    ]  # fmt: skip


def tape_of(snapshots: Callable[[], Iterator[OrderBook]]) -> Tape:
    return tape_of_snapshots("test", ["ADAUSDT", "ZECUSDT"], snapshots)


@contextmanager
def listen(simulator: Simulator, *streams: str) -> Iterator[websocket.WebSocket]:
    url = f"{simulator.stream_url}/stream?streams={'/'.join(streams or STREAMS)}"
    socket = websocket.create_connection(url, timeout=10, skip_utf8_validation=True)
    try:
        yield socket
    finally:
        socket.shutdown()


def take(socket: websocket.WebSocket, count: int) -> list[tuple[str, int, float]]:
    messages = [json.loads(socket.recv()) for _ in range(count)]
    return [(each["stream"], each["data"]["lastUpdateId"], float(each["data"]["bids"][0][0])) for each in messages]


@pytest.mark.parametrize("speed", [0.0, 50.0])
def test_a_loop_repeats_the_books_under_ids_that_go_on_rising(speed: float) -> None:
    made = books(1001)
    tape = tape_of(lambda: iter(made))
    with Simulator(tapes=[tape], speed=speed, loop=True) as simulator, listen(simulator) as socket:
        messages = take(socket, 3 * len(made))
        assert simulator.rounds >= 2
        assert not simulator.finished
    for stream in STREAMS:
        own = [each for each in messages if each[0] == stream]
        first = own[: len(own) // 3]
        assert [price for _, _, price in own] == [price for _, _, price in first] * 3
        assert all(later[1] > earlier[1] for earlier, later in pairwise(own))
        steps = [later[1] - earlier[1] for earlier, later in pairwise(first)]
        assert [later[1] - earlier[1] for earlier, later in pairwise(own[len(first) : 2 * len(first)])] == steps


def test_a_recording_without_a_clock_waits_for_its_reader() -> None:
    given = 0

    def endless() -> Iterator[OrderBook]:
        nonlocal given
        while True:
            given += 1
            yield OrderBook("ADAUSDT", given, given, [(2.0, 1.0)] * 5, [(3.0, 1.0)] * 5)

    with Simulator(tapes=[tape_of(endless)], speed=0) as simulator:
        with listen(simulator) as socket:
            take(socket, 1000)
            before = given
        assert before < 200_000  # what sockets and buffers hold, not all that could have been made
        with listen(simulator) as socket:
            assert take(socket, 1000)[0][1] <= given


def test_books_that_come_slowly_hold_up_nobody_else() -> None:
    gate = threading.Event()

    def slow() -> Iterator[OrderBook]:
        yield from books(300)
        gate.wait(10)
        yield from [each._replace(update_id=each.update_id + 10**6) for each in books(300)]

    with Simulator(["BTCUSDT"], tapes=[tape_of(slow)], speed=0) as simulator, listen(simulator) as socket:
        assert len(take(socket, 256)) == 256  # of the first ones those that were read at once
        with listen(simulator, "btcusdt@depth5@100ms") as other:
            assert len(take(other, 5)) == 5
        gate.set()
        assert len(take(socket, 344)) == 344
        assert simulator.wait_finished(10)
        assert (simulator.played, simulator.rounds) == (600, 1)


def test_the_end_of_the_source_is_the_end_of_the_simulator() -> None:
    def broken() -> Iterator[OrderBook]:
        yield from books(10)
        raise StoreError("the table is gone")

    stop = threading.Event()
    simulator = Simulator(tapes=[tape_of(broken)], speed=0)
    with pytest.raises(StoreError, match="the table is gone"), simulator, listen(simulator) as socket:  # noqa: PT012
        with pytest.raises((OSError, websocket.WebSocketException)):
            take(socket, 100)
        while not simulator.failed:
            stop.wait(0.01)


def test_an_empty_recording_ends_at_once_even_in_a_loop() -> None:
    with Simulator(tapes=[tape_of(lambda: iter([]))], loop=True) as simulator, listen(simulator):
        assert simulator.wait_finished(10)


def test_a_simulator_that_plays_can_be_stopped_and_started_again() -> None:
    closed = []

    def made() -> Iterator[OrderBook]:
        try:
            yield from books(5000, step_ns=10**8)
        finally:
            closed.append(True)

    simulator = Simulator(tapes=[tape_of(made)])
    for _ in range(2):
        with simulator, listen(simulator) as socket:
            assert take(socket, 2)[0][2] == 1.0
    eventually(lambda: len(closed) >= 2)  # by the reading thread, for which `stop` does not wait
    assert len(closed) == 2
