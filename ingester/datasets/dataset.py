"""What a data set is: names of folders and files, columns and times. Pure functions.

A data set covers the half-open range [from, to) in UTC. Its frames have the index `Request Time` (datetime64[ns], UTC,
no zone attached) and the columns `Bid_1, BidV_1, … Bid_N, BidV_N, Ask_1, AskV_1, … Ask_N, AskV_N`, all float64. A level
that a thin book lacks is NaN.
"""

import re
import time
from datetime import UTC, datetime

from ingester.book import INDEX as INDEX, frame_columns
from ingester.clock import SECOND
from ingester.config import FILLS as FILLS
from ingester.errors import SettingsError
from ingester.exchange import assets

ROOT = "hft data"
EXTRACTED = "extracted datasets"
RAW = "raw fetched data"
COLON = "\ua789"
"""Stands in for a colon in file names, which some file systems do not allow."""
MILLISECOND = SECOND // 1000
FORMATS = ("pkl", "csv", "parquet", "npz")
RAW_FORMATS = ("pkl", "csv")
columns = frame_columns

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?\s*(Z|[+-]\d\d:?\d\d)?)?", re.IGNORECASE
)

_WHOLE = {"now": SECOND, "today": 86_400 * SECOND}


def parse_time(text: str, what: str = "time") -> int:
    """`2023-06-01`, `2023-06-01 12:00`, or ISO with or without a zone, in ns since 1970; UTC where no zone is given.

    `today` is its midnight, `now` the last full second. Raises SettingsError naming `what`.
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
    """`2023-06-01 12:00`, with seconds and their fraction where they are not zero."""
    at = datetime.fromtimestamp(ns // SECOND, UTC)
    text = f"{at:%Y-%m-%d %H:%M}"
    if ns % (60 * SECOND):
        text += at.strftime(":%S")
    fraction = ns % SECOND
    return text + f".{fraction:09d}".rstrip("0") if fraction else text


def frequency_text(ns: int) -> str:
    """`100ms`, `250ms`, `1s`."""
    return f"{ns // SECOND}s" if ns % SECOND == 0 else f"{ns // MILLISECOND}ms"


def folder_name(start_ns: int, end_ns: int) -> str:
    """`from_(2023-06-01 12꞉00)_to_(2023-06-03 00꞉00)`."""
    return f"from_({_name(start_ns)})_to_({_name(end_ns)})"


def file_name(symbol: str, frequency_ns: int, start_ns: int, end_ns: int, suffix: str) -> str:
    """`ADA_USDT_100ms_(2023-06-01 12꞉00)_(2023-06-03 00꞉00).pkl`."""
    pair = pair_name(symbol)
    return f"{pair}_{frequency_text(frequency_ns)}_({_name(start_ns)})_({_name(end_ns)}).{suffix}"


def raw_folder_name(since_ns: int) -> str:
    """`since_2023-06-01 08꞉31`: of one run's raw backups."""
    return f"since_{_name(since_ns)}"


def raw_file_name(symbol: str, frequency_ns: int, since_ns: int, number: int, suffix: str) -> str:
    """`ADA_USDT_100ms_(2023-06-01 08꞉31)_(1).pkl`: the `number`-th interval of a run."""
    return f"{pair_name(symbol)}_{frequency_text(frequency_ns)}_({_name(since_ns)})_({number}).{suffix}"


def pair_name(symbol: str) -> str:
    """`ADA_USDT` of ADAUSDT: a symbol in a file name, cut after its base asset; `symbol_named` gives it back."""
    base, _ = assets(symbol)
    if not base or not symbol.startswith(base):
        base = symbol
    return f"{escaped(base)}_{escaped(symbol[len(base) :])}"


def symbol_named(pair: str) -> str:
    """The symbol of what `pair_name` gave, or of `ada_usdt`. Raises ValueError."""
    base, _, rest = pair.partition("_")
    if not base or "_" in rest:
        raise ValueError(pair)
    return _unescaped(base) + _unescaped(rest)


def escaped(name: str) -> str:
    """A name for use in a file name: letters and digits stay, other characters become `%5F` and the like (UTF-8).

    So do a to z, for earlier recordings have names in lower case and mean upper case by it.
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
