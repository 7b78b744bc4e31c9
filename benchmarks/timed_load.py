"""The load of `load.py`, with the moment at which each book left. `python -m timed_load PAIRS burst|spread`

`report` writes down what left since `begin`: update ids and times by pair, of the first copy of each book.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from control import answer, tell
from load import symbols

from ingester.simulator import ExchangeLimits, SentLog, Simulator


class Departures(SentLog):
    """Notes when each book left: `note` is called right before the write of a whole batch."""

    by_symbol: dict[str, dict[int, int]] = {}  # noqa: RUF012 (of the one simulator of this process)

    def note(self, market: str, symbol: str, update_id: int) -> None:
        self.by_symbol.setdefault(symbol, {}).setdefault(update_id, time.time_ns())


def main() -> None:
    count, mode = int(sys.argv[1]), sys.argv[2]
    names = symbols(count)
    folder = Path(tempfile.mkdtemp(prefix="ingester-departures-"))
    with Simulator(
        names, spread=mode == "spread", limits=ExchangeLimits(attempts=None), keep_sent=Departures()
    ) as simulator:

        def begin() -> None:
            Departures.by_symbol = {}

        def report() -> dict[str, object]:
            left = Departures.by_symbol
            rows = [
                (place, update_id, at)
                for place, name in enumerate(names)
                for update_id, at in left.get(name, {}).copy().items()
            ]
            np.save(folder / "left.npy", np.array(rows, np.int64).reshape(-1, 3))
            stats = simulator.stats()
            return {name: stats[name] for name in ("subscriptions", "skipped_ticks")} | {
                "left": str(folder / "left.npy")
            }

        stop = answer(report, begin)
        tell(stream_url=simulator.stream_url, rest_url=simulator.rest_url)
        stop.wait()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


if __name__ == "__main__":
    main()
