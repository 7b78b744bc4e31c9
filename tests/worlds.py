"""Simulated worlds for the gap detector: an exchange, its faults, the connections that carry its books.

A world is drawn from a seed. One pair's books come over one to three connections, each with a lag of its own. Update
ids may be wrong, by a little or by far, on one connection or on all; the exchange may restart its count; connections
are lost and come again. A real feed takes in what arrives, and `World.faults` compares what it stored and which gaps it
recorded with what the exchange sent.
"""

import random
from typing import NamedTuple

from feed_bench import Bench

from ingester.clock import SECOND

SYMBOL = "BTCUSDT"
WRONG = 1_000_000
"""From this number on, a book is one with a wrong id."""


class Sent(NamedTuple):
    """A book on its way; `number` is its place in the exchange's order, and the book's best bid."""

    at_ns: int
    number: int
    update_id: int


class World:
    """What the exchange sent, what arrived, what was stored, and which gaps are on record."""

    def __init__(self, seed: int) -> None:
        self.draw = draw = random.Random(seed)
        self.copies = draw.randint(1, 3)
        self.interval_ns = draw.choice([SECOND // 10, SECOND // 10, SECOND // 3, SECOND])
        self.steady = draw.random() < 0.5
        self.bench = Bench(symbols=[SYMBOL], copies=self.copies)
        self.bench.begin()
        self.begin_ns = self.bench.now_ns
        self.log: list[str] = []
        self.right: dict[int, int] = {}  # update ids by number
        self.arrived: dict[int, int] = {}  # of right books, when they first came
        self.stored: dict[int, int] = {}  # by number, receive times
        self.stored_ids: dict[int, int] = {}
        self.twice: list[int] = []
        self.wrong = self.restarts = self.losses = 0
        self._play(self._frames(self._books()))

    def _books(self) -> list[tuple[Sent, int | None]]:
        """What the exchange sends, in its order; with the connection, where only that one carries it."""
        draw, at_ns = self.draw, self.begin_ns
        update_id = draw.choice([draw.randint(1, 2000), draw.randint(1, 10**10)])
        count, widest = draw.randint(80, 250), draw.choice([1, 3, 50])
        self.wrong, self.restarts = draw.choice([0, 1, 1, 2, 3]), draw.choice([0, 0, 0, 1, 1, 2])
        wrong_at = {draw.randrange(20, count) for _ in range(self.wrong)}
        restart_at = {draw.randrange(20, count) for _ in range(self.restarts)}
        self.restart_ns: list[int] = []
        sent: list[tuple[Sent, int | None]] = []
        for number in range(count):
            at_ns += self.interval_ns if self.steady else int(draw.expovariate(1 / self.interval_ns))
            last_id = update_id
            update_id += draw.randint(1, widest)
            if number in restart_at:
                limit_ns = max(SECOND, 10 * self.interval_ns)
                at_ns += int(draw.choice([0.0, 0.5, 0.9, 3.0]) * draw.random() * limit_ns)
                before, update_id = update_id, self._restarted(update_id, last_id, widest)
                self.log.append(f"{number}: restart {before} -> {update_id}")
                if draw.random() < 0.5:
                    self.restart_ns.append(at_ns)
            if number in wrong_at:
                wrong, only = self._wrong(update_id, widest), draw.choice([None, draw.randrange(self.copies)])
                extra = draw.random() < 0.5
                self.log.append(f"{number}: wrong {wrong} for {update_id}, only={only} extra={extra}")
                sent.append((Sent(at_ns, WRONG + number, wrong), only))
                if not extra and only is None:
                    continue
                at_ns += 1000
                others = [c for c in range(self.copies) if extra or c != only]
                self.right[number] = update_id
                if extra:
                    sent.append((Sent(at_ns, number, update_id), None))
                else:
                    sent.extend((Sent(at_ns, number, update_id), c) for c in others)
                continue
            self.right[number] = update_id
            sent.append((Sent(at_ns, number, update_id), None))
        self.end_ns = at_ns + 5 * SECOND
        return sent

    def _wrong(self, update_id: int, widest: int) -> int:
        draw = self.draw
        near = draw.randint(1, draw.choice([3, 30]) * widest)
        far = 10 ** draw.randint(3, 17)
        return max(0, update_id + draw.choice([near, near, near, -near, far, -min(far, update_id)]))

    def _restarted(self, update_id: int, before_id: int, widest: int) -> int:
        draw = self.draw
        low, near = draw.randint(1, 20), update_id - draw.randint(1, 100) * widest
        return max(0, min(draw.choice([low, near, near, update_id // 2]), before_id - 1))

    def _frames(self, books: list[tuple[Sent, int | None]]) -> list[tuple[int, int, Sent | str]]:
        """What arrives, with its time and connection: books, and losses and openings of the connection."""
        draw, happens = self.draw, []
        mild = draw.random() < 0.6
        for connection in range(self.copies):
            lag_ns = int(draw.random() * (0.2 if mild else draw.choice([1, 6])) * SECOND)
            jitter_ns = int(draw.choice([0, 0.05, 1.0]) * self.interval_ns)
            downs: list[tuple[int, int]] = []
            for _ in range(draw.choice([0, 0, 1, 2])):
                down_ns = draw.randint(self.begin_ns, self.end_ns)
                downs.append((down_ns, down_ns + int(draw.choice([0.1, 3.0]) * (0.1 + draw.random()) * SECOND)))
            for at_ns in self.restart_ns:
                downs.append((at_ns, at_ns + int((0.1 + draw.random()) * SECOND)))
            spans, up_ns = [], 0
            for down_ns, until_ns in sorted(downs):
                if down_ns <= up_ns:
                    continue
                spans.append((up_ns, down_ns))
                happens += [(down_ns, connection, "lose"), (until_ns, connection, "open")]
                self.log.append(f"{connection} down {self._s(down_ns)} to {self._s(until_ns)}")
                up_ns = until_ns
                self.losses += 1
            spans.append((up_ns, self.end_ns))
            self.log.append(f"{connection} lag {lag_ns / 1e9:.3f} jitter {jitter_ns / 1e9:.3f}")
            read_ns = draw.choice([1000, 1000, SECOND // 2])
            last_ns = 0
            for sent, only in books:
                if only is not None and only != connection:
                    continue
                last_ns = max(last_ns, sent.at_ns + lag_ns + int(draw.random() * jitter_ns))
                last_ns += -last_ns % read_ns
                if any(since_ns < sent.at_ns and last_ns < until_ns for since_ns, until_ns in spans):
                    happens.append((last_ns, connection, sent))
        return sorted(happens, key=lambda each: each[0])

    def _s(self, at_ns: int) -> str:
        return f"{(at_ns - self.begin_ns) / 1e9:.3f}"

    def _play(self, happens: list[tuple[int, int, Sent | str]]) -> None:
        bench = self.bench
        for at_ns, connection, what in happens:
            bench.now_ns = at_ns
            if what == "lose":
                bench.lose(connection)
            elif what == "open":
                bench.open(connection)
            else:
                bench.book(SYMBOL, what.update_id, connection, bids=((float(what.number + 1), 1.0),), asks=((9e9, 1.0),))
                if what.number < WRONG:
                    self.arrived.setdefault(what.number, at_ns)
            for book in bench.feed.poll():
                number = int(book.bids[0][0]) - 1
                if number in self.stored and number < WRONG:
                    self.twice.append(number)
                self.stored[number] = book.receive_ns
                self.stored_ids[number] = book.update_id
        bench.now_ns += SECOND // 2
        bench.monitor.close(bench.now_ns)
        self.gaps = bench.gaps()

    def lost(self) -> list[int]:
        """Right books that arrived and were not stored."""
        return [number for number in self.arrived if number not in self.stored]

    def uncovered(self) -> list[int]:
        """Right books that arrived, were not stored, and lie in no gap."""
        found = []
        for number in self.lost():
            before = max((ns for n, ns in self.stored.items() if n < number), default=0)
            after = min((ns for n, ns in self.stored.items() if number < n < WRONG), default=2**63)
            at_ns = self.arrived[number]
            if not any(
                since - SECOND // 1000 <= at_ns <= until or max(since, before) < min(until, after) for _, since, until, _ in self.gaps
            ):
                found.append(number)
        return found
