"""The order book of one pair at one moment, and the names of its columns in the table and in data sets."""

from typing import NamedTuple

Level = tuple[float, float]
"""(price, quantity), in quote and base currency."""


INDEX = "Request Time"
"""The name of the index of a data set's frames."""


class OrderBook(NamedTuple):
    """The best levels of one pair's book as received at one moment.

    `bids` fall and `asks` rise in price. A thin book has fewer levels than were requested.
    """

    symbol: str
    receive_ns: int
    """The time when this machine received it, in ns since 1970, UTC."""
    update_id: int
    """The number that the exchange gave it. It rises from snapshot to snapshot, but not always by one."""
    bids: list[Level]
    asks: list[Level]
    event_ns: int | None = None
    """The time of the exchange's clock when it was made, in ns since 1970; None where the channel does not send it."""


def level_columns(depth: int) -> list[str]:
    """Column names of the levels in table order: `bid_1, bidv_1, … bid_N, bidv_N, ask_1, askv_1, … ask_N, askv_N`."""
    return [
        f"{name}_{level}"
        for names in (("bid", "bidv"), ("ask", "askv"))
        for level in range(1, depth + 1)
        for name in names
    ]


def frame_columns(levels: int) -> list[str]:
    """Returns the column names of a data set: `Bid_1, BidV_1, … Bid_N, BidV_N, Ask_1, AskV_1, … Ask_N, AskV_N`."""
    return [
        f"{name}_{level}"
        for names in (("Bid", "BidV"), ("Ask", "AskV"))
        for level in range(1, levels + 1)
        for name in names
    ]
