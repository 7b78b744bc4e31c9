"""`ingester init`: a configuration file to begin with, written from what the commands declare."""

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from ingester.cli.declared import WITHOUT_TABLE, Setting, commands, common_settings, settings, toml_text
from ingester.config import NAME, VARIABLE, user_file
from ingester.errors import OperationError, SettingsError

_HEAD = f"""\
# What the options of `ingester` say, for every command. Nothing in this file is in force as it stands: take the # away
# from a line, and change its value. `ingester config` shows what is in force, and where each value comes from.
#
# An option on the command line wins over an environment variable, a variable over this file. A variable's name is
# INGESTER_, the command unless the key stands at the top, and the key: INGESTER_QUESTDB, INGESTER_START_DEPTH.
# The file is ./{NAME}, else the user's own; --config FILE or {VARIABLE} names another one.
# Whoever can read it can read the passwords in it: chmod 600 {NAME}
"""


@click.command(short_help="Write a configuration file to begin with.")
@click.argument("path", type=click.Path(path_type=Path), default=NAME)
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
    path = path / NAME if path.is_dir() else path
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    _write(path, template(root), force)
    click.echo(f"{path} is written: take the # away from what you want to change, then `ingester config` shows it.")
    if Path(os.path.abspath(path)) not in (Path.cwd() / NAME, user_file()):
        click.echo(f"It is not where commands look by themselves: give --config {path}, or set {VARIABLE}.")


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
