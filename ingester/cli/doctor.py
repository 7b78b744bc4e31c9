"""`ingester doctor`: whether this machine, its network and its QuestDB are fit for recording."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from ingester.cli.options import data_options, exchange_at, exchange_options, is_our_own
from ingester.cli.tables import TextTable, print_json, print_table
from ingester.config import Settings
from ingester.datasets import dataset
from ingester.monitoring import (
    Check,
    Finding,
    examine,
    exchange_checks,
    folder_checks,
    machine_checks,
    questdb_checks,
)
from ingester.questdb import Endpoint, ManagedServer

_STYLES = {"ok": "green", "warning": "yellow", "fail": "bold red", "skipped": "dim"}


@click.command(short_help="Check network, machine, disk and server, and say how to mend each.")
@exchange_options("The exchange to reach; 'simulator' needs no network.")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=dataset.ROOT,
    show_default=True,
    help="Folder of data sets, in which interrupted exports are looked for.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@data_options
@click.pass_context
def doctor(
    ctx: click.Context,
    exchange: str,
    stream_url: str | None,
    exchange_ca: Path | None,
    rest_url: str | None,
    root: Path,
    as_json: bool,
    data_dir: Path,
    questdb: Endpoint | None,
) -> None:
    """Checks everything that recording needs, and says for each ok, warning or fail, and how to mend it.

    Exit code 0: nothing failed; 1: something did. It takes half a minute at most, changes nothing, and neither starts
    nor stops a server. To try the disk it writes up to 256 MB into a file without a name.

    \b
    --json prints {ok, findings: [{subject, state, text, mend}]}.

    \b
    Examples:
      ingester doctor
      ingester doctor --exchange binance-vision --questdb https://db.example:9000
      ingester doctor --exchange simulator --json
    """
    checks = [
        *_exchange_checks(exchange, stream_url, rest_url, exchange_ca),
        *machine_checks(managed=questdb is None),
        *folder_checks(data_dir),
        *questdb_checks(ManagedServer(data_dir) if questdb is None else None, questdb),
        Check("data sets", lambda: _interrupted(root)),
    ]
    with Console(stderr=True).status("looking") if sys.stderr.isatty() else contextlib.nullcontext():
        findings = examine(checks)
    ok = all(finding.state != "fail" for finding in findings)
    if as_json:
        print_json({"ok": ok, "findings": findings})
    else:
        print_table(_drawn(findings), 120)
        click.echo(_verdict(findings))
    ctx.exit(0 if ok else 1)


def _exchange_checks(name: str, stream_url: str | None, rest_url: str | None, ca_file: Path | None) -> list[Check]:
    if is_our_own(name, stream_url, rest_url):
        told = Finding("exchange", "skipped", "the simulator runs inside the recorder, and needs no network")
        return [Check("exchange", lambda: iter([told]))]
    chosen = exchange_at(name, stream_url, rest_url, ca_file)
    Settings(("BTCUSDT",), chosen)  # raises SettingsError where an address is none
    return exchange_checks(chosen)


def _interrupted(root: Path) -> Iterator[Finding]:
    from ingester.datasets import interrupted  # a third of a second, beside the other checks

    found = interrupted(root)
    for folder, told in found:
        mend = f"continue it with the same command and --resume, or remove it: rm -r '{folder}'"
        yield Finding("data sets", "warning", f"an export was interrupted in {folder}: {told}", mend)
    if not found:
        yield Finding("data sets", "ok", f"no interrupted export in {root}")


def _drawn(findings: Sequence[Finding]) -> TextTable:
    table = TextTable(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.state, style=_STYLES[finding.state]), finding.subject, Text(finding.text))
        if finding.mend and finding.state != "ok":
            table.add_row("", "", Text(f"→ {finding.mend}", style="bold" if finding.state == "fail" else ""))
    return table


def _verdict(findings: Sequence[Finding]) -> str:
    numbers = {state: sum(finding.state == state for finding in findings) for state in ("fail", "warning")}
    if numbers["fail"]:
        return f"\n{numbers['fail']} failed, {numbers['warning']} warnings: recording will not go well here"
    if numbers["warning"]:
        return f"\nnothing failed, {numbers['warning']} worth a look"
    return "\nall is well"
