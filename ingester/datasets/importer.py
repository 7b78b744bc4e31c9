"""Imports earlier recordings into the table, as rows of the collector `import`. A second import changes nothing.

A file is read completely before any of its rows is stored, so it is imported as a whole or not at all. Books that the
table has already are not stored again (`known.py`). Receive times are cut to the table's microseconds. Rows of a grid
in a gap of their data set only repeat the book before the gap, so they are skipped. The gaps become events of the
collector `import`, so coverage and exports report them.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.book import level_columns
from ingester.datasets import known
from ingester.datasets.columns import Bad, ParsedBooks, UnreadableRecording, check_bad
from ingester.datasets.dataset import frequency_text
from ingester.datasets.gaps import DROPPED, NOT_RECORDED
from ingester.datasets.merging import WINDOW_NS
from ingester.datasets.recordings import (
    EXPECTED,
    PIECE_ROWS,
    FoundFiles,
    Origin,
    Origins,
    Recording,
    open_recording,
    unreadable,
)
from ingester.errors import SettingsError
from ingester.events import Event
from ingester.exchange import EXCHANGE_NAME
from ingester.grid import Floats, Nanoseconds
from ingester.questdb import (
    ALWAYS_NS,
    DEFAULT_EXCHANGE,
    EVENTS,
    IMPORT,
    IMPORTED,
    ORDERBOOK,
    QuestDB,
    RowEncoder,
    between,
    buffer_maker,
    holding,
    of_exchange,
    query,
    quoted,
    schema,
)
from ingester.text import counted

_OWN = f"collector = '{IMPORTED}'"
BATCH_ROWS = 20_000
DEPTHS = (5, 10, 20)
MOST_SYMBOL = 60
"""Limit of characters of a symbol. Exchanges use about twenty; longer ones could not name files of exports."""


class Imported(NamedTuple):
    """The result of one file. `failure` says why it is not in the table, or not completely."""

    path: Path
    symbol: str = ""
    rows: int = 0
    """Books in the file; repeated rows count once."""
    new: int = 0
    """Books that were not in the table before."""
    visible: int = 0
    """The rows of the pair that the table must show from the first to the last time."""
    first_ns: int = 0
    last_ns: int = 0
    notes: tuple[str, ...] = ()
    """Remarks for the user."""
    gaps: tuple[tuple[int, int, str], ...] = ()
    """(since, until, reason) in ns, from its manifest."""
    exchange: str = DEFAULT_EXCHANGE
    """The exchange of its rows."""
    failure: str = ""

    @property
    def known(self) -> int:
        """Books that were in the table before, from any collector."""
        return self.rows - self.new


class ImportedFiles(NamedTuple):
    """The result of an import."""

    files: list[Imported]
    """The files that were read, in the order of the import."""
    passed_over: list[tuple[Path, str]]
    """Paths in the folders that are not recordings, with the reason."""


def import_found(
    db: QuestDB,
    found: FoundFiles,
    *,
    exchange: str | None = None,
    skip_bad: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, files: None,
) -> ImportedFiles:
    """Stores the rows of recordings and waits until they are visible.

    `exchange`: of files that do not name theirs; None: the one of which the table has these books, else Binance spot.
    `skip_bad`: skip invalid lines instead of refusing their file. `on_progress` is called with the number of files that
    are done and of all. Raises SettingsError and StoreError.
    """
    if exchange is not None and not (exchange and re.match(EXCHANGE_NAME, exchange)):
        raise SettingsError(
            f"--exchange {exchange[:80]!r} is not a name. Write one such as binance or binance-futures."
        )
    with holding(db, IMPORT, 0, ALWAYS_NS):
        importer, taken = Importer(db, skip_bad, exchange), list[Imported]()
        for path in importer.in_order(found.files):
            taken.append(importer.take(path))
            on_progress(len(taken), len(found.files))
        return ImportedFiles(importer.check(taken), found.passed_over)


class Importer:
    """Writes recordings into the table of one server. Not safe for several threads."""

    def __init__(self, db: QuestDB, skip_bad: bool = False, exchange: str | None = None) -> None:
        """`skip_bad` and `exchange` are those of `import_found`."""
        self._db = db
        self._skip_bad = skip_bad
        self._exchange = exchange
        self._depth = 0  # the levels that the table has, as far as known
        self._origins = Origins()
        self._buffer = buffer_maker().new_buffer()
        self._on_the_way: dict[str, tuple[int, int]] = {}
        """The range of time in ns of each pair whose rows were written and may not be visible yet."""

    def in_order(self, paths: Sequence[Path]) -> list[Path]:
        """Returns the files with rows as received first, then those on a grid, whose rows only repeat books."""
        return sorted(paths, key=self._is_on_grid)

    def _is_on_grid(self, path: Path) -> bool:
        try:
            return self._origins.of(path).every_ns > 0
        except UnreadableRecording:
            return False

    def take(self, path: Path) -> Imported:
        """Stores the rows of one file. A file that cannot be read gives a result with a `failure`.

        Raises StoreError.
        """
        try:
            origin = self._origins.of(path)
            recording = open_recording(path)
            symbol = recording.symbol or origin.symbol
            if not symbol or not symbol.isprintable():
                raise UnreadableRecording(f"the file name does not name a pair; expected one like {EXPECTED!r}")
            if len(symbol) > MOST_SYMBOL:
                raise UnreadableRecording(
                    f"is of a pair of {len(symbol):,} characters, {symbol[:40]!r}…; expected {MOST_SYMBOL} at most"
                )
            content = Content(recording, origin, self._skip_bad)
            if not content.rows:
                return Imported(path, symbol, notes=content.notes())
            exchange = origin.exchange or recording.exchange or self._exchange
            return self._store(path, symbol, exchange, origin, content)
        except UnreadableRecording as error:
            return Imported(path, failure=str(error))

    def _store(self, path: Path, symbol: str, exchange: str | None, origin: Origin, content: "Content") -> Imported:
        self._ensure_levels(content.levels)
        portions = content.books()
        first = next(portions)
        exchange = exchange or self._exchange_that_sent(symbol, first)
        file = Imported(path, symbol, 0, 0, 0, content.first_ns, content.last_ns, (), origin.gaps, exchange)
        self._wait_for(symbol, file.first_ns, file.last_ns)
        rows, new, visible, twice = 0, 0, self._visible(file), 0
        for books in itertools.chain([first], portions):
            kept = distinct(books)
            stored, deepened = self._store_books(symbol, exchange, kept, origin.every_ns)
            rows, new, visible = rows + len(kept.times), new + stored, visible + stored - deepened
            twice += len(books.times) - len(kept.times)
        if twice:
            content.note(f"{counted(twice, 'row')} are repeated in the file, and count once")
        return file._replace(rows=rows, new=new, visible=visible, notes=content.notes())

    def _exchange_that_sent(self, symbol: str, books: ParsedBooks) -> str:
        """Returns the exchange of which the table has some of these books: raw files do not name theirs."""
        kept = distinct(books)
        self._wait_for(symbol, int(kept.times[0]), int(kept.times[-1]))
        there = query.exchanges(self._db, int(kept.times[0]), int(kept.times[-1]) + known.MICROSECOND)
        for exchange in there if there != [DEFAULT_EXCHANGE] else ():
            if known.find(self._db, symbol, kept.times, kept.values, exchange=exchange).known.any():
                return exchange
        return DEFAULT_EXCHANGE

    def _store_books(self, symbol: str, exchange: str, books: ParsedBooks, every_ns: int) -> tuple[int, int]:
        """Stores the books that the table lacks. Returns their number, and that of those it has with fewer levels."""
        times, values = books.times, books.values
        before_ns, after_ns = (known.LONGEST_BACK_NS, WINDOW_NS) if every_ns else (0, 0)
        self._wait_for(symbol, int(times[0]) - before_ns, int(times[-1]) + after_ns)
        found = known.find(self._db, symbol, times, values, every_ns, IMPORTED, exchange)
        rows = ~found.known
        if rows.any():
            times, values = times[rows], values[rows]
            ids = row_ids(times, values, found.ids[rows], found.taken)
            for body in self._bodies(symbol, exchange, times, values, ids):
                self._db.write(body)
            first, last = self._on_the_way.get(symbol, (int(times[0]), int(times[-1])))
            self._on_the_way[symbol] = min(first, int(times[0])), max(last, int(times[-1]))
        return int(rows.sum()), int((rows & (found.ids != known.NEW)).sum())

    def _wait_for(self, symbol: str, first_ns: int, last_ns: int) -> None:
        """Waits until all rows of a range that were written before are visible."""
        first, last = self._on_the_way.get(symbol, (1, 0))
        if first <= last and first_ns <= last and last_ns >= first:
            self._db.sql(f"SELECT wait_wal_table('{ORDERBOOK}')")
            self._on_the_way.clear()

    def _visible(self, file: Imported) -> int:
        """Returns the number of rows of its pair, from its first to its last time."""
        rows = self._db.sql(f"SELECT count() FROM {ORDERBOOK} WHERE {_of(file)}").rows
        return int(rows[0][0])

    def check(self, imported: Sequence[Imported], progress: Callable[[], None] = lambda: None) -> list[Imported]:
        """Waits until all rows are visible and returns the results, with a failure where rows of a file are missing.

        Also writes the gaps of the data sets as events.
        """
        if any(file.new for file in imported):
            self._db.sql(f"SELECT wait_wal_table('{ORDERBOOK}')")
        there = [file for file in imported if file.rows and not file.failure]
        on_record = self._pairs_with_gaps() if there else set()
        checked, written = [], False
        for file in imported:
            if file.rows and not file.failure:
                file = file._replace(failure=self._missing(file))
                if file.gaps or (file.exchange, file.symbol) in on_record:
                    written |= self._record_gaps(file)
            checked.append(file)
            progress()
        if written:
            self._db.sql(f"SELECT wait_wal_table('{EVENTS}')")
        return checked

    def _missing(self, file: Imported) -> str:
        visible = self._visible(file) if file.new else file.visible
        if visible >= file.visible:
            return ""
        return f"only {visible:,} of its {file.visible:,} rows are visible; ask the server: SELECT * FROM wal_tables()"

    def _pairs_with_gaps(self) -> set[tuple[str, str]]:
        rows = self._db.sql(f"SELECT DISTINCT exchange, symbol FROM {EVENTS} WHERE kind = 'gap' AND {_OWN}").rows
        return {(exchange, symbol) for exchange, symbol in rows}

    def _record_gaps(self, file: Imported) -> bool:
        """Writes the gaps of a file's data set as events, and corrects earlier events where there are rows now.

        Returns whether events were written.
        """
        ((imported,),) = self._db.sql(f"SELECT count() FROM {ORDERBOOK} WHERE {_of(file)} AND {_OWN}").rows
        if not imported:
            return False  # other collectors recorded all of it, and their gaps are events already
        earlier = self._db.sql(
            f"SELECT cast(timestamp AS LONG), cast(until AS LONG), detail FROM {EVENTS} WHERE kind = 'gap' AND {_OWN} "
            f"AND {_pair(file)} AND timestamp <= {file.last_ns // 1000} "
            f"AND until >= {file.first_ns // 1000}"
        ).rows
        before = {since * 1000: (until * 1000, reason) for since, until, reason in earlier}
        gaps = [(since, *rest) for since, rest in before.items()] if file.new else []
        # A day that was dropped at the source was not recorded here.
        gaps += [(since, until, NOT_RECORDED if reason == DROPPED else reason) for since, until, reason in file.gaps]
        alone = imported == file.new  # no other file has rows in a gap of this file
        # An event replaces the event with the same begin; a gap that no longer exists gets no length.
        after = {since: (since, reason) for since, (_, reason) in before.items()} if file.new else dict(before)
        for since, until, reason in gaps:
            if before.get(since) == (until, reason) and not file.new:
                continue
            inside = alone and file.first_ns <= since and until <= file.last_ns
            for begin, end in [(since, until)] if inside else self._without_rows(file, since, until):
                if end > after.get(begin, (begin, ""))[0]:
                    after[begin] = (end, reason)
        events = [
            Event(since, "gap", file.symbol, "", reason, until)
            for since, (until, reason) in after.items()
            if before.get(since) != (until, reason)
        ]
        if events:
            self._db.write(RowEncoder(depth=DEPTHS[0], exchange=file.exchange, collector=IMPORTED).events(events))
        return bool(events)

    def _without_rows(self, file: Imported, since_ns: int, until_ns: int) -> list[tuple[int, int]]:
        """Returns the parts of a gap before the first and after the last imported row in it."""
        ((first, last),) = self._db.sql(
            f"SELECT cast(min(timestamp) AS LONG), cast(max(timestamp) AS LONG) FROM {ORDERBOOK} "
            f"WHERE {_pair(file)} AND {_OWN} "
            f"AND {between(since_ns + 1000, until_ns)}"
        ).rows
        if first is None:
            return [(since_ns, until_ns)]
        return [part for part in ((since_ns, first * 1000), (last * 1000, until_ns)) if part[0] < part[1]]

    def _ensure_levels(self, levels: int) -> None:
        if levels > self._depth:
            self._depth = min(depth for depth in DEPTHS if depth >= levels)
            schema.ensure(self._db, self._depth)
            self._db.sql(f"SELECT wait_wal_table('{ORDERBOOK}')")  # for rows that recorders have just sent

    def _bodies(self, symbol: str, exchange: str, times: Nanoseconds, values: Floats, ids: Any) -> Iterator[bytes]:
        import pandas as pd

        for begin in range(0, len(ids), BATCH_ROWS):
            rows = slice(begin, begin + BATCH_ROWS)
            frame = pd.DataFrame(values[rows], columns=level_columns(values.shape[1] // 4))
            frame["last_update_id"] = ids[rows]
            frame["timestamp"] = times[rows].view("datetime64[ns]")
            for name, value in (("exchange", exchange), ("symbol", symbol), ("collector", IMPORTED)):
                frame[name] = pd.Categorical([value] * len(frame))
            self._buffer.clear()  # type: ignore[no-untyped-call]
            self._buffer.dataframe(
                frame, table_name=ORDERBOOK, symbols=["exchange", "symbol", "collector"], at="timestamp"
            )
            yield bytes(self._buffer)


def _of(file: Imported) -> str:
    """Returns the condition for the rows of its pair, from its first to its last time."""
    return f"{_pair(file)} AND {between(file.first_ns // 1000 * 1000, file.last_ns + 1)}"


def _pair(file: Imported) -> str:
    """Returns the condition for rows and events of its pair."""
    return f"symbol = {quoted([file.symbol])} AND {of_exchange(file.exchange)}"


def row_ids(
    times: Nanoseconds,
    values: Floats,
    wanted: npt.NDArray[np.int64] | None = None,
    taken: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Returns a `last_update_id` (n,) for rows without one: the receive time in µs, then three digits from the book.

    So a row gets the same id from any file, two rows of the same time get different ids, ids rise with time (as the
    views need), and two rows never count as copies of one book. `wanted`: ids (n,) that rows must get, once each, or
    NEW. `taken`: sorted ids that no other row may get. Raises UnreadableRecording where a thousand rows or more share
    a microsecond.
    """
    ids = times // 1000 * 1000
    taken = np.empty(0, np.int64) if taken is None else taken[np.isin(taken // 1000 * 1000, ids)]
    given = np.zeros(len(ids), bool)
    if wanted is not None:
        given[np.unique(wanted, return_index=True)[1]] = True
        given &= wanted != known.NEW
    check_counts(np.concatenate([ids, taken]) // 1000)
    digits = (_digest(values) % 1000).astype(np.int64)
    while True:
        free = np.zeros(len(ids), bool)
        free[np.unique(ids + digits, return_index=True)[1]] = True
        free &= ~np.isin(ids + digits, taken)
        busy = ~free & ~given
        if not busy.any():
            answer = ids + digits
            if wanted is not None:
                answer[given] = wanted[given]
            return answer
        digits[busy] = (digits[busy] + 1) % 1000


def _digest(values: Floats) -> npt.NDArray[np.uint64]:
    """Returns a hash (n,) of each book, which missing levels do not change."""
    digest = np.zeros(len(values), np.uint64)
    side = values.shape[1] // 2
    for place, column in enumerate(values.T):
        # A factor for each value of a book, independent of the number of levels in the file.
        factor = np.uint64(((place % side) * 2 + place // side) * 0x9E3779B97F4A7C16 + 1 & 0xFFFFFFFFFFFFFFFF)
        mixed = np.ascontiguousarray(column).view(np.uint64) * factor
        digest += np.where(np.isnan(column), np.uint64(0), mixed ^ (mixed >> np.uint64(29)))
    return digest ^ (digest >> np.uint64(32))


KEPT_ROWS = 4 * PIECE_ROWS
"""A file with fewer rows is kept in memory between check and storing; one with more is read twice."""
MOST_OF_ONE_TIME = 1000
"""Limit of rows of the same microsecond, whose ids differ in three digits."""
BAD_SHOWN = 5


class Content:
    """The content of a file that was read completely and can be imported."""

    def __init__(self, recording: Recording, origin: Origin, skip_bad: bool) -> None:
        """Reads the file. Raises UnreadableRecording."""
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
        """Yields the books with the levels that have numbers, and times in ns, cut to µs."""
        for books in self._kept if self._kept is not None else map(self._outside_gaps, self._read()):
            if len(books.times):
                yield ParsedBooks(books.times // 1000 * 1000, known.cut_to(books.values, self.levels))

    def note(self, text: str) -> None:
        """Adds a remark for the user."""
        self._notes[text] = None

    def notes(self) -> tuple[str, ...]:
        """Returns the remarks for the user."""
        return *self._notes, *self._recording.notes

    def _read(self) -> Iterator[ParsedBooks]:
        try:
            yield from self._recording.pieces()
        except UnreadableRecording:
            raise
        except Exception as error:  # damaged and hostile bytes may raise anything
            raise unreadable(error) from error

    def _outside_gaps(self, books: ParsedBooks) -> ParsedBooks:
        """Returns the books without rows of a grid that repeat the book before a gap."""
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
    """Returns the books without repeated rows; the first of equal rows is kept."""
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
    """Raises UnreadableRecording where too many rows have the same time."""
    _, counts = np.unique(times_us, return_counts=True)
    if counts.max(initial=0) >= MOST_OF_ONE_TIME:
        raise UnreadableRecording(f"{counts.max():,} rows have the same time")
