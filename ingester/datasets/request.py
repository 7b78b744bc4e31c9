"""What a data set is asked to hold, and how far the writing of one has come."""

from dataclasses import dataclass

import msgspec

from ingester.clock import SECOND
from ingester.datasets import dataset
from ingester.text import path_part


class Request(msgspec.Struct, frozen=True):
    """What a data set is to hold. Times in ns; `every_ns` None: the rows as received."""

    start_ns: int
    end_ns: int
    symbols: tuple[str, ...]
    levels: int = 5
    format: str = "pkl"
    every_ns: int | None = None
    max_age_ns: int = SECOND
    fill: str = "none"
    interval_ns: int = 100 * dataset.MILLISECOND
    """The recorded interval, for the names of files with rows as received."""

    @property
    def frequency_ns(self) -> int:
        """Of the rows, by their name."""
        return self.every_ns or self.interval_ns

    @property
    def width(self) -> int:
        """Values of a row."""
        return 4 * self.levels

    def file_name(self, symbol: str) -> str:
        """Of a pair's file. Raises SettingsError where the symbol cannot be part of one."""
        name = dataset.file_name(symbol, self.frequency_ns, self.start_ns, self.end_ns, self.format)
        return path_part(name, "pair")


@dataclass
class Progress:
    """How far an export is: written by it, read by whoever shows it."""

    rows: int = 0
    """To be read."""
    rows_read: int = 0
    files: int = 0
    """To be written."""
    files_written: int = 0
    pair: str = ""
    """Written last."""
