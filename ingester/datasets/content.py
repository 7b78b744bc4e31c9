"""What is in a file that is to be imported: read through as a whole, before anything of it is stored."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ingester.datasets import known
from ingester.datasets.columns import Bad, ParsedBooks, check_bad
from ingester.datasets.dataset import frequency_text
from ingester.datasets.origins import Origin
from ingester.datasets.recordings import PIECE_ROWS, Recording, unreadable
from ingester.datasets.unpacking import UnreadableRecording
from ingester.words import counted

KEPT_ROWS = 4 * PIECE_ROWS
"""Of a file with fewer rows than this, what was read to check it is stored; one with more is read twice."""
MOST_OF_ONE_TIME = 1000
"""Rows of a microsecond: their ids differ in three digits."""
BAD_SHOWN = 5


class Content:
    """A file that was read through: what is in it, and that all of it can be taken."""

    def __init__(self, recording: Recording, origin: Origin, skip_bad: bool) -> None:
        """Raises UnreadableRecording."""
        self._recording = recording
        self._origin = origin
        self._skip_bad = skip_bad
        self._kept: list[ParsedBooks] | None = []
        self._notes: dict[str, None] = {}
        self.rows = self.levels = 0
        self.first_ns = self.last_ns = 0
        self._bad: list[Bad] = []
        self._counts: Counter[str] = Counter()
        on_grid = origin.frequency_ns > 0
        for books in self._read():
            if books.bad and not skip_bad:
                raise UnreadableRecording(
                    f"{self._list_of(books.bad[:BAD_SHOWN])}{'; and more' if len(books.bad) > BAD_SHOWN else ''}. "
                    "Correct the file, or skip such lines with --skip-bad"
                )
            self._bad += books.bad[: max(0, BAD_SHOWN - len(self._bad))]
            self._counts["bad"] += len(books.bad)
            self._counts["empty"] += books.empty
            if books.bad:
                good = self.rows + self._counts["filled"] + self._counts["empty"] + len(books.times)
                check_bad(self._counts["bad"], good, self._bad[0], recording.part)
            if not len(books.times):
                continue
            self.first_ns = min(self.first_ns or int(books.times[0]), int(books.times[0]))
            self.last_ns = max(self.last_ns, int(books.times[-1]))
            self.levels = max(self.levels, int(known.depths_of(books.values).max()))
            if len(books.times) >= MOST_OF_ONE_TIME:
                check_counts(books.times // 1000)
            on_grid = on_grid and not (books.times % origin.frequency_ns).any()
            self._counts["filled"] += len(books.times)
            kept = self._outside_gaps(books)
            self._counts["filled"] -= len(kept.times)
            self.rows += len(kept.times)
            if self._kept is not None:
                self._kept.append(kept)
                if self.rows > KEPT_ROWS:
                    self._kept = None
        self._say(on_grid and self.rows > 1)

    def books(self) -> Iterator[ParsedBooks]:
        """All of them, with as many levels as have a number anywhere, and times in µs."""
        for books in self._kept if self._kept is not None else map(self._outside_gaps, self._read()):
            if len(books.times):
                yield ParsedBooks(books.times // 1000 * 1000, known.cut_to(books.values, self.levels))

    def note(self, text: str) -> None:
        """Something to say about the file."""
        self._notes[text] = None

    def notes(self) -> tuple[str, ...]:
        """What there is to say about the file."""
        return *self._notes, *self._recording.notes

    def _read(self) -> Iterator[ParsedBooks]:
        try:
            yield from self._recording.pieces()
        except UnreadableRecording:
            raise
        except Exception as error:  # what broken and hostile bytes raise is anybody's guess
            raise unreadable(error) from error

    def _outside_gaps(self, books: ParsedBooks) -> ParsedBooks:
        """Without those rows of a grid that carry on the book before a gap."""
        if not self._origin.every_ns or not self._origin.gaps or not len(books.times):
            return books
        gaps = np.array(sorted(gap[:2] for gap in self._origin.gaps), np.int64)
        place = np.searchsorted(gaps[:, 0], books.times, side="left") - 1  # the last gap that began before the row
        inside = (place >= 0) & (books.times < np.maximum.accumulate(gaps[:, 1])[np.maximum(place, 0)])
        return books._replace(times=books.times[~inside], values=books.values[~inside])

    def _say(self, on_grid: bool) -> None:
        recording, origin, counts = self._recording, self._origin, self._counts
        if origin.note:
            self.note(origin.note)
        if origin.every_ns:
            self.note(
                f"is on a grid of {frequency_text(origin.every_ns)}: "
                "its rows are repeats of books, with times of the grid"
            )
        elif on_grid:
            self.note(
                f"all times are multiples of {frequency_text(origin.frequency_ns)}: if it was put on such a grid, "
                "its rows are repeats of books"
            )
        if counts["empty"]:
            self.note(f"{counts['empty']:,} rows without any number are not books, and were skipped")
        if counts["filled"]:
            self.note(f"{counts['filled']:,} rows in gaps only repeat the book before, and were skipped")
        if recording.missing:
            more = ", …" if len(recording.missing) > 8 else ""
            self.note(f"missing columns, left empty: {', '.join(recording.missing[:8])}{more}")
        if recording.times.unit:
            self.note(f"times are numbers, taken as {recording.times.unit} since 1970")
        if counts["bad"]:
            more = "; and others" if counts["bad"] > len(self._bad) else ""
            self.note(f"{counted(counts['bad'], f'bad {recording.part}')} left out: {self._list_of(self._bad)}{more}")

    def _list_of(self, bad: Sequence[Bad]) -> str:
        return "; ".join(f"{self._recording.part} {each.line} {each.why}" for each in bad)


def distinct(books: ParsedBooks) -> ParsedBooks:
    """The books, of rows that are alike in all only the first."""
    again = np.zeros(len(books.times), bool)
    again[1:] = books.times[1:] == books.times[:-1]
    if not again.any():
        return books
    again[:-1] |= again[1:]
    rows = np.flatnonzero(again)
    alike = np.concatenate([books.times[rows, None], books.values[rows].view(np.int64)], axis=1)
    _, first = np.unique(alike, axis=0, return_index=True)
    kept = np.ones(len(books.times), bool)
    kept[rows] = False
    kept[rows[first]] = True
    return books._replace(times=books.times[kept], values=books.values[kept])


def check_counts(times_us: npt.NDArray[np.int64]) -> None:
    _, counts = np.unique(times_us, return_counts=True)
    if counts.max(initial=0) >= MOST_OF_ONE_TIME:
        raise UnreadableRecording(f"{counts.max():,} rows have the same time")
