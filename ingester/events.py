"""What happens to a recording besides its rows: each event becomes a row of `collector_events`.

| kind | when | detail |
|---|---|---|
| started, stopped | a recorder begins, ends in order | what it records; how much it received |
| connected, disconnected | a websocket stands, is lost | why it was lost |
| rotated | a connection was replaced by a younger one that delivers everything | why |
| exchange_shutdown | the exchange announced that it will close a connection | |
| refused | the exchange answered a request with an error | code and text |
| gap | a symbol had no snapshots from `timestamp` to `until` (NULL: not over yet) | the reason, one of `REASONS` |
| resubscribed | a symbol was silent on a connection for longer than its own rhythm allows | for how long |
| pair_added, pair_removed | a symbol is recorded from now on, is no longer | where that was said, by whom, why |
| pairs_refused | the named pairs or their file cannot be used; what was recorded before still is | what is wrong |
| status | the exchange says that a symbol does not trade, or trades again | TRADING, HALT, BREAK, … or `not listed` |
| quarantined | frames were not stored, at the 1., 2., 4., 8., … | what was wrong |
| update_ids_restarted | update ids go on below the last one: the count was restarted, or one id was wrong | from, to |
| clock_step | the wall clock was set, or is far behind the newest row of an earlier run | by how much, what follows |
| server_restarted | the managed QuestDB died and runs again | |
| thread_died | a thread of the recorder died, and runs again where it can | which, and what it raised |
| dead_letter | a row was refused by QuestDB for good, and set aside in a file | the file, QuestDB's words |
| table_suspended, table_resumed | QuestDB no longer applies, applies again what it acknowledges | QuestDB's words |
| partition_converted | a day of `orderbook` was made Parquet | the day, rows, bytes before and after, columns |
| partition_native | a Parquet day is made native for a while, as the table gets more columns | the day, rows |
| partition_dropped | retention dropped a day of `orderbook` | the day, rows, bytes |
| rows_missing | fewer rows are visible than were acknowledged; they are sent again | the numbers |
"""

from typing import NamedTuple

NOT_CONNECTED = "not connected"
CONNECTION_LOST = "connection lost"
EXCHANGE_SILENT = "exchange silent"
RESTART = "restart"
SPOOL_FULL = "spool full"
SPOOL_DAMAGED = "spool damaged"
QUARANTINED = "quarantined"
IDS_RESTARTED = "update ids restarted"
PROCESS_PAUSED = "process paused"
CLOCK_SET = "clock set"
NOT_TAKEN_IN = "not taken in"
REASONS = (
    NOT_CONNECTED,
    CONNECTION_LOST,
    EXCHANGE_SILENT,
    RESTART,
    SPOOL_FULL,
    SPOOL_DAMAGED,
    QUARANTINED,
    IDS_RESTARTED,
    PROCESS_PAUSED,
    CLOCK_SET,
    NOT_TAKEN_IN,
)
"""Why a gap came about: the `detail` of `gap` events begins with one of these."""

PAIR_ADDED, PAIR_REMOVED = "pair_added", "pair_removed"
PAIRS_REFUSED = "pairs_refused"


class Event(NamedTuple):
    """Something that happened to the recording. Times are nanoseconds since 1970, UTC."""

    at_ns: int
    kind: str
    symbol: str = ""
    connection: str = ""
    detail: str = ""
    until_ns: int | None = None
