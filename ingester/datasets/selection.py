"""Which rows are meant: a range of time and pairs, held against what the table has."""

import time
from collections.abc import Mapping, Sequence

from ingester.datasets.dataset import time_text
from ingester.errors import OperationError, SettingsError, UnknownPair
from ingester.words import nearest_text


def check_range(start_ns: int, end_ns: int) -> None:
    """Raises SettingsError where the range is empty, turned around or not over yet."""
    if start_ns == end_ns:
        raise SettingsError(f"--from and --to are both {time_text(start_ns)}: the range [from, to) is empty.")
    if start_ns > end_ns:
        raise SettingsError(f"--from {time_text(start_ns)} lies after --to {time_text(end_ns)}. Exchange them.")
    now = time.time_ns()
    for option, at in (("--from", start_ns), ("--to", end_ns)):
        if at > now:
            raise SettingsError(f"{option} {time_text(at)} lies in the future; it is {time_text(now)} UTC now.")


def choose_symbols(named: Sequence[str] | None, rows: Mapping[str, int], known: Sequence[str]) -> list[str]:
    """The symbols to take: those named, or all that have rows in the range.

    `rows`: of each symbol in the range; `known`: all symbols of the table. Raises UnknownPair with the nearest names,
    and OperationError where there is nothing to take.
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
