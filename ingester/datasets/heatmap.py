"""Draws coverage as a heatmap: a row for each pair, a column for each bin of time, coloured by the missing share."""

import io
import logging
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ingester.clock import SECOND
from ingester.datasets.coverage import PairCoverage
from ingester.datasets.dataset import time_text
from ingester.datasets.gaps import NOT_RECORDED, MissingTime
from ingester.errors import OperationError
from ingester.grid import Floats

log = logging.getLogger(__name__)

FORMATS = ("png", "svg", "pdf")
MOST_BINS = 300
_MINUTE, _HOUR, _DAY = 60 * SECOND, 3600 * SECOND, 86400 * SECOND
WIDTHS_NS = (
    *(SECOND * n for n in (1, 2, 5, 10, 15, 30)),
    *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * n for n in (1, 2, 3, 4, 6, 12)),
    *(_DAY * n for n in (1, 2, 4, 7, 14, 28, 56)),
)
CLASSES = (
    ("complete", "#d7e5e8", 0.0),
    ("up to 0.1 % missing", "#ffd24d", 0.001),
    ("up to 1 %", "#ff9a1f", 0.01),
    ("up to 10 %", "#f2571b", 0.1),
    ("up to 50 %", "#d3152b", 0.5),
    ("more", "#7d0025", 1.0),
)
"""Name, colour and upper limit of the missing share of each class."""
UNRECORDED = ("not recorded", "#8d949c")
MORE_LETTERS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei"),
    *("Arial Unicode MS", "Unifont"),
)
"""Fonts of Linux, macOS and Windows with letters that the font of matplotlib lacks."""


def require_matplotlib() -> None:
    """Raises OperationError, which says what to install, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OperationError(
            "A plot needs matplotlib, which is not installed: pip install 'ingester[plot]' brings it."
        ) from error


def bin_edges(start_ns: int, end_ns: int) -> list[int]:
    """Returns the edges in ns of at most `MOST_BINS` bins of a round width. The outer bins may exceed the range."""
    width = next((ns for ns in WIDTHS_NS if (end_ns - start_ns) / ns <= MOST_BINS - 1), 365 * _DAY)
    return list(range(start_ns // width * width, -(-end_ns // width) * width + 1, width))


def missing_shares(gaps: Sequence[MissingTime], edges: Sequence[int], start_ns: int, end_ns: int) -> Floats:
    """Returns the share of each bin that lies in gaps, (len(edges) - 1,). Only time within the range counts."""
    bounds = np.clip(np.array(edges, np.int64), start_ns, end_ns)
    missing = np.zeros(len(edges) - 1)
    for gap in gaps:
        first, last = np.searchsorted(bounds, (gap.since_ns, gap.until_ns), side="right") - 1
        here = slice(max(0, first), last + 1)
        ends = np.minimum(bounds[1:][here], gap.until_ns)
        missing[here] += np.maximum(0, ends - np.maximum(bounds[:-1][here], gap.since_ns))
    shares: Floats = missing / np.maximum(1, np.diff(bounds))
    return shares


def classes(gaps: Sequence[MissingTime], edges: Sequence[int], start_ns: int, end_ns: int) -> Any:
    """Returns the index in `CLASSES` of each bin, (len(edges) - 1,) int.

    The index is len(CLASSES) where most of the bin was not recorded at all.
    """
    unrecorded = missing_shares([gap for gap in gaps if gap.reason == NOT_RECORDED], edges, start_ns, end_ns)
    lost = missing_shares([gap for gap in gaps if gap.reason != NOT_RECORDED], edges, start_ns, end_ns)
    limits = [most for _, _, most in CLASSES]
    found = np.searchsorted(limits, np.minimum(lost + unrecorded, 1.0) - 1e-9)
    return np.where((unrecorded > 0.5) & (lost < unrecorded), len(CLASSES), found)


def draw(coverages: Sequence[PairCoverage], start_ns: int, end_ns: int, form: str = "png") -> bytes:
    """Returns the content of an image file in one of `FORMATS`. Raises OperationError if matplotlib is missing."""
    require_matplotlib()
    from matplotlib import dates as untyped_dates
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    dates: Any = untyped_dates
    edges = bin_edges(start_ns, end_ns)
    cells = np.array([classes(each.whole.gaps, edges, start_ns, end_ns) for each in coverages])
    count = len(coverages)
    height = min(60.0, max(0.24 * count, 0.5))
    top, bottom = 0.95, 0.45
    figure = Figure(figsize=(13, height + top + bottom), facecolor="white")
    total = height + top + bottom
    axes = figure.add_axes((0.1, bottom / total, 0.83, height / total))
    kinds = [(name, colour) for name, colour, _ in CLASSES] + [UNRECORDED]
    times = dates.date2num([datetime.fromtimestamp(edge / SECOND, UTC) for edge in edges])
    colours = ListedColormap([colour for _, colour in kinds])
    axes.pcolormesh(times, np.arange(count + 1), cells, cmap=colours, vmin=-0.5, vmax=len(kinds) - 0.5)
    axes.hlines(np.arange(1, count), times[0], times[-1], colors="white", linewidth=1.2 if count <= 100 else 0.3)
    axes.set_xlim(*dates.date2num([datetime.fromtimestamp(ns / SECOND, UTC) for ns in (start_ns, end_ns)]))
    axes.set_ylim(count, 0)
    step = -(-count // 250)
    names = [each.whole.symbol for each in coverages[::step]]
    axes.set_yticks(np.arange(0, count, step) + 0.5, names, family=_fonts(), fontsize=8, parse_math=False)
    locator = dates.AutoDateLocator(minticks=4, maxticks=14)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, show_offset=False))
    right = axes.secondary_yaxis("right")
    right.set_yticks(np.arange(0, count, step) + 0.5, [_percent(each.whole.percent) for each in coverages[::step]])
    for axis in (axes, right):
        axis.tick_params(length=0, labelsize=8, colors="#3c4248")
        for spine in axis.spines.values():
            spine.set_visible(False)
    axes.tick_params(axis="x", length=3)
    figure.text(
        0.1,
        1 - 0.22 / total,
        f"Recorded from {time_text(start_ns)} to {time_text(end_ns)} UTC",
        fontsize=11,
        va="center",
    )
    width = _width_text(edges[1] - edges[0])
    figure.text(0.985, 1 - 0.22 / total, f"a cell is {width}; right: time covered", fontsize=8, ha="right", va="center")
    figure.legend(
        handles=[Patch(facecolor=colour, label=name) for name, colour in kinds],
        loc="center left",
        bbox_to_anchor=(0.094, 1 - 0.62 / total),
        ncols=len(kinds),
        frameon=False,
        fontsize=8,
        handlelength=1.2,
        handleheight=1.2,
        columnspacing=1.4,
    )
    picture = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph")
        figure.savefig(picture, format=form, dpi=130)
    if caught:
        odd = next((name for name in names if not name.isascii()), names[0])
        log.warning("no font of this machine has all letters of %s; fonts-noto-cjk has Chinese ones, for example", odd)
    return picture.getvalue()


def _fonts() -> list[str]:
    """Returns the fonts for names of pairs: the font of matplotlib, then installed fonts with further letters."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *(name for name in MORE_LETTERS if name in installed)]


def _percent(percent: float) -> str:
    """Returns `99.99 %`, rounded down, so that only a pair without gaps has 100 %."""
    return f"{int(percent * 100) / 100:.2f} %"


def _width_text(ns: int) -> str:
    """Returns the width of a bin: `1 d`, `12 h`, `5 min` or `30 s`."""
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if ns % unit == 0:
            return f"{ns // unit} {name}"
    return f"{ns // SECOND} s"
