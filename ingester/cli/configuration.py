"""Options from the configuration file and from variables: what may be set, what is set, and by what."""

import datetime
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ingester.cli.options import data_options
from ingester.config import (
    CONFIG_NAME,
    CONFIG_VARIABLE,
    Configuration,
    find_configuration,
    is_secret,
    masked_text,
    read_configuration,
)
from ingester.exchange import VENUES
from ingester.text import nearest_names

log = logging.getLogger("ingester.config.file")

WITHOUT_TABLE = ("init", "config")
"""Commands about the file itself, which take nothing from it."""
CONFIG_OPTION = "config_file"
OTHER_VARIABLES = {
    CONFIG_VARIABLE: "The configuration file, as `--config` names it.",
    "INGESTER_CACHE_DIR": "Where fetched jars are kept, instead of the platform's folder for caches.",
}
"""Variables that are not an option's."""

_PREFIX = "INGESTER_"
_IN_FORCE = "ingester.config.file"
_DEFAULT_IN_HELP = re.compile(r"\s*\[default: (.*)\]\s*$", re.DOTALL)
_EXAMPLES = {
    "stream-url": VENUES["binance"].stream_url,
    "rest-url": VENUES["binance"].rest_url,
    "questdb": "http://127.0.0.1:9000",
    "to": "2024-08-08 13:00",
    "export.every": "250ms",
    "fault": "drop@30s",
    "file": "recording.jsonl.gz",
    "plot": "coverage.png",
    "URL": "http://127.0.0.1:9000",
    "DURATION": "60s",
    "TIME": "2024-08-08 12:00",
    "COIN,…": ["BTC", "ETH"],
    "PAIR,…": ["BTCUSDT", "ETHUSDT"],
}
"""Values for options without default in a written file: by table and key, by key, or by metavar."""

Keys = tuple[str, ...]
"""The names of the tables and the key that lead to a value in the file."""


@dataclass(frozen=True)
class Setting:
    """One option of one command, as a file or a variable may set it."""

    path: tuple[str, ...]
    """The command's name, and those of the groups around it: `("server", "status")`."""
    option: click.Option
    common: bool
    """Whether it says where the data is; then it is at the top of the file, for all commands that have it."""

    @property
    def key(self) -> str:
        """The option's long name."""
        return max(self.option.opts, key=len).lstrip("-")

    @property
    def keys(self) -> Keys:
        """Where its value is in the file."""
        return (self.key,) if self.common else (*self.path, self.key)

    @property
    def name(self) -> str:
        """`[start] depth`, or `questdb` where it is a common one."""
        return " ".join([f"[{'.'.join(self.keys[:-1])}]"] * (not self.common) + [self.key])

    @property
    def variable(self) -> str:
        """`INGESTER_QUESTDB`, `INGESTER_START_DEPTH`, `INGESTER_SERVER_STATUS_JSON`."""
        return "_".join(("ingester", *self.keys)).upper().replace("-", "_")

    @property
    def default(self) -> Any:
        """Its default value; None where there is none."""
        value = self.option.to_info_dict()["default"]
        value = value() if callable(value) else value
        if value is None or (self.option.multiple and not value):
            return False if self.option.is_flag else None
        return value

    @property
    def help(self) -> str:
        """What it does, in one line, without the default."""
        return " ".join(_DEFAULT_IN_HELP.sub("", self.option.help or "").split())

    @property
    def default_text(self) -> str:
        """Its default for readers on any machine; empty where there is none."""
        if written := _DEFAULT_IN_HELP.search(self.option.help or ""):
            return written[1]
        if isinstance(self.option.show_default, str):
            return self.option.show_default
        return "" if self.default is None else toml_text(self.default)

    @property
    def example(self) -> Any:
        """A value that would be accepted, for an option without default."""
        type_, metavar = self.option.type, self.option.metavar or ""
        names = (".".join(self.keys), self.key, metavar)
        value: Any = next((_EXAMPLES[name] for name in names if name in _EXAMPLES), None)
        if value is None and isinstance(type_, click.Choice):
            value = type_.choices[0]
        elif value is None and isinstance(type_, click.types.IntParamType):
            value = getattr(type_, "min", 1)
        elif value is None:
            value = metavar or self.key
        return [value] if self.option.multiple and not isinstance(value, list) else value

    def from_toml(self, value: Any) -> Any:
        """Returns the value as click gets it from a command line: a text, or true or false for a flag.

        Raises ValueError where the file has another kind of value than the option takes.
        """
        option = self.option
        if option.is_flag:
            if not isinstance(value, bool):
                raise ValueError("expected true or false")
            return value
        if option.multiple:
            return [self._text(each) for each in (value if isinstance(value, list) else [value])]
        if isinstance(value, list) and (option.metavar or "").endswith(",…"):
            return ",".join(self._text(each) for each in value)
        return self._text(value)

    def _text(self, value: Any) -> str:
        if isinstance(value, bool | list | Mapping):
            example = self.default if self.default is not None else self.example
            raise ValueError(f"expected a value such as {toml_text(example)}")
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        is_home = isinstance(self.option.type, click.Path) and str(value).startswith("~")
        return str(Path(value).expanduser()) if is_home else str(value)


def toml_text(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


# What is declared.


@cache
def common_settings() -> list[Setting]:
    """The options that `data_options` gives to every command that touches data."""

    @click.command()
    @data_options
    def probe(**values: object) -> None: ...

    return [Setting((), option, common=True) for option in probe.params if isinstance(option, click.Option)]


def settings(path: tuple[str, ...], command: click.Command) -> list[Setting]:
    """The settings of a command, in the order in which its options are declared."""
    common = {setting.option.name for setting in common_settings()}
    return [
        Setting(path, option, option.name in common)
        for option in command.params
        if isinstance(option, click.Option) and option.name != CONFIG_OPTION
    ]


def commands(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yields a command, or where it is a group, every command in it; each with its path."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is not None:
            yield from commands((*path, name), inner)


def command_names(ctx: click.Context) -> list[str]:
    """The names of all commands and groups that may have a table in the file."""
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    return [name for name in root.command.list_commands(root) if name not in WITHOUT_TABLE]


def settings_by_path(ctx: click.Context, names: Iterable[str]) -> dict[tuple[str, ...], list[Setting]]:
    """The settings of these commands by path, and the common ones, whose path is empty."""
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    found: dict[tuple[str, ...], list[Setting]] = {(): common_settings()}
    for name in names:
        command = root.command.get_command(root, name)
        assert command is not None
        found |= {path: settings(path, inner) for path, inner in commands((name,), command)}
    return found


# What a file says.


def values_of(
    file: Configuration, known: Mapping[tuple[str, ...], Iterable[Setting]], names: Iterable[str]
) -> dict[Keys, Any]:
    """The values in a file, as click is to convert them.

    `known`: the settings by command; the tables of other commands among `names` are left to those.
    Raises SettingsError on the first key or value that cannot be used.
    """
    declared = {setting.keys: setting for own in known.values() for setting in own}
    tables = {path[:length] for path in known for length in range(1, len(path) + 1)}
    others = {(name,) for name in names} - tables
    found: dict[Keys, Any] = {}

    def visit(keys: Keys, value: Any) -> None:
        if keys in declared:
            found[keys] = _converted(file, declared[keys], value)
        elif not isinstance(value, Mapping) and keys in tables | others:
            raise file.refuse(f"{keys[-1]} is a command: write its options in a table, [{'.'.join(keys)}].")
        elif isinstance(value, Mapping) and (not keys or keys in tables):
            for key, inner in value.items():
                visit((*keys, key), inner)
        elif keys not in others:
            raise file.refuse(_unknown(keys, declared, {*tables, *others}))

    visit((), file.values)
    return found


def _unknown(keys: Keys, declared: Mapping[Keys, Setting], tables: Iterable[Keys]) -> str:
    where = f"[{'.'.join(keys[:-1])}] has no" if keys[1:] else "there is no"
    elsewhere = [setting.name for setting in declared.values() if setting.key == keys[-1]]
    names = [each[-1] for each in (*declared, *tables) if each[:-1] == keys[:-1]]
    near = nearest_names(keys[-1].lower().replace("_", "-"), names)
    if near:
        hint = f" Did you mean {' or '.join(map(repr, near))}?"
    elif elsewhere:
        hint = f" It is {' or '.join(elsewhere)}: common options are at the top of the file, above the first table."
    else:
        hint = f" Known: {', '.join(names)}." if names else ""
    return f"{where} {keys[-1]!r}.{hint}"


def _converted(file: Configuration, setting: Setting, value: Any) -> Any:
    """Returns the value as the option takes it, after a trial conversion by the option's own type."""
    try:
        text = setting.from_toml(value)
        setting.option.type_cast_value(click.Context(click.Command(setting.key)), text)
        return text
    except (ValueError, click.BadParameter) as error:
        why = error.message if isinstance(error, click.BadParameter) else f"{error}."
        raise file.refuse(f"{setting.name}: {'it is not accepted.' if is_secret(setting.key) else why}") from None


# What is in force.


@dataclass(frozen=True)
class InForce:
    """What a command runs with: the file, and the command's context with its values."""

    file: Configuration
    context: click.Context
    settings: list[Setting]

    def source(self, setting: Setting) -> ParameterSource | None:
        """Where the value comes from."""
        return self.context.get_parameter_source(str(setting.option.name))

    def place(self, setting: Setting) -> str:
        """The file or variable that the value comes from; empty where it is an option or the default."""
        source = self.source(setting)
        if source is ParameterSource.DEFAULT_MAP:
            return self.file.name
        return setting.variable if source is ParameterSource.ENVIRONMENT else ""


def configurable(name: str, command: click.Command) -> click.Command:
    """Adds `--config` and the variables of the options to a command, or to each in a group."""
    for path, inner in commands((name,), command):
        if name != "init" and not any(param.name == CONFIG_OPTION for param in inner.params):
            for setting in settings(path, inner) if name not in WITHOUT_TABLE else []:
                setting.option.envvar = setting.variable
            inner.params.append(_config_option(path))
    return command


def _config_option(path: tuple[str, ...]) -> click.Option:
    def load(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
        if not ctx.resilient_parsing:
            file, own = read(ctx, value), settings_by_path(ctx, [path[0]])  # others are not even imported
            apply(ctx, path, file, values_of(file, own, command_names(ctx)))
            warn_of_variables(ctx, own)

    return click.Option(
        ["--config", CONFIG_OPTION],
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        expose_value=path[0] in WITHOUT_TABLE,
        is_eager=True,  # before the options that take their values from it
        callback=load if path[0] not in WITHOUT_TABLE else None,
        help=f"Take options from this file.  [default: ./{CONFIG_NAME}, else the user's; see ingester config]",
    )


def read(ctx: click.Context, named: str | None) -> Configuration:
    """Reads the file that `--config` or its variable names, or that is found."""
    by_variable = ctx.get_parameter_source(CONFIG_OPTION) is ParameterSource.ENVIRONMENT
    path = find_configuration(Path(named).expanduser() if named is not None else None)
    return read_configuration(path, "" if named is None else CONFIG_VARIABLE if by_variable else "--config")


def apply(ctx: click.Context, path: tuple[str, ...], file: Configuration, values: Mapping[Keys, Any]) -> InForce:
    """Makes the file's values the defaults of a command that is about to parse its options."""
    own = settings(path, ctx.command)
    ctx.default_map = {str(each.option.name): values[each.keys] for each in own if each.keys in values}
    force = ctx.meta[_IN_FORCE] = InForce(file, ctx, own)
    return force


def warn_of_variables(ctx: click.Context, known: Mapping[tuple[str, ...], Iterable[Setting]]) -> None:
    """Logs the variables that are not an option's; those of commands whose settings are not given are left out."""
    variables = [setting.variable for own in known.values() for setting in own]
    checked = {path[0] for path in known if path}
    others = [f"{_PREFIX}{name.upper()}_" for name in command_names(ctx) if name not in checked]
    for remark in unknown_variables(os.environ, variables, others):
        log.warning("%s", remark)


def unknown_variables(environment: Mapping[str, str], known: Iterable[str], others: Iterable[str]) -> list[str]:
    """Returns a remark on each variable that begins with our prefix and is unknown, unless it begins with one of
    `others`.

    They are not refused: container platforms make such names of their own, after a service's name.
    """
    ours = [name.removeprefix(_PREFIX) for name in (*known, *OTHER_VARIABLES)]
    remarks = []
    for variable in sorted(environment):
        name = variable.removeprefix(_PREFIX)
        if variable.startswith(_PREFIX) and name not in ours and not variable.startswith(tuple(others)):
            meant = "".join(f" Did you mean {_PREFIX}{each}?" for each in nearest_names(name, ours)[:1])
            remarks.append(f"the variable {variable} is unknown and changes nothing.{meant}")
    return remarks


def say_which_file() -> None:
    """Logs which file is in force, for a command that runs for long."""
    force: InForce | None = click.get_current_context().meta.get(_IN_FORCE)
    if force is not None and force.file.path is not None:
        log.info("options come from %s", force.file.name)


# Errors.


def explained(ctx: click.Context, message: str) -> str:
    """Returns an error's message without passwords, and with the file or variable that sets each option it names."""
    message = masked_text(message)
    force: InForce | None = ctx.meta.get(_IN_FORCE)
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*[a-z])", message))
    lines = [message]
    for setting in force.settings if force is not None else []:
        if setting.key in named and force is not None and (place := force.place(setting)):
            by_file = force.source(setting) is ParameterSource.DEFAULT_MAP
            lines.append(f"--{setting.key} comes from {f'{setting.name} in {place}' if by_file else place}.")
    return "\n".join(lines)


def refused(ctx: click.Context, error: click.UsageError) -> click.UsageError:
    """Returns click's own error with the variable or the file that it is about, and without passwords."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        return error  # the help text of a group
    if isinstance(error, click.BadParameter) and error.param is not None and error.ctx is not None:
        by = error.ctx.get_parameter_source(str(error.param.name))
        if by is ParameterSource.ENVIRONMENT and isinstance(error.param.envvar, str):
            error.param_hint = error.param.envvar
    message = explained(ctx, error.format_message())
    return error if message == error.format_message() else click.UsageError(message, error.ctx)


def folder_of(ctx: click.Context) -> str | None:
    """The folder that the running command writes to, where it has such an option."""
    force: InForce | None = ctx.meta.get(_IN_FORCE)
    given = force.context.params if force is not None else {}
    return next((str(given[name]) for name in ("root", "data_dir") if given.get(name)), None)
