"""Writes data sets: slices of all pairs are read and split by pair, then the file of each pair is written.

An export works in a folder beside the final one and renames it when it is complete, so a data set is never seen half
written. `progress.json` in this folder holds the progress, for an export that is resumed.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import msgspec
import numpy as np

from ingester import grid as grids
from ingester.clock import SECOND
from ingester.config import seconds
from ingester.datasets.dataset import (
    EXTRACTED,
    FILLS,
    FORMATS,
    MILLISECOND,
    Progress,
    Request,
    check_range,
    extracted_folder,
    folder_name,
    select_rows,
)
from ingester.datasets.formats import WRITERS
from ingester.datasets.gaps import data_set_gaps
from ingester.datasets.manifest import PairFile, build_manifest, is_whole, write_manifest
from ingester.datasets.merging import WINDOW_NS
from ingester.datasets.opened import DataSet, open_dataset
from ingester.datasets.slices import ScratchFile, Split, collect, read_ahead
from ingester.datasets.spans import SpanCounter
from ingester.errors import OperationError, SettingsError
from ingester.private import take_lock
from ingester.questdb import EXPORT, QuestDB, TableReader, holding, query

log = logging.getLogger(__name__)

CSV_GROWTH = 1.4
"""The size of a row in CSV, at most, as a multiple of its size in binary."""
PARTIAL, PROGRESS = ".partial", "progress.json"
SPARE_BYTES = 256 << 20
WRITERS_AT_ONCE = 4
"""So many files are written, synced and read back for their checksum at the same time."""


class _Done(msgspec.Struct):
    """The content of `progress.json`."""

    request: Request
    until_ns: int
    rows: dict[str, int]
    behind: dict[str, int]
    """These three are those of `Split`."""
    files: list[PairFile]
    """The finished files; files are written after all rows were split."""
    boot: str
    """The boot id of the machine: a power cut may have lost files that were not synced."""


OnProgress = Callable[[Progress], None]


def export_range(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
    *,
    root: Path,
    exchange: str | None = None,
    format: str = "pkl",
    levels: int = 5,
    every: str | None = None,
    max_age: str = "1s",
    fill: str = "none",
    overwrite: bool = False,
    resume: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> DataSet:
    """Writes the rows of [start, end) as a data set below `root` and returns it, opened.

    `symbols`: None for all that have rows in the range. `exchange`: None for the only one of the table. The arguments
    are the options of `ingester export`, as which errors name them. Raises UnknownPair, SettingsError, OperationError
    where the disk would not hold the data set or there are no rows, and StoreError.
    """
    check_range(start_ns, end_ns)
    every_ns = _milliseconds(every, "--every") if every else None
    max_age_ns = round(seconds(max_age, "--max-age") * SECOND)
    for option, value, known in (("--format", format, FORMATS), ("--fill", fill, FILLS)):
        if value not in known:
            raise SettingsError(f"{option} {value!r} is not known. Choose one of {', '.join(known)}.")
    with holding(db, EXPORT, start_ns, end_ns):
        around = (start_ns - max(max_age_ns, grids.LOOK_BACK_NS) - 2 * WINDOW_NS, end_ns + WINDOW_NS)
        of, only, counts, chosen = select_rows(db, start_ns, end_ns, exchange=exchange, symbols=symbols, near=around)
        depth = query.depth(db)
        if not 1 <= levels <= depth:
            raise SettingsError(f"--levels {levels} is not between 1 and {depth}, the depth that was recorded.")
        request = Request(start_ns, end_ns, tuple(chosen), levels, format, every_ns, max_age_ns, fill, of)
        target = extracted_folder(root, of) / folder_name(start_ns, end_ns)
        if resume and not overwrite and is_whole(target, request):
            log.info("%s is finished already, nothing is left to resume", target)
            return open_dataset(target)
        for folder, state in interrupted(root):
            if target.name not in folder.name:
                log.warning(
                    "an export was interrupted in %s (%s): continue it with --resume, or remove it", folder, state
                )
        _export(db, request, target, counts, only, on_progress, overwrite, resume)
    return open_dataset(target)


def _milliseconds(text: str, option: str) -> int:
    ns = round(seconds(text, option) * SECOND)
    if ns % MILLISECOND:
        raise SettingsError(f"{option} {text!r} is not a whole number of milliseconds. Write 250ms, 1s, …")
    return ns


def _export(
    db: QuestDB,
    request: Request,
    target: Path,
    counts: Mapping[str, int],
    only: str | None,
    on_progress: OnProgress,
    overwrite: bool,
    resume: bool,
) -> None:
    """Writes the files and the manifest in a folder beside `target`, and renames it.

    `counts`, `only`: see `Selection`.
    """
    for symbol in request.symbols:
        request.file_name(symbol)  # raises for a symbol that cannot be part of a file name, before anything is read
    folder = target.with_name(f".{target.name}{PARTIAL}")
    with _claimed(folder):
        _restore(target)
        if target.exists() and not overwrite:
            raise SettingsError(f"{target} exists already. Give --overwrite to replace it, or another --root.")
        done = _done(folder, request) if resume else None
        if done is None:
            if not resume and not overwrite and (left := _progress(folder)):
                raise SettingsError(
                    f"An export of this range was interrupted; its files are in {folder} ({_state_text(left)}). Give "
                    "--resume to continue it, or --overwrite to start over."
                )
            _empty(folder)
        progress = Progress(sum(counts.get(each, 0) for each in request.symbols), files=len(request.symbols))
        check_room(folder, request, counts, sum(path.stat().st_size for path in folder.iterdir()))
        try:
            counter = SpanCounter()
            files = _write(db, request, folder, counts, only, progress, on_progress, done, counter)
            if only is None and query.exchanges(db, request.start_ns, request.end_ns) not in ([], [request.exchange]):
                raise OperationError("Books of another exchange were stored meanwhile. Export again, with --exchange.")
            _tidy(folder, files)
            gaps = data_set_gaps(db, request.start_ns, request.end_ns, request.symbols, counter.recorded(), only)
            collectors = query.collectors(db, request.start_ns, request.end_ns, exchange=only)
            listed = query.instruments(db, request.exchange, request.end_ns)
            write_manifest(folder, build_manifest(request, files, gaps, collectors, listed))
            (folder / PROGRESS).unlink()
            _publish(folder, target)
        except BaseException:
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def write_file(scratch: ScratchFile, path: Path, format: str) -> PairFile:
    """Writes and syncs the file of a pair, and returns its entry for the manifest."""
    times, values = scratch.arrays()
    WRITERS[format](path, times, values)
    # It is synced while it is read, from memory, for its checksum: half the time of both in sequence.
    with path.open("r+b") as file, ThreadPoolExecutor(1, "sync") as beside:
        synced = beside.submit(os.fsync, file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        synced.result()
    first, last, empty = _filled(times, values)
    return PairFile(scratch.symbol, path.name, len(times), empty, first, last, path.stat().st_size, digest.hexdigest())


def check_room(folder: Path, request: Request, counts: Mapping[str, int], held: int = 0) -> None:
    """Raises OperationError where the disk lacks room for the data set. `held`: bytes of it that exist already."""
    rows = {symbol: counts.get(symbol, 0) for symbol in request.symbols}
    if request.every_ns is not None:
        rows = dict.fromkeys(rows, -(-(request.end_ns - request.start_ns) // request.every_ns))
    row_bytes = 8 * (1 + request.width)
    growth = CSV_GROWTH if request.format == "csv" else 1.0
    need = int((sum(rows.values()) + max(rows.values(), default=0)) * row_bytes * growth) + SPARE_BYTES - held
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OperationError(
            f"The data set needs about {need / 1e9:.1f} GB while it is written, and {free / 1e9:.1f} GB are free in "
            f"{folder.parent}. Make room, choose another folder, fewer pairs or a shorter range."
        )


def _write(
    db: QuestDB,
    request: Request,
    folder: Path,
    counts: Mapping[str, int],
    exchange: str | None,
    progress: Progress,
    on_progress: OnProgress,
    done: _Done | None,
    counter: SpanCounter,
) -> list[PairFile]:
    state = done or _Done(request, request.start_ns, {}, {}, [], _boot())
    files = {file.symbol: file for file in state.files}

    def remember() -> None:
        state.files = list(files.values())
        new = folder / "progress.new"
        new.write_bytes(msgspec.json.encode(state))
        new.replace(folder / PROGRESS)

    def note(split: Split) -> None:
        state.until_ns, state.rows, state.behind = split
        remember()
        on_progress(progress)

    if done is not None:
        _count_again(db, request, state.until_ns, counts, exchange, progress, counter)
        on_progress(progress)
    if files:
        waiting = {each: ScratchFile(folder, each, request.width) for each in request.symbols if each not in files}
        for symbol, scratch in waiting.items():
            scratch.rows = state.rows.get(symbol, 0)
    else:
        before = Split(done.until_ns, done.rows, done.behind) if done else None
        waiting = collect(db, request, folder, counts, progress, before, note, counter=counter, exchange=exchange)
    progress.rows_read, progress.files_written = progress.rows, len(files)
    with ThreadPoolExecutor(WRITERS_AT_ONCE, "write") as pool:
        jobs = {
            pool.submit(write_file, scratch, folder / request.file_name(symbol), request.format): scratch
            for symbol, scratch in waiting.items()
        }
        try:
            for job in as_completed(jobs):
                scratch = jobs[job]
                files[scratch.symbol] = job.result()
                progress.files_written, progress.pair = progress.files_written + 1, scratch.symbol
                on_progress(progress)
                remember()
                scratch.remove()
        finally:
            for job in jobs:
                job.cancel()
    return [files[symbol] for symbol in request.symbols]


def _count_again(
    db: QuestDB,
    request: Request,
    until_ns: int,
    counts: Mapping[str, int],
    exchange: str | None,
    progress: Progress,
    counter: SpanCounter,
) -> None:
    """Gives the counter the rows that an interrupted export had split. They are read without levels, which is fast."""
    if request.start_ns < until_ns:
        reader = TableReader(db, request.symbols, 0, dict(counts), exchange=exchange)
        with read_ahead(reader, reader.slices(request.start_ns, until_ns)) as parts:
            for _, rows in parts:
                progress.rows_read += len(rows.times)
                counter.take(rows)


def _filled(times: grids.Nanoseconds, values: grids.Floats) -> tuple[int | None, int | None, int]:
    """Returns the first and last time of rows with data, and the number of rows without data."""
    empty = np.isnan(values[:, 0])
    doubtful = np.flatnonzero(empty)
    for at in range(0, len(doubtful), 100_000):
        rows = doubtful[at : at + 100_000]
        empty[rows] = np.isnan(values[rows]).all(axis=1)
    if empty.all():
        return None, None, len(times)
    return int(times[empty.argmin()]), int(times[len(empty) - 1 - empty[::-1].argmin()]), int(empty.sum())


def interrupted(root: Path) -> list[tuple[Path, str]]:
    """Returns the folders below `root` of interrupted exports that no process continues, each with its progress."""
    found = []
    for folder in sorted([*(root / EXTRACTED).glob(f".*{PARTIAL}"), *(root / EXTRACTED).glob(f"[!.]*/.*{PARTIAL}")]):
        with contextlib.suppress(OSError, OperationError), _claimed(folder):
            files = list(folder.iterdir())
            if not files:
                continue
            size = sum(path.stat().st_size for path in files)
            done = _progress(folder)
            found.append((folder, f"{size / 1e6:,.0f} MB, {_state_text(done) if done else 'cannot be resumed'}"))
    return found


def _done(folder: Path, request: Request) -> _Done | None:
    done = _progress(folder)
    if done is not None and done.request != request:
        raise SettingsError(
            f"The interrupted export in {folder} was asked for other pairs, levels, format or grid. Ask for the same, "
            "or give --overwrite instead of --resume to start over."
        )
    return done


def _progress(folder: Path) -> _Done | None:
    """Returns the progress of an interrupted export; None where it cannot be resumed."""
    try:
        done = msgspec.json.decode((folder / PROGRESS).read_bytes(), type=_Done)
    except (FileNotFoundError, ValueError):  # msgspec's errors are among them
        return None
    return done if done.boot == _boot() else None


def _state_text(done: _Done) -> str:
    request = done.request
    share = (done.until_ns - request.start_ns) / (request.end_ns - request.start_ns)
    return f"{share:.0%} read, {len(done.files)} of {len(request.symbols)} files written"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Makes and locks the folder. Raises OperationError where another export works in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OperationError(f"{folder.parent} cannot be written ({error.strerror}). Choose another --root.") from error
    try:
        if not take_lock(descriptor):
            raise OperationError(f"Another export is writing {folder}. Wait for it.")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # fails where files are left in it
    finally:
        os.close(descriptor)


def _tidy(folder: Path, files: Sequence[PairFile]) -> None:
    """Removes all but the files of pairs and `progress.json`, also leftovers of an interrupted export."""
    keep = {PROGRESS, *(file.name for file in files)}
    for path in folder.iterdir():
        if path.name not in keep:
            path.unlink()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _before(target: Path) -> Path:
    """Returns the path of a data set while it is replaced."""
    return target.with_name(f".{target.name}.before")


def _restore(target: Path) -> None:
    """Restores a data set where its replacement was interrupted, else removes the old one."""
    before = _before(target)
    if before.exists():
        if target.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            before.rename(target)


def _publish(folder: Path, target: Path) -> None:
    """Renames a finished folder; the data set that it replaces is removed afterwards."""
    if target.exists():
        target.rename(_before(target))
    try:
        folder.rename(target)
    finally:
        _restore(target)
