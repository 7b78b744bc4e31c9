"""What the table holds: its pairs, collectors and depth, and how many rows of a range."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote_plus

from ingester.errors import StoreError
from ingester.exchange import Listing, ListingStatus
from ingester.questdb.client import QuestDB
from ingester.questdb.tables import DEFAULT_EXCHANGE, INSTRUMENTS, ORDERBOOK
from ingester.text import counted

log = logging.getLogger(__name__)

MOST_BYTES = 12_000
"""Of names in one condition: QuestDB takes statements of 32,000 bytes, and one may name them twice."""


def depth(db: QuestDB) -> int:
    """Levels a side that the table has; 0 where there is no table."""
    names = {row[0] for row in db.sql(f"SELECT \"column\" FROM table_columns('{ORDERBOOK}')").rows}
    return sum(f"bid_{level}" in names for level in range(1, 21))


def all_symbols(db: QuestDB, exchange: str | None = None) -> list[str]:
    """Every symbol that has a row; with `exchange` only those of its rows."""
    if not table_exists(db):
        return []
    rows = db.sql(f"SELECT DISTINCT symbol FROM {ORDERBOOK}{_where(of_exchange(exchange))}").rows
    return sorted(row[0] for row in rows if row[0])


def exchanges(db: QuestDB, start_ns: int, end_ns: int, symbols: Sequence[str] | None = None) -> list[str]:
    """Returns the exchanges that have rows in a range, or rows of these symbols in it.

    It is the default one where the table is of a version without the column. Raises StoreError.
    """
    if not table_exists(db):
        return []
    is_key = dict(db.sql(f"SELECT \"column\", upsertKey FROM table_columns('{ORDERBOOK}')").rows)
    if "exchange" not in is_key:
        return [DEFAULT_EXCHANGE]
    if not is_key["exchange"]:  # some of its rows may not have one yet
        raise StoreError(
            f"{ORDERBOOK} at {db.endpoint.http_url} is being brought up to date. Wait for that, or, where it was "
            "interrupted, run `ingester start`."
        )
    chosen = one_of("symbol", symbols) if symbols else ""
    rows = db.sql(f"SELECT DISTINCT exchange FROM {ORDERBOOK}{_where(between(start_ns, end_ns), chosen)}").rows
    return sorted(row[0] for row in rows if row[0])


class Instrument(NamedTuple):
    """What an exchange listed of a pair; None where it does not say."""

    base: str | None
    quote: str | None
    tick_size: float | None
    step_size: float | None


def instruments(db: QuestDB, exchange: str, end_ns: int) -> dict[str, Instrument]:
    """What an exchange listed of its pairs last before a time, or first where the table has it only since later."""
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
    """The condition that a row is of an exchange; empty where any is meant."""
    return f"exchange = {quoted([exchange])}" if exchange is not None else ""


def _where(*conditions: str) -> str:
    """A clause of those that are not empty."""
    given = [condition for condition in conditions if condition]
    return f" WHERE {' AND '.join(given)}" if given else ""


def table_exists(db: QuestDB) -> bool:
    """Whether anything was ever recorded."""
    return bool(db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{ORDERBOOK}'").rows)


def between(start_ns: int, end_ns: int) -> str:
    """The condition that a row lies in a range; times in the table are microseconds."""
    return f"timestamp >= {-(-start_ns // 1000)} AND timestamp < {-(-end_ns // 1000)}"


def quoted(names: Sequence[str]) -> str:
    """Names as SQL strings, with commas between."""
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)


def one_of(column: str, names: Sequence[str]) -> str:
    """The condition that a column holds one of these names; empty where they are too many for a statement.

    Who gives many has to look at what comes.
    """
    condition = f"{column} IN ({quoted(names)})"
    return condition if len(quote_plus(condition)) <= MOST_BYTES else ""


def batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """The names in parts of which each fits into `one_of`."""
    if len(names) == 1 or one_of("", names):
        yield names
    else:
        yield from batches(names[: len(names) // 2])
        yield from batches(names[len(names) // 2 :])


def rows_by_symbol(
    db: QuestDB, start_ns: int, end_ns: int, collector: str | None = None, exchange: str | None = None
) -> dict[str, int]:
    """Rows of each symbol in a range; only what `collector` has recorded, and of `exchange`, where these are given."""
    own = f"collector IN ({quoted([collector])})" if collector else ""
    where = _where(between(start_ns, end_ns), own, of_exchange(exchange))
    rows = db.sql(f"SELECT symbol, count() FROM {ORDERBOOK}{where}").rows
    return {symbol: count for symbol, count in rows if symbol}


def last_rows(db: QuestDB, start_ns: int, end_ns: int, exchange: str | None = None) -> dict[str, int]:
    """When the last row of each symbol in a range was received, in ns."""
    where = _where(between(start_ns, end_ns), of_exchange(exchange))
    rows = db.sql(f"SELECT symbol, cast(max(timestamp) AS LONG) FROM {ORDERBOOK}{where}").rows
    return {symbol: at_us * 1000 for symbol, at_us in rows if symbol}


def collectors(
    db: QuestDB, start_ns: int, end_ns: int, nameless: bool = False, exchange: str | None = None
) -> list[str]:
    """Which collectors recorded in a range; with `nameless` an empty name for rows that do not say so."""
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
