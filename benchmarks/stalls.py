"""How late the threads that read sockets come to look after them on a loaded machine.

    python benchmarks/stalls.py --pairs 1500 --busy 8 --seconds 60

A thread that comes later than `PAUSED_NS` is taken for one of a paused process, unless work has held it up.
"""

import argparse
import itertools
import subprocess
import sys
import threading
import time
from typing import Any

from ingester import Recorder
from ingester.clock import PAUSED_NS, SECOND, elapsed_ns
from ingester.connection.websocket import LOOK_MS, PAUSED, WebSocketThread
from ingester.feed import loop


class Watch:
    """The longest time between two looks of one thread at one connection."""

    def __init__(self) -> None:
        self._last = threading.local()
        self.longest_ns = 0
        self.looks = 0

    def begin(self) -> None:
        """Another connection."""
        self._last.ns = elapsed_ns()

    def __call__(self) -> int:
        now = elapsed_ns()
        self.longest_ns = max(self.longest_ns, now - self._last.ns)
        self.looks += 1
        self._last.ns = now
        return now


watch = Watch()


class WatchedStream(WebSocketThread):
    """A connection whose looks are watched."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, elapsed=watch)

    def _read(self, *arguments: Any) -> str:
        watch.begin()
        return super()._read(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--busy", type=int, default=8, help="processes that take all the time they get")
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    coins = map("".join, itertools.product("ABCDEFGHIJKL", repeat=3))
    pairs = [f"{coin}USDT" for coin in itertools.islice(coins, chosen.pairs)]
    loop.Stream = WatchedStream  # type: ignore[misc]
    command = [sys.executable, "-m", "ingester", "simulate", "--port", "0", "--pairs", ",".join(pairs)]
    simulator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(chosen.busy)]
    try:
        assert simulator.stdout is not None
        _, stream_url, _, rest_url = simulator.stdout.readline().split()
        with Recorder(pairs, stream_url=stream_url, rest_url=rest_url, keep="10s") as recorder:
            time.sleep(chosen.seconds)
            received = recorder.metrics.snapshots
            reasons = sorted({gap.reason for gap in recorder.gaps()})
            pauses = sum(PAUSED in event.detail for event in recorder.events())
    finally:
        for process in (simulator, *busy):
            process.kill()
            process.wait()
    print(
        f"{chosen.pairs} pairs, {chosen.busy} busy processes, {chosen.seconds:g} s: {received:,} books, "
        f"{watch.looks:,} looks, the longest time between two {watch.longest_ns / SECOND:.2f} s "
        f"(up to {LOOK_MS} ms of it waiting, where nothing comes; more than {PAUSED_NS / SECOND:g} s is a pause); "
        f"taken for pauses: {pauses}; gaps: {', '.join(reasons) or 'none'}"
    )


if __name__ == "__main__":
    main()
