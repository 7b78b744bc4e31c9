"""Brings tables of earlier versions up to date, by the numbered files in `sql/migrations/`: each once and in order.

A file begins with a SELECT that returns a row where the migration was applied, so nothing needs to remember it: also
where somebody restores an old table, it is brought up to date. Its other statements may be applied twice. A line
`-- step: …` stands for a function of this module, where SQL alone does not do.

A migration adds columns, fills them and extends the DEDUP keys; it takes nothing away. Killed between two statements,
the next start goes on. Measured with QuestDB 9.3.4 on two cores: 50 million books take 2 seconds; days that are
Parquet have to be rewritten as well (see columns.py).

Recorders of an earlier version that still write would leave rows without an exchange. So it is refused while one of
them does; rows of the new recorder wait in its spool. One that was silent at that moment goes on until its first
failed request, then it finds the new keys and keeps its rows in its spool, from where the new version sends them with
their exchange. What it has stored until then is named at the next start of a recorder (`name_recent_rows`).
"""

import logging
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from ingester.errors import MigrationRefused, StoreError
from ingester.questdb import partitions
from ingester.questdb.client import QuestDB
from ingester.questdb.exchange_history import ExchangeHistory
from ingester.questdb.query import quoted
from ingester.questdb.tables import EVENTS, ORDERBOOK, sql_folder

log = logging.getLogger(__name__)

LIVE_SECONDS = 60
"""A recorder whose newest row is older than this does not write now."""
WATCHED_SECONDS = 4.0
"""So long a look takes whether rows still come: a recorder sends twice a second."""
RECENT_DAYS = 2
"""So many of the newest days may have rows of a recorder of an earlier version that was not noticed."""
ROUNDS = 5
"""So often rows are named that came while others were."""
EVER_NS = 1 << 62
_STEP = re.compile(r"-- step: (.+)")
_ADD = re.compile(r"ALTER TABLE (\w+) ADD COLUMN IF NOT EXISTS (\w+)")


class Migration(NamedTuple):
    """One file of `sql/migrations/`."""

    name: str
    """Such as 002_exchange_of_books."""
    is_applied: str
    """The SELECT that returns a row where it was applied."""
    statements: Sequence[str]
    """What it does, in order: SQL, or the name of a step."""


def migrations() -> list[Migration]:
    """Returns all of them in order."""
    files = sorted((sql_folder() / "migrations").iterdir(), key=lambda file: file.name)
    return [
        _parsed(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".sql")
    ]


def _parsed(name: str, text: str) -> Migration:
    lines = (f"{line};" if _STEP.match(line) else line for line in text.splitlines())
    code = "\n".join(line for line in lines if _STEP.match(line) or not line.startswith("--"))
    is_applied, *statements = (each.strip() for each in code.split(";") if each.strip())
    return Migration(name, is_applied, statements)


def pending(db: QuestDB) -> list[Migration]:
    """Returns those that the existing tables still need. Raises StoreError."""
    existing = {name for (name,) in db.sql("SELECT table_name FROM tables()").rows}
    if not {ORDERBOOK, EVENTS} <= existing:
        return []
    return [each for each in migrations() if not db.sql(each.is_applied).rows]


def apply(db: QuestDB, todo: Sequence[Migration]) -> None:
    """Applies migrations. No day may be Parquet meanwhile, nor become so. Raises StoreError."""
    for migration in todo:
        log.info("tables of an earlier version are brought up to date: %s", migration.name)
        for statement in migration.statements:
            if step := _STEP.match(statement):
                _STEPS[step[1]](db)
            else:
                db.sql(statement)
                if added := _ADD.match(statement):
                    partitions.wait_until(db, added[1], _has_column(*added.groups()))
        partitions.wait_until(db, ORDERBOOK, migration.is_applied)


def refuse_while_recorded(db: QuestDB) -> None:
    """Raises MigrationRefused while a recorder writes into the table, which is then one of an earlier version."""
    newest = _newest(db)
    deadline = time.monotonic() + WATCHED_SECONDS
    while newest and time.monotonic() < deadline:
        time.sleep(0.5)
        now = _newest(db)
        if writing := sorted(name for name in now if now[name] > newest.get(name, 0)):
            raise MigrationRefused(
                f"The tables at {db.endpoint.http_url} are of an earlier version, and a recorder of that version still "
                f"writes into them ({', '.join(writing)}). Stop it; then they are brought up to date. Until then rows "
                "wait in the spool."
            )


def _newest(db: QuestDB) -> dict[str, int]:
    """The newest row of each recorder that had one a moment ago, in µs."""
    rows = db.sql(
        f"SELECT collector, cast(max(timestamp) AS LONG) FROM {ORDERBOOK} "
        f"WHERE timestamp > dateadd('s', -{LIVE_SECONDS}, now())"
    ).rows
    return {name: at_us for name, at_us in rows if name}


def name_recent_rows(db: QuestDB) -> None:
    """Names the exchange of rows that a recorder of an earlier version has stored after the migration, unnoticed."""
    days = [day for day in partitions.list_partitions(db)[-RECENT_DAYS:] if not day.is_parquet]
    if any(_is_unnamed(db, ORDERBOOK, day.start_ns, day.end_ns) for day in days):
        log.warning("a recorder of an earlier version has stored rows without an exchange; they get it now")
        _name_books(db, days)


def _name_events(db: QuestDB) -> None:
    _name(db, EVENTS, 0, EVER_NS, ExchangeHistory.load(db))


def _name_all_books(db: QuestDB) -> None:
    _name_books(db, partitions.list_partitions(db))


def _name_books(db: QuestDB, days: Sequence[partitions.Partition]) -> None:
    history = ExchangeHistory.load(db)
    said = time.monotonic()
    for number, day in enumerate(days, 1):
        _name(db, ORDERBOOK, day.start_ns, day.end_ns, history)
        if time.monotonic() - said > 10.0:
            said = time.monotonic()
            log.info("rows of %s have an exchange now (%d of %d days)", day.day, number, len(days))


def _name(db: QuestDB, table: str, start_ns: int, end_ns: int, history: ExchangeHistory) -> None:
    unnamed = _unnamed(start_ns, end_ns)
    for _ in range(ROUNDS):
        if not _is_unnamed(db, table, start_ns, end_ns):
            return
        for exchange, condition in history.conditions(start_ns, end_ns):
            both = f"{unnamed}{condition and ' AND '}{condition}"
            db.sql(f"UPDATE {table} SET exchange = {quoted([exchange])} WHERE {both}")
        partitions.settle(db, table)
        if stuck := partitions.suspension(db, table):
            raise StoreError(f"QuestDB has suspended {table} ({stuck.reason}). Ask it: SELECT * FROM wal_tables()")


def _has_column(table: str, name: str) -> str:
    return f"SELECT \"column\" FROM table_columns('{table}') WHERE \"column\" = '{name}'"


def _is_unnamed(db: QuestDB, table: str, start_ns: int, end_ns: int) -> bool:
    return bool(db.sql(f"SELECT timestamp FROM {table} WHERE {_unnamed(start_ns, end_ns)} LIMIT 1").rows)


def _unnamed(start_ns: int, end_ns: int) -> str:
    return f"timestamp >= {start_ns // 1000} AND timestamp < {end_ns // 1000} AND exchange IS NULL"


_STEPS = {
    "name the exchange of each event": _name_events,
    "name the exchange of each book": _name_all_books,
}
