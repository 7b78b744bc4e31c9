"""One order book at one moment, and the names of its columns at each depth: in the table, and in a data set."""

from typing import NamedTuple

Level = tuple[float, float]
"""(price, quantity), in quote and base currency."""


INDEX = "Request Time"
"""Of a data set's frames."""


class OrderBook(NamedTuple):
    """The best levels of one pair's book as received at one moment.

    `bids` fall and `asks` rise in price; both may hold fewer levels than were asked for, when the book is thinner.
    """

    symbol: str
    receive_ns: int
    """When this machine received it: nanoseconds since 1970, UTC."""
    update_id: int
    """The exchange's own number of it: rises from snapshot to snapshot, but not always by one."""
    bids: list[Level]
    asks: list[Level]
    event_ns: int | None = None
    """When the exchange made it, by its own clock; None where the channel does not say."""


def level_columns(depth: int) -> list[str]:
    """Column names of the levels in table order: `bid_1, bidv_1, … bid_N, bidv_N, ask_1, askv_1, … ask_N, askv_N`."""
    return [
        f"{name}_{level}"
        for names in (("bid", "bidv"), ("ask", "askv"))
        for level in range(1, depth + 1)
        for name in names
    ]


def frame_columns(levels: int) -> list[str]:
    """Column names of a data set in order: `Bid_1, BidV_1, … Bid_N, BidV_N, Ask_1, AskV_1, … Ask_N, AskV_N`."""
    return [
        f"{name}_{level}"
        for names in (("Bid", "BidV"), ("Ask", "AskV"))
        for level in range(1, levels + 1)
        for name in names
    ]
