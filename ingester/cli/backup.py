"""The options of `ingester start` for raw backups."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ingester.cli.options import Command
from ingester.datasets import RAW_FORMATS, ROOT
from ingester.questdb import QuestDB
from ingester.record import RecorderService

if TYPE_CHECKING:
    from ingester.datasets import Backup


def backup_options(command: Command) -> Command:
    """`--backup-every`, `--backup-format` and `--backup-root`."""
    every = click.option(
        "--backup-every",
        type=click.IntRange(1, 24 * 60),
        metavar="MINUTES",
        help="Also write the rows to files, one for each pair and so many minutes of the clock.",
    )
    form = click.option(
        "--backup-format", type=click.Choice(RAW_FORMATS), default="pkl", show_default=True, help="Of these files."
    )
    root = click.option(
        "--backup-root",
        type=click.Path(file_okay=False, path_type=Path),
        default=ROOT,
        show_default=True,
        help="Folder in which they are kept.",
    )
    return every(form(root(command)))


def backup_of(
    collector: RecorderService, db: QuestDB, every: int | None, form: str, root: Path, closing: contextlib.ExitStack
) -> "Backup | None":
    """What writes a recorder's raw backups, where that is wanted; its folder is held until `closing`.

    Raises OperationError where the folder is in use or cannot be written.
    """
    if every is None:
        return None
    from ingester.datasets import Backup, run_folder  # 40 MB of libraries that recording alone does not need

    folder = closing.enter_context(run_folder(root, collector.started_ns))
    started_ns, now = collector.started_ns, collector.clock.now
    return Backup(db, collector.spool, collector.settings, started_ns, now, folder, every, form)
