"""Names, columns and times of data sets, and the request for one.

A data set covers the half-open range [from, to) in UTC. Its frames have the index `Request Time` (datetime64[ns] in
UTC, without a zone) and the columns `Bid_1, BidV_1, … Bid_N, BidV_N, Ask_1, AskV_1, … Ask_N, AskV_N`, all float64. A
missing level of a thin book is NaN.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from ingester.book import INDEX as INDEX, frame_columns
from ingester.clock import SECOND
from ingester.config import FILLS as FILLS
from ingester.errors import OperationError, SettingsError, UnknownPair
from ingester.exchange import assets_of
from ingester.questdb import DEFAULT_EXCHANGE, QuestDB, query
from ingester.text import nearest_text, path_part

ROOT = "hft data"
EXTRACTED = "extracted datasets"
RAW = "raw fetched data"
COLON = "\ua789"
"""Replaces the colon in file names, which some file systems do not allow."""
MILLISECOND = SECOND // 1000
FORMATS = ("pkl", "csv", "parquet", "npz")
RAW_FORMATS = ("pkl", "csv")
columns = frame_columns

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d\d:?\d\d)?)?", re.IGNORECASE
)

_WHOLE = {"now": SECOND, "today": 86_400 * SECOND}


def parse_time(text: str, what: str = "time") -> int:
    """Returns a time in ns since 1970: `2023-06-01`, `2023-06-01 12:00`, or ISO 8601; UTC where no zone is given.

    `today` is the last midnight, `now` the last full second. Raises SettingsError, which names `what`.
    """
    if text.strip().lower() in ("now", "today"):
        return time.time_ns() // _WHOLE[text.strip().lower()] * _WHOLE[text.strip().lower()]
    match = _TIME.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
        zone = datetime.strptime((match[8] or "Z").replace(":", "").upper(), "%z").tzinfo
        at = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError:
        raise SettingsError(
            f"{what} {text!r} is not a time. Write 2023-06-01, '2023-06-01 12:00', 2023-06-01T12:00:00Z, today or "
            "now; without a zone it is UTC."
        ) from None
    return int(at.timestamp()) * SECOND + int((match[7] or "0").ljust(9, "0"))


def time_text(ns: int) -> str:
    """Returns `2023-06-01 12:00`, with seconds and their fraction where they are not zero."""
    at = datetime.fromtimestamp(ns // SECOND, UTC)
    text = f"{at:%Y-%m-%d %H:%M}"
    if ns % (60 * SECOND):
        text += at.strftime(":%S")
    fraction = ns % SECOND
    return text + f".{fraction:09d}".rstrip("0") if fraction else text


def frequency_text(ns: int) -> str:
    """Returns `100ms`, `250ms` or `1s`."""
    return f"{ns // SECOND}s" if ns % SECOND == 0 else f"{ns // MILLISECOND}ms"


def folder_name(start_ns: int, end_ns: int) -> str:
    """`from_(2023-06-01 12꞉00)_to_(2023-06-03 00꞉00)`."""
    return f"from_({_name(start_ns)})_to_({_name(end_ns)})"


def extracted_folder(root: Path, exchange: str) -> Path:
    """Returns the folder for data sets of an exchange; only Binance spot has no subfolder of its name."""
    folder = root / EXTRACTED
    return folder if exchange == DEFAULT_EXCHANGE else folder / path_part(exchange.replace(":", COLON), "exchange")


def file_name(symbol: str, frequency_ns: int, start_ns: int, end_ns: int, suffix: str) -> str:
    """`ADA_USDT_100ms_(2023-06-01 12꞉00)_(2023-06-03 00꞉00).pkl`."""
    pair = pair_name(symbol)
    return f"{pair}_{frequency_text(frequency_ns)}_({_name(start_ns)})_({_name(end_ns)}).{suffix}"


def raw_folder_name(since_ns: int) -> str:
    """`since_2023-06-01 08꞉31`: the folder of the raw backups of one run."""
    return f"since_{_name(since_ns)}"


def raw_file_name(symbol: str, frequency_ns: int, since_ns: int, number: int, suffix: str) -> str:
    """`ADA_USDT_100ms_(2023-06-01 08꞉31)_(1).pkl`: the `number`-th interval of a run."""
    return f"{pair_name(symbol)}_{frequency_text(frequency_ns)}_({_name(since_ns)})_({number}).{suffix}"


def pair_name(symbol: str) -> str:
    """Returns `ADA_USDT` for ADAUSDT: the symbol for a file name. `symbol_named` reverses it."""
    base, _ = assets_of(symbol)
    if not base or not symbol.startswith(base):
        base = symbol
    return f"{escaped(base)}_{escaped(symbol[len(base) :])}"


def symbol_named(pair: str) -> str:
    """Returns the symbol of `ADA_USDT` or `ada_usdt`. Raises ValueError."""
    base, _, rest = pair.partition("_")
    if not base or "_" in rest:
        raise ValueError(pair)
    return _unescaped(base) + _unescaped(rest)


def escaped(name: str) -> str:
    """Returns a name for use in a file name: characters but letters and digits become `%5F` and the like (UTF-8).

    So do a to z, because lower case means upper case in the file names of earlier recordings.
    """
    return "".join(
        each
        if (each.isalnum() and not "a" <= each <= "z") or each == "-"
        else "".join(f"%{byte:02X}" for byte in each.encode("utf-8", "surrogatepass"))
        for each in name
    )


def _unescaped(text: str) -> str:
    upper = re.sub("[a-z]+", lambda found: found[0].upper(), text)
    return re.sub(
        "(?:%[0-9A-F]{2})+",
        lambda found: bytes.fromhex(found[0].replace("%", "")).decode("utf-8", "surrogatepass"),
        upper,
    )


def _name(ns: int) -> str:
    return time_text(ns).replace(":", COLON)


class Request(msgspec.Struct, frozen=True):
    """The request for a data set. Times are in ns; `every_ns` None: rows as received."""

    start_ns: int
    end_ns: int
    symbols: tuple[str, ...]
    levels: int = 5
    format: str = "pkl"
    every_ns: int | None = None
    max_age_ns: int = SECOND
    fill: str = "none"
    exchange: str = DEFAULT_EXCHANGE
    interval_ns: int = 100 * MILLISECOND
    """The recorded interval, for the names of files with rows as received."""

    @property
    def frequency_ns(self) -> int:
        """The interval of rows in file names."""
        return self.every_ns or self.interval_ns

    @property
    def width(self) -> int:
        """Values of a row."""
        return 4 * self.levels

    def file_name(self, symbol: str) -> str:
        """Returns the name of a pair's file. Raises SettingsError where the symbol cannot be part of one."""
        name = file_name(symbol, self.frequency_ns, self.start_ns, self.end_ns, self.format)
        return path_part(name, "pair")


@dataclass
class Progress:
    """The progress of an export."""

    rows: int = 0
    """Rows to read."""
    rows_read: int = 0
    files: int = 0
    """Files to write."""
    files_written: int = 0
    pair: str = ""
    """The pair whose file was written last."""


def check_range(start_ns: int, end_ns: int) -> None:
    """Raises SettingsError where the range is empty, reversed or not over yet."""
    if start_ns == end_ns:
        raise SettingsError(f"--from and --to are both {time_text(start_ns)}: the range [from, to) is empty.")
    if start_ns > end_ns:
        raise SettingsError(f"--from {time_text(start_ns)} lies after --to {time_text(end_ns)}. Exchange them.")
    now = time.time_ns()
    for option, at in (("--from", start_ns), ("--to", end_ns)):
        if at > now:
            raise SettingsError(f"{option} {time_text(at)} lies in the future; it is {time_text(now)} UTC now.")


class Selection(NamedTuple):
    """Which rows of a range are taken."""

    exchange: str
    only: str | None
    """The exchange to filter by; None where no other is near, for a filter that matches all rows only takes time."""
    rows: dict[str, int]
    """How many rows each symbol of the exchange has in the range."""
    symbols: list[str]


def select_rows(
    db: QuestDB,
    start_ns: int,
    end_ns: int,
    *,
    exchange: str | None,
    symbols: Sequence[str] | None,
    near: tuple[int, int],
) -> Selection:
    """Returns which rows of a range are meant by these names; None stands for all that there are.

    `near`: the range that is read, which may begin earlier and end later. Raises as `choose_exchange` and
    `choose_symbols` do.
    """
    chosen = choose_exchange(db, exchange, query.exchanges(db, start_ns, end_ns), start_ns, end_ns, symbols)
    only = chosen if len(query.exchanges(db, *near)) > 1 else None
    rows = query.rows_by_symbol(db, start_ns, end_ns, exchange=only) if query.table_exists(db) else {}
    known = query.all_symbols(db, only) if symbols else list(rows)
    return Selection(chosen, only, rows, choose_symbols(symbols, rows, known))


def choose_exchange(
    db: QuestDB,
    named: str | None,
    there: Sequence[str],
    start_ns: int,
    end_ns: int,
    symbols: Sequence[str] | None = None,
) -> str:
    """Returns the exchange whose books are taken: the named one, or the only one that has rows in the range.

    `there`: the exchanges that have rows in the range. `symbols`: where pairs are named, only exchanges that have rows
    of them count. Raises SettingsError with the names of the exchanges where it is not clear, and StoreError.
    """
    offered = f"This range has books of {', '.join(there)}."
    if named is not None and there and named not in there:
        raise SettingsError(f"--exchange {named!r} has no books. {offered}")
    if named is not None or not there:
        return named or DEFAULT_EXCHANGE
    having = query.exchanges(db, start_ns, end_ns, symbols) if symbols and len(there) > 1 else there
    if len(having) > 1:
        raise SettingsError(f"{offered} Choose one of these exchanges with --exchange.")
    return next(iter(having), DEFAULT_EXCHANGE if DEFAULT_EXCHANGE in there else there[0])


def choose_symbols(named: Sequence[str] | None, rows: Mapping[str, int], known: Sequence[str]) -> list[str]:
    """Returns the named symbols, or all with rows in the range.

    `rows`: the number of rows of each symbol in the range. `known`: all symbols of the table. Raises UnknownPair with
    the nearest names, and OperationError where there are no rows.
    """
    unknown = [symbol for symbol in named or () if symbol not in known]
    if unknown and known:
        raise UnknownPair("\n".join(_unknown(symbol, known) for symbol in unknown))
    chosen = list(dict.fromkeys(named)) if named else sorted(rows)
    if not any(rows.get(symbol) for symbol in chosen):
        which = "of these pairs " if named and rows else ""
        raise OperationError(
            f"There are no rows {which}in this range. `ingester coverage` shows what was recorded, and when."
        )
    return chosen


def _unknown(symbol: str, known: Sequence[str]) -> str:
    hint = nearest_text(symbol, known, "It resembles no recorded pair.")
    return f"No row of a pair {symbol!r} was ever recorded. {hint}"
