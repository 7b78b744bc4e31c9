"""Where the rows of each pair wait, on disk, between reading slices of all pairs and writing a file for each pair."""

import hashlib
from pathlib import Path

import numpy as np

from ingester.errors import SettingsError
from ingester.grid import Floats, Nanoseconds
from ingester.text import inside, path_part


def waiting_path(folder: Path, symbol: str, suffix: str) -> Path:
    """Where rows of a pair wait. A symbol that cannot be the name of a file has its digest instead."""
    try:
        return inside(folder, f"{path_part(symbol)}.{suffix}")
    except SettingsError:
        return folder / f"{hashlib.sha256(symbol.encode('utf-8', 'surrogatepass')).hexdigest()}.{suffix}"


class ScratchFile:
    """Two plain files of one pair: times (int64, ns) and values (float64, a row after the other)."""

    def __init__(self, folder: Path, symbol: str, width: int) -> None:
        """`width`: values of a row."""
        self.symbol = symbol
        self._width = width
        self._times_path = waiting_path(folder, symbol, "times")
        self._values_path = waiting_path(folder, symbol, "values")
        self.rows = 0

    def append(self, times: Nanoseconds, values: Floats) -> None:
        """Adds rows (n,) and (n, width)."""
        if len(times):
            with self._times_path.open("ab") as file:
                file.write(np.ascontiguousarray(times).data)
            with self._values_path.open("ab") as file:
                file.write(np.ascontiguousarray(values).data)
            self.rows += len(times)

    def cut(self, rows: int) -> None:
        """Keeps only the first rows: those that an interrupted export had noted."""
        self.rows = rows
        for path, size in ((self._times_path, 8 * rows), (self._values_path, 8 * self._width * rows)):
            if rows:
                with path.open("r+b") as file:
                    file.truncate(size)
            else:
                path.unlink(missing_ok=True)

    def arrays(self) -> tuple[Nanoseconds, Floats]:
        """Times (n,) and values (n, width), mapped: read from disk where they are used."""
        if not self.rows:
            return np.empty(0, np.int64), np.empty((0, self._width))
        times = np.memmap(self._times_path, np.int64, "r", shape=(self.rows,))
        values = np.memmap(self._values_path, np.float64, "r", shape=(self.rows, self._width))
        return np.asarray(times), np.asarray(values)

    def last(self) -> tuple[int, Floats] | None:
        """The last row, if there is one."""
        if not self.rows:
            return None
        times, values = self.arrays()
        return int(times[-1]), values[-1:].copy()

    def remove(self) -> None:
        """The rows are in their file."""
        self._times_path.unlink(missing_ok=True)
        self._values_path.unlink(missing_ok=True)
