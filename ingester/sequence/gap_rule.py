"""When a pause between two books is a gap: one rule for the recorder, coverage, manifests and the SQL view `gaps`.

It looks at the books of one pair as one recorder received them. A pause is a gap where it is longer than
`GAP_INTERVALS` mean intervals of the pair, and longer than `SHORTEST_GAP_NS`. The mean is that of the last
`RHYTHM_INTERVALS` intervals before the pause; none of them counts as more than `LONGEST_INTERVAL_NS`, so that an outage
hides no other one after it. After the first book, when no interval is known, `UNKNOWN_LIMIT_NS` is the limit.

Only what is before the pause decides, so a recorder comes to the same verdict while it runs as a query years later.
What a recorder reported holds whatever the rule says; the rule is for what no event tells. `datasets/spans.py` applies
it to rows that pass by and in SQL, `sql/views/gaps.sql` has the same numbers.
"""

from ingester.clock import SECOND

SHORTEST_GAP_NS = SECOND
GAP_INTERVALS = 10
"""Of independent arrivals one in 9,000 comes later than after so many mean intervals of the last fifty."""
RHYTHM_INTERVALS = 50
LONGEST_INTERVAL_NS = 60 * SECOND
UNKNOWN_LIMIT_NS = 60 * SECOND


def gap_limit_ns(intervals: int, total_ns: int) -> int:
    """How long a pause may be that is no gap.

    `intervals`: how many are known, `RHYTHM_INTERVALS` at most; `total_ns`: their sum, none longer than
    `LONGEST_INTERVAL_NS`.
    """
    if not intervals:
        return UNKNOWN_LIMIT_NS
    return max(SHORTEST_GAP_NS, GAP_INTERVALS * total_ns // intervals)
