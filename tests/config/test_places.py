"""places.py: the line and column of every key and value, in every form that TOML has."""

import tomllib

import pytest

from ingester.config.places import Entry, TomlPlace, places

TEXTS = {
    "bare keys, comments, blanks": '# first\n\n  depth = 5 # five\nname="x#y"\n',
    "tables": "top = 1\n[start]\ndepth = 5\n\n[server.status]\njson = true\n[server]\n",
    "dotted keys": "start.depth = 5\nstart . 'a.b' . \"c\\u0041\" = 7\n",
    "inline tables": 'start = { depth = 5, pairs = ["A", "B"], inner.x = {y = 1} }\nafter = 1\n',
    "lists": 'pairs = [ # one\n  "A", # [ not a list ]\n  "B",\n\n  ["C", {x = 1, y = [2]}],\n]\nafter = []\n',
    "several tables of a name": "[[a]]\nx = 1\n[[a]]\nx = 2\n[a.b]\ny = 3\n[[a.c]]\nz = 4\n[[a.c]]\nz = 5\n",
    "strings": 'a = "quote \\" ] # "\nb = \'back \\\'\nc = \'\'\nd = ""\ne = 1\n',
    "long strings": 'a = """\n[no]\n"x" \\""" = 1"""""\nb = \'\'\'it\'\'s [b]\n\\\'\'\'\nc = """"""\nd = 1\n',
    "numbers and times": "a = 2024-08-08 12:00:00Z\nb = 1_000\nc = [1.5, -inf, 07:32:00]\nd = 0x1F # end",
    "quoted headers": "[\"with space\".'a]b']\nx = 1\n[ spaced . out ]\ny = 2\n",
    "beyond ASCII": '"größe" = "꞉"\n["表"]\nx = 1\n',
    "no last line end": "[a]\nx = 1",
    "nothing": "",
    "only a comment": "# nothing",
}


def ways(value, keys=()):
    """The way to everything in a parsed text."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*keys, key)
        yield from ways(each, (*keys, key))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_everything_has_a_place_where_it_is_named(text):
    found = places(text)
    assert set(found) == set(ways(tomllib.loads(text)))
    lines = text.split("\n")
    for keys, entry in found.items():
        named = lines[entry.key.line - 1][entry.key.column - 1 :]
        if isinstance(keys[-1], str) and not named.startswith("["):
            assert named.lstrip("\"'").startswith(keys[-1][0])
        else:
            assert named.strip()


def test_keys_and_values_have_lines_and_columns_from_one():
    found = places('top = 1\n\n[start]\n  pairs = ["A",\n    "B"]\n')
    assert found["top",] == Entry(TomlPlace(1, 1), TomlPlace(1, 7))
    assert found["start",].key == TomlPlace(3, 1)
    assert found["start", "pairs"] == Entry(TomlPlace(4, 3), TomlPlace(4, 11))
    assert found["start", "pairs", 1].value == TomlPlace(5, 5)


def test_a_value_after_every_form_of_string_is_found():
    text = TEXTS["long strings"]
    assert found_value(text, "d") == "1"
    assert found_value(TEXTS["strings"], "e") == "1"


def found_value(text, key):
    place = places(text)[key,].value
    return text.split("\n")[place.line - 1][place.column - 1 :]
