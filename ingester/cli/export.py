"""`ingester export`: a range of time as a data set."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingester.cli.options import data_options, named_symbols, open_questdb, pair_options
from ingester.clock import SECOND
from ingester.config import seconds
from ingester.datasets import (
    SHORTEST_LIMIT_NS,
    MissingTime,
    check_range,
    choose_symbols,
    dataset,
    dropped_ranges,
    explained,
    pair_gaps,
    request as requests,
    shortest_limits,
)
from ingester.errors import SettingsError
from ingester.questdb import EXPORT, Endpoint, QuestDB, holding, query

if TYPE_CHECKING:
    from ingester.datasets import PairFile, Recorded


log = logging.getLogger(__name__)


@click.command(short_help="Write a range of time as a data set.")
@click.option("--from", "start", required=True, metavar="TIME", help="2023-06-01, '2023-06-01 12:00', ISO, today; UTC.")
@click.option("--to", "end", required=True, metavar="TIME", help="The first moment no longer in it, or now.")
@pair_options("all that have rows in the range")
@click.option(
    "--format", "form", type=click.Choice(dataset.FORMATS), default="pkl", show_default=True, help="Of files."
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=dataset.ROOT,
    show_default=True,
    help="Folder in which data sets are kept.",
)
@click.option("--levels", type=int, default=5, show_default=True, help="Levels a side, up to those recorded.")
@click.option(
    "--every", metavar="DURATION", help="Put all pairs on one grid: 250ms, 1s, …  [default: rows as received]"
)
@click.option("--max-age", default="1s", show_default=True, help="A snapshot older than this is not held on the grid.")
@click.option(
    "--fill",
    type=click.Choice(dataset.FILLS),
    default="none",
    show_default=True,
    help="Grid rows whose book is older: NaN, or the last book carried forward.",
)
@click.option("--overwrite", is_flag=True, help="Replace the data set of this range.")
@click.option("--resume", is_flag=True, help="Go on with one that was interrupted, and keep it where it is again.")
@data_options
def export(
    start: str,
    end: str,
    coins: str | None,
    quote: str,
    pairs: str | None,
    form: str,
    root: Path,
    levels: int,
    every: str | None,
    max_age: str,
    fill: str,
    overwrite: bool,
    resume: bool,
    data_dir: Path,
    questdb: Endpoint | None,
) -> None:
    """Writes the rows from one time until before another as files, one for each pair, with a manifest.

    \b
    Examples:
      ingester export --from 2024-08-08 --to 2024-08-09
      ingester export --from '2024-08-08 12:00' --to '2024-08-08 13:00' --every 250ms --format parquet
      ingester export --from 2024-08-08 --to 2024-08-09 --coins BTC,ETH --levels 1 --format csv
    """
    start_ns, end_ns = dataset.parse_time(start, "--from"), dataset.parse_time(end, "--to")
    check_range(start_ns, end_ns)
    named, by_user = named_symbols(coins, quote, pairs)
    every_ns = _milliseconds(every, "--every") if every else None
    max_age_ns = round(seconds(max_age, "--max-age") * SECOND)
    db, _ = open_questdb(data_dir, questdb)
    click.get_current_context().with_resource(holding(db, EXPORT, start_ns, end_ns))
    counts = _counts(db, start_ns, end_ns)
    symbols = choose_symbols(named if by_user else None, counts, query.all_symbols(db) if by_user else list(counts))
    depth = query.depth(db)
    if not 1 <= levels <= depth:
        raise SettingsError(f"--levels {levels} is not between 1 and {depth}, the depth that was recorded.")
    request = requests.Request(start_ns, end_ns, tuple(symbols), levels, form, every_ns, max_age_ns, fill)
    target = root / dataset.EXTRACTED / dataset.folder_name(start_ns, end_ns)
    progress, began = requests.Progress(), time.monotonic()
    # These take a third of a second, which no refusal above has to wait for.
    from ingester.cli.exported import shown, summary
    from ingester.datasets import build_manifest, export_pairs, interrupted, is_whole, write_manifest

    if resume and not overwrite and is_whole(target, request):
        click.echo(f"It is finished already, nothing is left to resume:\n{target}")
        return

    for folder, told in interrupted(root):
        if target.name not in folder.name:
            log.warning("an export was interrupted in %s (%s): continue it with --resume, or remove it", folder, told)
    gaps: dict[str, list[MissingTime]] = {}

    def finish(folder: Path, files: "Sequence[PairFile]", recorded: "Recorded") -> None:
        gaps.update(_gaps(db, request, recorded))
        write_manifest(folder, build_manifest(request, files, gaps, query.collectors(db, start_ns, end_ns)))

    with shown(progress):
        files = export_pairs(db, request, target, counts, progress, finish, overwrite, resume)
    summary(request, files, gaps, target, time.monotonic() - began)


def _gaps(db: QuestDB, request: requests.Request, recorded: "Recorded") -> dict[str, list[MissingTime]]:
    """The gaps of each pair; what retention has dropped is said to be."""
    dropped = dropped_ranges(db, request.start_ns, request.end_ns)
    gaps = pair_gaps(db, request.start_ns, request.end_ns, request.symbols, recorded=recorded)
    limits = shortest_limits(recorded.spans)
    return {symbol: explained(own, dropped, limits.get(symbol, SHORTEST_LIMIT_NS)) for symbol, own in gaps.items()}


def _milliseconds(text: str, option: str) -> int:
    ns = round(seconds(text, option) * SECOND)
    if ns % dataset.MILLISECOND:
        raise SettingsError(f"{option} {text!r} is not a whole number of milliseconds. Write 250ms, 1s, …")
    return ns


def _counts(db: QuestDB, start_ns: int, end_ns: int) -> dict[str, int]:
    return query.rows_by_symbol(db, start_ns, end_ns) if query.table_exists(db) else {}
