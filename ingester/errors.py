"""Everything that `ingester` raises on purpose.

IngesterError
├── UsageError             the caller asked for something impossible (exit code 2)
│   ├── SettingsError        an option, variable or file key has a value that cannot be used
│   ├── PairsFileError       the file of watched pairs cannot be used
│   ├── UnknownPair          a pair that the exchange does not list
│   └── NotRunning           a live recorder was asked for what it can do only while it runs, or only while it does not
└── OperationError         the request was fine, the world was not (exit code 1)
    ├── ClockWrong           the machine's clock cannot be right
    ├── FellBehind           a live reader needs rows that are no longer kept
    ├── ExchangeError        Binance answered with an error or could not be reached
    │   ├── RegionRefused      Binance serves no customers where this machine stands (HTTP 451)
    │   ├── RateLimited        Binance wants to be asked later (HTTP 429 and 418)
    │   └── Incomplete         Binance answered with less than it lists
    ├── UnsafeFile           a file or folder of ours belongs to another user, or may be changed by one
    ├── UnreadableDataSet    the folder or a file of a data set is missing, changed or damaged
    └── StoreError           the database side
        ├── ServerError        the managed QuestDB could not be fetched, started or stopped
        ├── QueryError         QuestDB refused a statement
        ├── Unreachable        QuestDB did not answer
        │   └── NoAnswer         QuestDB took the connection, or the call for one, and said nothing in time
        ├── UnknownServer      another process than the managed QuestDB listens at its port
        ├── AccessRefused      QuestDB does not accept the user and password, or the token
        ├── Untrusted          QuestDB's certificate is not accepted
        ├── SchemaMismatch     an existing table does not fit
        ├── LevelsRefused      an existing table cannot get more columns now
        ├── MigrationRefused   tables of an earlier version are still written to by a recorder of that version
        ├── MixedData          practice would be recorded among real books, or the reverse
        └── SpoolError         the folder of rows that wait on disk cannot be used

The message of each names the value that was wrong, what was expected, and the next step.
"""

import contextlib
import re
from collections.abc import Iterator


class IngesterError(Exception):
    """Base of all errors raised on purpose; its text is fit for a user."""


class UsageError(IngesterError):
    """The request itself cannot be met."""


class SettingsError(UsageError):
    """A setting has a value that cannot be used."""


class PairsFileError(UsageError):
    """The file of watched pairs cannot be read, understood or written."""


class UnknownPair(UsageError):
    """The exchange does not list a pair that the user named."""


class NotRunning(UsageError):
    """A live recorder does not run, or runs already."""


class OperationError(IngesterError):
    """A well-formed request failed."""


class ClockWrong(OperationError):
    """The machine's clock says a time that cannot be."""


class FellBehind(OperationError):
    """A live reader was slower than the recorder keeps rows."""


class ExchangeError(OperationError):
    """The exchange answered with an error or could not be reached."""


class RegionRefused(ExchangeError):
    """HTTP 451: the exchange does not serve this region."""


class UnreadableDataSet(OperationError):
    """A data set's folder or one of its files is missing, changed or damaged."""


class UnsafeFile(OperationError):
    """A file or folder that has to be this user's alone is another user's, may be changed by one, or is a link."""


class RateLimited(ExchangeError):
    """HTTP 429 or 418: the exchange does not answer for `seconds`."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


class Incomplete(ExchangeError):
    """An answer that lacks most of what it should hold, so that nothing may be concluded from it."""


class StoreError(OperationError):
    """The database side failed."""


class ServerError(StoreError):
    """The managed QuestDB could not be fetched, started or stopped."""


class QueryError(StoreError):
    """QuestDB refused a statement."""


class Unreachable(StoreError):
    """QuestDB did not answer."""


class NoAnswer(Unreachable):
    """QuestDB said nothing in time: it hangs, or is busy. One that does not run refuses at once instead."""


class UnknownServer(StoreError):
    """Another process than the managed QuestDB listens at its port; nothing was sent there."""


class AccessRefused(StoreError):
    """QuestDB does not accept the user and password, or the token."""


class Untrusted(StoreError):
    """QuestDB's certificate is not accepted, or there is no TLS where it should be."""


class SchemaMismatch(StoreError):
    """An existing table does not fit what would be written into it."""


class LevelsRefused(StoreError):
    """An existing table cannot get more columns now: its Parquet days are read, or the disk has too little room."""


class MigrationRefused(StoreError):
    """Tables of an earlier version cannot be brought up to date now: a recorder of that version writes into them."""


class MixedData(StoreError):
    """Books to practise with would be recorded among real ones, or the reverse."""


class SpoolError(StoreError):
    """The folder of rows that wait on disk cannot be used."""


def cause(error: Exception) -> str:
    """What an error of urllib3 says, without the names of its objects."""
    said = getattr(error, "reason", None) or (error.args[-1] if error.args else error)
    return str(said).rsplit(": ", 1)[-1]


@contextlib.contextmanager
def named_as_arguments() -> Iterator[None]:
    """Errors about settings name options of the command line; within the block they name arguments."""
    try:
        yield
    except SettingsError as error:
        text = re.sub(r"--([a-z-]+)", lambda option: option[1].replace("-", "_"), str(error))
        raise SettingsError(text) from None
