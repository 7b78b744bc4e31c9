"""How configuration file and variables reach a command's options, and how an error tells where its value stands."""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ingester.cli.declared import CONFIG_OPTION, WITHOUT_TABLE, Setting, commands, common_settings, settings
from ingester.cli.keys import said, tree
from ingester.config import Configuration, file, masked_text, near

log = logging.getLogger("ingester.config.file")

OTHER_VARIABLES = {
    file.VARIABLE: "The configuration file, as `--config` names it.",
    "INGESTER_CACHE_DIR": "Where fetched jars are kept, instead of the platform's folder for caches.",
}
"""What is read from the environment without standing in the file."""

_PREFIX = "INGESTER_"
_IN_FORCE = "ingester.config.file"


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
        """`ingester.toml:12` or the name of a variable; empty for what was told on the command line or not at all."""
        source = self.source(setting)
        if source is ParameterSource.DEFAULT_MAP:
            return self.file.line(setting.keys)
        return setting.variable if source is ParameterSource.ENVIRONMENT else ""


def configurable(name: str, command: click.Command) -> click.Command:
    """A command, or each in a group, with `--config` and the variables of its options."""
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
            apply(ctx, path, file, said(file, tree(own, command_names(ctx))))
            warn_of_variables(ctx, own)

    return click.Option(
        ["--config", CONFIG_OPTION],
        metavar="FILE",
        envvar=file.VARIABLE,
        expose_value=path[0] in WITHOUT_TABLE,
        is_eager=True,  # before the options that take their values from it
        callback=load if path[0] not in WITHOUT_TABLE else None,
        help=f"Take options from this file.  [default: ./{file.NAME}, else the user's; see ingester config]",
    )


def read(ctx: click.Context, told: str | None) -> Configuration:
    """The file that `--config` or its variable names, or that is found."""
    by_variable = ctx.get_parameter_source(CONFIG_OPTION) is ParameterSource.ENVIRONMENT
    path = file.find(Path(told).expanduser() if told is not None else None)
    return file.read(path, "" if told is None else file.VARIABLE if by_variable else "--config")


def command_names(ctx: click.Context) -> list[str]:
    """All commands, those in groups aside."""
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


def apply(
    ctx: click.Context, path: tuple[str, ...], file: Configuration, values: Mapping[tuple[str, ...], Any]
) -> InForce:
    """Makes the file's values the defaults of a command that is about to parse its options."""
    own = settings(path, ctx.command)
    ctx.default_map = {str(each.option.name): values[each.keys] for each in own if each.keys in values}
    force = ctx.meta[_IN_FORCE] = InForce(file, ctx, own)
    return force


def warn_of_variables(ctx: click.Context, known: Mapping[tuple[str, ...], Iterable[Setting]]) -> None:
    """Logs the variables that are nobody's; those of commands whose settings are not given are not judged."""
    variables = [setting.variable for own in known.values() for setting in own]
    judged = {path[0] for path in known if path}
    others = [f"{_PREFIX}{name.upper()}_" for name in command_names(ctx) if name not in judged]
    for remark in strange_variables(os.environ, variables, others):
        log.warning("%s", remark)


def strange_variables(environment: Mapping[str, str], known: Iterable[str], others: Iterable[str]) -> list[str]:
    """A remark on each variable that looks like ours and is nobody's; those with the prefixes `others` are not judged.

    They are not refused: container platforms make such names of their own, after a service's name.
    """
    ours = [name.removeprefix(_PREFIX) for name in (*known, *OTHER_VARIABLES)]
    remarks = []
    for variable in sorted(environment):
        name = variable.removeprefix(_PREFIX)
        if variable.startswith(_PREFIX) and name not in ours and not variable.startswith(tuple(others)):
            meant = "".join(f" Did you mean {_PREFIX}{each}?" for each in near(name, ours)[:1])
            remarks.append(f"the variable {variable} is unknown and changes nothing.{meant}")
    return remarks


def explained(ctx: click.Context, message: str) -> str:
    """An error's message without passwords, and with the line or variable of each option that it speaks of."""
    message = masked_text(message)
    force: InForce | None = ctx.meta.get(_IN_FORCE)
    if force is None:
        return message
    places = {each.key: force.place(each) for each in force.settings if _speaks_of(message, each, force)}
    return "\n".join([message, *(f"--{key} comes from {place}." for key, place in places.items() if place)])


def _speaks_of(message: str, setting: Setting, force: InForce) -> bool:
    """Whether a message names the option, or quotes its value (of an address, the part without a password)."""
    if re.search(rf"(?<![\w-])--{re.escape(setting.key)}(?![\w-])", message) or message.startswith(f"{setting.key} "):
        return True
    value = force.context.params.get(str(setting.option.name))
    texts = [str(each) for each in (value if isinstance(value, tuple) else [value]) if each]
    return any(
        repr(text) in message or ("://" in text and re.split("://|@", text)[-1].rstrip("/") in message)
        for text in texts
    )


def folder_of(ctx: click.Context) -> str | None:
    """The folder that the command writes to, where it has such an option."""
    force: InForce | None = ctx.meta.get(_IN_FORCE)
    given = force.context.params if force is not None else {}
    return next((str(given[name]) for name in ("root", "data_dir") if given.get(name)), None)


def refused(ctx: click.Context, error: click.UsageError) -> click.UsageError:
    """Click's own error, naming the variable or the line that it is about, and no password."""
    force: InForce | None = ctx.meta.get(_IN_FORCE)
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        return error  # the help text of a group
    message = error.format_message()
    if force is not None and isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        for setting in force.settings:
            if setting.option is error.param:
                name = setting.variable if force.place(setting) == setting.variable else f"'--{setting.key}'"
                why = "it is not accepted." if file.is_secret(setting.key) else error.message
                message = f"Invalid value for {name}: {why}"
    message = explained(ctx, message)
    return error if message == error.format_message() else click.UsageError(message, error.ctx)


def strongest(**values: Any) -> list[Any]:
    """Of options that exclude each other, those from the strongest source: one on the command line sets aside one in
    the file. The others become None."""
    ctx = click.get_current_context(silent=True)
    for source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP):
        told = {name: ctx is not None and ctx.get_parameter_source(name) is source for name in values}
        if any(told.values()):
            return [value if told[name] else None for name, value in values.items()]
    return list(values.values())


def say_which() -> None:
    """Logs which file is in force, for a command that runs for long."""
    force: InForce | None = click.get_current_context().meta.get(_IN_FORCE)
    if force is not None and force.file.path is not None:
        log.info("options come from %s", force.file.name)
