"""A process that reads live books, and notes when it could see each. `python -m live_reader WAY TASK`

`recorder`: each book when it is in `latest()`, and when a consumer that waits has taken it. `polling`: a thread looks
every 15 ms at a dictionary that the same feed fills, which is what a live record usually begins as.
"""

import json
import sys
import threading
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from control import answer, tell

from ingester import Recorder
from ingester.book import OrderBook
from ingester.exchange import simulator_at

POLL_SECONDS = 0.015


class Sights:
    """What was seen when: (place of the pair, update id or receive time, time)."""

    def __init__(self) -> None:
        self.numbers = array("q")

    def arrays(self) -> np.ndarray:
        return np.frombuffer(self.numbers.tobytes(), np.int64).reshape(-1, 3)


def await_all(books: dict[str, OrderBook], count: int) -> bool:
    """Waits until all pairs have a book, but not for ever."""
    deadline = time.monotonic() + 60
    while len(books) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    return len(books) == count


def main() -> None:
    way, task = sys.argv[1], json.loads(sys.argv[2])
    names: list[str] = task["symbols"]
    places = {name: place for place, name in enumerate(names)}
    exchange = simulator_at(task["stream_url"], task["rest_url"])
    recorder = Recorder(names, exchange=exchange, keep=task["keep"], linger=task["linger"])
    record = recorder._record
    seen, received, taken = Sights(), Sights(), Sights()
    books: dict[str, OrderBook] = {}
    take = record.take

    def watched(snapshots: Sequence[OrderBook]) -> None:
        take(snapshots)
        at = time.time_ns()
        for symbol, receive_ns, update_id, _, _ in snapshots:
            place = places[symbol]
            seen.numbers.extend((place, update_id, at))
            received.numbers.extend((place, update_id, receive_ns // 1000 * 1000))

    def consume() -> None:
        consumer = recorder.subscribe("benchmark")
        while recorder.running:
            for pair in consumer.wait(1.0):
                rows = consumer.take(pair)
                at = time.time_ns()
                for receive_ns in rows.times.tolist():
                    taken.numbers.extend((places[pair], receive_ns, at))

    def poll() -> None:
        last = dict.fromkeys(names, 0)
        while recorder.running:
            for name in names:
                newest = books.get(name)
                if newest is not None and newest.update_id != last[name]:
                    last[name] = newest.update_id
                    seen.numbers.extend((places[name], newest.update_id, time.time_ns()))
            time.sleep(POLL_SECONDS)

    def begin() -> None:
        for sights in (seen, received, taken):
            del sights.numbers[:]

    def report() -> dict[str, object]:
        np.savez(
            Path(task["folder"]) / "seen.npz", seen=seen.arrays(), received=received.arrays(), taken=taken.arrays()
        )
        return {}

    def shared(snapshots: Sequence[OrderBook]) -> None:
        for snapshot in snapshots:
            books[snapshot.symbol] = snapshot

    record.take = watched if way == "recorder" else shared  # type: ignore[method-assign]
    stop = answer(report, begin)
    with recorder:
        follower = threading.Thread(target=consume if way == "recorder" else poll)
        follower.start()
        tell(ready=recorder.ready(60) if way == "recorder" else await_all(books, len(names)))
        stop.wait()
    follower.join()


if __name__ == "__main__":
    main()
