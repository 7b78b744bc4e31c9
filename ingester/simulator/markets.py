"""The two markets that the simulator serves: paths, stream names, what a book looks like, and what is allowed.

The facts are Binance's own ("WebSocket Streams" and "Websocket Market Streams" of its documentation), written down
here a second time on purpose: the recorder's decoder is tested against them.

|                       | spot                    | USD-M futures                                   |
|---|---|---|
| books flow on         | `/ws`, `/stream`        | `/public/ws`, `/public/stream` only             |
| on other paths        |                         | a subscription is acknowledged and stays silent |
| payload               | lastUpdateId, bids, asks | depthUpdate with E, T, s, U, u, pu, b, a        |
| speeds in ms          | 100, 1000 (default)     | 100, 250 (default), 500                         |
| messages a second     | 5                       | 10                                              |
| server's ping; pong within | 20 s; 60 s         | 3 min; 10 min                                   |
| REST; weight a minute | `/api/v3`; 6,000        | `/fapi/v1`; 2,400                               |
| symbols               | BTCUSDT                 | BTCUSDT, and by delivery date: BTCUSDT_261225   |
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from ingester.exchange import upper_symbol
from ingester.simulator.books import FUTURES, SPOT, PayloadFormat

TICK_MS = 100
"""Books are made in ticks of so many milliseconds, counted since 1970."""

_STREAM = re.compile(r"([^@A-Z]+)@depth(5|10|20)(@\d+ms)?")
_DELIVERY = re.compile(r".+_\d{6}")


@dataclass(frozen=True)
class ExchangeLimits:
    """What the simulator allows and how it keeps connections: seconds, counts and bytes, by default those of spot."""

    ping_interval: float = 20.0
    pong_timeout: float = 60.0
    """A client that has not answered a ping for so long is dropped."""
    lifetime: float = 24 * 3600.0
    streams: int = 1024
    messages_per_second: int | None = 5
    """Per connection; pings and pongs count. None: any number."""
    attempts: int | None = 300
    """Connection attempts per `attempt_window` and address. None: any number."""
    attempt_window: float = 300.0
    weight: int | None = 6000
    """Weight of REST requests per minute and address. None: any."""
    patience: int = 20
    """Attempts and requests answered with 429 before the answer is 418."""
    write_buffer: int = 64 * 2**20
    """Bytes waiting for a client that does not read before it is dropped."""


class BookStream(NamedTuple):
    """A stream of partial books: the best `depth` levels of a symbol, every `interval_ms`."""

    symbol: str
    depth: int
    interval_ms: int

    def is_due(self, tick: int) -> bool:
        """Whether a book of this stream belongs to the tick."""
        return tick * TICK_MS // self.interval_ms != (tick - 1) * TICK_MS // self.interval_ms

    def tick_before(self, tick: int) -> int:
        """The tick of the book before that of `tick`, which is due."""
        begin_ms = (tick * TICK_MS // self.interval_ms - 1) * self.interval_ms
        return -(-begin_ms // TICK_MS)


@dataclass(frozen=True)
class SimulatedMarket:
    """One of the two markets."""

    name: str
    format: PayloadFormat
    intervals: Mapping[str | None, int]
    """Milliseconds between two books by the end of the stream's name; None: of a name that ends without one."""
    limits: ExchangeLimits
    rest: str
    """Beginning of REST paths."""
    statuses: Mapping[str, str]
    """What this market calls states of a pair that it does not call as the spot market does."""

    def stream(self, name: str) -> BookStream | None:
        """What a stream's name means, None for one that the market does not have. Names are in lower case."""
        match = _STREAM.fullmatch(name)
        if match is None or match[3] not in self.intervals:
            return None
        return BookStream(upper_symbol(match[1]), int(match[2]), self.intervals[match[3]])

    def lists(self, symbol: str) -> bool:
        """Whether a symbol can be one of this market: contracts with a delivery date are futures."""
        return self.name == FUTURES or not _DELIVERY.fullmatch(symbol)


SPOT_MARKET = SimulatedMarket(
    name=SPOT,
    format=PayloadFormat((b'{"lastUpdateId":', "lastUpdateId", b',"bids":['), b'],"asks":[', b"]}", "lastUpdateId"),
    intervals={None: 1000, "@1000ms": 1000, "@100ms": 100},
    limits=ExchangeLimits(),
    rest="/api/v3",
    statuses={},
)
FUTURES_MARKET = SimulatedMarket(
    name=FUTURES,
    format=PayloadFormat(
        (b'{"e":"depthUpdate","E":', "E", b',"T":', "T", b',"s":"', "s", b'","U":', "U", b',"u":', "u", b',"pu":', "pu",
         b',"b":['),
        b'],"a":[',
        b"]}",
        "u",
    ),
    intervals={None: 250, "@500ms": 500, "@100ms": 100},
    limits=ExchangeLimits(ping_interval=180.0, pong_timeout=600.0, messages_per_second=10, weight=2400),
    rest="/fapi/v1",
    statuses={"HALT": "TRADING_HALT", "CANCEL_ONLY": "TRADING_CANCEL_ONLY", "BREAK": "SETTLING"},
)  # fmt: skip
MARKETS = (SPOT_MARKET, FUTURES_MARKET)


class StreamPath(NamedTuple):
    """What the path of a websocket address says."""

    market: SimulatedMarket
    is_combined: bool
    """Whether payloads are wrapped with the name of their stream."""
    has_books: bool
    streams: list[str]
    """Streams that the connection begins with."""


def parse_path(path: str) -> StreamPath | None:
    """What a path with its query says, None where it is none for websockets."""
    url = urlsplit(path)
    first, *rest = url.path.strip("/").split("/")
    market, has_books = SPOT_MARKET, True
    if first in ("public", "market", "private") and rest:
        market, has_books = FUTURES_MARKET, first == "public"
        first, *rest = rest
    match first:
        case "stream":
            return StreamPath(market, True, has_books, _names(parse_qs(url.query).get("streams", [""])[0].split("/")))
        case "ws":
            return StreamPath(market, False, has_books, _names(map(unquote, rest)))
    return None


def _names(texts: Iterable[str]) -> list[str]:
    return [name for name in texts if name]


class MessageRate:
    """Whether a connection has sent more than `most` messages within a second."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._times: deque[float] = deque(maxlen=most)

    def exceeded(self, now: float) -> bool:
        """Counts one message at `now`, in seconds; True where it is one too many."""
        if self._most is None:
            return False
        too_many = len(self._times) == self._most and now - self._times[0] < 1.0
        self._times.append(now)
        return too_many


class Refusal(NamedTuple):
    """An HTTP status and the seconds that `Retry-After` gives."""

    status: int
    retry_after: int


class AttemptRate:
    """Connection attempts per address within the window; refused ones do not count towards the limit."""

    def __init__(self, limits: ExchangeLimits) -> None:
        self._limits = limits
        self._attempts: dict[str, deque[float]] = {}
        self._refused: dict[str, int] = {}

    def refusal(self, address: str, now: float) -> Refusal | None:
        """Counts an attempt at `now`, in seconds; None where it may go on."""
        most, window = self._limits.attempts, self._limits.attempt_window
        if most is None:
            return None
        times = self._attempts.setdefault(address, deque())
        while times and now - times[0] >= window:
            times.popleft()
        if len(times) < most:
            times.append(now)
            self._refused.pop(address, None)
            return None
        refused = self._refused[address] = self._refused.get(address, 0) + 1
        wait = max(1, -int(-(times[0] + window - now) // 1))
        return Refusal(429 if refused <= self._limits.patience else 418, wait)


class WeightRate:
    """Weight of REST requests per address within each minute; a refused request weighs as well."""

    def __init__(self, limits: ExchangeLimits) -> None:
        self._limits = limits
        self._used: dict[str, tuple[int, int]] = {}  # by address: minute, weight
        self._refused: dict[str, int] = {}

    def used(self, address: str, now: float) -> int:
        """The weight that an address has used in the minute of `now`, in seconds."""
        minute, used = self._used.get(address, (0, 0))
        return used if minute == now // 60 else 0

    def refusal(self, address: str, now: float, weight: int) -> Refusal | None:
        """Counts a request of this weight at `now`; None where it is answered."""
        used = self.used(address, now) + weight
        self._used[address] = int(now // 60), used
        if self._limits.weight is None or used <= self._limits.weight:
            self._refused.pop(address, None)
            return None
        refused = self._refused[address] = self._refused.get(address, 0) + 1
        wait = max(1, -int(-(60 - now % 60) // 1))
        return Refusal(429 if refused <= self._limits.patience else 418, wait)
