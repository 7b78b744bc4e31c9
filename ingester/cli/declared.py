"""What click declares: every command's options as settings, with their keys, variables, defaults and examples."""

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

from ingester.exchange import VENUES

WITHOUT_TABLE = ("init", "config")
"""Commands about the file itself; it says nothing to them."""

CONFIG_OPTION = "config_file"

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
}
"""What stands in a written file for an option without default, by key, or table and key."""
_EXAMPLES_BY_METAVAR = {
    "URL": "http://127.0.0.1:9000",
    "DURATION": "60s",
    "TIME": "2024-08-08 12:00",
    "COIN,…": ["BTC", "ETH"],
    "PAIR,…": ["BTCUSDT", "ETHUSDT"],
}


@dataclass(frozen=True)
class Setting:
    """One option of one command, as it may be set by a file or a variable."""

    path: tuple[str, ...]
    """The command's name, and those of the groups around it: `("server", "status")`."""
    option: click.Option
    common: bool
    """Whether it says where the data is: then it stands at the top of the file, for all commands that have it."""

    @property
    def key(self) -> str:
        """The option's long name."""
        return max(self.option.opts, key=len).lstrip("-")

    @property
    def keys(self) -> tuple[str, ...]:
        """The way to its value in the file."""
        return (self.key,) if self.common else (*self.path, self.key)

    @property
    def variable(self) -> str:
        """`INGESTER_QUESTDB`, `INGESTER_START_DEPTH`, `INGESTER_SERVER_STATUS_JSON`."""
        return "_".join(("ingester", *self.keys)).upper().replace("-", "_")

    @property
    def takes_list(self) -> bool:
        """Whether a list may be given: the option may be repeated, or takes names with commas between."""
        return self.option.multiple or self.option.nargs != 1 or self._takes_commas

    @property
    def _takes_commas(self) -> bool:
        return (self.option.metavar or "").endswith(",…")

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
        """What it does, in one line; the default is told apart."""
        return " ".join(_DEFAULT_IN_HELP.sub("", self.option.help or "").split())

    @property
    def default_text(self) -> str:
        """Its default as a reader on any machine may be told; empty where there is none."""
        if told := _DEFAULT_IN_HELP.search(self.option.help or ""):
            return told[1]
        if isinstance(self.option.show_default, str):
            return self.option.show_default
        return "" if self.default is None else toml_text(self.default)

    @property
    def example(self) -> Any:
        """A value that would be accepted, for an option without default."""
        value: Any = _EXAMPLES.get(".".join(self.keys), _EXAMPLES.get(self.key))
        if value is None:
            value = _EXAMPLES_BY_METAVAR.get(self.option.metavar or "")
        if value is None:
            value = _example_of(self.option.type, self.option.metavar or self.key)
        return [value] if self.option.multiple and not isinstance(value, list) else value

    def from_toml(self, value: Any) -> Any:
        """The value that click is to convert. Raises ValueError saying what is expected instead."""
        if self.option.multiple or self.option.nargs != 1:
            return [self._single(each) for each in (value if isinstance(value, list) else [value])]
        if self._takes_commas and isinstance(value, list):
            return ",".join(self._single(each) for each in value)
        return self._single(value)

    def _single(self, value: Any) -> Any:
        type_ = self.option.type
        if (self.option.is_flag and self.option.is_bool_flag) or isinstance(type_, click.types.BoolParamType):
            return _checked(value, (bool,), "true or false")
        if self.option.count or isinstance(type_, click.types.IntParamType):
            return _checked(value, (int,), "a whole number, without quotes")
        if isinstance(type_, click.types.FloatParamType):
            return _checked(value, (int, float), "a number, without quotes")
        if self.option.metavar == "TIME" and isinstance(value, datetime.date):
            return value.isoformat()
        if isinstance(type_, click.Choice):
            return str(_checked(value, (str, int), f"one of {', '.join(map(repr, type_.choices))}"))
        if not isinstance(type_, click.types.StringParamType | click.Path):
            return str(_checked(value, (str, int, float), "a number, or text in quotes"))
        example = f", such as {toml_text(self.default if self.default is not None else self.example)}"
        what = "text in quotes, or a list of texts" if self._takes_commas else "text in quotes"
        text = _checked(value, (str,), what + ("" if self.option.multiple else example))
        return str(Path(text).expanduser()) if isinstance(type_, click.Path) and text.startswith("~") else text


def _checked(value: Any, types: tuple[type, ...], expected: str) -> Any:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"expected {expected}; this is {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "a table"),
        ((datetime.date, datetime.time), "a date or time"),
    ]
    return next(name for types, name in kinds if isinstance(value, types))


def _example_of(type_: object, name: str) -> Any:
    if isinstance(type_, click.Choice):
        return type_.choices[0]
    if isinstance(type_, click.IntRange | click.FloatRange):
        return type_.min if type_.min is not None else type_.max
    if isinstance(type_, click.types.IntParamType | click.types.FloatParamType):
        return 1
    if isinstance(type_, click.types.BoolParamType):
        return True
    return name


def toml_text(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


@cache
def common_settings() -> list[Setting]:
    """The options that `data_options` gives to every command that touches data."""
    from ingester.cli.options import data_options  # that module needs much which `--help` of the whole does not

    @click.command()
    @data_options
    def probe(**values: object) -> None: ...

    return [Setting((), option, common=True) for option in probe.params if isinstance(option, click.Option)]


def settings(path: tuple[str, ...], command: click.Command) -> list[Setting]:
    """The settings of a command, in the order in which its options are declared."""
    common = {setting.key for setting in common_settings()}
    found = []
    for option in command.params:
        if isinstance(option, click.Option) and option.name != CONFIG_OPTION:
            setting = Setting(path, option, common=False)
            found.append(Setting(path, option, common=setting.key in common))
    return found


def commands(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command, or where it is a group, every command in it; each with its path."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is not None:
            yield from commands((*path, name), inner)
