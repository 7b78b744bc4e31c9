"""Creates and updates the tables and views, and checks that an existing table fits the rows."""

import logging
from collections.abc import Mapping

from ingester.book import level_columns
from ingester.errors import QueryError, SchemaMismatch
from ingester.questdb import columns, migrations, partitions
from ingester.questdb.client import QuestDB
from ingester.questdb.tables import DEDUP_KEYS, EVENTS, ORDERBOOK, for_depth, sql_folder, statement, statements, views
from ingester.text import counted

__all__ = ["DEDUP_KEYS", "EVENTS", "ORDERBOOK", "for_depth", "sql_folder", "statement", "statements", "views"]

log = logging.getLogger("ingester.schema")

_VIEWS = "SELECT view_name, view_sql, view_status FROM views()"
_MARK = "-- ingester: sql/views/"  # in the body of each of our views, where the server keeps it
_MIGRATED = ("exchange", "event_time")
"""Columns that migrations add to a table of an earlier version."""
_EVENT_TYPES = {
    "timestamp": "TIMESTAMP",
    "exchange": "SYMBOL",
    "collector": "SYMBOL",
    "kind": "SYMBOL",
    "symbol": "SYMBOL",
    "connection": "SYMBOL",
    "detail": "VARCHAR",
    "until": "TIMESTAMP",
}


def column_types(table: str, depth: int) -> dict[str, str]:
    """Returns the QuestDB type of each column that a recorder of this depth writes."""
    if table == EVENTS:
        return dict(_EVENT_TYPES)
    head = {
        "timestamp": "TIMESTAMP",
        "exchange": "SYMBOL",
        "symbol": "SYMBOL",
        "collector": "SYMBOL",
        "last_update_id": "LONG",
        "event_time": "TIMESTAMP",
    }
    return head | dict.fromkeys(level_columns(depth), "DOUBLE")


def ensure(db: QuestDB, depth: int) -> None:
    """Makes the tables ready as `ensure_tables` does, and the views over them.

    A view that the server does not take is logged, for recording goes on without it.
    """
    ensure_tables(db, depth)
    _apply_views(db, depth)


def ensure_tables(db: QuestDB, depth: int) -> None:
    """Makes the tables ready for a recorder of this depth: tables of an earlier version are brought up to date, and a
    deeper recorder adds its columns.

    A few milliseconds where they are ready; long where `work_before` says so. Raises SchemaMismatch, with every
    difference named, where a table of that name cannot take the rows, LevelsRefused where it cannot get more columns
    now, and MigrationRefused while a recorder of an earlier version writes into it.
    """
    for each in statements(depth):
        db.sql(each)
    _missing(db, EVENTS, depth)
    missing = _missing(db, ORDERBOOK, depth)
    columns.migrate(db)
    migrations.name_recent_rows(db)
    columns.ensure(db, missing)


def work_before(db: QuestDB, depth: int) -> str:
    """Returns what `ensure` has to do before the tables take rows of this depth; empty where it is done in a moment.

    Raises as `ensure_tables` does, before anything is changed.
    """
    existing = {name for (name,) in db.sql("SELECT table_name FROM tables()").rows}
    if not {ORDERBOOK, EVENTS} <= existing:
        return ""
    missing = len(_missing(db, ORDERBOOK, depth))
    todo = migrations.pending(db)
    if todo:
        migrations.refuse_while_recorded(db)
    if days := columns.days_to_rewrite(db, missing + len(todo)):
        return f"rewrites {counted(len(days), 'Parquet day')}, as {ORDERBOOK} got more columns"
    days = partitions.list_partitions(db) if todo else []
    return f"brings {counted(len(days), 'day')} of an earlier version up to date" if days else ""


def _missing(db: QuestDB, table: str, depth: int) -> dict[str, str]:
    """Returns the columns that a table lacks. Raises SchemaMismatch."""
    problems, missing = misfits(db, table, depth)
    if problems:
        raise SchemaMismatch(
            f"The table {table!r} at {db.endpoint.http_url} does not fit: {'; '.join(problems)}. "
            f"Rename it (RENAME TABLE {table} TO {table}_old) or use another server with --questdb."
        )
    return missing


def misfits(db: QuestDB, table: str, depth: int) -> tuple[list[str], dict[str, str]]:
    """Returns why an existing table cannot take rows of this depth, and the columns (name to type) that it lacks."""
    rows = db.sql(f"SELECT \"column\", type, upsertKey FROM table_columns('{table}')").rows
    existing, wanted = {name: type_ for name, type_, _ in rows}, column_types(table, depth)
    problems = differences(existing, wanted) + _table_problems(db, table, {name for name, _, key in rows if key})
    return problems, {name: type_ for name, type_ in wanted.items() if name not in existing and name not in _MIGRATED}


def _apply_views(db: QuestDB, depth: int) -> None:
    columns = {name for (name,) in db.sql(f"SELECT \"column\" FROM table_columns('{ORDERBOOK}')").rows}
    depth = max(depth, sum(f"bid_{level}" in columns for level in range(1, 21)))  # as others made it
    try:
        existing = {name: (body, status) for name, body, status in db.sql(_VIEWS).rows}
    except QueryError as error:
        log.warning("this QuestDB has no views, so mid, spread and the others are missing: %s", _reason(error))
        return
    for name, view in views():
        made_by = for_depth(view, depth)
        body, status = existing.get(name, (None, None))
        if status == "valid" and f"AS ({body})" in made_by:
            continue
        if body is not None and _MARK not in body:
            log.warning("the view %s is somebody else's and stays as it is", name)
            continue
        try:
            db.sql(made_by)
        except QueryError as error:
            log.warning("the view %s could not be made: %s", name, _reason(error))


def _reason(error: QueryError) -> str:
    return str(error).splitlines()[0]


def differences(existing: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Returns why an existing table cannot take such rows. Missing columns that can be added are no reason."""
    added = {*level_columns(20), *_MIGRATED}
    problems = [
        f"column {name} is {existing[name]}, expected {type_}"
        for name, type_ in wanted.items()
        if name in existing and existing[name] != type_
    ]
    problems += [
        f"column {name} {type_} is missing"
        for name, type_ in wanted.items()
        if name not in existing and name not in added
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
    if not dedup or keys | {"exchange"} != set(DEDUP_KEYS[table]):
        problems.append(f"its dedup keys are ({', '.join(sorted(keys))}), expected ({', '.join(DEDUP_KEYS[table])})")
    return problems
