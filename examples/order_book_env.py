"""An environment in Gymnasium's interface over order books: those of a data set, or live ones. The class is the same.

    python examples/order_book_env.py "hft data/extracted datasets/from_(…)_to_(…)"
    python examples/order_book_env.py --live BTCUSDT,ETHUSDT --exchange simulator

A data set has to be on a grid (ingester export --every 250ms). What is printed compares a policy that follows the
imbalance of the book with one that acts by chance; spread and fee are what both have to earn first.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import dropwhile, takewhile
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from ingester import open_dataset

Floats = npt.NDArray[np.float64]


class Row(NamedTuple):
    """The books of all pairs at one moment, as `Recorder.synchronous` gives them too."""

    time: int
    """ns since 1970, UTC."""
    values: Floats
    """(pairs, 4 x levels): Bid_1, BidV_1, … Ask_1, AskV_1, …"""


class Source(Protocol):
    """Where an environment gets its rows."""

    pairs: Sequence[str]
    levels: int
    length: int
    """Rows of an episode, at most."""

    def rows(self, random: np.random.Generator) -> Iterator[Row]:
        """The rows of one episode, one step of the grid after the other."""


class Recorded:
    """Windows of a data set, in random order; none crosses a gap."""

    def __init__(self, data: Any, length: int) -> None:
        self.pairs, self.levels, self.length = data.pairs, data.shape[2] // 4, length
        self._data = data

    def rows(self, random: np.random.Generator) -> Iterator[Row]:
        for times, values in self._data.episodes(self.length, seed=int(random.integers(2**31))):
            return map(Row, times.astype(np.int64).tolist(), values)
        return iter(())


class Live:
    """The books of a running `ingester.Recorder`; an episode ends where one of them is missing."""

    def __init__(self, recorder: Any, pairs: Sequence[str], levels: int, every: str, length: int) -> None:
        self.pairs, self.levels, self.length = pairs, levels, length
        self._recorder, self._every = recorder, every

    def rows(self, random: np.random.Generator) -> Iterator[Row]:
        rows = self._recorder.synchronous(self.pairs, every=self._every)
        return takewhile(is_whole, dropwhile(lambda row: not is_whole(row), rows))


def is_whole(row: Row) -> bool:
    return not np.isnan(row.values).any()


class OrderBookEnv(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Holds one unit of the first pair long (2), short (0) or none (1); trades at the best prices, and pays a fee.

    Observed are of each pair its levels (distance from the mid in basis points, and log of what the level is worth),
    and the position. The reward is what equity gained in a step, in basis points of the price.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, source: Source, fee_bps: float = 1.0) -> None:
        self._source, self._fee = source, fee_bps / 1e4
        per_pair = np.tile([100.0, 30.0], 2 * source.levels)
        high = np.append(np.tile(per_pair, len(source.pairs)), 1.0).astype(np.float32)
        low = np.where(high == 30.0, 0.0, -high).astype(np.float32)
        self.observation_space = gymnasium.spaces.Box(low, high)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._rows = self._source.rows(self.np_random)
        first = next(self._rows, None)
        if first is None:
            raise RuntimeError("There is no episode: the data set has none so long without a gap, or recording ended.")
        self._row, self._position, self._left = first, 0, self._source.length - 1
        return self._observation(), {"time": self._row.time}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        following = next(self._rows, None)
        if following is None:  # the live book is not known any more: nothing is traded
            return self._observation(), 0.0, False, True, {"time": self._row.time}
        bid, ask = self._best()
        mid, position = (bid + ask) / 2, int(action) - 1
        cost = abs(position - self._position) * ((ask - bid) / 2 + self._fee * mid)
        self._row, self._position, self._left = following, position, self._left - 1
        gained = position * (sum(self._best()) / 2 - mid) - cost
        return self._observation(), gained / mid * 1e4, False, self._left == 0, {"time": self._row.time}

    def _best(self) -> tuple[float, float]:
        values = self._row.values[0]
        return float(values[0]), float(values[2 * self._source.levels])

    def _observation(self) -> npt.NDArray[np.float32]:
        levels = self._row.values.reshape(len(self._source.pairs), -1, 2)
        prices, quantities = levels[:, :, 0], levels[:, :, 1]
        mids = (prices[:, :1] + prices[:, self._source.levels, None]) / 2
        seen = np.stack([(prices / mids - 1) * 1e4, np.log1p(prices * quantities)], axis=2)
        observation = np.append(seen.ravel(), self._position).astype(np.float32)
        return np.clip(observation, self.observation_space.low, self.observation_space.high)  # type: ignore[attr-defined]


def imbalance_of(observation: npt.NDArray[np.float32], levels: int) -> float:
    """Of the first pair's best levels: 1 where all that waits there wants to buy, -1 to sell."""
    bid, ask = np.expm1(observation[[1, 2 * levels + 1]].astype(float))
    return float((bid - ask) / (bid + ask))


def play(env: OrderBookEnv, levels: int, episodes: int, follow: bool, seed: int = 0) -> tuple[float, int]:
    """(mean reward of a step in basis points, steps) of a policy over some episodes."""
    random, rewards = np.random.default_rng(seed), []
    for number in range(episodes):
        observation, _ = env.reset(seed=seed + number)
        over = False
        while not over:
            imbalance = imbalance_of(observation, levels)
            action = (1 + np.sign(imbalance) * (abs(imbalance) > 0.5)) if follow else random.integers(3)
            observation, reward, _, over, _ = env.step(np.int64(action))
            rewards.append(reward)
    return float(np.mean(rewards)), len(rewards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="a data set on a grid")
    parser.add_argument("--live", metavar="PAIR,…", help="live books of these pairs instead")
    parser.add_argument("--exchange", default="binance", help="of the live books; simulator needs no internet")
    parser.add_argument("--length", type=int, default=100, help="rows of an episode")
    parser.add_argument("--episodes", type=int, default=20)
    options = parser.parse_args()
    if options.live:
        from ingester import Recorder

        pairs = options.live.split(",")
        with Recorder(pairs=pairs, depth=5, exchange=options.exchange) as recorder:
            compare(Live(recorder, pairs, 5, "250ms", options.length), options.episodes)
    elif options.folder:
        compare(Recorded(open_dataset(options.folder), options.length), options.episodes)
    else:
        parser.error("give the folder of a data set, or --live PAIR,…")


def compare(source: Source, episodes: int) -> None:
    """Prints what two policies earn."""
    env = OrderBookEnv(source)
    print(f"trades {source.pairs[0]}, sees {', '.join(source.pairs)}")
    for name, follow in (("by chance", False), ("imbalance", True)):
        reward, steps = play(env, source.levels, episodes, follow)
        print(f"{name}: {reward:+.4f} basis points a step, {steps:,} steps")


if __name__ == "__main__":
    main()
