"""Draws a pair's order book from a data set to a PNG: best prices, what waits at each level, imbalance, the last book.

    python examples/plot_book.py "hft data/extracted datasets/from_(…)_to_(…)" --pair BTCUSDT --output book.png

A range can be taken out of it with --from and --to. What was not recorded stays empty in the picture.
"""

import argparse
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from ingester import open_dataset

Floats = npt.NDArray[np.float64]

BID, ASK, INK, QUIET = "#1b7f5c", "#c0392b", "#2b2b2b", "#9a9a9a"
MOST_COLUMNS = 1200
"""Of more rows than this, every so many are drawn."""


def draw(frame: Any, pair: str, path: str) -> None:
    """`frame`: the DataFrame of a pair in a data set."""
    whole = frame.dropna()
    if whole.empty:
        raise SystemExit(f"{pair} has no book in this range.")
    frame = frame.iloc[:: -(-len(frame) // MOST_COLUMNS)]
    times, values = frame.index, frame.to_numpy().reshape(len(frame), 2, -1, 2)  # side, level, price or quantity

    plt.rcParams.update({"font.size": 9, "axes.edgecolor": QUIET, "axes.labelcolor": INK, "text.color": INK})
    figure = plt.figure(figsize=(13, 7.5), layout="constrained", facecolor="white")
    parts = figure.add_gridspec(3, 2, width_ratios=(3.4, 1), height_ratios=(2.2, 1.6, 1))
    best = figure.add_subplot(parts[0, 0])
    levels = figure.add_subplot(parts[1, 0], sharex=best)
    imbalance = figure.add_subplot(parts[2, 0], sharex=best)
    _best_prices(best, times, values)
    _levels(figure, levels, times, values)
    _imbalance(imbalance, times, values)
    _book(figure.add_subplot(parts[:, 1]), whole.to_numpy()[-1].reshape(2, -1, 2), whole.index[-1])
    for axes in (best, levels, imbalance):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=QUIET, labelcolor=INK)
        axes.label_outer()
    locator = AutoDateLocator()
    imbalance.xaxis.set_major_locator(locator)
    imbalance.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    imbalance.set_xlim(times[0], times[-1])
    figure.suptitle(f"{pair}  ·  {times[0]:%Y-%m-%d %H:%M:%S} – {times[-1]:%H:%M:%S} UTC", x=0.01, ha="left", size=13)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _best_prices(axes: Any, times: Any, values: Floats) -> None:
    bid, ask = values[:, 0, 0, 0], values[:, 1, 0, 0]
    axes.fill_between(times, bid, ask, color=QUIET, alpha=0.35, lw=0, step="post")
    for price, color, name in ((ask, ASK, "best ask"), (bid, BID, "best bid")):
        axes.step(times, price, where="post", color=color, lw=0.9, label=name)
    axes.set_ylabel("price")
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.legend(loc="best", frameon=False, ncols=2)


def _levels(figure: Any, axes: Any, times: Any, values: Floats) -> None:
    """Quantities as colour: asks upwards, bids downwards from the middle."""
    depth = values.shape[2]
    rows = np.concatenate([values[:, 0, ::-1, 1], values[:, 1, :, 1]], axis=1).T
    there = rows[rows > 0]
    norm = LogNorm(*np.quantile(there, [0.02, 0.99])) if len(np.unique(there)) > 2 else None
    step = times[1] - times[0] if len(times) > 1 else np.timedelta64(1, "s")
    edges = times.append(times[-1:] + step)
    image = axes.pcolormesh(edges, np.arange(2 * depth + 1) - depth, rows, norm=norm, cmap="Blues", rasterized=True)
    axes.axhline(0, color="white", lw=1.5)
    axes.set_yticks([-depth + 0.5, -0.5, 0.5, depth - 0.5], [f"bid {depth}", "bid 1", "ask 1", f"ask {depth}"])
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=12)
    bar.outline.set_visible(False)
    bar.set_label("quantity")


def _imbalance(axes: Any, times: Any, values: Floats) -> None:
    bids, asks = values[:, :, :, 1].sum(axis=2).T
    share = (bids - asks) / (bids + asks)
    for sign, color in ((1, BID), (-1, ASK)):
        axes.fill_between(times, 0, np.where(share * sign > 0, share, 0), color=color, alpha=0.75, lw=0, step="post")
    axes.axhline(0, color=QUIET, lw=0.6)
    axes.set_ylim(-1, 1)
    axes.set_yticks([-1, 0, 1], ["all asks", "even", "all bids"])
    axes.set_ylabel("imbalance")


def _book(axes: Any, sides: Floats, at: Any) -> None:
    """The last book: one bar a level, the best ones next to the gap that is the spread."""
    depth = sides.shape[1]
    for side, color, places in ((sides[0], BID, -np.arange(1, depth + 1)), (sides[1], ASK, np.arange(1, depth + 1))):
        axes.barh(places, side[:, 1], color=color, alpha=0.8, height=0.82)
        axes.barh(places, side[:, 1].cumsum(), color=color, alpha=0.18, height=0.82)
    mid, spread = (sides[0, 0, 0] + sides[1, 0, 0]) / 2, sides[1, 0, 0] - sides[0, 0, 0]
    axes.text(0, 0, f" spread {spread:.6g}  ({spread / mid * 1e4:.2g} bp)", va="center", size=8, color=QUIET)
    places = [*range(-depth, 0), *range(1, depth + 1)]
    axes.set_yticks(places, [f"{price:,.10g}" for price in [*sides[0, ::-1, 0], *sides[1, :, 0]]])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=QUIET, labelcolor=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("quantity at the level, pale: up to it")
    axes.set_title(f"book at {at:%H:%M:%S}", loc="left", size=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a data set")
    parser.add_argument("--pair", help="default: its first one")
    parser.add_argument("--from", dest="start", help="UTC; default: its beginning")
    parser.add_argument("--to", dest="end", help="default: its end")
    parser.add_argument("--output", default="book.png")
    options = parser.parse_args()
    data = open_dataset(options.folder).between(options.start, options.end)
    pair = options.pair or data.pairs[0]
    draw(data[pair], pair, options.output)
    print(options.output)


if __name__ == "__main__":
    main()
