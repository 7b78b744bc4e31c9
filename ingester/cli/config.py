"""`ingester config`: what is in force for a command, and where each value comes from."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console
from rich.text import Text

from ingester.cli.configured import InForce, apply, command_names, read, settings_by_path, warn_of_variables
from ingester.cli.declared import Setting, toml_text
from ingester.cli.keys import said, tree
from ingester.cli.tables import TextTable
from ingester.config import NAME, VARIABLE, Configuration, masked, user_file
from ingester.errors import SettingsError

_SOURCES = {
    ParameterSource.COMMANDLINE: "option",
    ParameterSource.ENVIRONMENT: "variable",
    ParameterSource.DEFAULT_MAP: "file",
}


@dataclass(frozen=True)
class Value:
    """A setting's value and where it comes from: `default`, `file`, `variable` or `option`."""

    setting: Setting
    shown: Any
    source: str
    place: str
    """Line of the file, or name of the variable."""


@click.command(short_help="Show which options are in force, and where they come from.")
@click.argument("command", nargs=-1, metavar="[COMMAND]… [-- OPTION…]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def config(ctx: click.Context, command: Sequence[str], as_json: bool, config_file: str | None) -> None:
    """Shows every option's value for a command, or for all of them, and whether it comes from the command line, an
    environment variable, the configuration file or is the default. Passwords are not shown.

    Checks the whole file and the variables; exit code 2 where one of them cannot be used.

    \b
    Examples:
      ingester config
      ingester config start
      ingester config start --json -- --depth 10     with what is said on a command line
    """
    file, settings_of = read(ctx, config_file), settings_by_path(ctx, command_names(ctx))
    values = said(file, tree(settings_of, command_names(ctx)))
    warn_of_variables(ctx, settings_of)
    chosen, words = _chosen(command, [path for path in settings_of if path])
    in_force = {path: _in_force(ctx.find_root(), path, file, values, words) for path in chosen}
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_mapping(file, in_force)), indent=2))
    else:
        _print(file, in_force)


def _chosen(words: Sequence[str], paths: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The commands that the words name, and what follows their names."""
    if not words:
        return paths, []
    for length in range(len(words), 0, -1):
        path = tuple(words[:length])
        chosen = [each for each in paths if each[:length] == path]
        rest = list(words[length:])
        if chosen and (not rest or chosen == [path]):
            return chosen, rest
    known = ", ".join(dict.fromkeys(path[0] for path in paths))
    raise SettingsError(f"There is no command {' '.join(words)!r} that takes options. Known: {known}.")


def _in_force(
    root: click.Context,
    path: tuple[str, ...],
    file: Configuration,
    values: Mapping[tuple[str, ...], Any],
    words: Sequence[str],
) -> list[Value]:
    """The values with which a command would run. Nothing is run, and what it requires may be missing."""
    context = root
    for name in path:
        assert isinstance(context.command, click.Group)
        command = context.command.get_command(context, name)
        assert command is not None
        context = click.Context(command, parent=context, info_name=name)
    force = apply(context, path, file, values)
    with context:
        told, _, _ = context.command.make_parser(context).parse_args(list(words))
        return [_value(force, setting, told) for setting in force.settings]


def _value(force: InForce, setting: Setting, told: Any) -> Value:
    option, context = setting.option, force.context
    value, source = option.consume_value(context, told)
    context.set_parameter_source(str(option.name), source)
    value = _plain(option.type_cast_value(context, value) if source in _SOURCES else setting.default)
    return Value(setting, masked(setting.key, value), _SOURCES.get(source, "default"), force.place(setting))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, Path) else value


def _mapping(file: Configuration, in_force: dict[tuple[str, ...], list[Value]]) -> Any:
    return {
        "file": os.path.abspath(file.path) if file.path else None,
        "commands": {
            " ".join(path): {
                each.setting.key: {"value": each.shown, "source": each.source, "place": each.place or None}
                for each in values
            }
            for path, values in in_force.items()
        },
    }


def _print(file: Configuration, in_force: dict[tuple[str, ...], list[Value]]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False, soft_wrap=False)
    if file.path is None:
        click.echo(f"no file: there is neither ./{NAME} nor {user_file()}, and {VARIABLE} names none\n")
    else:
        click.echo(f"file: {os.path.abspath(file.path)}\n")
    table = TextTable(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    table.add_column("option", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("comes from", overflow="fold")
    common = {each.setting.key: each for values in in_force.values() for each in values if each.setting.common}
    for each in common.values():
        _add(table, each, "")
    for path, values in in_force.items():
        own = [each for each in values if not each.setting.common]
        if own:
            table.add_row()
            table.add_row(Text(" ".join(path), style="bold"))
            for each in own:
                _add(table, each, "  ")
    console.print(table)


def _add(table: TextTable, value: Value, indent: str) -> None:
    nothing = value.shown is None or value.shown == []
    shown = (value.setting.default_text or "-") if nothing else _text(value.shown)
    style = "dim" if value.source == "default" else "green"
    table.add_row(indent + value.setting.key, Text(shown, style=style), Text(value.place or value.source, style=style))


def _text(value: Any) -> str:
    return (
        ", ".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else toml_text(value)
    )
