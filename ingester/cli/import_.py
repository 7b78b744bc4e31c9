"""`ingester import`: earlier recordings into the table."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from rich.text import Text

from ingester.cli.options import data_options, open_questdb
from ingester.cli.tables import plain_table, print_table, progress_bar
from ingester.datasets import Imported, find_recordings, import_found, require_files, time_text
from ingester.questdb import Endpoint
from ingester.text import counted

MOST_FILES = 40
"""Of more files than this, the summary has a line per pair instead of one per file."""
MOST_NOTES = 100


@click.command("import", short_help="Bring earlier recordings into the table.")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--exchange",
    metavar="NAME",
    help="The exchange of files that do not name theirs.  [default: the one whose books the table knows, else binance]",
)
@click.option("--skip-bad", is_flag=True, help="Skip invalid lines instead of refusing the whole file.")
@data_options
@click.pass_context
def import_(
    ctx: click.Context,
    paths: Sequence[Path],
    exchange: str | None,
    skip_bad: bool,
    data_dir: Path,
    questdb: Endpoint | None,
) -> None:
    """Brings earlier recordings into the table: files (.pkl, .csv, also packed as .gz, .bz2, .xz or .zst; .parquet and
    .npz of exports) or folders of them.

    A file holds the books of one pair, which its name tells: ADA_USDT_100ms_(2023-06-01 08꞉31)_(1).pkl. Its columns are
    Bid_1, BidV_1, … Ask_1, AskV_1, … with the times as index or in a column `Request Time`, in UTC unless they say
    otherwise, or as numbers of s, ms, us or ns since 1970. Tardis' book_snapshot_5 and _25 are read as well. Rows get
    the collector `import`. A book that the table has already, whoever recorded it, is not stored again. Nothing in a
    pickle is executed.

    Data sets name their exchange in the manifest; raw files do not.

    \b
    Examples:
      ingester import "hft data/raw fetched data"
      ingester import "ADA_USDT_100ms_(2023-06-01 12꞉00)_(2023-06-03 00꞉00).csv"
    """
    found = find_recordings(paths)
    if not found.files:
        _report_passed_over(found.passed_over)
    require_files(found, paths)
    db, _ = open_questdb(data_dir, questdb, new=True)
    done, many = 0, len(found.files)
    try:
        with progress_bar("importing", many) as bar:

            def show(files: int, _: int) -> None:
                nonlocal done
                done = files
                bar(files)

            imported = import_found(db, found, exchange=exchange, skip_bad=skip_bad, on_progress=show)
    except KeyboardInterrupt:
        click.echo(f"stopped after {done} of {many} files; their rows stay. The same command completes it.")
        ctx.exit(1)
    _report(imported.files)
    _report_passed_over(imported.passed_over)
    ctx.exit(1 if any(file.failure for file in imported.files) else 0)


def _report(taken: Sequence[Imported]) -> None:
    stored = [file for file in taken if not file.failure]
    failed = [file for file in taken if file.failure]
    if stored:
        _show(
            ("file", "pair", *_NUMBERS, "from", "to"),
            _per_file(stored) if len(stored) <= MOST_FILES else _per_pair(stored),
        )
    if noted := [(file.path.name, note) for file in stored for note in file.notes]:
        _show(("of the file", "note"), noted[:MOST_NOTES])
        if len(noted) > MOST_NOTES:
            click.echo(f"… and {len(noted) - MOST_NOTES} more notes; import fewer files at once to see them")
    if failed:
        reasons = [(str(file.path), Text(file.failure)) for file in failed]  # some have two lines
        _show(("not imported", "why"), reasons)
    pairs = {file.symbol for file in stored if file.rows}
    left_out = f"; {len(failed)} of {len(taken)} files were left out" if failed else ""
    rows, new = sum(file.rows for file in stored), sum(file.new for file in stored)
    click.echo(
        f"{counted(rows, 'row')} of {counted(len(pairs), 'pair')} from {counted(len(stored), 'file')}{left_out}: "
        f"{new:,} new, {rows - new:,} known"
    )


def _report_passed_over(passed_over: Sequence[tuple[Path, str]]) -> None:
    """Names what was found in folders and is no recording."""
    if not passed_over:
        return
    _show(("passed over", "why"), [(str(path), why) for path, why in passed_over[:MOST_NOTES]])
    more = f"; the first {MOST_NOTES} are named" if len(passed_over) > MOST_NOTES else ""
    click.echo(f"{counted(len(passed_over), 'file')} passed over{more}")


def _per_file(files: Sequence[Imported]) -> Iterator[Sequence[str]]:
    for file in files:
        yield (file.path.name, file.symbol, *_counts([file]), *_range(file.rows, file.first_ns, file.last_ns))


def _per_pair(files: Sequence[Imported]) -> Iterator[Sequence[str]]:
    for symbol in sorted({file.symbol for file in files}):
        own = [file for file in files if file.symbol == symbol and file.rows]
        rows = sum(file.rows for file in own)
        first_ns = min((file.first_ns for file in own), default=0)
        last_ns = max((file.last_ns for file in own), default=0)
        yield (f"{len(own)} files", symbol, *_counts(own), *_range(rows, first_ns, last_ns))


_NUMBERS = ("rows", "new", "known")


def _counts(files: Sequence[Imported]) -> Iterator[str]:
    for name in _NUMBERS:
        yield f"{sum(getattr(file, name) for file in files):,}"


def _range(rows: int, first_ns: int, last_ns: int) -> tuple[str, str]:
    return (time_text(first_ns), time_text(last_ns)) if rows else ("", "")


def _show(columns: Sequence[str], lines: Iterable[Sequence[str | Text]]) -> None:
    print_table(plain_table(columns, lines, _NUMBERS))
