"""The load: the project's simulator in a process of its own. `python -m load PAIRS burst|spread`"""

import sys
import time

from control import answer, tell

from ingester.simulator import ExchangeLimits, Simulator, synthetic_pair


def symbols(count: int) -> list[str]:
    """Names of as many pairs."""
    return [f"P{number:04d}USDT" for number in range(count)]


def tick(symbol: str, update_id: int) -> int:
    """Which book of a pair has this update id; they are numbered without a hole."""
    return update_id // synthetic_pair(0, symbol).stride


def main() -> None:
    count, mode = int(sys.argv[1]), sys.argv[2]
    # A connection per pair, as a rival has it, is more than Binance would let in within five minutes.
    limits = ExchangeLimits(attempts=None)
    with Simulator(symbols(count), spread=mode == "spread", limits=limits) as simulator:

        def report() -> dict[str, object]:
            stats = simulator.stats()
            counted = ("frames", "subscriptions", "skipped_ticks", "backlog_bytes")
            return {"at_ns": time.time_ns()} | {name: stats[name] for name in counted}

        stop = answer(report)
        tell(stream_url=simulator.stream_url, rest_url=simulator.rest_url)
        stop.wait()


if __name__ == "__main__":
    main()
