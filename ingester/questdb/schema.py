"""Makes the tables and views ready, and makes sure that an existing table fits what is written."""

import logging
from collections.abc import Mapping

from ingester.book import level_columns
from ingester.errors import QueryError, SchemaMismatch
from ingester.questdb import columns
from ingester.questdb.client import QuestDB
from ingester.questdb.partitions import Partition
from ingester.questdb.tables import DEDUP_KEYS, EVENTS, ORDERBOOK, for_depth, sql_folder, statement, statements, views

__all__ = ["DEDUP_KEYS", "EVENTS", "ORDERBOOK", "for_depth", "sql_folder", "statement", "statements", "views"]

log = logging.getLogger("ingester.schema")

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
    _apply_views(db, depth)


def ensure_tables(db: QuestDB, depth: int) -> None:
    """Makes both tables ready for a recorder of this depth; a deeper one adds its columns to an existing table.

    A few milliseconds where they are ready; long where Parquet days have to be rewritten (`days_to_rewrite`). Raises
    SchemaMismatch, with every difference named, where a table of that name cannot take the rows, and LevelsRefused
    where it cannot get more levels now.
    """
    for each in statements(depth):
        db.sql(each)
    _missing(db, EVENTS, depth)
    columns.ensure(db, _missing(db, ORDERBOOK, depth))


def days_to_rewrite(db: QuestDB, depth: int) -> list[Partition]:
    """The days that `ensure` rewrites before the tables take rows of this depth; none where it is done in a moment.

    Raises as `ensure_tables` does, before anything is changed.
    """
    existing = {name for (name,) in db.sql("SELECT table_name FROM tables()").rows}
    return columns.days_to_rewrite(db, _missing(db, ORDERBOOK, depth)) if {ORDERBOOK, EVENTS} <= existing else []


def _missing(db: QuestDB, table: str, depth: int) -> dict[str, str]:
    """The columns that a table lacks. Raises SchemaMismatch."""
    problems, missing = misfits(db, table, depth)
    if problems:
        raise SchemaMismatch(
            f"The table {table!r} at {db.endpoint.http_url} does not fit: {'; '.join(problems)}. "
            f"Rename it (RENAME TABLE {table} TO {table}_old) or use another server with --questdb."
        )
    return missing


def misfits(db: QuestDB, table: str, depth: int) -> tuple[list[str], dict[str, str]]:
    """What keeps rows of this depth out of an existing table, and the columns (name to type) that it lacks."""
    rows = db.sql(f"SELECT \"column\", type, upsertKey FROM table_columns('{table}')").rows
    existing, wanted = {name: type_ for name, type_, _ in rows}, column_types(table, depth)
    problems = differences(existing, wanted) + _table_problems(db, table, {name for name, _, key in rows if key})
    return problems, {name: type_ for name, type_ in wanted.items() if name not in existing}


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
