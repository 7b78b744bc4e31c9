"""Where in a TOML text each key and value stands, which `tomllib` does not tell."""

import tomllib
from dataclasses import dataclass

Keys = tuple[str | int, ...]
"""The way to a value: names of tables and keys, numbers of list elements."""


@dataclass(frozen=True)
class TomlPlace:
    """A line and a column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Entry:
    """Where a key is first named, and where its value begins; a list's element and a table stand at one place."""

    key: TomlPlace
    value: TomlPlace


def places(text: str) -> dict[Keys, Entry]:
    """Every table, key and list element of a text that `tomllib` accepts; line ends are `\\n`."""
    return _Scanner(text).document()


class _Scanner:
    """Walks over a text that is known to be valid, so that every step only has to find where something ends."""

    def __init__(self, text: str) -> None:
        self._text = text + "\n"
        self._at = 0
        self._found: dict[Keys, tuple[int, int]] = {}
        self._newest: dict[Keys, int] = {}
        """The number of the last `[[table]]` of each name."""

    def document(self) -> dict[Keys, Entry]:
        table: Keys = ()
        while self._skip(" \t\n"):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return {keys: Entry(self._place(key), self._place(value)) for keys, (key, value) in self._found.items()}

    def _place(self, offset: int) -> TomlPlace:
        return TomlPlace(self._text.count("\n", 0, offset) + 1, offset - self._text.rfind("\n", 0, offset))

    def _skip(self, blank: str) -> bool:
        """Goes on to what is neither blank nor comment; False at the end."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                self._at = self._text.index("\n", self._at)
            elif self._text[self._at] not in blank:
                return True
            else:
                self._at += 1
        return False

    def _note(self, keys: Keys, key: int, value: int) -> None:
        self._found.setdefault(keys, (key, value))

    def _header(self) -> Keys:
        begin, several = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if several else 1
        keys: Keys = ()
        *tables, (last, _) = self._key()
        for name, _ in tables:
            keys = self._inside((*keys, name), begin)
        self._at += 2 if several else 1
        keys = (*keys, last)
        if not several:
            return self._inside(keys, begin)
        self._note(keys, begin, begin)
        self._newest[keys] = self._newest.get(keys, -1) + 1
        return self._inside(keys, begin)

    def _inside(self, keys: Keys, begin: int) -> Keys:
        """The table of this name; of several, the last one."""
        self._note(keys, begin, begin)
        if keys in self._newest:
            keys = (*keys, self._newest[keys])
            self._note(keys, begin, begin)
        return keys

    def _pair(self, table: Keys) -> None:
        keys = table
        *outer, (name, begin) = self._key()
        for part, at in outer:
            keys = (*keys, part)
            self._note(keys, at, at)
        self._at += 1  # the equals sign
        self._skip(" \t")
        self._note((*keys, name), begin, self._at)
        self._value((*keys, name))

    def _key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key, each with where it begins; ends before `=` or `]`."""
        parts = []
        while True:
            self._skip(" \t")
            begin = self._at
            if self._text[begin] in "\"'":
                self._string()
                name = next(iter(tomllib.loads(f"{self._text[begin : self._at]} = 0")))
            else:
                while self._text[self._at] not in " \t.=]":
                    self._at += 1
                name = self._text[begin : self._at]
            parts.append((name, begin))
            self._skip(" \t")
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _value(self, keys: Keys) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._at += 1
            number = 0
            while self._skip(" \t\n,") and self._text[self._at] != "]":
                self._note((*keys, number), self._at, self._at)
                self._value((*keys, number))
                number += 1
            self._at += 1
        elif first == "{":
            self._at += 1
            while self._skip(" \t\n,") and self._text[self._at] != "}":
                self._pair(keys)
            self._at += 1
        else:
            while self._text[self._at] not in ",]}#\n":
                self._at += 1

    def _string(self) -> None:
        quote = self._text[self._at]
        fence = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(fence)
        while not self._text.startswith(fence, self._at):
            self._at += 2 if quote == '"' and self._text[self._at] == "\\" else 1
        self._at += len(fence)
        if len(fence) == 3:  # up to two quotes may stand right before the closing ones
            while self._text[self._at] == quote:
                self._at += 1
