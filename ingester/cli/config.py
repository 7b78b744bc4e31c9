"""`ingester config`: what is in force for a command, and where each value comes from."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingester.cli.configured import InForce, apply, read
from ingester.cli.declared import WITHOUT_TABLE, Setting, commands, settings, toml_text
from ingester.configuration import NAME, VARIABLE, Configuration, masked, user_file
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
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    file = read(ctx, config_file)
    every = {path: one for path, one in commands((), root.command) if path[0] not in WITHOUT_TABLE}
    chosen, words = _chosen(command, list(every))
    in_force = {path: _in_force(root, path, one, file, words) for path, one in every.items() if path in chosen}
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
    root: click.Context, path: tuple[str, ...], command: click.Command, file: Configuration, words: list[str]
) -> list[Value]:
    """The values with which a command would run. Nothing is run, and what it requires may be missing."""
    parent = root
    for name in path[:-1]:
        assert isinstance(parent.command, click.Group)
        group = parent.command.get_command(parent, name)
        assert group is not None
        parent = click.Context(group, parent=parent, info_name=name)
    context = click.Context(command, parent=parent, info_name=path[-1])
    force = apply(context, path, file)
    with context:
        told, _, _ = command.make_parser(context).parse_args(list(words))
        return [_value(force, setting, told) for setting in settings(path, command)]


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
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
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


def _add(table: Table, value: Value, indent: str) -> None:
    shown = "-" if value.shown is None or value.shown == [] else _text(value.shown)
    style = "dim" if value.source == "default" else "green"
    table.add_row(indent + value.setting.key, Text(shown, style=style), Text(value.place or value.source, style=style))


def _text(value: Any) -> str:
    return (
        ", ".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else toml_text(value)
    )
