"""Which pairs a recorder begins with, and how it follows the file of watched pairs; options that name that file."""

import getpass
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from ingester.cli.options import named_symbols
from ingester.errors import PairsFileError
from ingester.exchange import DEFAULT_QUOTE, Choice, Listing, choose, choose_watched, fetch_listings
from ingester.record import NAME, LastRecorded, PairsFile, PairsWatcher, RecorderService, spool_folder
from ingester.words import counted

log = logging.getLogger("ingester.pairs")

Command = TypeVar("Command", bound=Callable[..., Any])

pairs_file_option = click.option(
    "--pairs-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"The file of the watched pairs.  [default: {NAME} in the data folder]",
)


def watch_list(data_dir: Path, pairs_file: Path | None) -> PairsFile:
    """The file that these options name."""
    return PairsFile(pairs_file or data_dir / NAME)


def by_whom() -> str:
    """`2026-11-25 10:30 by alice`, for a remark in the file; in UTC."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container need not know its user's name
        user = f"user {os.getuid()}"
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} by {user}"


class Plan(NamedTuple):
    """The pairs to begin with; `file` is to be followed, None where options name the pairs."""

    symbols: list[str]
    named: bool
    """Whether options name them."""
    file: PairsFile | None = None
    from_file: bool = False
    before: frozenset[str] = frozenset()
    """What a recorder of this name was to record before, where options name the pairs."""

    def choose(self, listed: Mapping[str, Listing]) -> Choice:
        """Which of them to record, of those that the exchange lists."""
        if self.from_file:
            return choose_watched(self.symbols, listed)
        return choose(self.symbols, self.named, listed, self.before)

    def watch(self, recorder: RecorderService) -> PairsWatcher:
        """What follows the file while recording. A first start makes the file: it is what one edits later."""
        known: Sequence[str] = self.symbols
        if self.file is not None and not self.from_file:
            known = recorder.settings.symbols  # those of the default list that are listed
            try:
                self.file.create(known, "The pairs that are recorded, one a line; see `ingester pairs --help`.")
            except PairsFileError as error:
                log.warning("pairs cannot be changed while recording: %s", error)
        return PairsWatcher(
            self.file,
            known,
            recorder.change,
            recorder.record,
            recorder.clock.now,
            lambda: recorder.wanted,
            lambda: fetch_listings(recorder.settings.exchange),
        )


def planned(
    coins: str | None, quote: str, pairs: str | None, data_dir: Path, pairs_file: Path | None, collector: str
) -> Plan:
    """What `ingester start` is to record: what options name, else what the file says, else the default list.

    A file that cannot be used does not keep a recorder from starting that has recorded before: it goes on with what it
    was watching then. Raises PairsFileError where it never has, UsageError for options that cannot be used.
    """
    file = watch_list(data_dir, pairs_file)
    last = LastRecorded(spool_folder(data_dir, collector))
    symbols, named = named_symbols(coins, quote, pairs)
    if named or quote.upper() != DEFAULT_QUOTE:
        if file.exists():
            log.info("the pairs are those that the options name; %s is left alone and not followed", file.path)
        return Plan(symbols, named, before=frozenset(last.ever()))
    if not file.exists():
        return Plan(symbols, False, file)
    try:
        return Plan(list(file.read().pairs), False, file, from_file=True)
    except PairsFileError as error:
        before = last.read()
        if before is None:
            raise
        log.error("%s Recording goes on with the %s watched before.", error, counted(len(before), "pair"))
        return Plan(before, False, file, from_file=True)
