"""The time that retention has dropped on purpose: what is not there is no gap of the recording."""

import re
from collections.abc import Iterable, Iterator, Sequence

from ingester.datasets.gaps import MissingTime
from ingester.datasets.spans import DAY, SHORTEST_LIMIT_NS
from ingester.questdb import EVENTS, QuestDB, list_partitions, start_of

DROPPED = "dropped"
"""The reason given for this time, where one is."""
Range = tuple[int, int]
"""[since, until) in ns."""


def dropped_ranges(db: QuestDB, start_ns: int, end_ns: int) -> list[Range]:
    """What was dropped of a range, in the order of time, neighbouring days as one. Raises StoreError."""
    if not db.sql(f"SELECT table_name FROM tables() WHERE table_name = '{EVENTS}'").rows:
        return []
    rows = db.sql(f"SELECT DISTINCT left(detail, 10) FROM {EVENTS} WHERE kind = 'partition_dropped'").rows
    there = {each.day for each in list_partitions(db)}  # one that was imported again, say
    gone = {day for (day,) in rows if re.fullmatch(r"\d{4}-\d\d-\d\d", day or "")} - there
    days = sorted(map(start_of, gone))
    ranges: list[Range] = []
    for since_ns, until_ns in ((max(day, start_ns), min(day + DAY, end_ns)) for day in days):
        if since_ns >= until_ns:
            continue
        if ranges and ranges[-1][1] == since_ns:
            since_ns, _ = ranges.pop()
        ranges.append((since_ns, until_ns))
    return ranges


def explained(
    gaps: Iterable[MissingTime], dropped: Sequence[Range], limit_ns: int = SHORTEST_LIMIT_NS
) -> list[MissingTime]:
    """The gaps of a pair with what was dropped of them apart, for that reason.

    `limit_ns`: from when on a silence of the pair is a gap.
    """
    return [part for gap in gaps for part in _split(gap, dropped, limit_ns)]


def without(
    gaps: Iterable[MissingTime], dropped: Sequence[Range], limit_ns: int = SHORTEST_LIMIT_NS
) -> list[MissingTime]:
    """The gaps without what was dropped of them."""
    return [gap for gap in explained(gaps, dropped, limit_ns) if gap.reason != DROPPED]


def length_ns(dropped: Sequence[Range], start_ns: int, end_ns: int) -> int:
    """How much of a range was dropped."""
    return sum(max(0, min(until_ns, end_ns) - max(since_ns, start_ns)) for since_ns, until_ns in dropped)


def _split(gap: MissingTime, dropped: Sequence[Range], limit_ns: int) -> Iterator[MissingTime]:
    at_ns = gap.since_ns
    for since_ns, until_ns in (each for each in dropped if each[0] < gap.until_ns and each[1] > gap.since_ns):
        # A moment between the last row before and midnight is only the rhythm of the pair.
        if since_ns - at_ns > limit_ns:
            yield gap._replace(since_ns=at_ns, until_ns=since_ns)
        at_ns = gap.until_ns if gap.until_ns - until_ns <= limit_ns else until_ns
        yield gap._replace(since_ns=max(gap.since_ns, since_ns), until_ns=at_ns, reason=DROPPED)
    if at_ns < gap.until_ns:
        yield gap._replace(since_ns=at_ns)
