"""Faults that the simulator commits on request: their names, when they are in force, what they do to a frame.

They are the same on both markets.

| kind | what happens | how long by default |
|---|---|---|
| drop | TCP connections are aborted | at once |
| half_open | connections stay open, but nothing is sent or answered any more, not even pongs | for ever |
| silence | no frames of one symbol, or of all while pings go on | for ever |
| halt | no frames of one symbol, and `exchangeInfo` gives its state as HALT (futures: TRADING_HALT) | for ever |
| malformed | frames are cut in the middle | one frame |
| garbage | frames hold text that is no JSON | one frame |
| duplicate | frames are sent twice | one frame |
| out_of_order | a frame is held back until after the next one | one frame |
| crossed | best bid and best ask change places | one frame |
| empty | both sides of the book are empty | one frame |
| repeat | the same frame again and again | for ever |
| shutdown | `serverShutdown` is announced; connections are closed `after` seconds later (default 5) | at once |
| refuse | upgrades are answered with HTTP `status` (default 503) and `Retry-After` | for ever |
| stall | the whole exchange stops, then catches up | 1 s |
| slow | connections get at most `rate` bytes per second (default 1000) | for ever |
| clear | all faults end | at once |
"""

import json
import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from ingester.errors import SettingsError
from ingester.exchange import upper_symbol

FRAME_KINDS = frozenset(
    {"silence", "halt", "malformed", "garbage", "duplicate", "out_of_order", "crossed", "empty", "repeat"}
)
ONE_FRAME_KINDS = FRAME_KINDS - {"silence", "halt", "repeat"}
KINDS = FRAME_KINDS | {"drop", "half_open", "shutdown", "refuse", "stall", "slow", "clear"}
NUMBERS = ("seconds", "count", "connection")
OPTIONS = frozenset({"status", "retry_after", "rate", "after"})
REFUSALS = (403, 418, 429, 451, 500, 502, 503, 504)
GARBAGE = b"<html>502 Bad Gateway</html>"

_PATTERN = re.compile(
    r"(?P<kind>\w+)(:(?P<symbol>\w+))?(\?(?P<options>[^@]*))?"
    r"@(?P<start>[\d.]+(ms|[smh])?)(\+(?P<seconds>[\d.]+(ms|[smh])?))?"
)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


@dataclass(frozen=True)
class FaultRequest:
    """A fault as it is requested."""

    kind: str
    symbol: str | None = None
    """None: all."""
    seconds: float | None = None
    count: int | None = None
    """Frames to spoil."""
    connection: int | None = None
    """None: all."""
    options: Mapping[str, float] = field(default_factory=dict)

    def check(self, symbols: Container[str | None]) -> None:
        """Raises SettingsError where kind, options or symbol are unknown."""
        if self.kind not in KINDS:
            raise SettingsError(f"fault {self.kind!r} is unknown; known are {', '.join(sorted(KINDS))}")
        if unknown := sorted(self.options.keys() - OPTIONS):
            raise SettingsError(
                f"fault option {unknown[0]!r} is unknown; known are {', '.join([*NUMBERS, *sorted(OPTIONS)])}"
            )
        if self.symbol is not None and self.symbol not in symbols:
            raise SettingsError(f"fault {self.kind} names {self.symbol!r}, which the simulator does not list")
        status = self.options.get("status", 503)
        if status not in REFUSALS:
            raise SettingsError(f"fault option status is {status:g}, expected one of {', '.join(map(str, REFUSALS))}")

    def frames(self) -> int | None:
        """Frames to spoil; a kind that spoils single frames takes one by default."""
        return 1 if self.kind in ONE_FRAME_KINDS and self.count is None and self.seconds is None else self.count


@dataclass(frozen=True)
class PlannedFault:
    """A fault that sets in `start` seconds after the simulator."""

    start: float
    request: FaultRequest


def parse_fault(text: str) -> PlannedFault:
    """A fault written as `kind[:SYMBOL][?option=value&…]@start[+duration]`, for instance `silence:BTCUSDT@10s+5s`.

    Options are `count`, `connection` and those of the kind, for instance `refuse?status=429@1m+30s`.
    Raises SettingsError.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise SettingsError(
            f"fault {text!r} is not of the form kind[:SYMBOL][?option=value]@start[+duration], "
            "for instance silence:BTCUSDT@10s+5s"
        )
    texts = dict(parse_qsl(match["options"] or "", keep_blank_values=True))
    if match["seconds"]:
        texts["seconds"] = str(_duration(match["seconds"]))
    request = fault_request({**texts, "kind": match["kind"], "symbol": match["symbol"] or ""})
    return PlannedFault(_duration(match["start"]), request)


def fault_request(texts: Mapping[str, str]) -> FaultRequest:
    """A fault from texts, as in `?kind=silence&symbol=BTCUSDT&seconds=5`. Raises SettingsError."""
    numbers: dict[str, float] = {}
    for name in texts.keys() - {"kind", "symbol"}:
        try:
            numbers[name] = float(texts[name])
        except ValueError:
            raise SettingsError(f"fault option {name} is {texts[name]!r}, expected a number") from None
    seconds, count, connection = (numbers.pop(name, None) for name in NUMBERS)
    request = FaultRequest(
        texts.get("kind", ""),
        upper_symbol(texts.get("symbol", "")) or None,
        seconds,
        None if count is None else int(count),
        None if connection is None else int(connection),
        numbers,
    )
    request.check((request.symbol,))
    return request


@dataclass
class Fault:
    """A fault in force; `until` is on the event loop's clock."""

    kind: str
    symbol: str | None = None
    connection: int | None = None
    until: float = math.inf
    count: int | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    claimed: dict[tuple[str, int], None] = field(default_factory=dict)
    """Frames that a counted fault has taken, so that it spoils the same ones on every connection."""

    def claims(self, connection: int, symbol: str, tick: int) -> bool:
        """Whether the frame of `symbol` at `tick` is spoilt on this connection; counts it."""
        if self.symbol not in (None, symbol) or self.connection not in (None, connection):
            return False
        if self.count is None or (symbol, tick) in self.claimed:
            return True
        if len(self.claimed) >= self.count:
            return False
        self.claimed[symbol, tick] = None
        return True

    def used_up(self) -> bool:
        """Whether a counted fault has taken its frames."""
        return self.count is not None and len(self.claimed) >= self.count


Sent = tuple[bytes, int | None]
"""Text of a frame, and its update id where the frame is a sound one."""


class FaultBoard:
    """The faults in force."""

    def __init__(self) -> None:
        self._frame_faults: list[Fault] = []
        self._others: list[Fault] = []
        self._held: dict[tuple[int, str], Sent] = {}
        self._frozen: dict[tuple[int, str], bytes] = {}

    def add(self, fault: Fault) -> None:
        (self._frame_faults if fault.kind in FRAME_KINDS else self._others).append(fault)

    def clear(self) -> None:
        self._frame_faults.clear()
        self._others.clear()
        self._frozen.clear()

    def spoils_frames(self, now: float) -> bool:
        """Whether frames must go through `apply`; forgets faults that are over.

        To be called before a frame goes to its first connection, not in between, so that all get the same.
        """
        if not self._frame_faults and not self._held:
            return False
        self._frame_faults = [each for each in self._frame_faults if now < each.until and not each.used_up()]
        if not any(each.kind == "repeat" for each in self._frame_faults):
            self._frozen.clear()
        return bool(self._frame_faults or self._held)

    def forget(self, connection: int) -> None:
        """Drop what is kept for a connection that has ended."""
        self._held = {place: sent for place, sent in self._held.items() if place[0] != connection}
        self._frozen = {place: text for place, text in self._frozen.items() if place[0] != connection}

    def active(self, kind: str, now: float, connection: int | None = None) -> Fault | None:
        """The fault of a kind that is in force (for a connection), the newest first."""
        for fault in reversed(self._others):
            if fault.kind == kind and now < fault.until and fault.connection in (None, connection):
                return fault
        return None

    def halted(self, now: float, symbols: Iterable[str]) -> list[str]:
        """Those of the symbols that do not trade."""
        halts = [each for each in self._frame_faults if each.kind == "halt" and now < each.until]
        return [symbol for symbol in symbols if any(each.symbol in (None, symbol) for each in halts)]

    def apply(self, connection: int, symbol: str, stream: str, tick: int, text: bytes, update_id: int) -> list[Sent]:
        """What is sent in place of a frame, in order: nothing, it, or something else."""
        place = (connection, stream)
        frames: list[Sent] = [(text, update_id)]
        for kind in [each.kind for each in self._frame_faults if each.claims(connection, symbol, tick)]:
            match kind:
                case "silence" | "halt":
                    return []
                case "out_of_order" if place not in self._held:
                    self._held[place] = (text, update_id)
                    return []
                case "repeat":
                    frozen = self._frozen.setdefault(place, text)
                    frames = [(frozen, update_id if frozen is text else None)]
                case "duplicate":
                    frames *= 2
                case "malformed" | "garbage" | "crossed" | "empty":
                    frames = [(spoil(kind, text), None)]
        held = self._held.pop(place, None)
        return frames if held is None else [*frames, held]


def spoil(kind: str, text: bytes) -> bytes:
    """The text of a frame, raw or wrapped, as a fault of this kind leaves it."""
    if kind == "malformed":
        return text[: len(text) // 2]
    if kind == "garbage":
        return GARBAGE
    message = json.loads(text)
    book = message.get("data", message)
    bids, asks = ("bids", "asks") if "bids" in book else ("b", "a")
    if kind == "empty":
        book[bids] = book[asks] = []
    elif book[bids] and book[asks]:
        book[bids][0], book[asks][0] = book[asks][0], book[bids][0]
    return json.dumps(message, separators=(",", ":")).encode()


def _duration(text: str) -> float:
    number = text.rstrip("msh")
    try:
        return float(number) * _SECONDS[text[len(number) :]]
    except ValueError:
        raise SettingsError(f"duration {text!r} is not a number with ms, s, m or h") from None
