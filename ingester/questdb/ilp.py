"""Splits ILP of the questdb client (protocol version 2) into rows, and reads their symbols and fields."""

import re
from typing import NamedTuple

_HEAD = rb"(?:[^\\ \n]|\\.)++"  # table and symbols: up to a space that is not escaped
_VALUE = rb'(?:=\x10.{8}|"(?:[^"\\]|\\.)*+"|[^",= \n]++)'  # a double in eight bytes, a string, or what is plain text
_FIELD = rb"(?:[^\\=, \n]|\\.)++=" + _VALUE
_ROW = re.compile(
    rb"(?P<head>%b)(?: (?P<fields>%b(?:,%b)*+))?(?: (?P<at>-?\d+)[a-z]*)?\n" % (_HEAD, _FIELD, _FIELD), re.DOTALL
)
_TABLE = re.compile(rb"(?:[^\\,]|\\.)++", re.DOTALL)
_SYMBOL = re.compile(rb",symbol=((?:[^\\,]|\\.)*+)", re.DOTALL)
_SYMBOLS = re.compile(rb",((?:[^\\=, ]|\\.)++)=((?:[^\\,]|\\.)*+)", re.DOTALL)
_SPECIAL = re.compile(rb"[\\ ,=\n]")
_FIELDS = re.compile(rb"(?P<name>(?:[^\\=,]|\\.)++)=(?P<value>%b)" % _VALUE, re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class Tags(NamedTuple):
    """The table, symbol, update id and time of a row; None for what it lacks."""

    table: str | None
    symbol: str | None
    update_id: int | None
    at_ns: int | None


def rows(body: bytes) -> list[bytes]:
    """Returns the rows of a body, each with its newline. If a part cannot be read, the rest is the last row."""
    found, at = [], 0
    while at < len(body):
        match = _ROW.match(body, at)
        end = match.end() if match else len(body)
        found.append(body[at:end])
        at = end
    return found


def tags(row: bytes) -> Tags:
    """Returns table, symbol, update id and time (ns) of a row."""
    match = _ROW.fullmatch(row)
    if match is None:
        return Tags(None, None, None, None)
    head = match["head"]
    table, symbol = _TABLE.match(head), _SYMBOL.search(head)
    fields = {field["name"]: field["value"] for field in _FIELDS.finditer(match["fields"] or b"")}
    update_id = re.fullmatch(rb"(-?\d+)i", fields.get(b"last_update_id", b""))
    return Tags(
        _text(table[0]) if table else None,
        _text(symbol[1]) if symbol else None,
        int(update_id[1]) if update_id else None,
        int(match["at"]) if match["at"] else None,
    )


def texts(row: bytes) -> dict[str, str]:
    """Returns the symbols and the string fields of a row by name."""
    match = _ROW.fullmatch(row)
    if match is None:
        return {}
    found = {_text(name): _text(value) for name, value in _SYMBOLS.findall(match["head"])}
    for field in _FIELDS.finditer(match["fields"] or b""):
        if field["value"].startswith(b'"'):
            found[_text(field["name"])] = _text(field["value"][1:-1])
    return found


def with_symbol(row: bytes, name: str, value: str) -> bytes:
    """Returns the row with one more symbol, before the others."""
    table = _TABLE.match(row)
    end = table.end() if table else 0
    return row[:end] + b"," + name.encode() + b"=" + _SPECIAL.sub(rb"\\\g<0>", value.encode()) + row[end:]


def _text(escaped: bytes) -> str:
    return _ESCAPED.sub(rb"\1", escaped).decode(errors="replace")
