"""`ingester status`: whether all is well."""

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ingester.cli.options import data_options
from ingester.cli.tables import TextTable, print_json
from ingester.monitoring import DayOfGaps, Overview, RecorderOverview, Report, ServerOverview, status as look
from ingester.questdb import Endpoint
from ingester.text import counted, duration_text, size_text

WATCH_SECONDS = 2.0


@click.command(short_help="Show whether all is well, for people and monitors.")
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="For programs; with --watch a line for each look.")
@data_options
@click.pass_context
def status(ctx: click.Context, watch: bool, as_json: bool, data_dir: Path, questdb: Endpoint | None) -> None:
    """Shows recorders, server, table and disk, and what of it is wrong, in words and with the way to mend it.

    Exit code 0: all is well; 1: something is wrong. It asks what runs, and starts nothing. Recorders of this data
    folder publish their state in it; one on another machine is known by the rows and events that it writes.

    \b
    --json prints {at, data_dir, ok, problems: [{kind, severity, text, mend}], recorders: [{collector, state,
    seen_seconds, rows_per_second, day: {gaps, seconds, longest_seconds, reasons}, report}], server: {state, url,
    version, tables: [{name, suspended, behind, rows, partitions, size_bytes}]}, disk: {free_bytes, total_bytes,
    bytes_per_day}}; docs/monitoring.md has the rest.

    \b
    Examples:
      ingester status
      ingester status --watch
      ingester status --json || echo "look after the recorder"
    """
    if not watch:
        overview = look(data_dir=data_dir, questdb=questdb)
        if as_json:
            print_json(overview)
        else:
            _console().print(drawn(overview))
        ctx.exit(0 if overview.ok else 1)
    ok = True
    try:
        for overview in _looks(data_dir, questdb, as_json):
            ok = overview.ok
    except KeyboardInterrupt:
        ctx.exit(0 if ok else 1)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def _looks(data_dir: Path, questdb: Endpoint | None, as_json: bool) -> Iterator[Overview]:
    """Looks again and again, and shows each."""
    if as_json or not sys.stdout.isatty():
        while True:
            overview = look(data_dir=data_dir, questdb=questdb)
            if as_json:
                click.echo(msgspec.json.encode(overview))
            else:
                _console().print(drawn(overview))
            yield overview
            time.sleep(WATCH_SECONDS)
    with Live(console=_console(), screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            begun = time.monotonic()
            overview = look(data_dir=data_dir, questdb=questdb)
            live.update(drawn(overview), refresh=True)
            yield overview
            time.sleep(max(0.2, WATCH_SECONDS - (time.monotonic() - begun)))


def drawn(overview: Overview) -> Group:
    """An overview as a person reads it: what is wrong first."""
    table = TextTable(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True, min_width=11)
    table.add_column(overflow="fold")
    for recorder in overview.recorders:
        for name, text in _recorder_lines(recorder):
            table.add_row(name, text)
    for name, text in [*_server_lines(overview.server), *_disk_lines(overview)]:
        table.add_row(name, text)
    return Group(*_verdict(overview), "", table)


def _verdict(overview: Overview) -> Iterator[Text | TextTable]:
    at = f"{overview.at:%Y-%m-%d %H:%M:%S} UTC"
    if overview.ok:
        yield Text.assemble(("all is well", "bold green"), (f"  {at}", "dim"))
        return
    number = len(overview.problems)
    what = "one thing is wrong" if number == 1 else f"{number} things are wrong"
    yield Text.assemble((what, "bold red"), (f"  {at}", "dim"))
    table = TextTable(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for problem in overview.problems:
        style = "red" if problem.severity == "critical" else "yellow"
        table.add_row(Text("!", style=f"bold {style}"), Text(problem.text, style=style))
        table.add_row("", Text(problem.mend, style="dim"))
    yield table


def _recorder_lines(recorder: RecorderOverview) -> Iterator[tuple[str, Text]]:
    yield recorder.collector, _state_text(recorder)
    report = recorder.report
    if recorder.state in ("recording", "connecting", "hanging") and report is not None:
        yield from _running_lines(report)
    elif recorder.state == "dead" and report is not None:
        yield "  spool", Text(f"{_spool_text(report)}, when last heard of")
    if recorder.day is not None:
        yield "  gaps", Text(_gaps_text(recorder.day, report))


def _running_lines(report: Report) -> Iterator[tuple[str, Text]]:
    rows = report.rows
    yield "  rows", Text(f"{rows.per_second:,.0f}/s, {rows.stored:,} stored")
    lags = (report.lag.p50_seconds, report.lag.p99_seconds)
    p50, p99 = (duration_text(math.nan if each is None else each) for each in lags)
    yield "  lag", Text(f"p50 {p50}, p99 {p99}, receive to stored, last minute")
    yield "  spool", Text(_spool_text(report))
    yield "  connected", Text(_connections_text(report))
    if (text := _old_days_text(report)) is not None:
        yield "  old days", Text(text)
    if report.threads.deaths:
        yield "  threads", Text(_threads_text(report), "bold red")
    if report.stopped_before is not None:
        yield "  note", Text(_restart_text(report))


def _threads_text(report: Report) -> str:
    died = ", ".join(f"{name} {count:,}" for name, count in sorted(report.threads.deaths.items()))
    down = f"; down now: {', '.join(report.threads.down)}" if report.threads.down else "; all run again"
    return f"died and restarted: {died}{down}"


def _restart_text(report: Report) -> str:
    assert report.stopped_before is not None
    away = duration_text(max(0.0, (report.started - report.stopped_before).total_seconds()))
    return f"stopped in order at {report.stopped_before:%Y-%m-%d %H:%M:%S} UTC, started again {away} later"


def _old_days_text(report: Report) -> str | None:
    """When old days are converted and dropped; None where they are kept as they are."""
    becomes = (("Parquet", report.parquet_after_seconds), ("dropped", report.drop_after_seconds))
    told = [f"{what} after {duration_text(after)}" for what, after in becomes if after is not None]
    return ", ".join(told) or None


def _state_text(recorder: RecorderOverview) -> Text:
    report, state = recorder.report, recorder.state
    style = {"recording": "green", "connecting": "bold yellow", "elsewhere": "green", "stopped": ""}.get(
        state, "bold red"
    )
    if report is None:
        if state == "stopped":
            return Text("elsewhere, stopped")
        age = "none within the last hour" if recorder.seen_seconds is None else f"{recorder.seen_seconds:.1f} s old"
        where = f"elsewhere, {recorder.exchange}," if recorder.exchange else "elsewhere,"
        return Text(f"{where} {recorder.rows_per_second or 0:,.0f} rows/s, its newest row: {age}", style)
    if state == "stopped":
        return Text(f"stopped at {report.at:%Y-%m-%d %H:%M:%S} UTC, {report.rows.stored:,} rows stored")
    up = duration_text((report.at - report.started).total_seconds())
    pairs = counted(report.pairs, "pair")
    what = f"{pairs} from {report.exchange}, depth {report.depth}, every {report.interval_ms} ms"
    when = f"since {report.at:%Y-%m-%d %H:%M:%S} UTC, after {up}" if state == "dead" else f"for {up}"
    return Text.assemble((state, style), f" {when}, {what}")


def _spool_text(report: Report) -> str:
    spool = report.spool
    waiting = f"{spool.rows:,} rows wait" if spool.rows else "nothing waits"
    if spool.oldest_seconds is not None:
        waiting += f", the oldest for {duration_text(spool.oldest_seconds)}"
    return f"{waiting}; {size_text(spool.size_bytes)} of {size_text(spool.limit_bytes)} on disk"


def _connections_text(report: Report) -> str:
    ages = [
        f"{each.label} {'down' if each.age_seconds is None else duration_text(each.age_seconds)}"
        for each in report.connections
    ]
    return ", ".join(ages)


def _gaps_text(day: DayOfGaps, report: Report | None) -> str:
    now = f"; silent now: {counted(report.gaps.open_pairs, 'pair')}" if report and report.gaps.open_pairs else ""
    halted = f"; halted: {counted(report.gaps.halted_pairs, 'pair')}" if report and report.gaps.halted_pairs else ""
    if not day.gaps:
        return f"none in 24 h{now}{halted}"
    if day.longest_seconds is None:
        return f"{day.gaps:,} since the start, 24 h at most{now}{halted}"
    reasons = ", ".join(
        f"{reason} {count:,}" for reason, count in sorted(day.reasons.items(), key=lambda each: -each[1])
    )
    return f"{day.gaps:,} in 24 h, the longest {duration_text(day.longest_seconds)} ({reasons}){now}{halted}"


def _server_lines(server: ServerOverview) -> Iterator[tuple[str, Text]]:
    if server.state == "none":
        yield "server", Text("none yet")
        return
    if server.state == "not asked":
        yield "server", Text(f"QuestDB at {server.url} was not asked: --questdb gives user and password")
        return
    style = "" if server.state == "answers" and not server.error else "bold red"
    if server.state == "does not answer":
        yield "server", Text(server.error, style)
        return
    yield "server", Text(f"{server.version or 'QuestDB'} at {server.url} {server.state}", style)
    if server.error:
        yield "", Text(server.error)
    for table in server.tables:
        state = f"{table.behind:,} transactions to apply" if table.behind else "whole"
        size = ""
        if table.rows is not None and table.size_bytes is not None:
            size = f"{table.rows:,} rows in {counted(table.partitions or 0, 'day')}"
            size += f" ({table.parquet} Parquet)" if table.parquet else ""
            size += f", {size_text(table.size_bytes)}, "
        yield (
            "  table",
            Text(
                f"{table.name}: {size}{'suspended' if table.suspended else state}",
                "bold red" if table.suspended else "",
            ),
        )


def _disk_lines(overview: Overview) -> Iterator[tuple[str, Text]]:
    disk = overview.disk
    if disk is None:
        return
    days = disk.days_left
    full = f", full in {days:,.{0 if days >= 10 else 1}f} days at the present rate" if days is not None else ""
    yield "disk", Text(f"{size_text(disk.free_bytes)} of {size_text(disk.total_bytes)} free{full}")
