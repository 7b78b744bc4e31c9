"""`ingester retention`: sizes of old days, conversion to Parquet, dropping; and these options of `ingester start`."""

import shutil
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ingester.cli.options import Command, data_options, open_questdb
from ingester.cli.tables import plain_table, print_json, print_table
from ingester.clock import SECOND
from ingester.config import default_collector, seconds
from ingester.errors import SettingsError
from ingester.questdb import (
    CONVERT,
    DROP,
    Done,
    Endpoint,
    ManagedServer,
    Policy,
    QuestDB,
    RetentionThread,
    RetentionWorker,
    RowEncoder,
    Step,
    Surroundings,
    schema,
)
from ingester.record import RecorderService
from ingester.text import counted, size_text

SETTLE_SECONDS = 3.0
"""A day whose rows become more in this time is left alone."""


def retention_options(command: Command) -> Command:
    """`--parquet-after` and `--drop-after`."""
    parquet = click.option(
        "--parquet-after",
        metavar="DURATION",
        help="Have days that ended so long ago made Parquet in place, about a fifth of the size: 3d.  [default: never]",
    )
    drop = click.option(
        "--drop-after",
        metavar="DURATION",
        help="Drop days that ended so long ago, for good: 90d.  [default: never]",
    )
    return parquet(drop(command))


def policy_of(parquet_after: str | None, drop_after: str | None) -> Policy:
    """What the options say. Raises SettingsError."""
    return Policy(*(_ns(text, name) for text, name in ((parquet_after, "parquet"), (drop_after, "drop"))))


def retention_of(
    recorder: RecorderService, db: QuestDB, server: ManagedServer | None, policy: Policy
) -> RetentionThread:
    """Returns the thread that applies the policy to a recorder's server while it records."""
    around = Surroundings(lambda: recorder.spool.oldest_ns, lambda: _free_bytes(server))
    now = recorder.clock.now
    return RetentionThread(RetentionWorker(db, policy, now=now, around=around), now=now, on_event=recorder.record)


@click.command(short_help="Show what old days weigh; make them Parquet, drop them.")
@retention_options
@click.option("--apply", is_flag=True, help="Do now what is due, instead of only showing it.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@data_options
def retention(
    parquet_after: str | None,
    drop_after: str | None,
    apply: bool,
    as_json: bool,
    data_dir: Path,
    questdb: Endpoint | None,
) -> None:
    """Shows each recorded day: its form, rows and bytes, and what retention does with it and when.

    Without options, no day is changed. `ingester start` takes the same options and does hourly what
    `--apply` does once. Never touched are the newest day, days that an export or import works on, and days into which
    rows still come. A dropped day does not come back.

    \b
    Examples:
      ingester retention
      ingester retention --parquet-after 3d --drop-after 90d
      ingester retention --parquet-after 3d --apply
    """
    policy = policy_of(parquet_after, drop_after)
    if apply and not policy.is_active:
        raise SettingsError("--apply has nothing to do. Say what: --parquet-after 3d, --drop-after 90d, or both.")
    db, server = open_questdb(data_dir, questdb)
    retention_worker = RetentionWorker(
        db, policy, now=time.time_ns, around=Surroundings(free_bytes=lambda: _free_bytes(server))
    )
    if apply:
        _apply(db, retention_worker)
    steps = retention_worker.planned_steps()
    if as_json:
        print_json([as_mapping(step) for step in steps])
    elif steps:
        _print(steps)
    else:
        click.echo("There are no days: nothing was recorded yet, or the table is not kept by day.")


def as_mapping(step: Step) -> dict[str, Any]:
    """A day for programs; `at` is when its next step is due, in UTC."""
    day = step.partition
    return {
        "day": day.day,
        "form": _form(step),
        "rows": day.rows,
        "bytes": day.bytes,
        "bytes_per_row": round(day.bytes_per_row, 1),
        "next": step.action or None,
        "at": f"{_time(step.due_ns).replace(' ', 'T')}Z" if step.action else None,
        "hindrance": step.hindrance or None,
    }


def _apply(db: QuestDB, retention_worker: RetentionWorker) -> None:
    due = [step for step in retention_worker.planned_steps() if step.is_due(time.time_ns()) and not step.hindrance]
    if not due:
        return
    encoder = RowEncoder(depth=5, exchange=None, collector=default_collector())
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    db.sql(schema.statement(schema.EVENTS))
    with console.status(f"due: {', '.join(step.partition.day for step in due[:3])}{' …' if len(due) > 3 else ''}"):
        retention_worker.settle()
        time.sleep(SETTLE_SECONDS)
        for done in retention_worker.work():
            db.write(encoder.events([done.event(time.time_ns())]))
            console.print(_told(done))


def _told(done: Done) -> str:
    day = done.step.partition
    if done.after is None:
        return f"{day.day} dropped: {day.rows:,} rows, {size_text(day.bytes)}"
    return f"{day.day} is Parquet: {size_text(day.bytes)} became {size_text(done.after.bytes)} in {done.seconds:.1f} s"


def _print(steps: list[Step]) -> None:
    table = plain_table(("day", "form", "rows", "size", "bytes/row", "next"), [], ("rows", "size", "bytes/row"))
    for step in steps:
        day = step.partition
        # The newest day's files are made larger in advance, so that its share means nothing.
        size, each = size_text(day.bytes), "" if day.is_active else f"{day.bytes_per_row:.0f}"
        table.add_row(day.day, _form(step), f"{day.rows:,}", size, each, _next(step))
    print_table(table)
    rows, size = (sum(getattr(step.partition, name) for step in steps) for name in ("rows", "bytes"))
    parquet = sum(step.partition.is_parquet for step in steps)
    click.echo(f"{counted(len(steps), 'day')}, {parquet} of them Parquet: {rows:,} rows, {size_text(size)}")


def _form(step: Step) -> str:
    return "parquet" if step.partition.is_parquet else "native"


def _next(step: Step) -> str:
    words = {CONVERT: "Parquet", DROP: "dropped"}.get(step.action)
    if words is None:
        return ""
    if step.hindrance:
        return f"{words} when it can be: {step.hindrance}"
    return f"{words} now" if step.is_due(time.time_ns()) else f"{words} at {_time(step.due_ns)}"


def _time(ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(ns // SECOND))


def _ns(text: str | None, name: str) -> int | None:
    return None if text is None else round(seconds(text, f"--{name}-after") * SECOND)


def _free_bytes(server: ManagedServer | None) -> int | None:
    """On the disk of a managed server; that of another one is not known."""
    return shutil.disk_usage(server.data_dir).free if server is not None else None
