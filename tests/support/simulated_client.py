"""A client of the simulator, for tests of its protocol."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import urllib3
import websocket

from ingester.simulator import Simulator
from ingester.simulator.books import book

RECORDING = Path(__file__).parents[1] / "data" / "btcusdt.jsonl.gz"
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
