"""What the rest of the program knows of an exchange: declarations and pure functions, no I/O.

A `Venue` says where an exchange is reached, what it allows, which channels it has, how requests to it are written and
how its answers are read. A `Channel` is one kind of stream: how a symbol's stream is called, and what its frames say.
A module such as `binance_spot` makes one of each; `docs/new-exchange.md` shows how. Only those modules know the forms
of an exchange: the feed calls `Channel.peek` for each frame and `Channel.decode` for the frames that it needs.

Sequence numbers, here also update ids, are whole numbers from 0 to 2**63 - 1 that rise within a stream.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, Self, TypeVar

import msgspec

from ingester.book import Level

Answer = TypeVar("Answer")


class ListingStatus(enum.StrEnum):
    """Whether an exchange trades a pair, in one vocabulary for all exchanges; the values are what tables store."""

    TRADING = "TRADING"
    HALT = "HALT"
    """Trading is interrupted and will probably resume."""
    CANCEL_ONLY = "CANCEL_ONLY"
    END_OF_DAY = "END_OF_DAY"
    AUCTION = "AUCTION"
    PENDING = "PENDING"
    """Listed, and not traded yet."""
    BREAK = "BREAK"
    """Not traded, without a date on which it will be: delisted pairs stay so."""
    CLOSED = "CLOSED"
    """The contract was delivered or settled."""
    NOT_LISTED = "not listed"
    UNKNOWN = "UNKNOWN"
    """The exchange uses a word that this version does not know."""

    @classmethod
    def _missing_(cls, value: object) -> "ListingStatus":
        return cls.UNKNOWN


class Listing(msgspec.Struct, frozen=True):
    """One pair as an exchange lists it."""

    symbol: str
    base: str
    quote: str
    status: ListingStatus
    tick_size: float | None = None
    """The step of prices; None where the exchange does not say."""
    step_size: float | None = None
    """The step of quantities; None where the exchange does not say."""


class Ticker(NamedTuple):
    """What was traded of a pair in 24 hours, in its quote asset, and the last price."""

    symbol: str
    price: float
    volume: float


class Book(msgspec.Struct, gc=False):
    """An order book as a frame brought it: (price, quantity), best first, as many levels as the frame held."""

    stream: bytes
    update_id: int
    """The last sequence number that is in the book."""
    bids: list[Level]
    asks: list[Level]
    event_ns: int | None = None
    """When the exchange made it, by its own clock; None where the channel does not say."""


class Acknowledged(NamedTuple):
    """The exchange took request `id`. This proves nothing about the streams that were named in it."""

    id: int


class Refused(NamedTuple):
    """The exchange answered a request with an error; `id` is None where the error concerns the connection."""

    id: int | None
    code: int
    message: str


class ShuttingDown(NamedTuple):
    """The server behind this connection will go away soon."""


class Malformed(NamedTuple):
    """A frame that is none of the above; `reason` says what was wrong with it."""

    reason: str
    payload: bytes


Message = Book | Acknowledged | Refused | ShuttingDown | Malformed

Head = tuple[bytes, int, int]
"""What `Channel.peek` reads from a frame: stream name, first and last sequence number."""


class ChannelKind(enum.Enum):
    """What the frames of a channel hold."""

    BOOK = "book"
    """Snapshots of the best levels. Numbers rise by any step, so that gaps are measured in time."""
    DIFF = "diff"
    """Updates of a book, from a first to a last sequence number."""
    TRADES = "trades"


def _nothing(frame: bytes) -> tuple[bytes | None, int | None]:
    return None, None


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A kind of stream. All functions are pure and never raise on a frame, whatever is in it."""

    kind: ChannelKind
    depths: tuple[int, ...]
    """The numbers of levels per side that the exchange offers."""
    intervals_ms: tuple[int, ...]
    """The intervals at which the exchange offers to send, in milliseconds, rising."""
    stream_name: Callable[[str, int, int], str]
    """Of (symbol, depth, interval in ms): the name of the stream, as requests and frames have it."""
    peek: Callable[[bytes], Head | None]
    """Reads the head of a frame without decoding it: enough to drop a copy. None where the frame has no such head."""
    decode: Callable[[Sequence[bytes]], list[Message]]
    """Decodes a batch of frames to one message each, in their order. A book is returned as the frame has it, crossed or
    empty ones included; what cannot be understood becomes `Malformed`."""
    salvage: Callable[[bytes], tuple[bytes | None, int | None]] = _nothing
    """Stream name and last sequence number of a frame that cannot be decoded, as far as they are there."""

    def interval_of(self, wanted_ms: float) -> int | None:
        """Returns the longest interval on offer of which `wanted_ms` is a whole multiple, None where there is none."""
        return max((each for each in self.intervals_ms if wanted_ms % each == 0), default=None)


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What is subscribed for every symbol: a channel at one depth and interval."""

    channel: Channel
    depth: int
    interval_ms: int

    def name(self, symbol: str) -> bytes:
        """The name of the symbol's stream."""
        return self.channel.stream_name(symbol, self.depth, self.interval_ms).encode()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an exchange allows to one client, and how long a connection lives."""

    streams_per_connection: int
    streams_per_request: int
    messages_per_second: int
    """Requests, pings and pongs that one connection may send."""
    attempts: int
    """Connection attempts of one address within `attempt_window_seconds`."""
    attempt_window_seconds: float
    connection_seconds: float
    """The exchange ends a connection of this age."""
    ping_seconds: float
    """How often the server pings."""
    pong_seconds: float
    """The server ends a connection that has not answered a ping for so long."""
    rest_weight_per_minute: int


class Method(enum.Enum):
    """What a request asks for."""

    SUBSCRIBE = "SUBSCRIBE"
    UNSUBSCRIBE = "UNSUBSCRIBE"


class SubscriptionRequest(NamedTuple):
    """A message to the exchange: its id, its text, and the streams that it names."""

    id: int
    text: str
    streams: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class RestRequest(Generic[Answer]):
    """A GET request: path with query, its weight, and how its answer is read."""

    path: str
    weight: int
    decode: Callable[[bytes], Answer]
    """Reads the body of an answer. Raises ValueError (msgspec's errors are such) where it has another form."""


@dataclass(frozen=True, kw_only=True)
class Venue:
    """An exchange, at its own addresses or at others (`at`)."""

    name: str
    """What `--exchange` calls it; the name at other addresses is their host and port."""
    market: str
    """The name that is stored with its rows; two addresses of one market share it."""
    title: str
    """What sentences call it, such as `Binance`."""
    stream_url: str
    """Websocket base, without `stream_path`."""
    rest_url: str
    """REST base, without a path."""
    stream_path: str
    """Path of a connection that begins without streams. On a wrong path some exchanges acknowledge and stay silent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """HTTP headers of the websocket upgrade and of REST requests."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust for it, instead of those that the system trusts."""
    limits: Limits
    channels: tuple[Channel, ...]
    example: str
    """A symbol that is always listed."""
    requests: Callable[[Method, Sequence[str], int], list[SubscriptionRequest]]
    """Requests for these streams, as many as the exchange needs; ids count up from the given one."""
    listings: RestRequest[list[Listing | None]]
    """All pairs; None for an entry that cannot be read."""
    server_time: RestRequest[int]
    """The exchange's clock, in ns since 1970."""
    tickers: RestRequest[list[Ticker]]
    depth_snapshot: Callable[[str, int], RestRequest[Book]]
    """Of (symbol, levels per side): the order book as REST gives it; its `stream` is empty."""

    @property
    def books(self) -> Channel:
        """The channel of book snapshots."""
        return next(each for each in self.channels if each.kind is ChannelKind.BOOK)

    @property
    def connection_url(self) -> str:
        """The address of a connection that begins without streams."""
        base = self.stream_url.rstrip("/")
        return base if base.endswith(self.stream_path) else base + self.stream_path

    def rest_address(self, request: RestRequest[Answer]) -> str:
        """The address of a REST request."""
        return self.rest_url.rstrip("/") + request.path

    def at(self, *, name: str | None = None, stream_url: str | None = None, rest_url: str | None = None,
           ca_file: Path | None = None) -> Self:  # fmt: skip
        """Returns the same exchange at other addresses; None leaves a part as it is."""
        return dataclasses.replace(
            self,
            name=name or self.name,
            stream_url=stream_url or self.stream_url,
            rest_url=rest_url or self.rest_url,
            ca_file=ca_file or self.ca_file,
        )
