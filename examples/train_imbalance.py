"""Does the imbalance of a book tell where its mid price goes next? A logistic regression in numpy, honestly tested.

    python examples/train_imbalance.py "hft data/extracted datasets/from_(…)_to_(…)" --pair BTCUSDT

The first 70 % of the time are for training, the rest for the test; no window lies in both, and none crosses a gap. Rows
after which the mid does not move within the horizon are left out. The baseline always says what was more frequent in
training. The data set has to be on a grid (ingester export --every 100ms).
"""

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

from ingester import open_dataset

Floats = npt.NDArray[np.float64]


def features_of(books: Floats) -> Floats:
    """(n, levels + 2) of books (n, 4 x levels): imbalance down to each level, how far the microprice is off, spread."""
    levels = books.shape[1] // 4
    bids, asks = books[:, : 2 * levels], books[:, 2 * levels :]
    bid_sizes, ask_sizes = bids[:, 1::2].cumsum(axis=1), asks[:, 1::2].cumsum(axis=1)
    imbalance = (bid_sizes - ask_sizes) / (bid_sizes + ask_sizes)
    bid, ask = bids[:, 0], asks[:, 0]
    mid, spread = (bid + ask) / 2, ask - bid
    microprice = (bid * asks[:, 1] + ask * bids[:, 1]) / (bids[:, 1] + asks[:, 1])
    return np.column_stack([imbalance, (microprice - mid) / mid * 1e4, spread / mid * 1e4])


def examples_of(data: Any, horizon: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Features of the first row of each window, and whether the mid has risen at its last one; moves only."""
    windows = [values[[0, -1], 0] for _, values in data.episodes(horizon + 1, stride=1)]
    if not windows:
        raise SystemExit("No window without a gap is long enough: take a longer data set or a shorter --horizon.")
    first, last = np.stack(windows, axis=1)
    best = [0, first.shape[1] // 2]
    moves = last[:, best].mean(axis=1) / first[:, best].mean(axis=1) - 1
    moved = np.abs(moves) > 1e-12  # not by rounding alone
    return features_of(first[moved]), moves[moved] > 0


def fit(features: Floats, rises: npt.NDArray[np.bool_], ridge: float = 1.0, steps: int = 20) -> Floats:
    """Weights (features + 1,) of a logistic regression, the last one the constant, by Newton's method."""
    inputs = np.column_stack([features, np.ones(len(features))])
    weights, penalty = np.zeros(inputs.shape[1]), np.diag([ridge] * features.shape[1] + [1e-9])
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (chance - rises) + penalty @ weights
        curvature = (inputs.T * (chance * (1 - chance))) @ inputs + penalty
        weights = weights - np.linalg.solve(curvature, slope)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a data set on a grid")
    parser.add_argument("--pair", help="default: its first one")
    parser.add_argument("--horizon", type=int, default=10, help="rows to look ahead")
    options = parser.parse_args()
    data = open_dataset(options.folder)
    data = data.select(pairs=[options.pair or data.pairs[0]])
    (features, rises), (test_features, test_rises) = (examples_of(part, options.horizon) for part in data.split(0.7))
    if not len(rises) or not len(test_rises):
        raise SystemExit("The mid never moved in one of the two parts: take a longer data set or --horizon.")
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-12
    weights = fit((features - mean) / deviation, rises)
    says_rise = (test_features - mean) / deviation @ weights[:-1] + weights[-1] > 0
    accuracy, baseline = (says_rise == test_rises).mean(), ((rises.mean() > 0.5) == test_rises).mean()
    print(f"{data.pairs[0]}: {len(rises):,} moves to train on, {len(test_rises):,} later ones to test")
    print(f"accuracy {accuracy:.1%}, baseline {baseline:.1%}")


if __name__ == "__main__":
    main()
