from . import launch as launch, query as query, schema as schema
from .client import QuestDB as QuestDB, Result as Result
from .damage import find_damage as find_damage
from .encoder import RowEncoder as RowEncoder, buffer_maker as buffer_maker
from .endpoint import Endpoint as Endpoint, read_secret as read_secret
from .leases import ALWAYS_NS as ALWAYS_NS, EXPORT as EXPORT, IMPORT as IMPORT, PLAYBACK as PLAYBACK, holding as holding
from .partitions import DAY as DAY, list_partitions as list_partitions, start_of as start_of
from .query import (
    Instrument as Instrument,
    batches as batches,
    between as between,
    depth as depth,
    instruments_now as instruments_now,
    last_rows as last_rows,
    of_exchange as of_exchange,
    one_of as one_of,
    quoted as quoted,
    rows_by_symbol as rows_by_symbol,
    tell_nameless as tell_nameless,
)
from .reader import Slice as Slice, TableReader as TableReader, TableRows as TableRows
from .reconciler import (
    MINUTE as MINUTE,
    SLACK_NS as SLACK_NS,
    Reconciler as Reconciler,
    SentCounts as SentCounts,
    StoreContext as StoreContext,
)
from .retention import (
    CONVERT as CONVERT,
    DROP as DROP,
    Done as Done,
    Policy as Policy,
    RetentionThread as RetentionThread,
    RetentionWorker as RetentionWorker,
    Step as Step,
    Surroundings as Surroundings,
)
from .server import (
    HTTP_PORT as HTTP_PORT,
    PG_PORT as PG_PORT,
    ManagedServer as ManagedServer,
    connect as connect,
    watch as watch,
)
from .tables import DEFAULT_EXCHANGE as DEFAULT_EXCHANGE, EVENTS as EVENTS, IMPORTED as IMPORTED, ORDERBOOK as ORDERBOOK
from .writer import DeadLetters as DeadLetters, Writer as Writer
