"""Functions for programs: export a data set, import recordings, measure coverage. Arguments are the commands' options.

Each function uses the QuestDB of `questdb`, an address or an Endpoint, or the managed one of `data_dir`, which it
starts if it does not run. Environment variables and `ingester.toml` only apply to commands.
"""

import functools
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import ParamSpec, TypeVar

from ingester.config import default_data_dir
from ingester.datasets.coverage import PIECES, PairCoverage, measure_range
from ingester.datasets.dataset import ROOT
from ingester.datasets.export import OnProgress, export_range
from ingester.datasets.importer import ImportedFiles, import_found
from ingester.datasets.opened import DataSet, Time, time_ns
from ingester.datasets.recordings import find_recordings, require_files
from ingester.errors import SettingsError, named_as_arguments
from ingester.exchange import DEFAULT_QUOTE, keep_listings_in, normal_symbol, symbols_of
from ingester.questdb import Endpoint, QuestDB, connect

Names = Sequence[str] | str
"""Names as a list, or as text with commas."""
Folder = str | PathLike[str]

P = ParamSpec("P")
T = TypeVar("T")


def _for_programs(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function so that its errors name arguments, `max_age`, instead of options, `--max-age`."""

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        with named_as_arguments():
            return function(*arguments, **named)

    return call


@_for_programs
def export_dataset(
    start: Time,
    end: Time,
    *,
    coins: Names | None = None,
    quote: str = DEFAULT_QUOTE,
    pairs: Names | None = None,
    exchange: str | None = None,
    format: str = "pkl",
    root: Folder = ROOT,
    levels: int = 5,
    every: str | None = None,
    max_age: str = "1s",
    fill: str = "none",
    overwrite: bool = False,
    resume: bool = False,
    questdb: str | Endpoint | None = None,
    data_dir: Folder | None = None,
    progress: OnProgress | None = None,
) -> DataSet:
    """Writes the rows of [start, end) as a data set and returns it, opened: `ingester export`.

    `start`, `end`: text like `2024-08-08 12:00`, a datetime, or ns since 1970; UTC. `coins`, `pairs`: only these, else
    all with rows in the range. `exchange`: None for the only one of the table. `format`: pkl, csv, parquet or npz.
    `root`: the folder of all data sets. `levels`: of each side. `every`: one grid for all pairs, `250ms`; None: rows as
    received. `max_age`: the age up to which a row of the grid shows a book. `fill`: `none` shows NaN after that,
    `forward` the last book. `overwrite`: replace the data set of this range. `resume`: continue an interrupted export.
    `progress`: called with a `Progress` after each step, in this thread.

    Raises UnknownPair, SettingsError, OperationError and StoreError.
    """
    start_ns, end_ns, symbols = time_ns(start, "start"), time_ns(end, "end"), _symbols(coins, quote, pairs)
    return export_range(
        _database(questdb, data_dir),
        start_ns,
        end_ns,
        symbols,
        root=Path(root),
        exchange=exchange,
        format=format,
        levels=levels,
        every=every,
        max_age=max_age,
        fill=fill,
        overwrite=overwrite,
        resume=resume,
        on_progress=progress or (lambda progress: None),
    )


@_for_programs
def import_files(
    paths: Folder | Sequence[Folder],
    *,
    exchange: str | None = None,
    skip_bad: bool = False,
    questdb: str | Endpoint | None = None,
    data_dir: Folder | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportedFiles:
    """Stores earlier recordings, files or folders of them, in the table: `ingester import`. Returns a result per file.

    Books that the table has already are not stored again. A file that cannot be imported has a `failure` in its result.
    `exchange`: of files that do not name theirs; None: the one of which the table has these books, else Binance spot.
    `skip_bad`: skip invalid lines instead of refusing their file. `progress`: called with the number of files that are
    done and of all, in this thread.

    Raises SettingsError where there is no recording in `paths`, and StoreError.
    """
    given = [paths] if isinstance(paths, str | PathLike) else paths
    chosen = [Path(path) for path in given]
    require_files(found := find_recordings(chosen), chosen)
    db = _database(questdb, data_dir, new=True)
    on_progress = progress or (lambda done, files: None)
    return import_found(db, found, exchange=exchange, skip_bad=skip_bad, on_progress=on_progress)


@_for_programs
def measure_coverage(
    start: Time | None = None,
    end: Time | None = None,
    *,
    coins: Names | None = None,
    quote: str = DEFAULT_QUOTE,
    pairs: Names | None = None,
    exchange: str | None = None,
    by: str = "day",
    questdb: str | Endpoint | None = None,
    data_dir: Folder | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[PairCoverage]:
    """Measures how completely pairs were recorded in [start, end): `ingester coverage`.

    Returns for each pair the whole range and its pieces, each with rows, covered percent and gaps with their reasons.
    `start`, `end`: None for the first row and after the last. `coins`, `pairs`: only these, else all with rows in the
    range. `exchange`: None for the only one of the table. `by`: `day` or `hour`, the length of the pieces. `progress`:
    called with the share that is done.

    Raises UnknownPair, SettingsError, OperationError where nothing was recorded, and StoreError.
    """
    if by not in PIECES:
        raise SettingsError(f"--by {by!r} is not known. Choose one of {', '.join(PIECES)}.")
    start_ns = None if start is None else time_ns(start, "start")
    end_ns = None if end is None else time_ns(end, "end")
    symbols = _symbols(coins, quote, pairs)
    on_progress = progress or (lambda share: None)
    return measure_range(
        _database(questdb, data_dir),
        start_ns,
        end_ns,
        symbols,
        piece_ns=PIECES[by],
        exchange=exchange,
        on_progress=on_progress,
    )


def _database(questdb: str | Endpoint | None, data_dir: Folder | None, new: bool = False) -> QuestDB:
    """Connects to the given server, or to the managed one. `new`: its data folder may be empty."""
    folder = default_data_dir() if data_dir is None else Path(data_dir)
    keep_listings_in(folder)
    endpoint = Endpoint.parse(questdb) if isinstance(questdb, str) else questdb
    return connect(folder, endpoint, new)


def _symbols(coins: Names | None, quote: str, pairs: Names | None) -> list[str] | None:
    """Returns the named symbols; None where no names are given. Raises SettingsError."""
    if coins is not None and pairs is not None:
        raise SettingsError("coins and pairs both name pairs; give one of them.")
    named = coins if pairs is None else pairs
    if named is None:
        return None
    names = [name for name in (named.replace(" ", ",").split(",") if isinstance(named, str) else named) if name]
    if not names:
        raise SettingsError(f"{'coins' if pairs is None else 'pairs'} is empty. Name some, or leave it out for all.")
    return symbols_of(names, quote) if pairs is None else [normal_symbol(name) for name in names]
