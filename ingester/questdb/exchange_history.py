"""Which exchange rows are from that do not say so: those of versions before the column `exchange`.

The `started` events of their recorders name it. A row is from the exchange that its recorder had started with most
recently; a row before the first of these events, from the first one. Other rows are from `DEFAULT_EXCHANGE`.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Self

from ingester.exchange import stored_name
from ingester.questdb import ilp
from ingester.questdb.client import QuestDB
from ingester.questdb.query import batches, one_of, quoted
from ingester.questdb.tables import DEFAULT_EXCHANGE, EVENTS, IMPORTED, ORDERBOOK

_ROWS = tuple(f"{table},".encode() for table in (ORDERBOOK, EVENTS))
_NAMED = tuple(f"{table},exchange=".encode() for table in (ORDERBOOK, EVENTS))


class ExchangeHistory:
    """The exchanges that each recorder has recorded, by time."""

    def __init__(self, default: str = DEFAULT_EXCHANGE) -> None:
        self._default = default
        self._starts: defaultdict[str, dict[int, str]] = defaultdict(dict)

    @classmethod
    def load(cls, db: QuestDB, default: str = DEFAULT_EXCHANGE) -> Self:
        """Reads it from the events in the table. Raises StoreError."""
        history = cls(default)
        rows = db.sql(f"SELECT collector, cast(timestamp AS LONG), detail FROM {EVENTS} WHERE kind = 'started'").rows
        for collector, at_us, detail in rows:
            history.add_start(collector or "", at_us * 1000, detail or "")
        return history

    def add_start(self, collector: str, at_ns: int, detail: str) -> None:
        """Takes in a `started` event: the exchange is the last part of its detail."""
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
        """The times in ns at which a recorder started, and its exchange from each on."""
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
