"""A recorder as it is usually written first: a websocket.WebSocketApp and a thread per pair, json.loads in its
`on_message`, numpy.vstack onto the pair's array, and once a second all of it as one DataFrame through `questdb.Sender`.

Everything is used as its documentation shows it, with its defaults; QuestDB makes the table by itself. It is not made
slower on purpose: flushing happens in one thread for all pairs, over one HTTP connection, with one DataFrame.
"""

import json
import sys
import threading
import time

import numpy as np
import pandas as pd
import websocket
from control import answer
from questdb import Sender

FLUSH_SECONDS = 1.0
TABLE = "websocketapp_books"


class Pair:
    """One pair's thread, connection and array."""

    def __init__(self, stream_url: str, symbol: str, depth: int) -> None:
        self.symbol = symbol
        self.rows = np.empty((0, 2 + 4 * depth))
        self.lock = threading.Lock()
        url = f"{stream_url}/ws/{symbol.lower()}@depth{depth}@100ms"
        self.app = websocket.WebSocketApp(url, on_message=self.on_message)
        self.thread = threading.Thread(target=self.app.run_forever, name=f"pair {symbol[1:5]}", daemon=True)

    def on_message(self, app: websocket.WebSocketApp, message: str) -> None:
        received = time.time_ns() // 1000
        book = json.loads(message)
        levels = [float(number) for side in (book["bids"], book["asks"]) for level in side for number in level]
        with self.lock:
            self.rows = np.vstack((self.rows, [received, book["lastUpdateId"], *levels]))

    def take(self) -> np.ndarray:
        with self.lock:
            rows, self.rows = self.rows, self.rows[:0]
        return rows


def main() -> None:
    task = json.loads(sys.argv[1])
    depth = task["depth"]
    columns = [
        f"{name}_{level}"
        for sides in (("bid", "bidv"), ("ask", "askv"))
        for level in range(1, depth + 1)
        for name in sides
    ]
    pairs = [Pair(task["stream_url"], symbol, depth) for symbol in task["symbols"]]
    lags: list[np.ndarray] = []  # of each flush: seconds from receive to acknowledged, a row each

    def report() -> dict[str, object]:
        if not lags:
            return {"lag": None}
        return {"lag": np.quantile(np.concatenate(lags), [0.5, 0.99]).tolist()}

    stop = answer(report, lags.clear)
    for pair in pairs:
        pair.thread.start()
    host = task["http_url"].removeprefix("http://")
    access = f"username={task['user']};password={task['password']};" if task["user"] else ""
    while not stop.wait(FLUSH_SECONDS):
        taken = [(pair.symbol, rows) for pair in pairs if len(rows := pair.take())]
        if not taken:
            continue
        everything = np.vstack([rows for _, rows in taken])
        frame = pd.DataFrame(everything[:, 2:], columns=columns)
        frame.insert(0, "symbol", np.repeat([symbol for symbol, _ in taken], [len(rows) for _, rows in taken]))
        frame.insert(1, "last_update_id", everything[:, 1].astype("int64"))
        frame["timestamp"] = pd.to_datetime(everything[:, 0].astype("int64"), unit="us")
        with Sender.from_conf(f"http::addr={host};{access}") as sender:
            sender.dataframe(frame, table_name=TABLE, symbols=["symbol"], at="timestamp")
        lags.append(time.time() - everything[:, 0] / 1e6)


if __name__ == "__main__":
    main()
