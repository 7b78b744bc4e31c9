"""Practice and real data never mix: a table holds books of simulators and test networks, or real ones.

Which of them stands in the events of recorders that began, which name the exchange. A file in the data folder keeps it
for a start that comes before QuestDB can be asked. Imported files do not say where their books come from: they count as
neither.
"""

import logging
from pathlib import Path

import msgspec

from ingester import private
from ingester.errors import MixedData, SpoolError
from ingester.exchange import is_practice
from ingester.questdb import EVENTS, ORDERBOOK, Endpoint, QuestDB
from ingester.record.unsent import leftovers
from ingester.spool import replace_durably

log = logging.getLogger(__name__)

FILE = "recorded.json"
"""In the data folder: by QuestDB, the exchange that was recorded into it."""
MANAGED = "managed"
_KINDS = {True: "books to practise with", False: "real books"}


def refuse_mixing(db: QuestDB, exchange: str, data_dir: Path) -> None:
    """Raises MixedData where the table has books of the other kind, or such wait for it; else notes what it has.

    Raises StoreError.
    """
    _refuse_waiting(exchange, data_dir)
    _refuse_held(db, exchange, data_dir)
    _note(data_dir, db.endpoint, exchange)


def refuse_sending(db: QuestDB, data_dir: Path) -> None:
    """Raises MixedData where rows that wait in the data folder are not of the table's kind. Raises StoreError."""
    for exchange in set(_notes(data_dir).values()):
        _refuse_held(db, exchange, data_dir)


def refuse_mixing_unasked(endpoint: Endpoint, exchange: str, data_dir: Path) -> None:
    """The same by the data folder alone, where QuestDB cannot be asked. Raises MixedData."""
    _refuse_waiting(exchange, data_dir)
    other = _notes(data_dir).get(_key(endpoint))
    if other is not None:
        _compare(other, exchange, endpoint)
    _note(data_dir, endpoint, exchange)


def _refuse_held(db: QuestDB, exchange: str, data_dir: Path) -> None:
    if _has_rows(db):
        noted = _notes(data_dir).get(_key(db.endpoint))
        for other in _recorded(db) or ([noted] if noted else []):
            _compare(other, exchange, db.endpoint)


def _refuse_waiting(exchange: str, data_dir: Path) -> None:
    """Whatever server they were for: the next start of their recorder sends them to its own."""
    for other in _notes(data_dir).values():
        if is_practice(other) == is_practice(exchange):
            continue
        unreadable: list[str] = []
        waiting = leftovers(data_dir, (), unreadable)
        if unreadable:
            raise SpoolError(f"{unreadable[0]}. It may hold rows of {other}, which {exchange} must not be mixed with.")
        if waiting:
            own, theirs = _KINDS[is_practice(exchange)], _KINDS[is_practice(other)]
            raise MixedData(
                f"In {data_dir} wait {theirs} (from {other}), and {exchange} would add {own}: {waiting[0].text}. "
                "Start the recorder that has left them again, or give another --data-dir."
            )


def _compare(other: str, exchange: str, endpoint: Endpoint) -> None:
    if is_practice(other) == is_practice(exchange):
        return
    own, theirs = _KINDS[is_practice(exchange)], _KINDS[is_practice(other)]
    elsewhere = "another --data-dir" if endpoint.folder is not None else "another --questdb and another --data-dir"
    raise MixedData(
        f"The table {ORDERBOOK} at {endpoint.http_url} holds {theirs} (from {other}), and {exchange} would add {own}. "
        f"Practice and real data are kept in tables of their own: give {elsewhere}."
    )


def _has_rows(db: QuestDB) -> bool:
    tables = {name for (name,) in db.sql("SELECT table_name FROM tables()").rows}
    return {ORDERBOOK, EVENTS} <= tables and bool(db.sql(f"SELECT timestamp FROM {ORDERBOOK} LIMIT 1").rows)


def _recorded(db: QuestDB) -> list[str]:
    """The exchanges that recorders have named at their start: `2 pairs, depth 5, every 100 ms, simulator`."""
    rows = db.sql(f"SELECT DISTINCT detail FROM {EVENTS} WHERE kind = 'started'").rows
    return sorted({detail.rpartition(", ")[2] for (detail,) in rows if detail and ", " in detail})


def _key(endpoint: Endpoint) -> str:
    return MANAGED if endpoint.folder is not None else endpoint.http_url


def _notes(data_dir: Path) -> dict[str, str]:
    """By QuestDB, the exchange recorded into it. Raises SpoolError where that cannot be read now."""
    try:
        return _read(data_dir)
    except OSError as error:
        raise SpoolError(
            f"{data_dir / FILE} cannot be read ({error.strerror or error}), so it is not known whether {data_dir} "
            "holds real books or simulated ones. Try again, or give another --data-dir."
        ) from error


def _read(data_dir: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((data_dir / FILE).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, ValueError):  # msgspec's errors are among the latter
        return {}


def _note(data_dir: Path, endpoint: Endpoint, exchange: str) -> None:
    key = _key(endpoint)
    try:
        notes = _read(data_dir)
        if notes.get(key) != exchange:
            replace_durably(data_dir / FILE, msgspec.json.encode(notes | {key: exchange}), private.FILE)
    except OSError as error:
        log.warning("%s cannot be written (%s): what is recorded is not known before QuestDB answers", FILE, error)
