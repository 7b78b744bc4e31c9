"""When a pair was not to be recorded: from the events that a collector leaves when pairs come and go."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ingester.events import PAIR_ADDED, PAIR_REMOVED
from ingester.questdb import EVENTS, QuestDB, one_of


class PairChange(NamedTuple):
    """A pair came to a collector, or went. In the order of time."""

    symbol: str
    collector: str
    at_ns: int
    added: bool


class Absence(NamedTuple):
    """A time in which a collector was not asked for a pair."""

    symbol: str
    collector: str
    since_ns: int
    until_ns: int


def changes(
    db: QuestDB, end_ns: int, symbols: Sequence[str] | None = None, collectors: Sequence[str] | None = None
) -> list[PairChange]:
    """All there were before the end of a range: what came before the range tells how it begins."""
    wanted = [one_of("symbol", symbols)] if symbols is not None else []
    if collectors is not None:
        wanted.append(one_of("collector", collectors))
    own = None if symbols is None else set(symbols)
    rows = db.sql(
        f"SELECT symbol, collector, cast(timestamp AS LONG), kind FROM {EVENTS} "
        f"WHERE kind IN ('{PAIR_ADDED}', '{PAIR_REMOVED}') AND timestamp < {end_ns // 1000}"
        f"{''.join(f' AND {condition}' for condition in wanted if condition)} ORDER BY timestamp"
    ).rows
    return [
        PairChange(symbol, collector, at_us * 1000, kind == PAIR_ADDED)
        for symbol, collector, at_us, kind in rows
        if own is None or symbol in own
    ]


def absences(changes: Iterable[PairChange], start_ns: int, end_ns: int) -> Iterator[Absence]:
    """The times of the range in which pairs were not asked for; a pair that came was not before, by nobody else."""
    gone_ns: dict[tuple[str, str], int | None] = {}  # since when a pair is gone; None while it is there
    for symbol, collector, at_ns, added in changes:
        since_ns = gone_ns.get((symbol, collector), start_ns if added else None)
        if added:
            if since_ns is not None and max(since_ns, start_ns) < at_ns:
                yield Absence(symbol, collector, max(since_ns, start_ns), min(at_ns, end_ns))
            gone_ns[symbol, collector] = None
        elif since_ns is None:
            gone_ns[symbol, collector] = at_ns
    for (symbol, collector), since_ns in gone_ns.items():
        if since_ns is not None and since_ns < end_ns:
            yield Absence(symbol, collector, max(since_ns, start_ns), end_ns)
