"""rest.py: limits are obeyed, errors told in words."""

import contextlib
import gzip
import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import msgspec
import pytest
from proxy_server import ProxyServer
from small_servers import Accepting

from ingester.errors import ExchangeError, RateLimited, RegionRefused
from ingester.exchange import VENUES, rest

NUMBERS = msgspec.json.Decoder(list[float], strict=False).decode


class Answers:
    """An HTTP server that gives the answers it is told, in turn: (status, Retry-After, body)."""

    def __init__(self):
        self.queue = []
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, retry_after, body = answers.queue.pop(0)
                self.send_response(status)
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def server():
    answers = Answers()
    yield answers
    answers.stop()


def get(server, *answers):
    server.queue[:] = answers
    waited = []
    return rest.get(server.url, NUMBERS, VENUES["binance"], wait=waited.append), waited


def test_numbers_may_be_texts(server):
    assert get(server, (200, None, b'[1.5,"2.25"]')) == ([1.5, 2.25], [])


@pytest.mark.parametrize("status", [429, 418])
def test_a_request_that_is_one_too_many_is_repeated_when_the_exchange_wants_it(server, status):
    assert get(server, (status, "7", b"{}"), (200, None, b"[1]")) == ([1.0], [7.0])
    assert get(server, (status, None, b"{}"), (200, None, b"[1]")) == ([1.0], [rest.DEFAULT_WAIT_SECONDS])


@pytest.mark.parametrize("answers", [[(418, "3600", b"")], [(429, "2", b""), (418, "3600", b"")]])
def test_a_long_ban_is_told_with_its_length(server, answers):
    with pytest.raises(RateLimited, match=r"HTTP 418.*3600 s") as caught:
        get(server, *answers)
    assert caught.value.seconds == 3600
    assert server.queue == []


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((451, None, b""), RegionRefused, "binance-us"),
        ((500, None, b"out of order"), ExchangeError, "HTTP 500: out of order"),
        ((200, None, b"<html>"), ExchangeError, "did not answer as Binance does"),
        ((200, None, b'{"symbols":[]}'), ExchangeError, "did not answer as Binance does"),
    ],
)
def test_other_answers_are_errors_in_words(server, answer, kind, words):
    with pytest.raises(kind, match=words):
        get(server, answer)


# --- what a hostile exchange sends


@pytest.fixture
def hostile():
    """Starts a server that reads requests and answers each with what it is given; gives its address."""
    with contextlib.ExitStack() as servers:

        def start(*pieces, pause=0.0):
            def serve(client):
                client.recv(4096)
                for piece in itertools.chain.from_iterable([e] if isinstance(e, bytes) else e for e in pieces):
                    client.sendall(piece)
                    time.sleep(pause)

            return f"http://127.0.0.1:{servers.enter_context(Accepting(serve)).port}/api"

        yield start


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


def failed(url, seconds=1.0, within=None):
    begun = time.monotonic()
    with pytest.raises(ExchangeError) as caught:
        rest.get(url, NUMBERS, VENUES["binance"], timeout=seconds)
    assert time.monotonic() - begun < (within or seconds + 1.5)
    return str(caught.value)


@pytest.mark.parametrize("head", [OK + b"\r\n", OK, b""])
def test_an_answer_that_drips_is_over_when_its_time_is(hostile, head):
    drips = [b" "] * 100 if head else [b"H"] * 100
    assert "did not answer in full within 1 s" in failed(hostile(head, drips, pause=0.1))


def test_an_answer_that_never_comes_is_over_too(hostile):
    assert "within 1 s" in failed(hostile(b"", pause=5))


def test_an_answer_without_end_is_not_taken(hostile, monkeypatch):
    monkeypatch.setattr(rest, "LARGEST_ANSWER", 1 << 20)
    url = hostile(OK + b"\r\n", itertools.repeat(b" " * 65536))
    with pytest.raises(ExchangeError, match="more than 1048576 bytes"):
        rest.fetch(url, 10.0, 1 << 20)


def test_what_unpacks_to_more_than_it_may_is_not_taken(hostile):
    packed = gzip.compress(b"0" * (64 << 20))
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    with pytest.raises(ExchangeError, match="more than 1000000 bytes"):
        rest.fetch(hostile(head, packed), 10.0, 1_000_000)


def test_a_packed_answer_is_unpacked(hostile):
    packed = gzip.compress(b"[1, 2]")
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    assert rest.get(hostile(head, packed), NUMBERS, VENUES["binance"]) == [1.0, 2.0]


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 99999999999999999999\r\n\r\n[1",
        OK + b"Content-Length: -5\r\nContent-Length: 7\r\n\r\n[1]",
        OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8bnot gzip",
        OK + b"\r\n" + b"[" * 1_000_000,
        OK + b"\r\n[1, ",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"garbage\r\n\r\n",
        b"",
    ],
)
def test_broken_answers_are_errors_in_words(hostile, answer):
    text = failed(hostile(answer), 3.0, within=8.0)
    assert "127.0.0.1" in text
    assert "Traceback" not in text


def moved(location):
    return b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % location.encode()


def test_no_redirect_leads_to_another_host_or_scheme(hostile, server):
    other = server.url
    for location in (
        other,
        "file:///etc/passwd",
        "http://user:x@127.0.0.1/",
        "ftp://127.0.0.1/",
        "https://example.org/",
    ):
        assert "is not followed" in failed(hostile(moved(location)), 3.0)
    assert not rest.is_same_host(urlsplit("https://api.example/a"), urlsplit("http://api.example/a"))
    assert rest.is_same_host(urlsplit("http://api.example/a"), urlsplit("https://api.example/b"))
    assert rest.is_same_host(urlsplit("https://api.example:443/a"), urlsplit("https://api.example/b"))
    assert not rest.is_same_host(urlsplit("https://api.example/a"), urlsplit("https://api.example.evil/a"))


def test_a_redirect_on_the_same_host_is_followed_but_not_for_ever(hostile, server):
    url = hostile(moved("/again"))
    assert "redirects too many times" in failed(url, 5.0, within=10)


def test_the_text_of_an_error_steers_no_terminal(server):
    with pytest.raises(ExchangeError) as caught:
        get(server, (500, None, b"\x1b]0;owned\x07\x1b[2Jx\nFAKE LINE"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("header", ["inf", "nan", "-1", "99999999999", "1e400", "soon"])
def test_what_is_said_of_later_is_waited_for_within_reason(server, header):
    assert get(server, (429, header, b"{}"), (200, None, b"[1]")) == ([1.0], [rest.DEFAULT_WAIT_SECONDS])


def test_through_a_proxy_as_the_environment_says_and_never_to_this_machine(server, monkeypatch):
    for name in ("HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ProxyServer({"api.example": "127.0.0.1"}, "user", "hush") as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:hush@127.0.0.1:{proxy.port}")
        server.queue[:] = [(200, None, b"[1]"), (200, None, b"[2]")]
        port = urlsplit(server.url).port
        assert rest.get(f"http://api.example:{port}/api", NUMBERS, VENUES["binance"]) == [1.0]
        assert proxy.asked == [f"GET http://api.example:{port}/api"]
        assert rest.get(server.url, NUMBERS, VENUES["binance"]) == [2.0]
        assert len(proxy.asked) == 1
    monkeypatch.setenv("http_proxy", "http://user:hush@127.0.0.1:9")
    text = failed("http://api.example/api", 5.0)
    assert "http://127.0.0.1:9 (from http_proxy)" in text
    assert "hush" not in text
