"""Writes `configuration.md` from what the commands declare, and puts the files of `sql/` into `sql.md`.

python docs/generate.py          writes both
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from ingester.cli import cli
from ingester.cli.configuration import (
    CONFIG_OPTION,
    OTHER_VARIABLES,
    WITHOUT_TABLE,
    Setting,
    commands,
    common_settings,
    settings,
)

DOCS = Path(__file__).parent
SQL = DOCS.parent / "sql"

HEAD = """\
# Configuration

<!-- Written by docs/generate.py from what the commands declare: change their help, then `make docs`. -->

Every option of every command may be given in three ways. The first of them that says something is in force:

1. on the command line: `ingester start --depth 10`
2. as an environment variable: `INGESTER_START_DEPTH=10`. An empty one counts as not given.
3. in the configuration file: `depth = 10` below `[start]`

`ingester init` writes a file in which every option stands with what it does and its default, commented out.
`ingester config` shows what is in force for every command, or for one of them, and which file or variable it comes
from; it also checks all keys of the file and the form of every value, and exits with 2 where something is wrong.
What only the command itself can check, such as whether a pair is listed, it says when it runs; the error names the key
of the file, such as `[start] depth`, or the variable.

```sh
ingester init
ingester config start
ingester config start --json -- --depth 10
```

## The file

The file is the one that `--config FILE` names (after the command), else the one that `INGESTER_CONFIG` names, else
`ingester.toml` in the folder in which the command is run, else `ingester/ingester.toml` in the platform's folder
for user configuration (`~/.config` on Linux). Only one is read. `--config /dev/null` reads none. One that is named
and is not there is an error.

```toml
data-dir = "/srv/books"                  # common: for every command that touches data

[start]                                  # for one command
pairs = ["BTCUSDT", "ETHUSDT"]
depth = 10
backup-every = 30

[export]
format = "parquet"
every = "250ms"

[server.status]                          # for a command of a group
json = true
```

* The format is [TOML](https://toml.io), encoded in UTF-8. A key is an option's long name without the dashes.
* Options that say where the data is stand at the top, above the first table; all others in the table of their
  command.
* Text, durations and paths are in quotes, numbers need none; options without a value are `true` or `false`.
* Where names with commas are expected (`--pairs BTCUSDT,ETHUSDT`), or an option may be repeated, a list may be
  given.
* `--from` and `--to` also take dates and times of TOML: `from = 2024-08-08`.
* Paths are relative to the folder in which the command is run, as on the command line; `~` is the home folder.
* A key that is not known, and a value that cannot be used, is refused with the file and the key (exit code 2),
  also where an option on the command line would replace it. Each command checks the common keys and its own table.
* Of options that exclude each other, such as `--coins` and `--pairs`, the one given in the stronger way counts.
* A file with a password in it is for its owner only: `chmod 600 ingester.toml`. Commands warn where all users may
  read it.
* A file that was not named, and that another user owns or may write to, is ignored with a warning, as git does with
  repositories: whoever writes it decides what is run. Root's files, a group that is one user's own, and with sudo the
  files of the user who called it are trusted. A file that `--config` or `INGESTER_CONFIG` names is your own decision.

## Variables

A variable's name is `INGESTER_`, the command (and its group's name before it) unless the option is a common one,
and the option, in capitals with underscores. Options that may be repeated are separated by blanks in a variable,
files by colons. A variable that begins with `INGESTER_` and is not known is warned of, not refused, for container
platforms make such ones of their own. These stand beside the options:

| variable | what it does |
|---|---|
"""


def configuration() -> str:
    """The text of `configuration.md`."""
    parts = [HEAD + "".join(f"| `{name}` | {text} |\n" for name, text in OTHER_VARIABLES.items())]
    parts.append("## Common options\n\nFor every command that touches data; keys at the top of the file.\n\n")
    parts[-1] += _table(common_settings())
    parts += [_section(path, command) for path, command in commands((), cli)]
    return "\n".join(parts)


def _section(path: tuple[str, ...], command: click.Command) -> str:
    name = " ".join(("ingester", *path))
    usage = f"{name} {' '.join(command.collect_usage_pieces(click.Context(command, info_name=name)))}"
    known = settings(path, command)
    own = [setting for setting in known if not setting.common]
    shared = [f"`--{setting.key}`" for setting in known if setting.common]
    if any(param.name == CONFIG_OPTION for param in command.params):
        shared.append("`--config`")
    lines = [f"## {name}", f"```\n{usage}\n```", *_paragraphs(inspect.cleandoc(command.help or ""))]
    if path[0] in WITHOUT_TABLE:
        lines.append(f"Takes no options from the file{f', only {shared[0]} to name it' if shared else ''}.")
    elif own:
        lines.append(f"Table `[{'.'.join(path)}]`" + (f"; besides, {', '.join(shared)}." if shared else "."))
    else:
        lines.append(f"Options: {', '.join(shared)}.")
    if own:
        lines.append(_table(own, with_keys=path[0] not in WITHOUT_TABLE).rstrip())
    return "\n\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text; those that click leaves as they are become blocks."""
    for paragraph in text.split("\n\n"):
        if not paragraph.lstrip().startswith("\b"):
            yield paragraph
            continue
        first, *rest = paragraph.replace("\b", "").strip("\n").splitlines()
        if first.startswith("Example"):
            yield "```sh\n" + "\n".join(line.strip() for line in rest) + "\n```"
        else:
            yield "```\n" + "\n".join([first, *rest]) + "\n```"


def _table(known: list[Setting], with_keys: bool = True) -> str:
    head = "| option | key | variable | default | what it does |\n|---|---|---|---|---|\n"
    rows = []
    for setting in known:
        cells = [f"`{_usage(setting)}`"]
        cells += [f"`{setting.key}`", f"`{setting.variable}`"] if with_keys else []
        rows.append([*cells, _default(setting), setting.help])
    if not with_keys:
        head = "| option | default | what it does |\n|---|---|---|\n"
    return head + "".join("| " + " | ".join(_cell(cell) for cell in row) + " |\n" for row in rows)


def _usage(setting: Setting) -> str:
    option = setting.option
    names = "/".join([", ".join(sorted(option.opts, key=len)), *option.secondary_opts])
    if option.is_flag or option.count:
        return names
    context = click.Context(click.Command("ingester"))
    return f"{names} {option.metavar or option.type.get_metavar(option, context) or option.type.name.upper()}"


def _default(setting: Setting) -> str:
    if setting.option.required:
        return "required"
    text = setting.default_text
    return f"`{text}`" if text and setting.default is not None and not callable(setting.option.default) else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def with_files(text: str) -> str:
    """The text with each ```sql block behind a `<!-- sql/… -->` replaced by that file, and the table of views."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n```sql\n{(DOCS.parent / match[2]).read_text().rstrip()}\n```\n"

    text = re.sub(r"(<!-- (sql/\S+) -->)\n```sql\n.*?```\n", block, text, flags=re.DOTALL)
    rows = "".join(f"| `{name}` | {question} |\n" for name, question in views())
    table = f"<!-- views -->\n| view | what it answers |\n|---|---|\n{rows}<!-- end of views -->"
    return re.sub("<!-- views -->.*<!-- end of views -->", lambda _: table, text, flags=re.DOTALL)


def views() -> Iterator[tuple[str, str]]:
    """Name and question of each view."""
    for file in sorted((SQL / "views").glob("*.sql")):
        yield file.stem, file.read_text().splitlines()[0].removeprefix("-- ")


def documents() -> dict[Path, str]:
    """What the files in this folder should say, by path."""
    cookbook = DOCS / "sql.md"
    return {DOCS / "configuration.md": configuration(), cookbook: with_files(cookbook.read_text())}


if __name__ == "__main__":
    for path, content in documents().items():
        path.write_text(content)
