"""Which pairs share connections: groups of streams, none larger than the exchange allows, and none is ever moved."""

import heapq
from collections.abc import Sequence


def place(sizes: Sequence[int], names: Sequence[bytes], at_most: int) -> list[list[bytes]]:
    """The new names of each group: of the present ones, which hold so many, then of as many others as are needed.

    The smallest group with room takes the next name; what finds no room goes into as few new groups as possible, all
    of nearly the same size.
    """
    placed: list[list[bytes]] = [[] for _ in sizes]
    room = [(size, group) for group, size in enumerate(sizes) if size < at_most]
    heapq.heapify(room)
    left = iter(names)
    while room and (name := next(left, None)) is not None:
        size, group = room[0]
        placed[group].append(name)
        if size + 1 < at_most:
            heapq.heapreplace(room, (size + 1, group))
        else:
            heapq.heappop(room)
    rest = list(left)
    count = -(-len(rest) // at_most)
    return placed + [rest[number::count] for number in range(count)]


def split(names: Sequence[bytes], at_most: int) -> list[list[bytes]]:
    """As few groups as possible of at most `at_most` names, all of nearly the same size."""
    return place((), names, at_most)
