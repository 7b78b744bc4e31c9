"""Asks what the tables hold: pairs, exchanges, collectors, depth and row counts; builds parts of SQL statements."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote_plus

from ingester.errors import StoreError
from ingester.exchange import Listing, ListingStatus, stored_name
from ingester.questdb.client import QuestDB
from ingester.questdb.tables import DEFAULT_EXCHANGE, EVENTS, IMPORTED, INSTRUMENTS, ORDERBOOK
from ingester.text import counted

log = logging.getLogger(__name__)

MOST_BYTES = 12_000
"""Of names in one condition: QuestDB takes statements of 32,000 bytes, and one may name them twice."""


def depth(db: QuestDB) -> int:
    """Returns the number of levels per side; 0 if there is no table."""
    names = {row[0] for row in db.sql(f"SELECT \"column\" FROM table_columns('{ORDERBOOK}')").rows}
    return sum(f"bid_{level}" in names for level in range(1, 21))


def all_symbols(db: QuestDB, exchange: str | None = None) -> list[str]:
    """Returns every symbol that has a row, with `exchange` only of this exchange."""
    if not table_exists(db):
        return []
    rows = db.sql(f"SELECT DISTINCT symbol FROM {ORDERBOOK}{_where(of_exchange(exchange))}").rows
    return sorted(row[0] for row in rows if row[0])


def exchanges(db: QuestDB, start_ns: int, end_ns: int, symbols: Sequence[str] | None = None) -> list[str]:
    """Returns the exchanges that have rows in a range, or rows of these symbols in it.

    In a table of a version without exchanges it is the one that the recorders of these rows have named at their start.
    Raises StoreError where these are several, for then rows do not say which is theirs.
    """
    if not table_exists(db):
        return []
    is_key = dict(db.sql(f"SELECT \"column\", upsertKey FROM table_columns('{ORDERBOOK}')").rows)
    if "exchange" not in is_key:
        if len(names := _exchanges_started(db, start_ns, end_ns)) > 1:
            raise StoreError(
                f"{ORDERBOOK} at {db.endpoint.http_url} is of an earlier version, whose rows do not say which of these "
                f"exchanges they are from: {', '.join(names)}. Run `ingester start`, which brings it up to date."
            )
        return names or [DEFAULT_EXCHANGE]
    if not is_key["exchange"]:  # some of its rows may not have one yet
        raise StoreError(
            f"{ORDERBOOK} at {db.endpoint.http_url} is being brought up to date. Wait for that, or, where it was "
            "interrupted, run `ingester start`."
        )
    chosen = one_of("symbol", symbols) if symbols else ""
    rows = db.sql(f"SELECT DISTINCT exchange FROM {ORDERBOOK}{_where(between(start_ns, end_ns), chosen)}").rows
    return sorted(row[0] for row in rows if row[0])


def _exchanges_started(db: QuestDB, start_ns: int, end_ns: int) -> list[str]:
    if not db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{EVENTS}'").rows:
        return []
    there = collectors(db, start_ns, end_ns, nameless=True)
    started = db.sql(f"SELECT DISTINCT collector, detail FROM {EVENTS} WHERE kind = 'started'").rows
    named = {
        (name, stored_name(detail.rpartition(", ")[2]))
        for name, detail in started
        if name != IMPORTED and ", " in (detail or "")
    }
    unnamed = set(there) - {name for name, _ in named}
    return sorted({exchange for name, exchange in named if name in there} | ({DEFAULT_EXCHANGE} if unnamed else set()))


class Instrument(NamedTuple):
    """A pair as the exchange listed it; None for what the exchange does not say."""

    base: str | None
    quote: str | None
    tick_size: float | None
    step_size: float | None


def instruments(db: QuestDB, exchange: str, end_ns: int) -> dict[str, Instrument]:
    """Returns the last listing of each pair before a time, or its first one if all are later."""
    if not db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{INSTRUMENTS}'").rows:
        return {}
    rows = db.sql(
        f"SELECT symbol, cast(timestamp AS LONG), base, quote, tick_size, step_size FROM {INSTRUMENTS} "
        f"WHERE {of_exchange(exchange)} ORDER BY timestamp"
    ).rows
    found: dict[str, Instrument] = {}
    for symbol, at_us, *facts in rows:
        if symbol not in found or at_us * 1000 < end_ns:
            found[symbol] = Instrument(*facts)
    return found


def of_exchange(exchange: str | None) -> str:
    """Returns the SQL condition for rows of an exchange; empty for None."""
    return f"exchange = {quoted([exchange])}" if exchange is not None else ""


def _where(*conditions: str) -> str:
    """Returns a WHERE clause of the conditions that are not empty."""
    given = [condition for condition in conditions if condition]
    return f" WHERE {' AND '.join(given)}" if given else ""


def table_exists(db: QuestDB) -> bool:
    """Returns whether the table exists: whether anything was ever recorded."""
    return bool(db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{ORDERBOOK}'").rows)


def between(start_ns: int, end_ns: int) -> str:
    """Returns the SQL condition for rows of a range; times in the table are microseconds."""
    return f"timestamp >= {-(-start_ns // 1000)} AND timestamp < {-(-end_ns // 1000)}"


def quoted(names: Sequence[str]) -> str:
    """Returns names as SQL strings, separated by commas."""
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)


def one_of(column: str, names: Sequence[str]) -> str:
    """The condition that a column holds one of these names; empty where they are too many for a statement.

    Who gives many has to look at what comes.
    """
    condition = f"{column} IN ({quoted(names)})"
    return condition if len(quote_plus(condition)) <= MOST_BYTES else ""


def batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields the names in parts that fit into `one_of`."""
    if len(names) == 1 or one_of("", names):
        yield names
    else:
        yield from batches(names[: len(names) // 2])
        yield from batches(names[len(names) // 2 :])


def rows_by_symbol(
    db: QuestDB, start_ns: int, end_ns: int, collector: str | None = None, exchange: str | None = None
) -> dict[str, int]:
    """Returns the number of rows of each symbol in a range, of one collector and one exchange if these are given."""
    own = f"collector IN ({quoted([collector])})" if collector else ""
    where = _where(between(start_ns, end_ns), own, of_exchange(exchange))
    rows = db.sql(f"SELECT symbol, count() FROM {ORDERBOOK}{where}").rows
    return {symbol: count for symbol, count in rows if symbol}


def last_rows(db: QuestDB, start_ns: int, end_ns: int, exchange: str | None = None) -> dict[str, int]:
    """Returns the receive time in ns of the last row of each symbol in a range."""
    where = _where(between(start_ns, end_ns), of_exchange(exchange))
    rows = db.sql(f"SELECT symbol, cast(max(timestamp) AS LONG) FROM {ORDERBOOK}{where}").rows
    return {symbol: at_us * 1000 for symbol, at_us in rows if symbol}


def collectors(
    db: QuestDB, start_ns: int, end_ns: int, nameless: bool = False, exchange: str | None = None
) -> list[str]:
    """Returns the collectors of rows in a range; with `nameless` an empty name for rows without a collector."""
    where = _where(between(start_ns, end_ns), of_exchange(exchange))
    rows = db.sql(f"SELECT DISTINCT collector FROM {ORDERBOOK}{where}").rows
    return sorted(name or "" for (name,) in rows if name or nameless)


def instruments_now(db: QuestDB, exchange: str) -> dict[str, Listing]:
    """Returns the newest row of each pair of an exchange in `instruments`; none where there is no such table."""
    if not db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{INSTRUMENTS}'").rows:
        return {}
    rows = db.sql(
        f"SELECT symbol, base, quote, status, tick_size, step_size FROM {INSTRUMENTS} "
        f"WHERE exchange IN ({quoted([exchange])}) LATEST ON timestamp PARTITION BY symbol"
    ).rows
    return {
        symbol: Listing(symbol, base or "", quote or "", ListingStatus(status), tick_size, step_size)
        for symbol, base, quote, status, tick_size, step_size in rows
    }


def tell_nameless(rows: int) -> None:
    """Warns of rows that were left out, if there are any."""
    if rows:
        log.warning(
            "%s of this range left out: without symbol, collector or last_update_id, not from a recorder",
            counted(rows, "row"),
        )
