"""Brings tables of earlier versions up to date, by the numbered files in `sql/migrations/`: each once and in order.

A file begins with a SELECT that returns a row where the migration was applied. So no list of applied migrations is
kept, and an old table that somebody restores is brought up to date as well. The other statements of a file may be
applied twice. A line `-- step: …` names a function of this module, where SQL alone does not suffice.

A migration adds columns, fills them and extends the DEDUP keys; it removes nothing. If it is killed between two
statements, the next start continues. Measured with QuestDB 9.3.4 on two cores: 50 million books take 2 seconds; days
that are Parquet have to be rewritten as well (see columns.py).

Recorders of an earlier version that still write would leave rows without an exchange. So a migration is refused while
one of them writes; rows of the new recorder wait in its spool. A recorder that was silent at that moment continues
until its first failed request; then it finds the new keys and keeps its rows in its spool, and the new version sends
them with their exchange. Rows that it stored until then get their exchange at the next start of a recorder
(`name_recent_rows`).

`ExchangeHistory` knows which exchange the rows of versions before the column `exchange` come from. The `started` events
of their recorders name it: a row is from the exchange that its recorder had started with most recently; a row before
the first of these events is from the exchange of the first one. Other rows are from `DEFAULT_EXCHANGE`.
"""

import bisect
import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from ingester.errors import MigrationRefused, StoreError
from ingester.exchange import stored_name
from ingester.questdb import ilp, partitions
from ingester.questdb.client import QuestDB
from ingester.questdb.query import batches, one_of, quoted
from ingester.questdb.tables import DEFAULT_EXCHANGE, EVENTS, IMPORTED, ORDERBOOK, sql_folder

log = logging.getLogger(__name__)

_ROWS = tuple(f"{table},".encode() for table in (ORDERBOOK, EVENTS))
_NAMED = tuple(f"{table},exchange=".encode() for table in (ORDERBOOK, EVENTS))
LIVE_SECONDS = 60
"""A recorder whose newest row is older does not write now."""
WATCHED_SECONDS = 4.0
"""The time in which new rows of a recorder are noticed: it sends twice a second."""
RECENT_DAYS = 2
"""The newest days, which may have rows of a recorder of an earlier version that was not noticed."""
ROUNDS = 5
"""The number of attempts to set the exchange of rows, as new ones may come meanwhile."""
EVER_NS = 1 << 62
_STEP = re.compile(r"-- step: (.+)")
_ADD = re.compile(r"ALTER TABLE (\w+) ADD COLUMN IF NOT EXISTS (\w+)")


class ExchangeHistory:
    """The exchange that each recorder has recorded, by time."""

    def __init__(self, default: str = DEFAULT_EXCHANGE) -> None:
        self._default = default
        self._starts: defaultdict[str, dict[int, str]] = defaultdict(dict)

    @classmethod
    def load(cls, db: QuestDB, default: str = DEFAULT_EXCHANGE) -> Self:
        """Returns the history from the events in the table. Raises StoreError."""
        history = cls(default)
        rows = db.sql(f"SELECT collector, cast(timestamp AS LONG), detail FROM {EVENTS} WHERE kind = 'started'").rows
        for collector, at_us, detail in rows:
            history.add_start(collector or "", at_us * 1000, detail or "")
        return history

    def add_start(self, collector: str, at_ns: int, detail: str) -> None:
        """Adds a `started` event: the exchange is the last part of its detail."""
        before, _, name = detail.rpartition(", ")
        if before and name:
            self._starts[collector][at_ns // 1000 * 1000] = stored_name(name)

    def exchange_of(self, collector: str, at_ns: int) -> str:
        """Returns the exchange that a recorder recorded at a time."""
        times, exchanges = self._periods(collector)
        return exchanges[max(0, bisect.bisect_right(times, at_ns) - 1)]

    def conditions(self, start_ns: int, end_ns: int) -> Iterator[tuple[str, str]]:
        """Yields exchanges with the SQL condition of their rows in a range of time. The last one, of all rows that are
        left, has an empty condition."""
        whole: defaultdict[str, list[str]] = defaultdict(list)
        for collector in self._starts:
            times, exchanges = self._periods(collector)
            ends = [*times[1:], end_ns]
            here = [
                (exchange, max(since, start_ns), min(until, end_ns))
                for exchange, since, until in zip(exchanges, [start_ns, *times[1:]], ends, strict=True)
                if since < end_ns and until > start_ns
            ]
            if len({exchange for exchange, _, _ in here}) == 1:
                whole[here[0][0]].append(collector)
                continue
            for exchange, since, until in here:
                who = f"collector IN ({quoted([collector])})"
                yield exchange, f"{who} AND timestamp >= {since // 1000} AND timestamp < {-(-until // 1000)}"
        for exchange, collectors in whole.items():
            if exchange != self._default:
                for names in batches(collectors):
                    yield exchange, one_of("collector", names)
        yield self._default, ""

    def _periods(self, collector: str) -> tuple[Sequence[int], Sequence[str]]:
        """Returns the times in ns at which a recorder started, and its exchange from each time on."""
        starts = self._starts.get(collector) if collector != IMPORTED else None
        if not starts:
            return [0], [self._default]
        times = sorted(starts)
        return times, [starts[at_ns] for at_ns in times]


def name_exchanges(bodies: Sequence[bytes], history: ExchangeHistory) -> list[bytes]:
    """Returns ILP bodies in which each row has an exchange: rows that an earlier version has put into the spool get
    that of their recorder."""
    rows = [ilp.rows(body) if needs_exchange(body) else [] for body in bodies]
    for row in (row for body in rows for row in body if row.startswith(EVENTS.encode())):
        texts = ilp.texts(row)
        if texts.get("kind") == "started":
            history.add_start(texts.get("collector", ""), ilp.tags(row).at_ns or 0, texts.get("detail", ""))
    return [
        b"".join(_named(row, history) for row in parts) if parts else body
        for body, parts in zip(bodies, rows, strict=True)
    ]


def needs_exchange(body: bytes) -> bool:
    """Returns whether the rows of a record come from a version that did not write the exchange: all do, or none."""
    return body.startswith(_ROWS) and not body.startswith(_NAMED)


def _named(row: bytes, history: ExchangeHistory) -> bytes:
    at_ns = ilp.tags(row).at_ns
    if at_ns is None:  # not a row: QuestDB refuses it, and it is set aside as it is
        return row
    return ilp.with_symbol(row, "exchange", history.exchange_of(ilp.texts(row).get("collector", ""), at_ns))


class Migration(NamedTuple):
    """One file of `sql/migrations/`."""

    name: str
    """A name such as 002_exchange_of_books."""
    is_applied: str
    """A SELECT that returns a row if the migration was applied."""
    statements: Sequence[str]
    """The statements in order: SQL, or the line of a step."""


def migrations() -> list[Migration]:
    """Returns all migrations in order."""
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
    """Returns the migrations that the existing tables still need. Raises StoreError."""
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
    """Returns the time in µs of the newest row of each recorder that had one within LIVE_SECONDS."""
    rows = db.sql(
        f"SELECT collector, cast(max(timestamp) AS LONG) FROM {ORDERBOOK} "
        f"WHERE timestamp > dateadd('s', -{LIVE_SECONDS}, now())"
    ).rows
    return {name: at_us for name, at_us in rows if name}


def name_recent_rows(db: QuestDB) -> None:
    """Sets the exchange of rows that an unnoticed recorder of an earlier version stored after the migration."""
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
