"""stream.py against a real websocket server."""

import contextlib
import dataclasses
import itertools
import queue
import re
import ssl
import threading
import time
from collections import deque

import pytest
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from ingester import threads
from ingester.clock import PAUSED_NS, SECOND
from ingester.connection import websocket as streams
from ingester.connection.websocket import AttemptLimit, Frames, Lost, Opened, WebSocketThread
from ingester.exchange import VENUES, simulator_at


class Inbox(deque):
    """The feed's inbox, with a way to wait for what comes."""

    def __init__(self):
        super().__init__()
        self.changed = queue.SimpleQueue()

    def next(self, kind, timeout=10):
        deadline = time.monotonic() + timeout
        while True:
            while self:
                arrival = self.popleft()
                if isinstance(arrival, kind):
                    return arrival
            self.changed.get(timeout=max(0.01, deadline - time.monotonic()))


@pytest.fixture
def exchange():
    """Starts a server whose connections are handled by the given function; gives its address."""
    with_servers = []

    def start(handler, **options):
        server = serve(handler, "127.0.0.1", 0, compression=None, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with_servers.append(server)
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}/stream"

    yield start
    for server in with_servers:
        server.shutdown()


@pytest.fixture
def connect():
    """Starts a stream to an address; stops all of them in the end."""
    streams = []

    def start(url, waits=lambda: itertools.repeat(0.01), elapsed=time.monotonic_ns, ca_file=None, messages=5):
        inbox = Inbox()
        venue = simulator_at(url, "").at(ca_file=ca_file)
        stream = WebSocketThread(
            "1",
            venue=dataclasses.replace(venue, limits=dataclasses.replace(venue.limits, messages_per_second=messages)),
            inbox=inbox,
            arrived=lambda: inbox.changed.put(1),
            now=time.time_ns,
            limit=AttemptLimit(VENUES["binance"].limits),
            waits=waits,
            elapsed=elapsed,
        )
        streams.append(stream)
        stream.start()
        return stream, inbox

    yield start
    for stream in streams:
        stream.stop()
        stream.join(5)
    assert "stream 1" not in {thread.name for thread in threading.enumerate()}


def test_a_stream_says_that_it_is_reading_before_it_stamps_and_until_that_is_in_the_inbox(exchange, connect):
    def handler(connection):
        for _ in range(3):
            connection.send(connection.recv())

    stream, inbox = connect(exchange(handler))
    inbox.next(Opened)
    put, readings = inbox.append, []

    def watched(arrival):
        readings.append((stream.reading_ns, arrival))
        put(arrival)

    inbox.append = watched
    for _ in range(3):
        stream.send("echo")
        inbox.next(Frames)
    began, arrivals = zip(*[each for each in readings if isinstance(each[1], Frames)], strict=True)
    assert all(since <= frames.receive_ns for since, frames in zip(began, arrivals, strict=True))
    assert len(set(began)) == 3


def test_frames_are_stamped_between_sending_and_seeing_and_pings_are_answered(exchange, connect):
    sent, ponged = [], threading.Event()

    def handler(connection):
        sent.append(time.time_ns())
        for text in ("one", "two"):
            connection.send(text)
        if connection.ping().wait(5):
            ponged.set()
        connection.recv()

    _, inbox = connect(exchange(handler))
    assert inbox.next(Opened)
    payloads = []
    while len(payloads) < 2:
        frames = inbox.next(Frames)
        assert sent[0] <= frames.receive_ns <= time.time_ns()
        payloads += frames.payloads
    assert payloads == [b"one", b"two"]
    assert ponged.wait(5)


def test_over_tls_every_frame_arrives_however_the_records_are_cut(exchange, connect, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    sent = [str(number) * (number % 50_000 + 1) for number in (1, 20_000, 3, 49_999, 5, *range(300))]

    def handler(connection):
        for text in sent:
            connection.send(text)
        assert connection.ping().wait(5)
        connection.send("after the pong")
        connection.recv()

    _, inbox = connect(exchange(handler, ssl=context).replace("ws://", "wss://"), ca_file=tmp_path / "ca.pem")
    received = []
    while len(received) <= len(sent):
        received += inbox.next(Frames).payloads
    assert received == [text.encode() for text in [*sent, "after the pong"]]


def test_a_renewed_stream_connects_again_at_once_and_a_stopped_one_says_so_last(exchange, connect):
    def handler(connection):
        connection.recv()

    stream, inbox = connect(exchange(handler))
    inbox.next(Opened)
    stream.renew("nothing came")
    assert inbox.next(Lost).reason == "nothing came"
    inbox.next(Opened)
    stream.stop()
    assert inbox.next(Lost).final
    stream.join(5)
    assert not inbox


def test_requests_and_pongs_together_stay_below_half_of_what_is_allowed(exchange, connect):
    times, pongs = queue.SimpleQueue(), []

    def handler(connection):
        pongs.append(connection.ping(b"are you there?"))
        for _ in range(4):
            connection.recv()
            times.put(time.monotonic())
        connection.recv()

    stream, inbox = connect(exchange(handler))
    inbox.next(Opened)
    for number in range(4):
        stream.send(str(number))
    arrived = [times.get(timeout=10) for _ in range(4)]
    assert pongs[0].wait(1)
    assert arrived[3] - arrived[0] > 1.45  # four messages need 3 x 0.5 s, less what the clocks differ


def test_of_a_flood_of_pings_some_are_answered_and_books_go_on(exchange, connect):
    answered, done = [], threading.Event()

    def handler(connection):
        connection.socket.sendall((b"\x89\x04ping" * 1000 + b"\x81\x04book") * 10)
        connection.ping(b"last").wait(5)
        answered.append(connection.latency)
        done.set()
        connection.recv()

    _, inbox = connect(exchange(handler))
    books = []
    while len(books) < 10:
        books += inbox.next(Frames).payloads
    assert books == [b"book"] * 10
    assert done.wait(5)


def test_who_sent_too_much_comes_back_later_and_sends_half_as_often(exchange, connect, monkeypatch):
    monkeypatch.setattr(streams, "TOO_MANY_SECONDS", 0.4)
    lives, times = itertools.count(), queue.SimpleQueue()

    def handler(connection):
        if next(lives) < 2:
            connection.close(1008, "Too many requests")
            return
        for _ in range(3):
            connection.recv()
            times.put(time.monotonic())
        connection.recv()

    stream, inbox = connect(exchange(handler), messages=21)  # one every 100 ms
    opened = []
    for _ in range(2):
        opened.append(inbox.next(Opened).at_ns)
        assert "1008 Too many requests" in inbox.next(Lost).reason
    opened.append(inbox.next(Opened).at_ns)
    for number in range(3):
        stream.send(str(number))
    arrived = [times.get(timeout=10) for _ in range(3)]
    assert opened[1] - opened[0] >= 400_000_000
    assert opened[2] - opened[1] >= 800_000_000
    assert arrived[2] - arrived[0] > 0.75  # 4 x 100 ms each


@pytest.mark.parametrize("retry_after", ["99999999999", "inf", "nan", "1e400", "-5", "1618228675371", "soon"])
def test_what_a_refusal_says_of_later_never_ends_the_stream(exchange, connect, retry_after):
    attempts = []

    def refuse(connection, request):
        attempts.append(time.monotonic())
        if len(attempts) > 2:
            return None
        response = connection.respond(429, "slow down")
        response.headers["Retry-After"] = retry_after
        return response

    _, inbox = connect(exchange(lambda connection: connection.recv(), process_request=refuse))
    assert inbox.next(Lost).status == 429
    assert inbox.next(Lost).status == 429
    assert inbox.next(Opened)


def test_a_flood_that_nobody_takes_in_stays_with_the_exchange_until_the_stream_is_stopped(
    exchange, connect, monkeypatch
):
    monkeypatch.setattr(streams, "MOST_WAITING", 1 << 20)

    def handler(connection):
        with contextlib.suppress(OSError):
            while True:
                connection.socket.sendall(b"\x81\x02{}" * 10_000)

    stream, inbox = connect(exchange(handler))
    inbox.next(Opened)
    sizes, deadline = [], time.monotonic() + 10
    while len(sizes) < 10 or len(set(sizes[-10:])) > 1:  # until it reads no more
        time.sleep(0.05)
        sizes.append(sum(each.size for each in list(inbox)))
        assert time.monotonic() < deadline
    assert sizes[-1] < 4 << 20
    while inbox:
        stream.taken(inbox.popleft())
    assert inbox.next(Frames)  # it goes on
    begun = time.monotonic()
    stream.stop()
    stream.join(5)
    assert time.monotonic() - begun < 2


def test_a_thread_that_dies_is_restarted_and_what_it_held_is_lost(exchange, connect):
    before, looks = threads.deaths(), itertools.count()

    def elapsed():
        if next(looks) == 0:
            raise SystemExit("as a bug would")
        return time.monotonic_ns()

    _, inbox = connect(exchange(lambda connection: connection.recv()), elapsed=elapsed)
    inbox.next(Opened)
    assert inbox.next(Lost).reason == "its thread died and was restarted"
    assert inbox.next(Opened)
    deaths = threads.deaths().since(before)
    assert (deaths.counts, deaths.last, deaths.error) == ({"stream 1": 1}, "stream 1", "SystemExit: as a bug would")


def test_after_a_loss_it_connects_again_and_says_why(exchange, connect):
    lives = itertools.count()

    def handler(connection):
        if next(lives) == 0:
            connection.send("last words")
            connection.close(1001, "going away")
        else:
            connection.recv()

    _, inbox = connect(exchange(handler))
    assert inbox.next(Frames).payloads == [b"last words"]
    assert "1001 going away" in inbox.next(Lost).reason
    assert inbox.next(Opened)


def test_a_refused_upgrade_is_told_with_its_status_and_retry_after_is_honoured(exchange, connect):
    attempts = []

    def refuse(connection, request):
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            response = connection.respond(429, "slow down")
            response.headers["Retry-After"] = "1"
            return response
        return None

    _, inbox = connect(exchange(lambda connection: connection.recv(), process_request=refuse))
    lost = inbox.next(Lost)
    assert lost.status == 429
    assert inbox.next(Opened)
    assert attempts[1] - attempts[0] >= 1.0


def test_an_address_where_nobody_listens_is_tried_again_without_end(connect):
    _, inbox = connect("ws://127.0.0.1:9/stream")
    for _ in range(5):
        assert "refused" in inbox.next(Lost).reason


def test_garbage_on_the_line_ends_the_connection_not_the_thread(exchange, connect):
    lives = itertools.count()

    def handler(connection):
        if next(lives) == 0:
            connection.socket.sendall(b"\xff\xff\xff\xff")
        connection.recv()

    _, inbox = connect(exchange(handler))
    assert "ProtocolError" in inbox.next(Lost).reason
    assert inbox.next(Opened)


def test_stopping_sends_what_is_queued_and_a_close(exchange, connect):
    heard, closed = queue.SimpleQueue(), queue.SimpleQueue()

    def handler(connection):
        try:
            while True:
                heard.put(connection.recv())
        except ConnectionClosed as error:
            closed.put(error.rcvd)

    stream, inbox = connect(exchange(handler))
    inbox.next(Opened)
    stream.send("first")
    stream.send("second, before its turn")
    stream.stop()
    assert [heard.get(timeout=5), heard.get(timeout=5)] == ["first", "second, before its turn"]
    assert closed.get(timeout=5).code == 1000


def test_attempts_wait_when_the_window_is_used_up():
    now = [0.0]
    limit = AttemptLimit(dataclasses.replace(VENUES["binance"].limits, attempts=4), lambda: now[0])
    assert [limit.reserve() for _ in range(3)] == [0, 0, 0]
    now[0] = 100.0
    assert [limit.reserve() for _ in range(4)] == [200, 200, 200, 500]
    now[0] = 700.0
    assert limit.reserve() == 0


def test_after_a_pause_what_waited_is_not_stamped_as_new_and_the_connection_is_made_again(exchange, connect):
    """The clock moves on as it does for a process that was stopped."""
    behind = threading.Event()

    def handler(connection):
        connection.send("before")
        if not behind.is_set():
            behind.wait(10)
            connection.send("stale")
            connection.recv()

    jump = [0]
    _, inbox = connect(exchange(handler), elapsed=lambda: time.monotonic_ns() + jump[0])
    assert inbox.next(Frames).payloads == [b"before"]
    jump[0] = 3 * SECOND
    behind.set()
    lost = inbox.next(Lost)
    assert lost.paused
    assert re.fullmatch(r"the process was paused for [34]\.\d s", lost.reason)
    inbox.next(Opened)
    assert inbox.next(Frames).payloads == [b"before"]


def test_a_pause_is_noticed_where_nothing_waits(exchange, connect):
    def handler(connection):
        connection.send("before")
        connection.recv()

    jump = [0]
    _, inbox = connect(exchange(handler), elapsed=lambda: time.monotonic_ns() + jump[0])
    inbox.next(Frames)
    jump[0] = 3600 * SECOND
    assert inbox.next(Lost).paused


def test_a_machine_that_is_late_by_less_than_a_pause_loses_nothing(exchange, connect):
    def handler(connection):
        for number in range(5):
            connection.send(str(number))
            time.sleep(0.05)
        connection.recv()

    late = itertools.count(step=PAUSED_NS // 8)  # it looks three times for a message
    _, inbox = connect(exchange(handler), elapsed=lambda: next(late))
    assert [inbox.next(Frames).payloads for _ in range(5)] == [[b"%d" % number] for number in range(5)]
