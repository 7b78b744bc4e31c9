"""`ingester export`: a range of time as a data set."""

import time
from pathlib import Path

import click

from ingester.cli.options import data_options, named_symbols, open_questdb, pair_options
from ingester.datasets import dataset
from ingester.questdb import Endpoint


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
    named, by_user = named_symbols(coins, quote, pairs)
    db, _ = open_questdb(data_dir, questdb)
    from ingester.cli.exported import shown, summary  # these two take a third of a second
    from ingester.datasets import export_range

    began = time.monotonic()
    with shown() as on_progress:
        data = export_range(
            db,
            start_ns,
            end_ns,
            named if by_user else None,
            root=root,
            format=form,
            levels=levels,
            every=every,
            max_age=max_age,
            fill=fill,
            overwrite=overwrite,
            resume=resume,
            on_progress=on_progress,
        )
    summary(data, time.monotonic() - began)
