"""A pickle that is filled while its rows come: saves writing and reading them once more.

Rows are counted before they are read, and so every byte of a pickle is known but those of the rows (`PickleLayout`).
Rows that became visible after they were counted wait beside; then, or where copies were left out, the pickle is written
from its beginning.
"""

import os
from pathlib import Path

import numpy as np

from ingester.datasets.formats import PickleLayout
from ingester.datasets.spill import ScratchFile, waiting_path
from ingester.grid import Floats, Nanoseconds

LEAST_ROWS = 1 << 14
"""Fewer are not worth it: they are read again from memory."""


class InPlace:
    """One pair's pickle with room for `room` rows; used like a `ScratchFile`."""

    def __init__(self, folder: Path, symbol: str, width: int, room: int) -> None:
        self.symbol = symbol
        self.rows = 0
        self._width = width
        self._room = room
        self._path = waiting_path(folder, symbol, "inplace")
        self._over = ScratchFile(folder, symbol, width)
        self._layout = PickleLayout(room, width)
        if not self._path.exists():
            beside = self._path.with_suffix(".new")
            with beside.open("wb") as file:
                for offset, part in self._layout.parts:
                    file.seek(offset)
                    file.write(part)
            beside.replace(self._path)

    def append(self, times: Nanoseconds, values: Floats) -> None:
        """Adds rows (n,) and (n, width)."""
        fit = min(len(times), max(0, self._room - self.rows))
        if fit:
            with self._path.open("r+b") as file:
                os.pwrite(file.fileno(), np.ascontiguousarray(times[:fit]).data, self._layout.times_at + 8 * self.rows)
                at = self._layout.values_at + 8 * self._width * self.rows
                os.pwrite(file.fileno(), np.ascontiguousarray(values[:fit]).data, at)
        self._over.append(times[fit:], values[fit:])
        self.rows += len(times)

    def cut(self, rows: int) -> None:
        """Keeps only the first rows."""
        self.rows = rows
        self._over.cut(max(0, rows - self._room))

    def arrays(self) -> tuple[Nanoseconds, Floats]:
        """Times (n,) and values (n, width), mapped: read from disk where they are used."""
        rows = min(self.rows, self._room)
        if not rows:
            return self._over.arrays()
        times = np.asarray(np.memmap(self._path, np.int64, "r", self._layout.times_at, (rows,)))
        values = np.asarray(np.memmap(self._path, np.float64, "r", self._layout.values_at, (rows, self._width)))
        if self._over.rows:
            more_times, more_values = self._over.arrays()
            return np.concatenate([times, more_times]), np.concatenate([values, more_values])
        return times, values

    def last(self) -> tuple[int, Floats] | None:
        """The last row, if there is one."""
        if not self.rows or self._over.rows:
            return self._over.last()
        times, values = self.arrays()
        return int(times[-1]), values[-1:].copy()

    def become(self, path: Path) -> bool:
        """Gives the pickle its name; False where there are not just as many rows as it has room for, or where the file
        system has no hard links.

        It keeps the present one as well until `remove`, for one who is interrupted before that is noted.
        """
        if self.rows != self._room:
            return False
        path.unlink(missing_ok=True)
        try:
            os.link(self._path, path)
        except OSError:  # exFAT, and many network and FUSE file systems
            return False
        return True

    def remove(self) -> None:
        """The rows are in their file."""
        self._path.unlink(missing_ok=True)
        self._over.remove()
