"""The best prices of the first pairs, as rows of the live table: in places that do not move."""

from decimal import Decimal

from rich.text import Text

from ingester.cli.tables import TextTable
from ingester.clock import SECOND
from ingester.live import LiveBuffer

HEAD_LINES = 2
"""The empty line and the names above the books."""
MOST_BOOKS = 10
OLD_SECONDS = 5.0
"""An age that is worth a look."""


class Prices:
    """Shows the newest books of the first pairs in the order in which they are recorded."""

    def __init__(self, record: LiveBuffer) -> None:
        self._record = record
        self._places: dict[str, int] = {}  # decimal places that a pair's prices were seen to have

    def table(self, now: int, room: int, count: int) -> TextTable | None:
        """A table that takes at most `room` lines with the empty one above it; None where there is nothing to show.

        `count`: pairs that are recorded, shown or not.
        """
        if not self._record.running:
            return None
        pairs = self._record.pairs[: min(MOST_BOOKS, max(0, room - HEAD_LINES))]
        if not pairs:
            return None
        table = TextTable(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
        name = f"{len(pairs)} of {count}" if len(pairs) < count else "pair"
        table.add_column(name, min_width=11)
        for name, width in (("bid", 13), ("ask", 13), ("spread", 10), ("age", 7)):
            table.add_column(name, justify="right", min_width=width)
        for pair in pairs:
            table.add_row(pair, *self._row(pair, now))
        return table

    def _row(self, pair: str, now: int) -> list[Text | str]:
        newest = self._record.newest(pair)
        if newest is None:
            return ["-"] * 4
        bid, ask = newest.bids[0][0] if newest.bids else None, newest.asks[0][0] if newest.asks else None
        age = max(0.0, (now - newest.receive_ns) / SECOND)
        shown = f"{age:.1f} s" if age < 60 else f"{age / 60:.0f} min"
        return [
            self._price(pair, bid),
            self._price(pair, ask),
            "-" if bid is None or ask is None else f"{spread_bps(bid, ask):.2f} bp",
            Text(shown, style="bold red" if age > OLD_SECONDS else ""),
        ]

    def _price(self, pair: str, price: float | None) -> str:
        if price is None:
            return "-"
        exponent = Decimal(repr(price)).normalize().as_tuple().exponent
        places = self._places[pair] = max(self._places.get(pair, 2), -int(exponent))
        return f"{price:,.{places}f}"


def spread_bps(bid: float, ask: float) -> float:
    """The spread in basis points of the mid, as in the view `spread`."""
    return 20_000 * (ask - bid) / (ask + bid)
