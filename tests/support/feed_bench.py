"""A feed with its world, for tests: connections that say what they are told to, a clock that is turned."""

import dataclasses
import json
from collections import deque

from ingester.clock import SECOND
from ingester.connection import ConnectionPool, FeedConfig, FeedContext, Frames, Lost, Opened
from ingester.exchange import VENUES, StreamSpec
from ingester.feed.feed import Feed
from ingester.metrics import FeedMetrics
from ingester.sequence.monitor import SequenceMonitor

VENUE = VENUES["binance"]
STREAMS = StreamSpec(channel=VENUE.books, depth=5, interval_ms=100)


class SilentStream:
    """Stands where a connection would; keeps what it was asked to do."""

    def __init__(self, name, inbox):
        self.name, self.inbox = name, inbox
        self.sent = []
        self.renewals = []
        self.started = self.stopped = False
        self.reading_ns = None

    def start(self):
        self.started = True

    def send(self, text):
        self.sent.append(json.loads(text))

    def renew(self, reason):
        self.renewals.append(reason)

    def stop(self):
        self.stopped = True

    def join(self, timeout):
        pass


class Inquiry:
    """Counts how often the exchange is asked; what `answers` holds is what it said."""

    def __init__(self):
        self.asked = 0
        self.answers = []

    def ask(self):
        self.asked += 1

    def take(self):
        answers, self.answers = self.answers, []
        return answers


class Bench:
    """A feed with its world: a clock to turn, connections to put words into the mouth of."""

    def __init__(self, symbols=("BTCUSDT", "ETHUSDT"), keep_every=1, copies=1, life=10_000, channel=VENUE.books):
        self.now_ns = 1_000 * SECOND + 300_000_000
        self.metrics = FeedMetrics()
        self.events = []
        self.streams = []
        self.inquiry = Inquiry()
        venue = dataclasses.replace(VENUE, channels=(channel,))
        context = FeedContext(lambda: self.now_ns, self.events.append, self.metrics)
        config = FeedConfig(
            venue=venue, connections_per_pair=copies, keep_every=keep_every, life_ns=lambda: life * SECOND
        )
        self.monitor = SequenceMonitor(list(symbols), STREAMS, note=self.events.append, inquiry=self.inquiry)
        self.pool = ConnectionPool(venue, self.make)
        self.feed = Feed(monitor=self.monitor, pool=self.pool, config=config, context=context)
        self.feed.start()

    def make(self, *, name, inbox: deque):
        self.streams.append(SilentStream(name, inbox))
        return self.streams[-1]

    def begin(self):
        """All connections stand and are subscribed."""
        for number in range(len(self.streams)):
            self.open(number)
        self.turn(3)

    def turn(self, seconds):
        """Time passes, second by second."""
        for _ in range(seconds):
            self.now_ns += SECOND
            self.feed.poll()

    def lose(self, stream=0, reason="reset"):
        self.arrive(Lost(self.streams[stream], self.now_ns, reason, None))

    def kinds(self, kind):
        return [event for event in self.events if event.kind == kind]

    def gaps(self):
        """The gaps on record, each with what was last said of it, like the table's rows."""
        latest = {(event.symbol, event.at_ns): event for event in self.kinds("gap")}
        return [(e.symbol, e.at_ns, e.until_ns, e.detail) for e in latest.values()]

    def open(self, stream=0):
        self.arrive(Opened(self.streams[stream], self.now_ns))

    def arrive(self, arrival):
        arrival.stream.inbox.append(arrival)

    def book(self, symbol, update_id, stream=0, bids=((1.0, 1.0),), asks=((2.0, 1.0),)):
        data = {
            "lastUpdateId": update_id,
            "bids": [list(map(str, b)) for b in bids],
            "asks": [list(map(str, a)) for a in asks],
        }
        name = STREAMS.name(symbol).decode()
        self.say({"stream": name, "data": data}, stream)

    def say(self, message, stream=0):
        payload = message if isinstance(message, bytes) else json.dumps(message, separators=(",", ":")).encode()
        self.arrive(Frames(self.streams[stream], self.now_ns, [payload]))

    def ids(self):
        return [(snapshot.symbol, snapshot.update_id) for snapshot in self.feed.poll()]
