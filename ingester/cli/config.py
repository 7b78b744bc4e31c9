"""`ingester config` and `ingester init`: what is in force for a command, and a file to begin with."""

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.text import Text

from ingester.cli.configuration import (
    WITHOUT_TABLE,
    InForce,
    Keys,
    Setting,
    apply,
    command_names,
    commands,
    common_settings,
    read,
    settings,
    settings_by_path,
    toml_text,
    values_of,
    warn_of_variables,
)
from ingester.cli.tables import TextTable, print_json, print_table
from ingester.config import CONFIG_NAME, CONFIG_VARIABLE, Configuration, masked, user_config_file
from ingester.errors import OperationError, SettingsError

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
    """The file or the variable that sets it."""


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
    values = values_of(file, settings_of, command_names(ctx))
    warn_of_variables(ctx, settings_of)
    chosen, words = _chosen(command, [path for path in settings_of if path])
    in_force = {path: _in_force(ctx.find_root(), path, file, values, words) for path in chosen}
    if as_json:
        print_json(_mapping(file, in_force))
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
    values: Mapping[Keys, Any],
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
    if file.path is None:
        click.echo(
            f"no file: there is neither ./{CONFIG_NAME} nor {user_config_file()}, and {CONFIG_VARIABLE} names none\n"
        )
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
    print_table(table)


def _add(table: TextTable, value: Value, indent: str) -> None:
    nothing = value.shown is None or value.shown == []
    shown = (value.setting.default_text or "-") if nothing else _text(value.shown)
    style = "dim" if value.source == "default" else "green"
    table.add_row(indent + value.setting.key, Text(shown, style=style), Text(value.place or value.source, style=style))


def _text(value: Any) -> str:
    return (
        ", ".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else toml_text(value)
    )


_HEAD = f"""\
# Options of every command of `ingester`. This file changes nothing as it is: take the # away from a line, and change
# its value. `ingester config` shows what is in force, and where each value comes from.
#
# An option on the command line wins over an environment variable, a variable over this file. A variable's name is
# INGESTER_, the command unless the key is at the top, and the key: INGESTER_QUESTDB, INGESTER_START_DEPTH.
# The file is ./{CONFIG_NAME}, else the user's own; --config FILE or {CONFIG_VARIABLE} names another one.
# Whoever can read it can read the passwords in it: chmod 600 {CONFIG_NAME}
"""


@click.command(short_help="Write a configuration file to begin with.")
@click.argument("path", type=click.Path(path_type=Path), default=CONFIG_NAME)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.pass_context
def init(ctx: click.Context, path: Path, force: bool) -> None:
    """Writes a configuration file with every option of every command: what it does, and its default, commented out.

    PATH is the file, or the folder for it; ./ingester.toml where none is given. A file that is there is left alone.

    \b
    Examples:
      ingester init
      ingester init ~/.config/ingester/ingester.toml     for commands run in any folder
    """
    path = path / CONFIG_NAME if path.is_dir() else path
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    _write(path, template(root), force)
    click.echo(f"{path} is written: take the # away from what you want to change, then `ingester config` shows it.")
    if Path(os.path.abspath(path)) not in (Path.cwd() / CONFIG_NAME, user_config_file()):
        click.echo(f"It is not where commands look by themselves: give --config {path}, or set {CONFIG_VARIABLE}.")


def _write(path: Path, text: str, force: bool) -> None:
    """Only this user may read the file, for passwords may come into it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if force:
            path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SettingsError(f"{path} is there already. Give --force to replace it, or another path.") from None
    except OSError as error:
        raise OperationError(f"{path} cannot be written: {error.strerror}.") from error


def template(root: click.Group) -> str:
    """The text of the file: prose after `# `, each key commented out right behind a `#`."""
    parts = [_HEAD, *(_entry(setting) for setting in common_settings())]
    for path, command in _tables(root):
        parts.append(f"[{'.'.join(path)}]\n# {command.get_short_help_str(110)}\n")
        parts += [_entry(setting) for setting in settings(path, command) if not setting.common]
    return "\n".join(parts)


def _tables(root: click.Group) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands that have a key of their own."""
    for path, command in commands((), root):
        if path[0] not in WITHOUT_TABLE and not all(setting.common for setting in settings(path, command)):
            yield path, command


def _entry(setting: Setting) -> str:
    lines = textwrap.wrap(setting.help, 116)
    value = setting.default
    if value is None:
        without = f"Without it: {setting.default_text}. " if setting.default_text else ""
        lines.append(f"{without}For example:")
        value = setting.example
    return "".join(f"# {line}\n" for line in lines) + f"#{setting.key} = {toml_text(value)}\n"
