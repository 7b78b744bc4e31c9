"""What a configuration file may say, and what it says to a command; anything else is refused with its line."""

from collections.abc import Iterable, Mapping
from typing import Any, Union

import click

from ingester.cli.declared import WITHOUT_TABLE, Setting
from ingester.config import Configuration, is_secret, nearest

Tree = dict[str, Union[Setting, "Tree", None]]
"""Names to settings and to tables; None stands for the table of a command that checks it when it runs itself."""


def tree(settings: Mapping[tuple[str, ...], Iterable[Setting]], names: Iterable[str]) -> Tree:
    """What a file may hold: these commands' settings, and a table for each of the commands named."""
    root: Tree = {name: None for name in names if name not in WITHOUT_TABLE}
    for path, own in settings.items():
        table = root
        for name in path:
            inner = table.get(name)
            if not isinstance(inner, dict):
                inner = table[name] = {}
            table = inner
        for setting in own:
            (root if setting.common else table)[setting.key] = setting
    return root


def said(found: Configuration, known: Tree) -> dict[tuple[str, ...], Any]:
    """The values in a file as click is to convert them, by the way to each. Raises SettingsError on the first key or
    value that cannot be used."""
    values: dict[tuple[str, ...], Any] = {}
    _walk(found, known, known, (), found.values, values)
    return values


def _walk(
    found: Configuration,
    root: Tree,
    known: Tree,
    keys: tuple[str, ...],
    table: Mapping[str, Any],
    values: dict[tuple[str, ...], Any],
) -> None:
    for key, value in table.items():
        here = (*keys, key)
        if key not in known:
            raise found.refuse_key(here, _unknown(root, known, keys, key, isinstance(value, Mapping)))
        expected = known[key]
        if isinstance(expected, Setting):
            values[here] = _converted(found, expected, value)
        elif not isinstance(value, Mapping):
            raise found.refuse_key(here, f"{key} is a command: its options stand in a table, [{'.'.join(here)}].")
        elif expected is not None:
            _walk(found, root, expected, here, value, values)


def _unknown(root: Tree, known: Tree, keys: tuple[str, ...], key: str, is_table: bool) -> str:
    if not keys and key in WITHOUT_TABLE:
        return f"`ingester {key}` takes nothing from the file."
    if keys and isinstance(root.get(key), Setting):
        return f"{key} holds for all commands: it stands at the top of the file, above the first [table]."
    if not keys:
        below = [
            name for name, inner in root.items() if isinstance(inner, dict) and isinstance(inner.get(key), Setting)
        ]
        if below:
            return f"{key} belongs to a command: it stands below {' or '.join(f'[{name}]' for name in below)}."
    where = f"[{'.'.join(keys)}] has no" if keys else "there is no"
    what = "table" if is_table or not any(isinstance(each, Setting) for each in known.values()) else "key"
    return f"{where} {what} {key!r}.{nearest(key, known)}"


def _converted(found: Configuration, setting: Setting, value: Any) -> Any:
    """The value as the option takes it, tried with the option's own type."""
    name = ".".join(setting.keys)
    if isinstance(value, list) and setting.takes_list:
        for number, each in enumerate(value):
            _tried(setting, found, (*setting.keys, number), name, [each])
    return _tried(setting, found, setting.keys, name, value)


def _tried(setting: Setting, found: Configuration, keys: tuple[str | int, ...], name: str, value: Any) -> Any:
    try:
        told = setting.from_toml(value)
        if len(keys) == len(setting.keys):
            setting.option.type_cast_value(click.Context(click.Command(name)), told)
        return told
    except ValueError as error:
        raise found.refuse_value(keys, f"{name}: {error}.") from None
    except click.BadParameter as error:
        why = "this value is not accepted." if is_secret(setting.key) else error.message
        raise found.refuse_value(keys, f"{name}: {why}") from None
