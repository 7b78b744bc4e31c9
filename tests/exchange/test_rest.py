"""rest.py: limits are obeyed, errors told in words."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ingester.errors import ExchangeError, RateLimited, RegionRefused
from ingester.exchange import rest


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
    return rest.get(server.url, list[float], "binance", wait=waited.append), waited


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
