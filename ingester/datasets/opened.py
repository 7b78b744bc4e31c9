"""Opens data sets for training: pairs as frames, all pairs as one array, windows without gaps.

A `DataSet` is a view of files, which are read on demand. `between`, `split` and `select` return other views of the same
files.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil

from ingester.datasets.dataset import columns, frequency_text, parse_time, time_text
from ingester.datasets.formats import FileRows
from ingester.datasets.manifest import Folder
from ingester.errors import OperationError, SettingsError, UnknownPair
from ingester.exchange import normal_symbol
from ingester.grid import Floats, Nanoseconds, as_frame
from ingester.text import nearest_text


class Episode(NamedTuple):
    """A window of rows without a gap. The arrays are copies, which the caller may change."""

    times: npt.NDArray[np.datetime64]
    """(length,) datetime64[ns]."""
    values: Floats
    """(length, pairs, features)."""


class Stretch(NamedTuple):
    """The rows [first, stop), which no gap interrupts."""

    first: int
    stop: int


def stretches(grid: range, gaps: Iterable[tuple[int, int]]) -> list[Stretch]:
    """Returns the rows of a grid (times in ns) between gaps (since, until) in ns, in order.

    A row at `since` shows the last book before the gap, a row at `until` the first book after it. Rows between them are
    in no stretch. A gap ends a stretch even if no row lies between.
    """
    found, first = [], 0
    for stop, begin in sorted((bisect_right(grid, since), bisect_left(grid, until)) for since, until in gaps):
        if stop > first:
            found.append(Stretch(first, stop))
        first = max(first, begin)
    if len(grid) > first:
        found.append(Stretch(first, len(grid)))
    return found


class Episodes:
    """Iterates windows, each time in the same order. A window is read when the iteration reaches it."""

    def __init__(
        self,
        read: Callable[[int, int], Episode],
        between_gaps: Sequence[Stretch],
        length: int,
        stride: int,
        seed: int | None,
        whole: bool,
    ) -> None:
        """`read(first, stop)` returns rows; the others are as for `DataSet.episodes`. Raises SettingsError."""
        for name, value in (("length", length), ("stride", stride)):
            if value < 1:
                raise SettingsError(f"{name} is {value}, expected a number of rows, 1 or more")
        self._read = read
        self._length, self._stride, self._seed, self._whole = length, stride, seed, whole
        fitting = [each for each in between_gaps if each.stop - each.first >= length]
        self._firsts = np.array([each.first for each in fitting], np.int64)
        counts = [(each.stop - each.first - length) // stride + 1 for each in fitting]
        self._ends = np.cumsum(np.array(counts, np.int64))

    @property
    def most(self) -> int:
        """The number of windows between gaps. The iteration skips those in which numbers are missing."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __iter__(self) -> Iterator[Episode]:
        for number in self._order():
            place = int(np.searchsorted(self._ends, number, side="right"))
            before = int(self._ends[place - 1]) if place else 0
            first = int(self._firsts[place]) + (int(number) - before) * self._stride
            episode = self._read(first, first + self._length)
            if not self._lacks(episode.values):
                yield episode

    def _order(self) -> Iterable[int]:
        if self._seed is None:
            return range(self.most)
        small = np.uint32 if self.most < 2**32 else np.uint64  # a month may have millions
        return np.random.default_rng(self._seed).permutation(np.arange(self.most, dtype=small))

    def _lacks(self, values: Floats) -> bool:
        missing = np.isnan(values)
        return bool(missing.any() if self._whole else missing.all(axis=2).any())


PIECE_ROWS = 100_000

Time = str | int | datetime | np.datetime64
"""Text like `2024-08-08 12:00`, ns since 1970, a datetime, or a timestamp of pandas or numpy; UTC without a zone."""


def open_dataset(path: str | PathLike[str]) -> "DataSet":
    """Opens a folder of `ingester export`. Raises UnreadableDataSet."""
    folder = Folder(Path(path))
    return DataSet(folder, folder.symbols, tuple(columns(folder.levels)), folder.start_ns, folder.end_ns)


class DataSet:
    """A view of a data set: pairs, features and a range of time."""

    def __init__(
        self, folder: Folder, pairs: tuple[str, ...], features: tuple[str, ...], start_ns: int, end_ns: int
    ) -> None:
        """Use `open_dataset`."""
        self._folder = folder
        self.pairs = pairs
        """Symbols: the second axis of arrays."""
        self.features = features
        """Column names: the third axis of arrays."""
        self.start_ns, self.end_ns = start_ns, end_ns
        """The range [start, end) in ns since 1970, UTC."""
        every = {name: place for place, name in enumerate(columns(folder.levels))}
        self._places = [every[name] for name in features]
        self._all_features = self._places == list(every.values())

    @property
    def path(self) -> Path:
        return self._folder.path

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of `manifest.json`, which describes the whole data set."""
        return self._folder.manifest

    @property
    def every_ns(self) -> int | None:
        """The step of the common grid; None where rows are as received, and each pair has its own times."""
        return self._folder.every_ns

    @property
    def times(self) -> npt.NDArray[np.datetime64]:
        """(time,) datetime64[ns] of all pairs. Raises OperationError where rows are as received."""
        return _times(self._grid())

    @property
    def shape(self) -> tuple[int, int, int]:
        """(time, pairs, features) of the array. Raises OperationError where rows are as received."""
        return len(self._grid()), len(self.pairs), len(self.features)

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, pair: str) -> Any:
        """Returns the DataFrame of a pair, with the features as columns. Copy it before you write to it.

        Raises UnknownPair and UnreadableDataSet.
        """
        rows = self.rows(pair)
        first, stop = rows.place(self.start_ns), rows.place(self.end_ns)
        frame = as_frame(rows.times(first, stop), rows.values(first, stop))
        return frame if self._all_features else frame[list(self.features)]

    def rows(self, pair: str) -> FileRows:
        """Returns the rows of a pair's file, with all times and levels, read on demand."""
        return self._folder.rows(self._known(pair))

    def __iter__(self) -> Iterator[str]:
        return iter(self.pairs)

    def __contains__(self, pair: object) -> bool:
        return isinstance(pair, str) and normal_symbol(pair) in self.pairs

    def to_numpy(self) -> Floats:
        """Returns all values, (time, pairs, features).

        Raises OperationError where they do not fit into memory or rows are as received.
        """
        need, free = 8 * math.prod(self.shape), psutil.virtual_memory().available
        if need > free:
            raise OperationError(
                f"{need / 1e9:.1f} GB do not fit into the {free / 1e9:.1f} GB of memory that are free. Take windows "
                "of it (episodes), a part (between), or fewer pairs or features (select)."
            )
        return self._values(0, self.shape[0])

    def between(self, start: Time | None = None, end: Time | None = None) -> "DataSet":
        """Returns a view of [start, end). Raises SettingsError where it is empty."""
        start_ns = self.start_ns if start is None else time_ns(start)
        end_ns = self.end_ns if end is None else time_ns(end)
        if max(start_ns, self.start_ns) >= min(end_ns, self.end_ns):
            raise SettingsError(
                f"Nothing lies between {time_text(start_ns)} and {time_text(end_ns)}: the data set covers "
                f"{time_text(self.start_ns)} to {time_text(self.end_ns)}."
            )
        start_ns, end_ns = max(start_ns, self.start_ns), min(end_ns, self.end_ns)
        return DataSet(self._folder, self.pairs, self.features, start_ns, end_ns)

    def split(self, at: Time | float) -> "tuple[DataSet, DataSet]":
        """Returns the views before a time and from it on. A number below 1 is the share of time of the first view."""
        if isinstance(at, float | np.floating):
            if not 0 < at < 1:
                raise SettingsError(f"split at {at}: expected a share between 0 and 1, or a time")
            at = self.start_ns + round((self.end_ns - self.start_ns) * at)
        return self.between(None, at), self.between(at, None)

    def select(
        self,
        pairs: Sequence[str] | None = None,
        levels: int | None = None,
        features: Sequence[str] | None = None,
    ) -> "DataSet":
        """Returns a view of these pairs, with the first `levels` of each side or with the named columns, in this order.

        Raises UnknownPair and SettingsError.
        """
        if levels is not None and features is not None:
            raise SettingsError("select: levels and features both name columns; give one of them")
        if levels is not None:
            if not 1 <= levels <= self._folder.levels:
                raise SettingsError(f"levels is {levels}, the data set has {self._folder.levels}")
            features = columns(levels)
        unknown = [name for name in features or () if name not in self.features]
        if unknown or not (features is None or len(features)):
            raise SettingsError(
                f"The data set has no columns {', '.join(unknown) or '(none named)'}. It has {', '.join(self.features)}"
            )
        chosen = self.pairs if pairs is None else tuple(dict.fromkeys(map(self._known, pairs)))
        return DataSet(self._folder, chosen, tuple(features or self.features), self.start_ns, self.end_ns)

    def episodes(self, length: int, stride: int | None = None, seed: int | None = None, whole: bool = True) -> Episodes:
        """Returns windows of `length` rows that contain no gap of any pair.

        Between two gaps, a window begins every `stride` rows (default: `length`, without overlaps). `seed` shuffles
        them reproducibly; None: in the order of time. Windows with NaN are left out; with `whole=False`, only windows
        with a row of a pair without any number, because thin books lack some levels.
        Raises SettingsError, and OperationError where rows are as received.
        """
        grid = self._grid()
        gaps = (gap for pair in self.pairs for gap in self._folder.gaps[pair])
        stride = length if stride is None else stride
        return Episodes(self._window, stretches(grid, gaps), length, stride, seed, whole)

    def verify(self) -> None:
        """Reads all files and compares them with the SHA-256 of the manifest. Raises UnreadableDataSet."""
        self._folder.verify()

    def __repr__(self) -> str:
        rows = (
            "rows as received"
            if self.every_ns is None
            else f"{self.shape[0]:,} rows every {frequency_text(self.every_ns)}"
        )
        since, until = time_text(self.start_ns), time_text(self.end_ns)
        return f"<DataSet of {len(self.pairs)} pairs x {len(self.features)}, {rows}, {since} to {until}>"

    def _window(self, first: int, stop: int) -> Episode:
        return Episode(_times(self._grid()[first:stop]), self._values(first, stop))

    def _values(self, first: int, stop: int) -> Floats:
        """Returns the values of rows of this view, (rows, pairs, features)."""
        step = self.every_ns or 1
        offset = (self._grid().start - self._folder.start_ns) // step
        values = np.empty((stop - first, len(self.pairs), len(self.features)))
        for place, pair in enumerate(self.pairs):
            rows = self._folder.rows(pair)
            for begin in range(first, stop, PIECE_ROWS):
                end = min(begin + PIECE_ROWS, stop)
                piece = rows.read(offset + begin, offset + end)
                values[begin - first : end - first, place] = piece if self._all_features else piece[:, self._places]
        return values

    def _grid(self) -> range:
        """Returns the times of the rows of this view in ns. Raises OperationError where rows are as received."""
        grid, every = self._folder.grid, self.every_ns
        if grid is None or every is None:
            raise OperationError(
                f"{self.path} holds rows as they were received: each pair has its own times. For arrays of all pairs "
                "put them on a common grid: ingester export --every 100ms."
            )
        first, stop = (-((grid.start - ns) // every) for ns in (self.start_ns, self.end_ns))
        return grid[first:stop]

    def _known(self, pair: str) -> str:
        symbol = normal_symbol(pair)
        if symbol not in self.pairs:
            hint = nearest_text(symbol, self.pairs, f"It holds {', '.join(self.pairs[:10])}.")
            raise UnknownPair(f"The data set holds no pair {pair!r}. {hint}")
        return symbol


def _times(grid: range) -> npt.NDArray[np.datetime64]:
    times: Nanoseconds = np.arange(grid.start, grid.stop, grid.step, dtype=np.int64)
    return times.view(np.dtype("datetime64[ns]"))


def time_ns(time: Time, what: str = "time") -> int:
    """Returns a time in ns since 1970. Raises SettingsError, which names `what`."""
    if isinstance(time, str):
        return parse_time(time, what)
    if isinstance(time, int | np.integer):
        return int(time)
    import pandas as pd

    stamp = pd.Timestamp(time)
    return int((stamp if stamp.tz is None else stamp.tz_convert(None)).as_unit("ns").value)
