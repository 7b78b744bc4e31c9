"""Creates the tables and views from the files in `sql/`, and makes sure that an existing table fits what is written."""

import logging
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from ingester.errors import QueryError, SchemaMismatch
from ingester.snapshot import level_columns
from ingester.store.questdb import QuestDB

log = logging.getLogger("ingester.schema")

ORDERBOOK = "orderbook"
EVENTS = "collector_events"
DEDUP_KEYS = {
    ORDERBOOK: ("timestamp", "symbol", "collector", "last_update_id"),
    EVENTS: ("timestamp", "collector", "kind", "symbol", "connection"),
}
_VIEWS = "SELECT view_name, view_sql, view_status FROM views()"
_MARK = "-- ingester: sql/views/"  # in the body of each of our views, where the server keeps it
_EVENT_TYPES = {
    "timestamp": "TIMESTAMP",
    "collector": "SYMBOL",
    "kind": "SYMBOL",
    "symbol": "SYMBOL",
    "connection": "SYMBOL",
    "detail": "VARCHAR",
    "until": "TIMESTAMP",
}


def sql_folder() -> Traversable:
    """The folder `sql/`: inside the installed package, or beside it in a checkout."""
    installed = files("ingester") / "sql"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "sql"


def statements(depth: int) -> list[str]:
    """The statements that create the tables for a depth, in order. Applying them twice changes nothing."""
    folder = sorted((file for file in sql_folder().iterdir() if re.match(r"\d{3}_", file.name)), key=lambda f: f.name)
    chosen = [f for f in folder if "_depth_" not in f.name or f.name.endswith(f"_depth_{depth}.sql")]
    return [file.read_text(encoding="utf-8") for file in chosen]


def statement(table: str) -> str:
    """The statement that creates a table of which there is only one form. Applying it twice changes nothing."""
    (file,) = (file for file in sql_folder().iterdir() if re.fullmatch(rf"\d{{3}}_{table}\.sql", file.name))
    return file.read_text(encoding="utf-8")


def views() -> list[tuple[str, str]]:
    """Name and statement of each view in `sql/views/`. Applying one twice changes nothing."""
    folder = sorted((sql_folder() / "views").iterdir(), key=lambda file: file.name)
    return [
        (file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in folder
        if file.name.endswith(".sql")
    ]


def column_types(table: str, depth: int) -> dict[str, str]:
    """Column name to QuestDB type, as a recorder of this depth writes them."""
    if table == EVENTS:
        return dict(_EVENT_TYPES)
    head = {"timestamp": "TIMESTAMP", "symbol": "SYMBOL", "collector": "SYMBOL", "last_update_id": "LONG"}
    return head | dict.fromkeys(level_columns(depth), "DOUBLE")


def ensure(db: QuestDB, depth: int) -> None:
    """Makes the tables ready as `ensure_tables` does, and the views over them.

    A view that the server does not take is logged, for recording goes on without it.
    """
    ensure_tables(db, depth)
    _apply_views(db)


def ensure_tables(db: QuestDB, depth: int) -> None:
    """Makes both tables ready for a recorder of this depth; a deeper one adds its columns to an existing table.

    A few milliseconds where they are ready. Raises SchemaMismatch, with every difference named, where a table of that
    name cannot take the rows.
    """
    for statement in statements(depth):
        db.sql(statement)
    for table in (ORDERBOOK, EVENTS):
        problems, missing = misfits(db, table, depth)
        if problems:
            raise SchemaMismatch(
                f"The table {table!r} at {db.endpoint.http_url} does not fit: {'; '.join(problems)}. "
                f"Rename it (RENAME TABLE {table} TO {table}_old) or use another server with --questdb."
            )
        for name, type_ in missing.items():
            db.sql(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {type_}")


def misfits(db: QuestDB, table: str, depth: int) -> tuple[list[str], dict[str, str]]:
    """What keeps rows of this depth out of an existing table, and the columns (name to type) that it lacks."""
    columns = db.sql(f"SELECT \"column\", type, upsertKey FROM table_columns('{table}')").rows
    existing, wanted = {name: type_ for name, type_, _ in columns}, column_types(table, depth)
    problems = differences(existing, wanted) + _table_problems(db, table, {name for name, _, key in columns if key})
    return problems, {name: type_ for name, type_ in wanted.items() if name not in existing}


def _apply_views(db: QuestDB) -> None:
    try:
        existing = {name: (body, status) for name, body, status in db.sql(_VIEWS).rows}
    except QueryError as error:
        log.warning("this QuestDB has no views, so mid, spread and the others are missing: %s", _reason(error))
        return
    for name, statement in views():
        body, status = existing.get(name, (None, None))
        if status == "valid" and f"AS ({body})" in statement:
            continue
        if body is not None and _MARK not in body:
            log.warning("the view %s is somebody else's and stays as it is", name)
            continue
        try:
            db.sql(statement)
        except QueryError as error:
            log.warning("the view %s could not be made: %s", name, _reason(error))


def _reason(error: QueryError) -> str:
    return str(error).splitlines()[0]


def differences(existing: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """What keeps such rows out of an existing table. Missing level columns do not: they can be added."""
    levels = set(level_columns(20))
    problems = [
        f"column {name} is {existing[name]}, expected {type_}"
        for name, type_ in wanted.items()
        if name in existing and existing[name] != type_
    ]
    problems += [
        f"column {name} {type_} is missing"
        for name, type_ in wanted.items()
        if name not in existing and name not in levels
    ]
    return problems


def _table_problems(db: QuestDB, table: str, keys: set[str]) -> list[str]:
    columns = "designatedTimestamp, partitionBy, walEnabled, dedup"
    result = db.sql(f"SELECT {columns} FROM tables() WHERE table_name = '{table}'")
    designated, partitioned, wal, dedup = result.rows[0]
    problems = []
    if designated != "timestamp":
        problems.append(f"its designated timestamp is {designated or 'not set'}, expected timestamp")
    if partitioned == "NONE":
        problems.append("it is not partitioned, expected PARTITION BY DAY")
    if not wal:
        problems.append("it is not a WAL table")
    if not dedup or keys != set(DEDUP_KEYS[table]):
        problems.append(f"its dedup keys are ({', '.join(sorted(keys))}), expected ({', '.join(DEDUP_KEYS[table])})")
    return problems
