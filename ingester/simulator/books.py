"""Synthetic order books: the book of a pair is a pure function of market, seed, symbol and update id.

Whoever has stored a row can therefore compute it again. All arithmetic is on 64-bit integers, for many pairs at once.

How a book comes about: time is counted in ticks of 100 ms (`update_id // stride`) and cut into blocks of eight. Once
per block, at a hashed tick, the *anchor* moves on. Price, spread and the distances of levels depend on the anchor, so
seven of eight snapshots leave the best price alone (88 % in Binance's real data). The price at an anchor is value noise
in seven octaves, from 0.8 s to 58 h, whose strength grows with the root of the period as a random walk's does; it stays
within 10 % of the start. The price of a futures contract follows that of the spot pair at a small distance.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingester.exchange import guessed_assets

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

UNITS = 10**8
"""Prices and quantities are counted in units of 1e-8: eight decimals, as many as the spot market writes."""
UNIT_DECIMALS = 8

MOST_LEVELS = 100
"""No book is deeper: further down the bids of the cheapest coins would reach zero."""
LEAST_START_TICKS = 1000
"""Below this many ticks a hundred levels of bids would reach down to zero."""
MOST_COINS = 90_000_000
"""No level holds more: there is room for eight digits before the point."""

DOLLARS = {
    "USDT": 1.0, "USDC": 1.0, "FDUSD": 1.0, "USD": 1.0, "EUR": 1.09, "TRY": 0.03,
    "ADA": 0.345, "AGIX": 0.52, "ALGO": 0.128, "APT": 6.1, "ARB": 0.56, "ARPA": 0.036, "ATOM": 4.6, "AVAX": 21.8,
    "AXS": 4.9, "BCH": 345.0, "BNB": 512.0, "BTC": 61800.0, "CFX": 0.132, "DASH": 24.5, "DOGE": 0.104, "DOT": 4.7,
    "EDU": 0.55, "EOS": 0.49, "ETC": 19.2, "ETH": 2680.0, "FET": 0.92, "FIL": 3.6, "FTM": 0.36, "KAVA": 0.31,
    "LDO": 1.07, "LINK": 10.4, "LTC": 61.0, "MASK": 2.1, "MATIC": 0.42, "NEAR": 4.1, "NEO": 9.6, "ONT": 0.17,
    "OP": 1.4, "PEPE": 0.0000079, "SAND": 0.26, "SHIB": 0.0000138, "SOL": 158.0, "STX": 1.6, "SUI": 0.88,
    "TRX": 0.127, "UNI": 6.0, "VET": 0.022, "WAVES": 0.93, "XLM": 0.1, "XMR": 155.0, "XRP": 0.61, "ZEC": 38.0,
}  # fmt: skip
"""Dollars per coin in August 2024, roughly."""

SPOT, FUTURES = "spot", "futures"


class SyntheticPair(NamedTuple):
    """The constants of one pair's books; prices in ticks, quantities in lots, both measured in `UNITS`."""

    key: int
    """64 bits from market, seed and symbol: all that is random about the pair but its price comes from them."""
    price_key: int
    """The same for the price: a futures contract has that of its spot pair."""
    stride: int
    """Update ids per tick of 100 ms."""
    tick_units: int
    lot_units: int
    start_ticks: int
    """Middle of the range in which the price walks."""
    widest_gap: int
    """Ticks between two neighbouring levels, at most, less one."""
    most_lots: int
    """Largest quantity of a level."""
    decimals: tuple[int, int]
    """How many the market writes of a price and of a quantity."""

    def texts(self, price: int, quantity: int) -> tuple[str, str]:
        """A level as the market writes it, from numbers in `UNITS`."""
        return text_of(price, self.decimals[0]), text_of(quantity, self.decimals[1])


@lru_cache(maxsize=8192)
def synthetic_pair(seed: int, symbol: str, market: str = SPOT) -> SyntheticPair:
    """The constants of a pair."""
    if market == FUTURES:
        return _contract(seed, symbol)
    key = _number(f"{seed}:{symbol}")
    base, quote = guessed_assets(symbol)  # the same books wherever they are made
    dollars = _dollars(base)
    price_units = max(LEAST_START_TICKS, round(dollars / _dollars(quote) * UNITS))
    tick_units = 10 ** min(6, max(0, len(str(price_units)) - 5))
    start_ticks = max(LEAST_START_TICKS, price_units // tick_units)
    lot_units = 10 ** min(8, max(0, 16 - len(str(max(1, round(dollars * UNITS))))))
    most_lots = round(50_000 / dollars * UNITS) // lot_units
    return SyntheticPair(
        key=key,
        price_key=key,
        stride=8 + key % 57,
        tick_units=tick_units,
        lot_units=lot_units,
        start_ticks=start_ticks,
        widest_gap=max(4, start_ticks // 20_000),
        most_lots=min(max(most_lots, 10), MOST_COINS * UNITS // lot_units),
        decimals=(UNIT_DECIMALS, UNIT_DECIMALS),
    )


def _contract(seed: int, symbol: str) -> SyntheticPair:
    """A futures contract: steps ten times as coarse as the spot pair's, and no more decimals than they need."""
    spot_pair, delivery = symbol.partition("_")[::2]
    spot = synthetic_pair(seed, spot_pair)
    key = _number(f"{seed}:{symbol}:{FUTURES}")
    coarser = 10 if spot.start_ticks >= 10 * LEAST_START_TICKS else 1
    lot_units = min(UNITS, spot.lot_units * 10)
    basis = key % 11 - 5 + (100 if delivery else 0)  # in hundredths of a percent
    start_ticks = max(LEAST_START_TICKS, spot.start_ticks * (10_000 + basis) // (10_000 * coarser))
    return SyntheticPair(
        key=key,
        price_key=spot.key,
        stride=200 + key % 701,
        tick_units=spot.tick_units * coarser,
        lot_units=lot_units,
        start_ticks=start_ticks,
        widest_gap=max(4, start_ticks // 20_000),
        most_lots=max(10, min(spot.most_lots * 5 * spot.lot_units, MOST_COINS * UNITS) // lot_units),
        decimals=(_decimals(spot.tick_units * coarser), _decimals(lot_units)),
    )


def circulating(seed: int, coin: str) -> int | None:
    """How many coins circulate: worth 20 million to 200 billion dollars; None for every 16th coin."""
    number = _number(f"{seed}:{coin}:supply")
    if number % 16 == 0:
        return None
    worth: float = 2e7 * 10.0 ** (number // 16 % 1000 / 250)
    return round(worth / _dollars(coin))


def update_id(seed: int, symbol: str, tick: int, market: str = SPOT) -> int:
    """The update id of a pair at `tick`, the number of 100 ms intervals since 1970: rises with it, but not by one."""
    return int(_one(seed, symbol, 1, market).update_ids(tick)[0])


Side = list[tuple[str, str]]


def book(seed: int, symbol: str, update_id: int, depth: int, market: str = SPOT) -> tuple[Side, Side]:
    """(bids, asks) as (price, quantity) texts, best first, `depth` levels (at most `MOST_LEVELS`) on each side.

    A shallower book is the beginning of a deeper one.
    """
    pair = synthetic_pair(seed, symbol, market)
    units = _one(seed, symbol, min(max(depth, 1), MOST_LEVELS), market).units(np.array([update_id]))[0].tolist()
    bids, asks = ([pair.texts(*level) for level in side[:depth]] for side in units)
    return bids, asks


def text_of(units: int, decimals: int) -> str:
    """A number of `UNITS` with so many decimals."""
    whole, part = divmod(units, UNITS)
    return f"{whole}.{part:08d}"[: -UNIT_DECIMALS + decimals or None] if decimals else str(whole)


class PayloadFormat(NamedTuple):
    """How a market writes a book in JSON: `head`, the bids, `middle`, the asks, `end`."""

    head: tuple[bytes | str, ...]
    """Bytes stand as they are, a text is the name of a field: `s` is the symbol, all others are numbers."""
    middle: bytes
    end: bytes
    id_field: str
    """The field that holds the update id."""

    @property
    def is_event(self) -> bool:
        """Whether books carry their symbol, times and the update id before."""
        return "s" in self.head

    def payload(self, fields: Mapping[str, int | str], bids: bytes, asks: bytes) -> bytes:
        """The JSON of one book whose sides are given as `["1.0","2.0"],["0.9","3.0"]`."""
        parts = [part if isinstance(part, bytes) else str(fields[part]).encode() for part in self.head]
        return b"".join((*parts, bids, self.middle, asks, self.end))


class BookBatch:
    """The books of many pairs of one market at one tick, as the JSON that goes over the wire.

    A payload is put together in words of four bytes from a template in which numbers have room to spare; unused room
    holds NUL bytes, which are deleted at the end. A table turns four digits into one word.
    """

    def __init__(
        self,
        seed: int,
        symbols: Sequence[str],
        depth: int,
        *,
        market: str = SPOT,
        format: PayloadFormat | None = None,
        thin: Mapping[str, int] | None = None,
    ) -> None:
        """`symbols`: at least one. `format`: for `payloads`. `thin`: levels of symbols that have few."""
        self.symbols = list(symbols)
        self.depth = depth
        pairs = [synthetic_pair(seed, symbol, market) for symbol in symbols]
        self._keys: Hashes = np.array([each.key for each in pairs], dtype=np.uint64)[:, None]
        self._price_keys: Hashes = np.array([each.price_key for each in pairs], dtype=np.uint64)[:, None]
        columns = np.array([each[2:8] for each in pairs], dtype=np.int64).reshape(-1, 6).T
        self._strides, self._tick_units, self._lot_units, self._starts, self._gaps, self._lots = columns[:, :, None]
        self._periods, self._weights = np.array(_OCTAVES, dtype=np.int64).T
        self._octave_lanes = np.arange(len(_OCTAVES)) + _OCTAVE_LANE
        levels = np.arange(depth)
        self._side_lanes: Ints = np.concatenate([levels, levels + _SIDE_LANES])
        self._levels: Ints = np.concatenate([levels, levels])
        if format is not None:
            self._template = _Template(format, pairs, self.symbols, depth, thin or {})

    def payloads(self, ids: Ints, fields: Mapping[str, Ints] | None = None) -> list[bytes]:
        """JSON payloads of all pairs under these update ids, in the order of `symbols`; `fields`: numbers by name."""
        return self._template.filled(self.units(ids), {self._template.format.id_field: ids, **(fields or {})})

    def update_ids(self, tick: int) -> Ints:
        """The update id of every pair at `tick`, shape (pairs,)."""
        offsets = _hash(self._keys, np.full((1, 1), tick), np.full((1, 1), _ID_LANE)) % self._strides.astype(np.uint64)
        ids: Ints = (tick * self._strides + offsets.astype(np.int64))[:, 0]
        return ids

    def units(self, update_ids: Ints) -> Ints:
        """Prices and quantities in units of 1e-8, shape (pairs, 2 sides, depth, 2)."""
        ids = update_ids[:, None]
        ticks = ids // self._strides
        blocks = ticks >> 3
        turns = _chances(self._price_keys, blocks, np.full((1, 1), _ANCHOR_LANE)) & 7
        anchors = blocks - ((ticks & 7) < turns)
        since = anchors >> self._periods
        into = anchors - (since << self._periods)
        left = _chances(self._price_keys, since, self._octave_lanes) - 0x8000
        right = _chances(self._price_keys, since + 1, self._octave_lanes) - 0x8000
        waves = (left * ((1 << self._periods) - into) + right * into) >> self._periods
        noise = (waves * self._weights).sum(axis=1, keepdims=True)
        bids = self._starts + ((self._starts * noise) >> 28)
        spreads = (_chances(self._keys, anchors, np.full((1, 1), _SPREAD_LANE)) & 15) - 9
        asks = bids + np.maximum(spreads, 1)

        chances = _chances(self._keys, anchors, self._side_lanes + _GAP_LANE)
        gaps = 1 + ((((chances * chances) >> 16) * self._gaps) >> 16)
        gaps = gaps.reshape(len(ids), 2, self.depth)
        gaps[:, :, 0] = 0
        away = gaps.cumsum(axis=2)

        # The best quantity is new in every snapshot; further levels rest for 2, 4, 8 or 16 ticks.
        since = (ticks + self._levels) >> (1 + self._levels % 4)
        since[:, :: self.depth] = ids
        chances = _chances(self._keys, since, self._side_lanes + _QUANTITY_LANE)
        lots = 1 + (((chances**3 >> 32) * self._lots) >> 16)

        units = np.empty((len(ids), 2, self.depth, 2), dtype=np.int64)
        units[:, 0, :, 0] = (bids - away[:, 0]) * self._tick_units
        units[:, 1, :, 0] = (asks + away[:, 1]) * self._tick_units
        units[:, :, :, 1] = (lots * self._lot_units).reshape(len(ids), 2, self.depth)
        return units


class _Template:
    """The payloads of a batch with empty room for their numbers."""

    def __init__(
        self,
        format: PayloadFormat,
        pairs: Sequence[SyntheticPair],
        symbols: Sequence[str],
        depth: int,
        thin: Mapping[str, int],
    ) -> None:
        self.format = format
        self._depth = depth
        self._places: dict[str, int] = {}
        """Word at which the number of each field begins."""
        names = [symbol.encode() for symbol in symbols]
        rooms = {"s": max(map(len, names))}
        words = 0
        for part in format.head:
            if isinstance(part, str):
                self._places[part] = words
            words += _words(rooms.get(part, _NUMBER_ROOM) if isinstance(part, str) else len(part))
        self._sides = words, words + _LEVEL_WORDS * depth + _words(len(format.middle))
        rows = b"".join(
            b"".join(
                (
                    *(
                        _padded(part)
                        if isinstance(part, bytes)
                        else _padded(name.ljust(rooms["s"], b"\0") if part == "s" else b"\0" * _NUMBER_ROOM)
                        for part in format.head
                    ),
                    *(side := [_side(depth, min(depth, thin.get(symbol, depth)))]),
                    _padded(format.middle),
                    *side,
                    _padded(format.end + b"\n"),
                )
            )
            for name, symbol in zip(names, symbols, strict=True)
        )
        self._words = np.frombuffer(rows, dtype=np.uint32).reshape(len(symbols), -1).copy()
        self._mask = self._mask_of(pairs, symbols, thin)

    def _mask_of(
        self, pairs: Sequence[SyntheticPair], symbols: Sequence[str], thin: Mapping[str, int]
    ) -> npt.NDArray[np.uint32] | None:
        """Which bytes are sent: not the levels that a thin book lacks, nor decimals that the market does not write."""
        mask = np.full((len(symbols), self._words.shape[1], 4), 0xFF, dtype=np.uint8)
        for row, pair, symbol in zip(mask, pairs, symbols, strict=True):
            count = min(self._depth, thin.get(symbol, self._depth))
            for start in self._sides:
                levels = row[start : start + _LEVEL_WORDS * self._depth].reshape(self._depth, _LEVEL_WORDS, 4)
                levels[count:] = 0
                for place, decimals in zip(_LEVEL_NUMBERS, pair.decimals, strict=True):
                    levels[:, place + 3 : place + 5].reshape(self._depth, UNIT_DECIMALS)[:, decimals:] = 0
                    if not decimals:
                        levels[:, place + 2] = 0
        return None if mask.all() else mask.reshape(len(symbols), -1).view(np.uint32)

    def filled(self, units: Ints, fields: Mapping[str, Ints]) -> list[bytes]:
        """The payloads with these numbers."""
        for name, place in self._places.items():
            if name != "s":
                self._write(place, fields[name])
        whole = units // UNITS
        part = units - whole * UNITS
        sides = zip(self._sides, np.moveaxis(whole, 1, 0), np.moveaxis(part, 1, 0), strict=True)
        for start, side_whole, side_part in sides:
            words = self._words[:, start : start + _LEVEL_WORDS * self._depth]
            words = words.reshape(len(units), self._depth, _LEVEL_WORDS)
            for number, at in enumerate(_LEVEL_NUMBERS):
                high, low = _halves(side_whole[:, :, number])
                words[:, :, at] = _DIGITS[high]
                words[:, :, at + 1] = _DIGITS[low + np.where(high > 0, _ALL, _ONE)]
                high, low = _halves(side_part[:, :, number])
                words[:, :, at + 3] = _DIGITS[high + _ALL]
                words[:, :, at + 4] = _DIGITS[low + _ALL]
        rows = self._words if self._mask is None else self._words & self._mask
        lines = rows.tobytes().translate(None, b"\0").split(b"\n")
        lines.pop()
        return lines

    def _write(self, place: int, numbers: Ints) -> None:
        high, low = numbers // UNITS, numbers % UNITS
        (first, second), (third, fourth) = _halves(high), _halves(low)
        self._words[:, place] = _DIGITS[first]
        self._words[:, place + 1] = _DIGITS[second + np.where(first > 0, _ALL, _NONE)]
        self._words[:, place + 2] = _DIGITS[third + np.where(high > 0, _ALL, _NONE)]
        self._words[:, place + 3] = _DIGITS[fourth + np.where(numbers >= 10**4, _ALL, _ONE)]


@lru_cache(maxsize=1024)
def _one(seed: int, symbol: str, depth: int, market: str) -> BookBatch:
    return BookBatch(seed, [symbol], depth, market=market)


_TIME, _LANE = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
"""Odd multipliers that keep the hashes of neighbouring times and of different purposes apart."""
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

_ID_LANE, _ANCHOR_LANE, _SPREAD_LANE, _OCTAVE_LANE, _GAP_LANE, _QUANTITY_LANE = 0, 1, 2, 16, 1024, 2048
_SIDE_LANES = 256
_OCTAVES = ((0, 1), (3, 3), (6, 8), (9, 23), (12, 64), (15, 181), (18, 512))
"""(binary logarithm of the period in anchors, weight)."""


def _hash(keys: Hashes, times: Ints, lanes: Ints) -> Hashes:
    """64 random bits for each key, time and purpose."""
    z = keys + times.astype(np.uint64) * np.uint64(_TIME) + lanes.astype(np.uint64) * np.uint64(_LANE)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    hashes: Hashes = z ^ (z >> np.uint64(31))
    return hashes


def _chances(keys: Hashes, times: Ints, lanes: Ints) -> Ints:
    """As many numbers below 2^16."""
    return (_hash(keys, times, lanes) & np.uint64(0xFFFF)).astype(np.int64)


_NUMBER_ROOM = 16
"""Bytes for a number outside of the levels."""
_LEVEL_WORDS = 13
_LEVEL_NUMBERS = (1, 7)
"""Words of a level at which price and quantity begin: two for the whole, one for the point, two for the decimals."""
_NONE, _ONE, _ALL = 0, 10_000, 20_000
"""Where the table begins that shows of four digits: none for zero, at least one, all four."""
_DIGITS = np.frombuffer(
    b"".join(
        text.rjust(4, b"\0")
        for texts in (
            (b"%d" % number if number else b"" for number in range(10_000)),
            (b"%d" % number for number in range(10_000)),
            (b"%04d" % number for number in range(10_000)),
        )
        for text in texts
    ),
    dtype=np.uint32,
)


def _halves(numbers: Ints) -> tuple[Ints, Ints]:
    high = numbers // 10_000
    return high, numbers - high * 10_000


def _side(depth: int, count: int) -> bytes:
    """One side of a book with room for `depth` levels of which `count` are sent."""
    room = b"\0" * 8
    number = room + b"\0\0\0." + room
    level = b'\0\0["' + number + b'\0","' + number + b'\0"],'
    last = level[:-4] + b'\0\0"]'
    return b"".join([level] * (count - 1) + [last] * min(count, 1)).ljust(_LEVEL_WORDS * 4 * depth, b"\0")


def _words(length: int) -> int:
    return -(-length // 4)


def _padded(text: bytes) -> bytes:
    return text.ljust(_words(len(text)) * 4, b"\0")


def _decimals(units: int) -> int:
    """How many decimals a multiple of so many units (a power of ten) has."""
    return UNIT_DECIMALS + 1 - len(str(units))


def _dollars(asset: str) -> float:
    known = DOLLARS.get(asset)
    if known is not None:
        return known
    number = _number(asset)
    return float(100 + number % 900) / 10.0 ** (1 + number // 1000 % 4)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
