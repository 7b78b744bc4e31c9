"""Random worlds for the gap detector: an exchange with faults, and the connections that carry its books.

A seed gives a world. The books of one pair come over one to three connections, each with its own lag. Update ids may be
wrong, by a little or by far, on one connection or on all of them. The exchange may restart its count. Connections are
lost and opened again. Books may arrive one by one or many in one read. A real feed takes in what arrives. `World` then
compares what it stored and which gaps it recorded with what was sent.
"""

import random
from typing import NamedTuple

from feed_bench import Bench

from ingester.clock import SECOND

SYMBOL = "BTCUSDT"
WRONG = 1_000_000
"""Added to the number of a book whose id is wrong."""


class Sent(NamedTuple):
    """A book that the exchange sends: over all connections, or over some."""

    at_ns: int
    number: int
    """Its place in the exchange's order. It is the best bid as well, so that it can be told from others."""
    update_id: int
    connections: tuple[int, ...]


class World:
    """What was sent, what arrived, what was stored and which gaps are on record. `log` tells what went wrong in it."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self.copies = draw.randint(1, 3)
        self.interval_ns = draw.choice([SECOND // 10, SECOND // 10, SECOND // 3, SECOND])
        self.bench = Bench(symbols=[SYMBOL], copies=self.copies)
        self.bench.begin()
        self.begin_ns = self.bench.now_ns
        self.log: list[str] = []
        self.wrong = self.restarts = self.losses = 0
        self.right: dict[int, int] = {}
        """Right update ids, by number."""
        self.arrived: dict[int, int] = {}
        """When each right book first came over a connection."""
        self.stored: dict[int, int] = {}
        """Receive times, by number."""
        self.wrong_stored: set[int] = set()
        """Wrong ids that were stored."""
        self.twice: list[int] = []
        """Right books that were stored more than once."""
        self._closed_ns: list[int] = []  # when the exchange closed all connections
        self._play(self._arrivals(self._books()))
        self.gaps = self.bench.gaps()

    def lost(self) -> list[int]:
        """Right books that came and were not stored. One whose id a wrong one had is stored: they look the same."""
        return [n for n in self.arrived if n not in self.stored and self.right[n] not in self.wrong_stored]

    def lost_without_a_gap(self) -> list[int]:
        """Lost books for which no gap is on record, neither when they came nor between their stored neighbours."""
        return [number for number in self.lost() if not self._in_a_gap(number)]

    def _in_a_gap(self, number: int) -> bool:
        at_ns = self.arrived[number]
        before_ns = max((ns for n, ns in self.stored.items() if n < number), default=0)
        after_ns = min((ns for n, ns in self.stored.items() if n > number), default=2**63)
        read_ns = SECOND // 1000  # receive times rise within one read
        return any(
            since_ns - read_ns <= at_ns <= until_ns or max(since_ns, before_ns) < min(until_ns, after_ns)
            for _, since_ns, until_ns, _ in self.gaps
        )

    def _books(self) -> list[Sent]:
        draw, at_ns, all_of_them = self.draw, self.begin_ns, tuple(range(self.copies))
        update_id = draw.choice([draw.randint(1, 2000), draw.randint(1, 10**10)])
        count, widest, steady = draw.randint(80, 250), draw.choice([1, 3, 50]), draw.random() < 0.5
        wrong_at = set(draw.sample(range(20, count), draw.choice([0, 1, 1, 2, 3])))
        restart_at = set(draw.sample(range(20, count, 60), draw.choice([0, 0, 0, 1, 1, 2])) if count > 140 else [])
        self.wrong, self.restarts = len(wrong_at), len(restart_at)
        sent: list[Sent] = []
        for number in range(count):
            last_id, update_id = update_id, update_id + draw.randint(1, widest)
            at_ns += self.interval_ns if steady else int(draw.expovariate(1 / self.interval_ns))
            if number in restart_at:
                at_ns += int(draw.choice([0.0, 0.5, 0.9, 3.0]) * draw.random() * max(SECOND, 10 * self.interval_ns))
                near = update_id - draw.randint(1, 100) * widest
                update_id = max(0, min(last_id - 1, draw.choice([draw.randint(1, 20), near, near, update_id // 2])))
                self.log.append(f"{number}: restart from {last_id} to {update_id}")
                if draw.random() < 0.5:
                    self._closed_ns.append(at_ns)
            carried = all_of_them
            if number in wrong_at:
                wrong, extra = self._wrong_id(update_id, widest), draw.random() < 0.5
                where = draw.choice([all_of_them, (draw.randrange(self.copies),)])
                carried = carried if extra else tuple(each for each in all_of_them if each not in where)
                self.log.append(f"{number}: {wrong} {'before' if extra else 'for'} {update_id} on {where}")
                sent.append(Sent(at_ns, WRONG + number, wrong, where))
            self.right[number] = update_id
            sent.append(Sent(at_ns, number, update_id, carried))
        return sent

    def _wrong_id(self, update_id: int, widest: int) -> int:
        near, far = self.draw.randint(1, self.draw.choice([3, 30]) * widest), 10 ** self.draw.randint(3, 17)
        return max(0, update_id + self.draw.choice([near, near, near, -near, far, -far]))

    def _arrivals(self, books: list[Sent]) -> list[tuple[int, int, Sent | str]]:
        """Times, connections and what happens there: a book comes, or the connection is lost or opened."""
        draw, end_ns = self.draw, books[-1].at_ns
        arrivals: list[tuple[int, int, Sent | str]] = []
        longest_lag = draw.choice([0.2, 0.2, 1, 3])
        for connection in range(self.copies):
            lag_ns, jitter_ns = int(draw.random() * longest_lag * SECOND), draw.choice([0, 0.05, 1]) * self.interval_ns
            read_ns = draw.choice([1000, 1000, SECOND // 2])  # so often its socket is read
            lost_ns = [draw.randint(self.begin_ns, end_ns) for _ in range(draw.choice([0, 0, 1, 2]))]
            open_since, up = self.begin_ns, []
            for down_ns in sorted(lost_ns + self._closed_ns):
                if down_ns > open_since:
                    up.append((open_since, down_ns))
                    open_since = down_ns + int(draw.choice([0.1, 1, 3]) * (0.1 + draw.random()) * SECOND)
                    arrivals += [(down_ns, connection, "lost"), (open_since, connection, "open")]
            up.append((open_since, 2**63))
            self.losses += len(up) - 1
            self.log.append(f"connection {connection} lags {lag_ns / SECOND:.3f} s, lost {len(up) - 1} times")
            at_ns = 0
            for sent in books:
                at_ns = max(at_ns, sent.at_ns + lag_ns + int(draw.random() * jitter_ns))
                at_ns += -at_ns % read_ns
                if connection in sent.connections and any(a < sent.at_ns and at_ns < b for a, b in up):
                    arrivals.append((at_ns, connection, sent))
        return sorted(arrivals, key=lambda each: each[0])

    def _play(self, arrivals: list[tuple[int, int, Sent | str]]) -> None:
        bench = self.bench
        for at_ns, connection, what in arrivals:
            bench.now_ns = at_ns
            if what == "lost":
                bench.lose(connection)
            elif what == "open":
                bench.open(connection)
            elif isinstance(what, Sent):
                bench.book(SYMBOL, what.update_id, connection, bids=((what.number + 1.0, 1.0),), asks=((9e9, 1.0),))
                if what.number < WRONG:
                    self.arrived.setdefault(what.number, at_ns)
            for book in bench.feed.poll():
                self._store(int(book.bids[0][0]) - 1, book.update_id, book.receive_ns)
        bench.now_ns += SECOND // 2
        bench.monitor.close(bench.now_ns)

    def _store(self, number: int, update_id: int, receive_ns: int) -> None:
        if number >= WRONG:
            self.wrong_stored.add(update_id)
            return
        if number in self.stored:
            self.twice.append(number)
        self.stored[number] = receive_ns
