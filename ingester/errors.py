"""Everything that `ingester` raises on purpose.

IngesterError
├── UsageError             the caller asked for something impossible (exit code 2)
│   ├── SettingsError        an option, variable or file key has a value that cannot be used
│   └── UnknownPair          a pair that the exchange does not list
└── OperationError         the request was fine, the world was not (exit code 1)
    ├── ExchangeError        Binance answered with an error or could not be reached
    │   └── RegionRefused      Binance serves no customers where this machine stands (HTTP 451)
    └── StoreError           the database side
        ├── ServerError        the managed QuestDB could not be fetched, started or stopped
        ├── QueryError         QuestDB refused a statement
        ├── Unreachable        QuestDB did not answer
        ├── AccessRefused      QuestDB does not accept the user and password, or the token
        ├── Untrusted          QuestDB's certificate is not accepted
        ├── SchemaMismatch     an existing table does not fit
        └── SpoolError         the folder of rows that wait on disk cannot be used

The message of each names the value that was wrong, what was expected, and the next step.
"""


class IngesterError(Exception):
    """Base of all errors raised on purpose; its text is fit for a user."""


class UsageError(IngesterError):
    """The request itself cannot be met."""


class SettingsError(UsageError):
    """A setting has a value that cannot be used."""


class UnknownPair(UsageError):
    """The exchange does not list a pair that the user named."""


class OperationError(IngesterError):
    """A well-formed request failed."""


class ExchangeError(OperationError):
    """The exchange answered with an error or could not be reached."""


class RegionRefused(ExchangeError):
    """HTTP 451: the exchange does not serve this region."""


class StoreError(OperationError):
    """The database side failed."""


class ServerError(StoreError):
    """The managed QuestDB could not be fetched, started or stopped."""


class QueryError(StoreError):
    """QuestDB refused a statement."""


class Unreachable(StoreError):
    """QuestDB did not answer."""


class AccessRefused(StoreError):
    """QuestDB does not accept the user and password, or the token."""


class Untrusted(StoreError):
    """QuestDB's certificate is not accepted, or there is no TLS where it should be."""


class SchemaMismatch(StoreError):
    """An existing table does not fit what would be written into it."""


class SpoolError(StoreError):
    """The folder of rows that wait on disk cannot be used."""
