"""What the table holds: its pairs, collectors and depth, and how many rows of a range."""

import logging
from collections.abc import Iterator, Sequence
from urllib.parse import quote_plus

from ingester.exchange import Listing, ListingStatus
from ingester.questdb.client import QuestDB
from ingester.questdb.tables import INSTRUMENTS, ORDERBOOK
from ingester.words import counted

log = logging.getLogger(__name__)

MOST_BYTES = 12_000
"""Of names in one condition: QuestDB takes statements of 32,000 bytes, and one may name them twice."""


def depth(db: QuestDB) -> int:
    """Levels a side that the table has; 0 where there is no table."""
    names = {row[0] for row in db.sql(f"SELECT \"column\" FROM table_columns('{ORDERBOOK}')").rows}
    return sum(f"bid_{level}" in names for level in range(1, 21))


def all_symbols(db: QuestDB) -> list[str]:
    """Every symbol that has a row."""
    if not table_exists(db):
        return []
    return sorted(row[0] for row in db.sql(f"SELECT DISTINCT symbol FROM {ORDERBOOK}").rows if row[0])


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


def rows_by_symbol(db: QuestDB, start_ns: int, end_ns: int, collector: str | None = None) -> dict[str, int]:
    """Rows of each symbol in a range; with `collector`, only what it has recorded."""
    where = between(start_ns, end_ns) + (f" AND collector IN ({quoted([collector])})" if collector else "")
    rows = db.sql(f"SELECT symbol, count() FROM {ORDERBOOK} WHERE {where}").rows
    return {symbol: count for symbol, count in rows if symbol}


def last_rows(db: QuestDB, start_ns: int, end_ns: int) -> dict[str, int]:
    """When the last row of each symbol in a range was received, in ns."""
    rows = db.sql(
        f"SELECT symbol, cast(max(timestamp) AS LONG) FROM {ORDERBOOK} WHERE {between(start_ns, end_ns)}"
    ).rows
    return {symbol: at_us * 1000 for symbol, at_us in rows if symbol}


def collectors(db: QuestDB, start_ns: int, end_ns: int, nameless: bool = False) -> list[str]:
    """Who recorded in a range; with `nameless` an empty name for rows that do not say so."""
    where = between(start_ns, end_ns)
    rows = db.sql(f"SELECT DISTINCT collector FROM {ORDERBOOK} WHERE {where}").rows
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
