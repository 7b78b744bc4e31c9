"""Merges the rows that several recorders stored of a pair into one series of books. The rule is only here:

* A row is a copy if another row of the same update id came at most `WINDOW_NS` before it. Copies are left out, so a
  book has its earliest receive time. If copies that came within `WINDOW_NS` of the first row have more levels, the book
  gets the levels of the deepest copy.
* A row is late if a row of a higher update id came at most `WINDOW_NS` before it. Late rows are left out, so no book
  follows a newer one.
* If the ids of one recorder fall within `WINDOW_NS`, the exchange has restarted its ids (the event
  `update_ids_restarted`). Rows from before the restart make no later row late.
* Imported rows have generated ids: they are never late, and they make no row late.

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
"""The number of the recorder of imported rows, whose ids are generated."""

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Books(NamedTuple):
    """Rows of one pair in the order of time: receive times (n,) in ns, update ids (n,), values (n, 4 x levels)."""

    times: Nanoseconds
    ids: Integers
    values: Floats

    @classmethod
    def none(cls, width: int) -> Self:
        """Returns zero rows of `width` values."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, width)))

    def chosen(self, rows: Any) -> Self:
        """Returns the rows that an index of numpy selects."""
        return self._replace(times=self.times[rows], ids=self.ids[rows], values=self.values[rows])

    def followed_by(self, more: "Books") -> "Books":
        """Returns these rows and then `more`."""
        if not len(self.times) or not len(more.times):
            return more if len(more.times) else self
        times, ids = np.concatenate([self.times, more.times]), np.concatenate([self.ids, more.ids])
        return Books(times, ids, np.concatenate([self.values, more.values]))


class _Context(NamedTuple):
    """The rows of the last `WINDOW_NS`, for later rows: (n,) each."""

    times: Nanoseconds
    ids: Integers
    recorders: Integers
    originals: Flags
    """Which rows are not copies."""
    restarts: Flags
    """At which rows the ids restarted."""

    def since(self, at_ns: int) -> "_Context":
        """Returns a copy of the rows from a time on."""
        first = int(np.searchsorted(self.times, at_ns))
        return _Context(*(column[first:].copy() for column in self))  # type: ignore[arg-type]

    def followed_by(self, more: "_Context") -> "_Context":
        """Returns these rows and then `more`."""
        pairs = zip(self, more, strict=True)
        return _Context(*(np.concatenate(columns) for columns in pairs))


class Recorders:
    """Numbers the recorders, consistently for all slices."""

    def __init__(self) -> None:
        self._numbers = {IMPORTED: _MADE_UP}

    def of(self, rows: TableRows) -> Integers:
        """Returns the number of the recorder of each row (n,)."""
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in rows.collectors]
        return np.array(numbers, np.int64)[rows.by]


def by_pair(rows: TableRows, recorders: Recorders) -> dict[str, tuple[Books, Integers]]:
    """Returns the rows of each pair of a slice, with the number of the recorder of each row."""
    numbers = recorders.of(rows)
    pairs = {}
    for symbol, first, stop in zip(rows.symbols, rows.bounds, rows.bounds[1:], strict=False):
        own = slice(first, stop)
        pairs[symbol] = Books(rows.times[own], rows.ids[own], rows.values[own]), numbers[own]
    return pairs


class Merger:
    """Merges the rows of one pair, which come piece by piece in the order of receive time.

    A book that lacks levels is held back for up to `WINDOW_NS`, with the books after it: a deeper copy may come.
    """

    def __init__(self, width: int, several: bool) -> None:
        """`width`: values of a row. `several`: whether more than one recorder may have stored rows."""
        self._several = several
        none, no = np.empty(0, np.int64), np.empty(0, bool)
        self._context = _Context(none, none, none, no, no)
        self._held = Books.none(width)

    def take(self, books: Books, recorders: Integers, until_ns: int) -> tuple[Books, int]:
        """Takes the next rows, which complete the time before `until_ns`.

        Returns the books that are settled now, and the time before which all books are settled.
        """
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
        """Returns the books that were held back, after the last rows were taken."""
        held, self._held = self._held, self._held.chosen(slice(0))
        return held

    def _judged(self, books: Books, recorders: Integers, until_ns: int) -> tuple[Flags, Flags]:
        """Returns which rows are not copies (n,), and which are neither copies nor late (n,)."""
        before, fresh = self._context, np.ones(len(books.times), bool)
        now = _Context(books.times, books.ids, recorders, fresh, np.zeros(len(fresh), bool))
        oldest_ns = until_ns - WINDOW_NS
        if _rise(books.ids) and (not len(before.ids) or not len(books.ids) or before.ids.max() < books.ids[0]):
            # The usual case: ids that rise, as a single recorder stores them.
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
    """Returns whether each id is higher than the one before."""
    return bool((ids[1:] > ids[:-1]).all())


def _in_order(books: Books, recorders: Integers) -> tuple[Books, Integers]:
    """Returns the rows with those of the same receive time sorted by id."""
    times, ids, _ = books
    if ((times[1:] == times[:-1]) & (ids[1:] < ids[:-1])).any():
        order = np.lexsort((ids, times))
        return books.chosen(order), recorders[order]
    return books, recorders


def _copies(times: Nanoseconds, ids: Integers) -> Flags:
    """Returns which rows have another row of the same id at most `WINDOW_NS` before them."""
    order = np.lexsort((times, ids))
    sorted_times, sorted_ids = times[order], ids[order]
    copies = np.zeros(len(order), bool)
    alike = (sorted_ids[1:] == sorted_ids[:-1]) & (sorted_times[1:] - sorted_times[:-1] <= WINDOW_NS)
    copies[order[1:]] = alike
    return copies


def _restarts(rows: _Context) -> Flags:
    """Returns at which rows the ids of a recorder fall."""
    restarts = np.zeros(len(rows.ids), bool)
    for recorder in range(int(rows.recorders.max(initial=_MADE_UP)) + 1):
        own = np.flatnonzero(rows.recorders == recorder)
        times, ids = rows.times[own], rows.ids[own]
        if not _rise(ids):
            restarts[own[1:]] = (ids[1:] < ids[:-1]) & (times[1:] - times[:-1] <= WINDOW_NS)
    return restarts


def _late(rows: _Context, counted: Flags) -> Flags:
    """Returns which rows come after a higher id. Only `counted` rows are late or make others late."""
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
    """Returns the highest value in each range [first, stop), (n,); the lowest integer where a range is empty."""
    found = np.full(len(first), _LEAST_ID)
    lengths, reach = stop - first, 1
    while reach <= lengths.max(initial=0):  # values[i] is the highest of `reach` values from i on
        fits = (lengths >= reach) & (lengths < 2 * reach)
        found[fits] = np.maximum(values[first[fits]], values[stop[fits] - reach])
        values = np.maximum(values[:-reach], values[reach:])
        reach *= 2
    return found


def _thin(values: Floats) -> Integers:
    """Returns the indices of rows that lack levels."""
    width = values.shape[1]
    return np.flatnonzero(np.isnan(values[:, width // 2 - 2]) | np.isnan(values[:, width - 2]))


def _levels(values: Floats) -> Integers:
    """Returns the number of levels of both sides of each row, (n,)."""
    levels: Integers = (~np.isnan(values[:, ::2])).sum(axis=1)
    return levels


def _deepen(held: Books, thin: Integers, copies: Books) -> None:
    """Replaces the values of thin rows in `held` by those of their deepest copy."""
    times, ids = np.concatenate([held.times[thin], copies.times]), np.concatenate([held.ids[thin], copies.ids])
    order = np.lexsort((times, ids))  # each book, then its copies
    books = np.maximum.accumulate(np.where(order < len(thin), np.arange(len(order)), -1))
    which = np.flatnonzero((order >= len(thin)) & (books >= 0) & (ids[order] == ids[order[books]]))
    target, copy = thin[order[books[which]]], order[which] - len(thin)
    levels = _levels(copies.values[copy])
    deeper = (levels > _levels(held.values[target])) & (copies.times[copy] - held.times[target] <= WINDOW_NS)
    target, copy, levels = target[deeper], copy[deeper], levels[deeper]
    last = np.lexsort(
        (-copies.times[copy], levels)
    )  # the deepest copy, and of equally deep ones the first, is written last
    held.values[target[last]] = copies.values[copy[last]]
