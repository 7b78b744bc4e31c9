"""Synthetic order books: the book of a pair is a pure function of seed, symbol and update id.

Whoever stored a row can therefore recompute it. `book` is the readable definition; `BookBatch` computes the same
books, byte for byte, for many pairs at once. All arithmetic is on integers, so no rounding can tell the two apart.

How a book comes about: time is counted in ticks of 100 ms (`update_id // stride`) and cut into blocks of eight. Once
per block, at a hashed tick, the *anchor* moves on; price, spread and gaps hang on the anchor, so seven of eight
snapshots leave the best price alone (88 % in Binance's real data). The price at an anchor is value noise in seven
octaves, from 0.8 s to 58 h, whose strength grows with the root of the period as a random walk's does; it stays within
10 % of the start.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ingester.simulator.markets import UNITS, market

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

MOST_LEVELS = 100
"""No book is deeper: further down the bids of the cheapest coins would reach zero."""

_MASK = 2**64 - 1
_TIME, _LANE = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
"""Odd multipliers that keep the hashes of neighbouring times and of different purposes apart."""
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

_ID_LANE, _ANCHOR_LANE, _SPREAD_LANE, _OCTAVE_LANE, _GAP_LANE, _QUANTITY_LANE = 0, 1, 2, 16, 1024, 2048
_SIDE_LANES = 256
_OCTAVES = ((0, 1), (3, 3), (6, 8), (9, 23), (12, 64), (15, 181), (18, 512))
"""(binary logarithm of the period in anchors, weight)."""


def update_id(seed: int, symbol: str, tick: int) -> int:
    """The update id of a pair at `tick`, the number of 100 ms intervals since 1970: rises with it, but not by one."""
    this = market(seed, symbol)
    return tick * this.stride + _hash(this.key, tick, _ID_LANE) % this.stride


def book(seed: int, symbol: str, update_id: int, depth: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(bids, asks) as (price, quantity) texts, best first, `depth` levels (at most `MOST_LEVELS`) on each side.

    A shallower book is the beginning of a deeper one.
    """
    this = market(seed, symbol)
    key = this.key
    tick = update_id // this.stride
    block = tick >> 3
    anchor = block if tick & 7 >= _hash(key, block, _ANCHOR_LANE) & 7 else block - 1
    noise = 0
    for lane, (period, weight) in enumerate(_OCTAVES, _OCTAVE_LANE):
        since, into = anchor >> period, anchor & (1 << period) - 1
        left = (_hash(key, since, lane) & 0xFFFF) - 0x8000
        right = (_hash(key, since + 1, lane) & 0xFFFF) - 0x8000
        noise += weight * (left * ((1 << period) - into) + right * into >> period)
    best_bid = this.start_ticks + (this.start_ticks * noise >> 28)
    best_ask = best_bid + max(1, (_hash(key, anchor, _SPREAD_LANE) & 15) - 9)
    sides: list[list[tuple[str, str]]] = []
    for side, (price, direction) in enumerate(((best_bid, -1), (best_ask, 1))):
        levels = []
        for level in range(min(depth, MOST_LEVELS)):
            if level:
                chance = _hash(key, anchor, _GAP_LANE + side * _SIDE_LANES + level) & 0xFFFF
                price += direction * (1 + ((chance * chance >> 16) * this.widest_gap >> 16))
            # The best quantity is new in every snapshot; further levels rest for 2, 4, 8 or 16 ticks.
            since = tick + level >> 1 + level % 4 if level else update_id
            chance = _hash(key, since, _QUANTITY_LANE + side * _SIDE_LANES + level) & 0xFFFF
            lots = 1 + ((chance**3 >> 32) * this.most_lots >> 16)
            levels.append((_text(price * this.tick_units), _text(lots * this.lot_units)))
        sides.append(levels)
    return sides[0], sides[1]


def _hash(key: int, time: int, lane: int) -> int:
    z = key + time * _TIME + lane * _LANE & _MASK
    z = (z ^ z >> 30) * _MIX_1 & _MASK
    z = (z ^ z >> 27) * _MIX_2 & _MASK
    return z ^ z >> 31


def _text(units: int) -> str:
    return f"{units // UNITS}.{units % UNITS:08d}"


class BookBatch:
    """The books of many pairs at one tick, as the JSON that goes over the wire.

    A payload is put together in words of four bytes from a template in which numbers have room to spare; unused room
    holds NUL bytes, which are deleted at the end. A table turns four digits into one word.
    """

    def __init__(self, seed: int, symbols: Sequence[str], depth: int, thin: Mapping[str, int] | None = None) -> None:
        """`symbols`: at least one. `thin`: levels of symbols whose books have fewer than `depth`."""
        self.symbols = list(symbols)
        self.depth = depth
        markets = [market(seed, symbol) for symbol in symbols]
        self._keys: Hashes = np.array([each.key for each in markets], dtype=np.uint64)[:, None]
        columns = np.array([each[1:] for each in markets], dtype=np.int64).reshape(-1, 6).T
        self._strides, self._tick_units, self._lot_units, self._starts, self._gaps, self._lots = columns[:, :, None]
        self._periods, self._weights = np.array(_OCTAVES, dtype=np.int64).T
        self._octave_lanes = np.arange(len(_OCTAVES)) + _OCTAVE_LANE
        levels = np.arange(depth)
        self._side_lanes: Ints = np.concatenate([levels, levels + _SIDE_LANES])
        self._levels: Ints = np.concatenate([levels, levels])
        counts = [min(depth, (thin or {}).get(symbol, depth)) for symbol in symbols]
        rows = b"".join(_template(depth, count) for count in counts)
        self._words = np.frombuffer(rows, dtype=np.uint32).reshape(len(symbols), -1).copy()
        self._mask: npt.NDArray[np.uint32] | None = None
        if any(count < depth for count in counts):
            self._mask = np.ones_like(self._words)
            for row, count in zip(self._mask, counts, strict=True):
                for start in (_BIDS, _BIDS + 13 * depth + 3):
                    row[start + 13 * count : start + 13 * depth] = 0

    def payloads(self, tick: int) -> tuple[list[bytes], list[int]]:
        """JSON payloads and update ids of all pairs at `tick`, in the order of `symbols`."""
        ids = self.update_ids(tick)
        self._write_id(ids)
        units = self.units(ids)
        whole = units // UNITS
        part = units - whole * UNITS
        sides = zip(
            (_BIDS, _BIDS + 13 * self.depth + 3), np.moveaxis(whole, 1, 0), np.moveaxis(part, 1, 0), strict=True
        )
        for start, side_whole, side_part in sides:
            words = self._words[:, start : start + 13 * self.depth].reshape(len(ids), self.depth, 13)
            for number, at in ((0, 1), (1, 7)):
                high, low = _halves(side_whole[:, :, number])
                words[:, :, at] = _DIGITS[high]
                words[:, :, at + 1] = _DIGITS[low + np.where(high > 0, _ALL, _ONE)]
                high, low = _halves(side_part[:, :, number])
                words[:, :, at + 3] = _DIGITS[high + _ALL]
                words[:, :, at + 4] = _DIGITS[low + _ALL]
        rows = self._words if self._mask is None else self._words * self._mask
        lines = rows.tobytes().translate(None, b"\0").split(b"\n")
        lines.pop()
        return lines, ids.tolist()

    def update_ids(self, tick: int) -> Ints:
        """`update_id` of every pair at `tick`, shape (pairs,)."""
        offsets = self._hash(np.full((1, 1), tick), np.full((1, 1), _ID_LANE)) % self._strides.astype(np.uint64)
        ids: Ints = (tick * self._strides + offsets.astype(np.int64))[:, 0]
        return ids

    def units(self, update_ids: Ints) -> Ints:
        """Prices and quantities in units of 1e-8, shape (pairs, 2 sides, depth, 2)."""
        ids = update_ids[:, None]
        ticks = ids // self._strides
        blocks = ticks >> 3
        turns = (self._hash(blocks, np.full((1, 1), _ANCHOR_LANE)) & np.uint64(7)).astype(np.int64)
        anchors = blocks - ((ticks & 7) < turns)
        since = anchors >> self._periods
        into = anchors - (since << self._periods)
        left = self._chances(since, self._octave_lanes) - 0x8000
        right = self._chances(since + 1, self._octave_lanes) - 0x8000
        waves = (left * ((1 << self._periods) - into) + right * into) >> self._periods
        noise = (waves * self._weights).sum(axis=1, keepdims=True)
        bids = self._starts + ((self._starts * noise) >> 28)
        spreads = (self._chances(anchors, np.full((1, 1), _SPREAD_LANE)) & 15) - 9
        asks = bids + np.maximum(spreads, 1)

        chances = self._chances(anchors, self._side_lanes + _GAP_LANE)
        gaps = 1 + ((((chances * chances) >> 16) * self._gaps) >> 16)
        gaps = gaps.reshape(len(ids), 2, self.depth)
        gaps[:, :, 0] = 0
        away = gaps.cumsum(axis=2)

        since = (ticks + self._levels) >> (1 + self._levels % 4)
        since[:, :: self.depth] = ids
        chances = self._chances(since, self._side_lanes + _QUANTITY_LANE)
        lots = 1 + (((chances**3 >> 32) * self._lots) >> 16)

        units = np.empty((len(ids), 2, self.depth, 2), dtype=np.int64)
        units[:, 0, :, 0] = (bids - away[:, 0]) * self._tick_units
        units[:, 1, :, 0] = (asks + away[:, 1]) * self._tick_units
        units[:, :, :, 1] = (lots * self._lot_units).reshape(len(ids), 2, self.depth)
        return units

    def _chances(self, times: Ints, lanes: Ints) -> Ints:
        return (self._hash(times, lanes) & np.uint64(0xFFFF)).astype(np.int64)

    def _hash(self, times: Ints, lanes: Ints) -> Hashes:
        z = self._keys + times.astype(np.uint64) * np.uint64(_TIME) + lanes.astype(np.uint64) * np.uint64(_LANE)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
        hashes: Hashes = z ^ (z >> np.uint64(31))
        return hashes

    def _write_id(self, ids: Ints) -> None:
        high, low = ids // UNITS, ids % UNITS
        (first, second), (third, fourth) = _halves(high), _halves(low)
        self._words[:, 4] = _DIGITS[first]
        self._words[:, 5] = _DIGITS[second + np.where(first > 0, _ALL, _NONE)]
        self._words[:, 6] = _DIGITS[third + np.where(high > 0, _ALL, _NONE)]
        self._words[:, 7] = _DIGITS[fourth + np.where(ids >= 10**4, _ALL, _ONE)]


_BIDS = 4 + 4 + 3
"""Word at which the bids begin: after the name of the id, the id, and the name of the bids."""
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


def _template(depth: int, count: int) -> bytes:
    room = b"\0" * 8
    number = room + b"\0\0\0." + room
    level = b'\0\0["' + number + b'\0","' + number + b'\0"],'
    last = level[:-4] + b'\0\0"]'
    side = b"".join([level] * (count - 1) + [last] * min(count, 1)).ljust(13 * 4 * depth, b"\0")
    return b'{"lastUpdateId":' + room * 2 + b',"bids":[\0\0\0' + side + b'],"asks":[\0\0' + side + b"]}\n\0"
