"""`ingester coverage`: how completely pairs were recorded."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from ingester.cli.options import data_options, exchange_of_table_option, named_symbols, open_questdb, pair_options
from ingester.cli.tables import plain_table, print_json, print_table, progress_bar
from ingester.clock import SECOND
from ingester.datasets import (
    PIECES,
    Coverage,
    PairCoverage,
    as_mapping,
    heatmap,
    measure_range,
    parse_time,
    time_text,
)
from ingester.errors import OperationError, SettingsError
from ingester.questdb import Endpoint
from ingester.spool import replace_durably
from ingester.text import counted, duration_text


@click.command(short_help="Show what was recorded, and what is missing.")
@click.option(
    "--from", "start", metavar="TIME", help="2023-06-01, '2023-06-01 12:00' or ISO; UTC.  [default: first row]"
)
@click.option(
    "--to", "end", metavar="TIME", help="The first moment that is no longer in it.  [default: after the last]"
)
@pair_options("all that have rows in the range")
@exchange_of_table_option
@click.option("--by", type=click.Choice(list(PIECES)), help="A line for each pair and day or hour.")
@click.option("--json", "as_json", is_flag=True, help="Everything, with every gap, for programs.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png", help="Draw a heat map.")
@data_options
def coverage(
    start: str | None,
    end: str | None,
    coins: str | None,
    quote: str,
    pairs: str | None,
    exchange: str | None,
    by: str | None,
    as_json: bool,
    plot: Path | None,
    data_dir: Path,
    questdb: Endpoint | None,
) -> None:
    """Shows how completely each pair was recorded: rows, covered time, gaps and their reasons.

    Expected rows are the covered time over the pair's median interval. A gap is what recorders reported, or a pause
    longer than a second and than ten mean intervals before it; with several recorders, only what all of them lack. The
    time before a pair's first row of the range and after its last one counts as not recorded.

    \b
    --json prints {from, to, pairs: [{symbol, interval_ms, rows, expected_rows, percent, largest_gap_seconds,
    reasons: {reason: seconds}, gaps: [{from, to, seconds, reason}], days (or hours, with --by): [...]}]}.

    \b
    Examples:
      ingester coverage
      ingester coverage --from 2024-08-01 --to 2024-09-01 --plot august.png
      ingester coverage --from 2024-08-08 --to 2024-08-09 --coins BTC,ETH --by hour
    """
    start_ns = parse_time(start, "--from") if start else None
    end_ns = parse_time(end, "--to") if end else None
    named, by_user = named_symbols(coins, quote, pairs)
    if plot:
        _check_plot(plot)
    db, _ = open_questdb(data_dir, questdb)
    with progress_bar("looking for gaps", 1.0) as progress:
        coverages = measure_range(
            db,
            start_ns,
            end_ns,
            named if by_user else None,
            piece_ns=PIECES[by or "day"],
            exchange=exchange,
            on_progress=progress,
        )
    start_ns, end_ns = coverages[0].whole.start_ns, coverages[0].whole.end_ns
    if plot:
        _write(plot, heatmap.draw(coverages, start_ns, end_ns, plot.suffix[1:].lower()))
    if as_json:
        mapping = as_mapping(coverages, start_ns, end_ns, by)
        print_json(mapping)
        return
    if by:
        _print_pieces(coverages, by)
    else:
        _print_pairs(coverages)
    _print_end(coverages, start_ns, end_ns, plot)


def _check_plot(path: Path) -> None:
    if path.suffix[1:].lower() not in heatmap.FORMATS:
        raise SettingsError(f"--plot {str(path)!r} does not end in .{', .'.join(heatmap.FORMATS)}.")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OperationError(f"The folder {str(path.parent)!r} of --plot is not there, or must not be written to.")
    heatmap.require_matplotlib()


def _write(path: Path, picture: bytes) -> None:
    try:
        replace_durably(path, picture)
    except OSError as error:
        raise OperationError(f"{path} cannot be written: {error.strerror}.") from error


def _print_pairs(coverages: Sequence[PairCoverage]) -> None:
    several = max(len(each.pieces) for each in coverages) > 1
    table = plain_table(["pair", *_NUMBERS, *(["worst day"] if several else []), "reasons"], [], _NUMBERS)
    for whole, pieces in coverages:
        worst = min(pieces, key=lambda piece: piece.percent)
        day = f"{time_text(worst.start_ns)[:10]} {_percent(worst.percent)}" if worst.gaps else ""
        table.add_row(whole.symbol, *_cells(whole), *([day] if several else []), _reasons(whole))
    print_table(table)


def _print_pieces(coverages: Sequence[PairCoverage], by: str) -> None:
    table = plain_table(["pair", by, *_NUMBERS, "reasons"], [], _NUMBERS)
    for whole, pieces in coverages:
        for piece in pieces:
            table.add_row(
                whole.symbol, time_text(piece.start_ns)[: 10 if by == "day" else 16], *_cells(piece), _reasons(piece)
            )
    print_table(table)


_NUMBERS = ("rows", "expected", "covered", "gaps", "missing", "largest")


def _cells(coverage: Coverage) -> tuple[str, ...]:
    return (
        f"{coverage.rows:,}",
        f"{coverage.expected_rows:,}",
        _percent(coverage.percent),
        f"{len(coverage.gaps):,}",
        duration_text(coverage.missing_ns / SECOND) if coverage.gaps else "",
        duration_text(coverage.largest.length_ns / SECOND) if coverage.largest else "",
    )


def _percent(percent: float) -> str:
    """Rounded down: only what has no gap is 100 %."""
    return f"{int(percent * 1000) / 1000:.3f} %"


def _reasons(coverage: Coverage) -> str:
    return ", ".join(coverage.reasons)


def _print_end(coverages: Sequence[PairCoverage], start_ns: int, end_ns: int, plot: Path | None) -> None:
    mean = sum(each.whole.percent for each in coverages) / len(coverages)
    rows = sum(each.whole.rows for each in coverages)
    where = f"from {time_text(start_ns)} to {time_text(end_ns)}"
    click.echo(f"{counted(len(coverages), 'pair')} {where}: {rows:,} rows, {_percent(mean)} of the time covered")
    if plot:
        click.echo(str(plot))
