"""config.py: the file that `ingester init` writes changes nothing, and every line of it may be taken into use."""

import json
import re
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ingester.cli import cli
from ingester.cli.config import template
from ingester.cli.configuration import WITHOUT_TABLE, settings_by_path

NAMES = [name for name in cli.list_commands(click.Context(cli)) if name not in WITHOUT_TABLE]
SETTINGS = {setting.keys: setting for own in settings_by_path(click.Context(cli), NAMES).values() for setting in own}
TEXT = template(cli)
KEY = re.compile(r"#(?=\S+ = )")


pytestmark = pytest.mark.usefixtures("home")


def run(*words):
    answer = CliRunner().invoke(cli, [str(word) for word in words])
    return answer.exit_code, answer.output


def in_force():
    code, output = run("config", "--json")
    assert code == 0, output
    return json.loads(output)["commands"]


def values(commands):
    return {(path, key): each["value"] for path, own in commands.items() for key, each in own.items()}


def keys_in(table, above=()):
    """The way to each value in a file."""
    for name, value in table.items():
        yield from keys_in(value, (*above, name)) if isinstance(value, dict) else [(*above, name)]


def exists(setting):
    return isinstance(setting.option.type, click.Path) and setting.option.type.exists


def test_the_written_file_changes_nothing(home):
    before = in_force()
    assert run("init")[0] == 0
    assert in_force() == before
    assert json.loads(run("config", "--json")[1])["file"] == str(home / "ingester.toml")
    assert (home / "ingester.toml").read_text() == template(cli)  # the folders of this test are in it
    assert (home / "ingester.toml").stat().st_mode & 0o777 == 0o600


def test_it_holds_every_option_once():
    found = re.findall(r"^(?:\[(.*)\]|#(\S+) = .*)$", TEXT, re.MULTILINE)
    table, keys = (), []
    for header, key in found:
        if header:
            table = tuple(header.split("."))
        else:
            keys.append((*table, key))
    assert sorted(keys) == sorted(SETTINGS)


@pytest.mark.parametrize("number", [n for n, line in enumerate(TEXT.splitlines()) if KEY.match(line)])
def test_each_line_may_be_taken_into_use_alone(home, number):
    lines = template(cli).splitlines()
    lines[number] = KEY.sub("", lines[number])
    Path("ingester.toml").write_text("\n".join(lines))
    Path("ingester.toml").chmod(0o600)
    (keys,) = keys_in(tomllib.loads("\n".join(lines)))
    setting = SETTINGS[keys]
    if exists(setting):
        example = setting.example[0] if setting.option.multiple else setting.example
        Path(example).touch() if setting.option.type.file_okay else Path(example).mkdir()
    told = [each[setting.key] for path, each in in_force().items() if setting.key in each and covers(setting, path)]
    assert told
    assert {each["place"] for each in told} == {"ingester.toml"}


def covers(setting, path):
    return setting.common or path == " ".join(setting.path)


def test_the_defaults_in_it_are_those_in_force(home):
    before = in_force()
    defaults = {setting.key for setting in SETTINGS.values() if setting.default is not None}
    Path("ingester.toml").write_text(
        "\n".join(
            KEY.sub("", line)
            if re.sub(r"^#(\S+) = .*", r"\1", line) in defaults and "For example:" not in above
            else line
            for above, line in zip(["", *template(cli).splitlines()], template(cli).splitlines(), strict=False)
        )
    )
    used = in_force()
    assert values(used) == values(before)
    assert sum(each["source"] == "file" for own in used.values() for each in own.values()) > 20


def test_it_is_toml_with_all_lines_in_use():
    everything = tomllib.loads("\n".join(KEY.sub("", line) for line in TEXT.splitlines()))
    assert everything["start"]["depth"] == 5
    assert everything["start"]["pairs"] == ["BTCUSDT", "ETHUSDT"]


def test_a_file_that_is_there_is_left_alone(home):
    (home / "ingester.toml").write_text("# mine")
    code, output = run("init")
    assert code == 2
    assert "ingester.toml is there already. Give --force" in output
    assert (home / "ingester.toml").read_text() == "# mine"
    assert run("init", "--force")[0] == 0
    assert "[start]" in (home / "ingester.toml").read_text()


def test_it_is_written_where_it_is_asked_for(home):
    (home / "folder").mkdir()
    code, output = run("init", "folder")
    assert code == 0
    assert "--config folder/ingester.toml" in output
    assert (home / "folder" / "ingester.toml").is_file()
    code, output = run("init", home / "config" / "ingester" / "ingester.toml")  # the user's own, its folder made
    assert code == 0
    assert "--config" not in output
    assert json.loads(run("config", "--json")[1])["file"] == str(home / "config" / "ingester" / "ingester.toml")
    (home / "file").touch()
    code, output = run("init", "file/below/it.toml")
    assert code == 1
    assert "cannot be written: Not a directory" in output
