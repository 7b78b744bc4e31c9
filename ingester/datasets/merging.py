"""Makes one series of books out of what several recorders stored of a pair; the only place that knows the rule.

* A row is a copy where another row of the same update id came at most `WINDOW_NS` before it. Copies are left out, so a
  book has its earliest receive time. Where copies that came within `WINDOW_NS` of the first hold more levels than it,
  the book has the levels of the deepest one.
* A row is late where a row of a higher update id came before it, at most `WINDOW_NS` earlier. Late rows are left out:
  no book follows a newer one.
* Where the ids of one recorder fall within `WINDOW_NS`, the exchange has begun to count from a lower id (the event
  `update_ids_restarted`). What came before that makes nothing late that comes after it.
* Imported rows have made-up ids: they are never late, and make nothing late.

The views `books` and `bars_1s` state the same rule in SQL.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ingester.clock import SECOND
from ingester.grid import Floats, Nanoseconds
from ingester.questdb import IMPORTED, TableRows

WINDOW_NS = 60 * SECOND
_LEAST_ID = np.iinfo(np.int64).min
_MADE_UP = -1
"""Stands for the recorder of imported rows."""

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Books(NamedTuple):
    """Rows of one pair in the order of time: receive times (n,) in ns, update ids (n,), values (n, 4 x levels)."""

    times: Nanoseconds
    ids: Integers
    values: Floats

    @classmethod
    def none(cls, width: int) -> Self:
        """No rows of `width` values."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, width)))

    def chosen(self, rows: Any) -> Self:
        """Those that an index of numpy chooses."""
        return self._replace(times=self.times[rows], ids=self.ids[rows], values=self.values[rows])

    def followed_by(self, more: "Books") -> "Books":
        """These, then others."""
        if not len(self.times) or not len(more.times):
            return more if len(more.times) else self
        times, ids = np.concatenate([self.times, more.times]), np.concatenate([self.ids, more.ids])
        return Books(times, ids, np.concatenate([self.values, more.values]))


class _Context(NamedTuple):
    """What is remembered of the rows of the last `WINDOW_NS`."""

    times: Nanoseconds
    ids: Integers
    recorders: Integers
    originals: Flags
    """Which are no copies."""
    restarts: Flags
    """Which begin a new count."""

    def since(self, at_ns: int) -> "_Context":
        """A copy of the rows from a time on."""
        first = int(np.searchsorted(self.times, at_ns))
        return _Context(*(column[first:].copy() for column in self))  # type: ignore[arg-type]

    def followed_by(self, more: "_Context") -> "_Context":
        """These rows, then others."""
        pairs = zip(self, more, strict=True)
        return _Context(*(np.concatenate(columns) for columns in pairs))


class Recorders:
    """Numbers recorders in the order in which they are met, the same for all slices."""

    def __init__(self) -> None:
        self._numbers = {IMPORTED: _MADE_UP}

    def of(self, rows: TableRows) -> Integers:
        """Who recorded each row (n,)."""
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in rows.collectors]
        return np.array(numbers, np.int64)[rows.by]


def by_pair(rows: TableRows, recorders: Recorders) -> dict[str, tuple[Books, Integers]]:
    """The rows of each pair of a slice, and who recorded each."""
    numbers = recorders.of(rows)
    pairs = {}
    for symbol, first, stop in zip(rows.symbols, rows.bounds, rows.bounds[1:], strict=False):
        own = slice(first, stop)
        pairs[symbol] = Books(rows.times[own], rows.ids[own], rows.values[own]), numbers[own]
    return pairs


class Merger:
    """One pair's rows, piece by piece in the order of receive time.

    Books that lack levels are held back for up to `WINDOW_NS`, with those after them: a deeper copy may come.
    """

    def __init__(self, width: int, several: bool) -> None:
        """`width`: values of a row; `several`: whether more than one recorder may have stored rows."""
        self._several = several
        none, no = np.empty(0, np.int64), np.empty(0, bool)
        self._context = _Context(none, none, none, no, no)
        self._held = Books.none(width)

    def take(self, books: Books, recorders: Integers, until_ns: int) -> tuple[Books, int]:
        """The books that are settled now, and until when all are, after all rows before `until_ns` have come."""
        books, recorders = _in_order(books, recorders)
        originals, passes = self._judged(books, recorders, until_ns)
        new = books if passes.all() else books.chosen(passes)
        if not self._several:
            return new, until_ns
        held = self._held.followed_by(new)
        thin = _thin(held.values)
        if len(thin) and not originals.all():
            _deepen(held, thin, books.chosen(~originals))
            thin = _thin(held.values)
        waiting = thin[held.times[thin] >= until_ns - WINDOW_NS]
        settled_ns = int(held.times[waiting[0]]) if len(waiting) else until_ns
        cut = int(np.searchsorted(held.times, settled_ns)) if len(waiting) else len(held.times)
        self._held = held.chosen(np.arange(cut, len(held.times)))  # a copy
        return held.chosen(slice(cut)), settled_ns

    def rest(self) -> Books:
        """The books that were held back: nothing comes any more."""
        held, self._held = self._held, self._held.chosen(slice(0))
        return held

    def _judged(self, books: Books, recorders: Integers, until_ns: int) -> tuple[Flags, Flags]:
        """Which of the rows are no copies, and which of these are not late."""
        before, fresh = self._context, np.ones(len(books.times), bool)
        now = _Context(books.times, books.ids, recorders, fresh, np.zeros(len(fresh), bool))
        oldest_ns = until_ns - WINDOW_NS
        if _rise(books.ids) and (not len(before.ids) or not len(books.ids) or before.ids.max() < books.ids[0]):
            # As a single recorder stores them.
            self._context = before.since(oldest_ns).followed_by(now.since(oldest_ns))
            return fresh, fresh
        carried, both = len(before.times), before.followed_by(now)
        both.originals[carried:] &= ~_copies(both.times, both.ids)[carried:]
        both.restarts[carried:] = _restarts(both)[carried:]
        self._context = both.since(oldest_ns)
        passes = both.originals
        counted = passes & (both.recorders != _MADE_UP)
        if not _rise(both.ids[counted]):
            passes = passes & ~_late(both, counted)
        return both.originals[carried:], passes[carried:]


def _rise(ids: Integers) -> bool:
    return bool((ids[1:] > ids[:-1]).all())


def _in_order(books: Books, recorders: Integers) -> tuple[Books, Integers]:
    """Rows of one receive time by their ids."""
    times, ids, _ = books
    if ((times[1:] == times[:-1]) & (ids[1:] < ids[:-1])).any():
        order = np.lexsort((ids, times))
        return books.chosen(order), recorders[order]
    return books, recorders


def _copies(times: Nanoseconds, ids: Integers) -> Flags:
    order = np.lexsort((times, ids))
    sorted_times, sorted_ids = times[order], ids[order]
    copies = np.zeros(len(order), bool)
    alike = (sorted_ids[1:] == sorted_ids[:-1]) & (sorted_times[1:] - sorted_times[:-1] <= WINDOW_NS)
    copies[order[1:]] = alike
    return copies


def _restarts(rows: _Context) -> Flags:
    """Where the ids of a recorder fall."""
    restarts = np.zeros(len(rows.ids), bool)
    for recorder in range(int(rows.recorders.max(initial=_MADE_UP)) + 1):
        own = np.flatnonzero(rows.recorders == recorder)
        times, ids = rows.times[own], rows.ids[own]
        if not _rise(ids):
            restarts[own[1:]] = (ids[1:] < ids[:-1]) & (times[1:] - times[:-1] <= WINDOW_NS)
    return restarts


def _late(rows: _Context, counted: Flags) -> Flags:
    """Which rows a higher id came before; only `counted` rows are late, or make others late."""
    ids = np.where(counted, rows.ids, _LEAST_ID)
    doubtful = np.flatnonzero(counted & (np.maximum.accumulate(ids) > ids))
    counts = np.cumsum(rows.restarts)
    first = np.maximum(
        np.searchsorted(rows.times, rows.times[doubtful] - WINDOW_NS), np.searchsorted(counts, counts[doubtful])
    )
    stop = np.searchsorted(rows.times, rows.times[doubtful])
    late = np.zeros(len(ids), bool)
    late[doubtful] = _highest(ids, first, stop) > ids[doubtful]
    return late


def _highest(values: Integers, first: Integers, stop: Integers) -> Integers:
    """The highest of the values in each range [first, stop) (n,); less than all where a range is empty."""
    found = np.full(len(first), _LEAST_ID)
    lengths, reach = stop - first, 1
    while reach <= lengths.max(initial=0):  # values[i]: the highest of `reach` values from i on
        fits = (lengths >= reach) & (lengths < 2 * reach)
        found[fits] = np.maximum(values[first[fits]], values[stop[fits] - reach])
        values = np.maximum(values[:-reach], values[reach:])
        reach *= 2
    return found


def _thin(values: Floats) -> Integers:
    """Which rows lack levels."""
    width = values.shape[1]
    return np.flatnonzero(np.isnan(values[:, width // 2 - 2]) | np.isnan(values[:, width - 2]))


def _levels(values: Floats) -> Integers:
    """How many levels each row holds, of both sides."""
    levels: Integers = (~np.isnan(values[:, ::2])).sum(axis=1)
    return levels


def _deepen(held: Books, thin: Integers, copies: Books) -> None:
    """Gives thin rows the values of their deepest copy."""
    times, ids = np.concatenate([held.times[thin], copies.times]), np.concatenate([held.ids[thin], copies.ids])
    order = np.lexsort((times, ids))  # each book, then its copies
    books = np.maximum.accumulate(np.where(order < len(thin), np.arange(len(order)), -1))
    which = np.flatnonzero((order >= len(thin)) & (books >= 0) & (ids[order] == ids[order[books]]))
    target, copy = thin[order[books[which]]], order[which] - len(thin)
    levels = _levels(copies.values[copy])
    deeper = (levels > _levels(held.values[target])) & (copies.times[copy] - held.times[target] <= WINDOW_NS)
    target, copy, levels = target[deeper], copy[deeper], levels[deeper]
    last = np.lexsort((-copies.times[copy], levels))  # of several the deepest, of these the first
    held.values[target[last]] = copies.values[copy[last]]
