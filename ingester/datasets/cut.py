"""Cuts the rows of a range out of the table: reads slices of all pairs and splits them by pair."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ingester import grid as grids
from ingester.datasets.census import Census
from ingester.datasets.inplace import LEAST_ROWS, InPlace
from ingester.datasets.merging import WINDOW_NS, Merger
from ingester.datasets.request import Progress, Request
from ingester.datasets.spill import Spill
from ingester.errors import OperationError
from ingester.store.query import tell_nameless
from ingester.store.questdb import QuestDB
from ingester.store.reader import Reader, Rows, Slice

Waiting = Spill | InPlace
"""Rows of one pair on disk."""
AHEAD = 2
"""Slices that are read while others are split: more would only wait, and take memory."""


def collect(
    db: QuestDB,
    request: Request,
    folder: Path,
    counts: Mapping[str, int],
    progress: Progress,
    done: tuple[int, Mapping[str, int]] | None = None,
    note: Callable[[int, Mapping[str, Waiting]], None] = lambda until_ns, spills: None,
    collector: str | None = None,
    census: Census | None = None,
) -> dict[str, Waiting]:
    """Reads the rows of a request and splits them by pair into spills in `folder`.

    `note` hears of each slice: until when all is split. `done`: what an interrupted call had noted last, with the rows
    in the spills then. With `collector`, only what it has recorded, which holds no copies. `census` sees all rows.
    """
    from_ns = done[0] if done else request.start_ns
    reader = Reader(db, request.symbols, request.levels, dict(counts), collector)
    copies_ns = WINDOW_NS if collector is None else 0
    reach_ns = max(grids.LOOK_BACK_NS, request.max_age_ns) if request.every_ns else 0
    before = max(copies_ns, reach_ns)  # what copies and grid look back for
    slices = [Slice(from_ns - before, from_ns), *reader.slices(from_ns, request.end_ns)]
    with read_ahead(reader, slices if from_ns < request.end_ns else []) as parts:
        pairs = {symbol: _Pair(request, waiting(folder, request, symbol, counts)) for symbol in request.symbols}
        spills = {symbol: pair.spill for symbol, pair in pairs.items()}
        if done is not None:
            for symbol, pair in pairs.items():
                pair.spill.cut(done[1].get(symbol, 0))
                pair.resume(from_ns)
        nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, request.width))
        for part, rows in parts:
            ranges = dict(zip(rows.symbols, zip(rows.bounds, rows.bounds[1:], strict=False), strict=True))
            for symbol, pair in pairs.items():
                if symbol in ranges:
                    piece = slice(*ranges[symbol])
                    pair.take(part, rows.times[piece], rows.ids[piece], rows.values[piece])
                else:
                    pair.take(part, *nothing)
            if part.start_ns >= from_ns:
                progress.rows_read += len(rows.times)
                if census is not None:
                    census.take(part, rows)
                note(part.end_ns, spills)
    wanted = sum(counts.get(symbol, 0) for symbol in request.symbols)
    tell_nameless(reader.nameless)
    if done is None and collector is None and progress.rows_read + reader.nameless < wanted:
        raise OperationError(
            f"The range had {wanted:,} rows of these pairs, and {progress.rows_read:,} were left when they were read: "
            "somebody has dropped days meanwhile. `ingester retention` shows which are left."
        )
    return spills


def waiting(folder: Path, request: Request, symbol: str, counts: Mapping[str, int]) -> Waiting:
    """Where a pair's rows wait: a large pickle is filled as they come.

    `counts`: rows as received of each pair; those of the call that began to fill it, where that was interrupted.
    """
    if request.format == "pkl":
        grid_rows = request.every_ns and len(range(request.start_ns, request.end_ns, request.every_ns))
        rows = grid_rows or counts.get(symbol, 0)
        if rows >= LEAST_ROWS:
            return InPlace(folder, symbol, request.width, rows)
    return Spill(folder, symbol, request.width)


class _Pair:
    """One pair on its way from slices to its spill."""

    def __init__(self, request: Request, spill: Waiting) -> None:
        self.spill = spill
        self._request = request
        self._merger = Merger()
        self._sampler = grids.Sampler(request.width, request.max_age_ns, request.fill)
        self._from_ns = request.start_ns  # nothing before goes into the spill

    def resume(self, from_ns: int) -> None:
        """The spill holds all before `from_ns`."""
        self._from_ns = from_ns
        last = self.spill.last()
        if last is not None and self._request.fill == "forward":
            self._sampler.take(np.array([last[0]]), last[1], np.empty(0, np.int64))

    def take(self, part: Slice, times: grids.Nanoseconds, ids: Any, values: grids.Floats) -> None:
        """The pair's rows of the next slice."""
        request = self._request
        kept = self._merger.take(times, ids)
        if not kept.all():
            times, values = times[kept], values[kept]
        start = max(part.start_ns, self._from_ns)
        if request.every_ns is None:
            early = int(np.searchsorted(times, start))
            self.spill.append(times[early:], values[early:])
            return
        first = request.start_ns + -(-(start - request.start_ns) // request.every_ns) * request.every_ns
        grid_times = grids.grid(first, max(first, part.end_ns), request.every_ns)
        self.spill.append(grid_times, self._sampler.take(times, values, grid_times))


@contextmanager
def read_ahead(reader: Reader, slices: Sequence[Slice]) -> Iterator[Iterator[tuple[Slice, Rows]]]:
    """The slices in order; the first are read at once, others while the caller works on those before."""
    with ThreadPoolExecutor(AHEAD, "export") as pool:
        ahead = deque((part, pool.submit(reader.read, part)) for part in slices[:AHEAD])

        def parts() -> Iterator[tuple[Slice, Rows]]:
            for part in slices[AHEAD:]:
                ahead.append((part, pool.submit(reader.read, part)))
                first, rows = ahead.popleft()
                yield first, rows.result()
            while ahead:
                first, rows = ahead.popleft()
                yield first, rows.result()

        try:
            yield parts()
        finally:
            for _, rows in ahead:
                rows.cancel()
