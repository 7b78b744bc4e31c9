"""dial.py against servers that are hostile, and proxies: a connection stands in time, or it is said why not."""

import contextlib
import email.utils
import http.server
import ssl
import sys
import threading
import time

import msgspec
import pytest
import trustme
from hypothesis import given, settings, strategies as st
from proxy_server import ProxyServer
from small_servers import Accepting
from websockets.sync.server import serve

from ingester.errors import ExchangeError
from ingester.exchange import VENUES, dial, rest
from ingester.exchange.dial import LONGEST_WAIT_SECONDS, NotConnected, UpgradeRefused, open_websocket, retry_after

NUMBERS = msgspec.json.Decoder(list[int]).decode

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n"


@pytest.fixture
def exchange():
    """An honest websocket server that echoes; gives its port."""
    server = serve(lambda connection: [connection.send(text) for text in connection], "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.socket.getsockname()[1]
    server.shutdown()


@pytest.fixture
def hostile():
    """Starts a server that reads a request and then does what it is told with the socket; gives its address."""
    with contextlib.ExitStack() as servers:

        def start(act):
            server = servers.enter_context(Accepting(lambda client: (client.recv(4096), act(client))))
            return f"ws://127.0.0.1:{server.port}/stream"

        yield start


def drip(client):
    for byte in HEAD + b"X-A: b\r\n" * 10_000:
        client.send(bytes([byte]))
        time.sleep(0.1)


def endless(client):
    client.sendall(HEAD)
    number = 0
    while True:
        client.sendall(b"X-%d: %s\r\n" % (number, b"y" * 900))
        number += 1


def refused(url, seconds=1.0):
    begun = time.monotonic()
    with pytest.raises(NotConnected) as caught:
        open_websocket(url, seconds)
    assert time.monotonic() - begun < seconds + 2
    return caught.value


def test_a_handshake_that_drips_is_over_when_its_time_is(hostile):
    assert "did not complete a connection within 1 s" in str(refused(hostile(drip)))


def test_silence_is_over_too(hostile):
    assert "did not complete" in str(refused(hostile(lambda client: time.sleep(3)), 0.5))


def test_a_header_without_end_is_not_read_to_its_end(hostile):
    assert f"more than {dial.LARGEST_HEADER} bytes of header" in str(refused(hostile(endless), 10.0))


def test_another_certificate_authority_is_not_trusted(hostile):
    assert "127.0.0.1" in str(refused(hostile(lambda client: client.sendall(b"no TLS")).replace("ws:", "wss:"), 5.0))


@pytest.mark.parametrize("body", [b"{}", b"x" * 100_000])
def test_a_refusal_is_known_by_its_status_however_long_its_text(hostile, body):
    answer = b"HTTP/1.1 418 Teapot\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(body)
    error = refused(hostile(lambda client: client.sendall(answer + body)), 5.0)
    assert isinstance(error, UpgradeRefused)
    assert (error.status, error.seconds) == (418, 7.0)
    assert "127.0.0.1" in str(error)


def test_a_refusal_that_announces_more_than_it_sends_is_known_too(hostile):
    answer = b"HTTP/1.1 429 Slow\r\nRetry-After: inf\r\nContent-Length: 99999999999\r\n\r\nx"
    error = refused(hostile(lambda client: (client.sendall(answer), time.sleep(3))), 1.0)
    assert (error.status, error.seconds) == (429, None)


def test_streams_are_not_sent_elsewhere(hostile, exchange):
    answer = f"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:{exchange}/stream\r\nContent-Length: 0\r\n\r\n"
    error = refused(hostile(lambda client: client.sendall(answer.encode())))
    assert f"redirects to 'ws://127.0.0.1:{exchange}/stream'" in str(error)
    assert "--stream-url" in str(error)


def test_who_answers_as_a_website_is_named(hostile):
    error = refused(hostile(lambda client: client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")))
    assert error.status == 200


def test_nobody_there_and_no_such_name_are_said_with_the_host(monkeypatch):
    assert str(refused("ws://127.0.0.1:9/stream")) == "127.0.0.1:9 refused the connection"
    monkeypatch.delenv("http_proxy", raising=False)
    assert "the name nowhere.invalid cannot be resolved" in str(refused("ws://nowhere.invalid/stream", 10.0))


@pytest.fixture
def away(monkeypatch):
    """An environment that names no proxy yet."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_through_a_proxy_that_finds_the_name(exchange, away):
    with ProxyServer({"stream.example": "127.0.0.1"}, "user", "hush") as proxy:
        away.setenv("http_proxy", f"http://user:hush@127.0.0.1:{proxy.port}")
        connection = open_websocket(f"ws://stream.example:{exchange}/stream", 5.0)
        connection.send("through")
        assert connection.recv() == "through"
        connection.close()
        assert proxy.asked == [f"CONNECT stream.example:{exchange}"]
        direct = open_websocket(f"ws://127.0.0.1:{exchange}/stream", 5.0)  # this machine: never through it
        direct.close()
        assert len(proxy.asked) == 1
        away.setenv("http_proxy", f"http://user:wrong@127.0.0.1:{proxy.port}")
        error = str(refused(f"ws://stream.example:{exchange}/stream"))
        assert f"the proxy http://127.0.0.1:{proxy.port} (from http_proxy) wants a user and password" in error
        assert "wrong" not in error


def test_a_proxy_that_is_away_or_refuses_is_named(away):
    away.setenv("all_proxy", "http://user:hush@127.0.0.1:9")
    error = str(refused("ws://stream.example/stream"))
    assert "the proxy http://127.0.0.1:9 (from all_proxy) cannot be reached" in error
    assert "hush" not in error
    with ProxyServer({}) as proxy:
        away.setenv("all_proxy", f"http://127.0.0.1:{proxy.port}")
        error = str(refused("ws://stream.example:9443/stream"))
        assert "does not connect to stream.example:9443" in error
        assert ":443" in error


def test_without_the_package_for_socks_it_is_said_how_to_get_it(away, exchange):
    away.setenv("ALL_PROXY", "socks5h://user:hush@127.0.0.1:1080")
    away.setitem(sys.modules, "python_socks", None)
    error = str(refused(f"ws://stream.example:{exchange}/stream"))
    assert "pip install python-socks" in error
    assert "hush" not in error


@pytest.fixture
def authority(tmp_path):
    """An issuer of certificates that no system knows, and the file with its own."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made, tmp_path / "ca.pem"


@pytest.fixture
def over_tls(authority):
    """A websocket server and a REST server with certificates of that issuer; gives their URLs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("127.0.0.1").configure_cert(context)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"[1,2]")

        def log_message(self, *_):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.handle_error = lambda *_: None  # of handshakes that the other side breaks off
    web.socket = context.wrap_socket(web.socket, server_side=True)
    stream = serve(lambda connection: [connection.send(text) for text in connection], "127.0.0.1", 0, ssl=context)
    threads = [threading.Thread(target=each.serve_forever, daemon=True) for each in (web, stream)]
    for thread in threads:
        thread.start()
    yield f"wss://127.0.0.1:{stream.socket.getsockname()[1]}/", f"https://127.0.0.1:{web.server_port}/"
    stream.shutdown()
    web.shutdown()
    web.server_close()
    for thread in threads:
        thread.join(5)


@pytest.mark.parametrize("by", ["--exchange-ca", "SSL_CERT_FILE"])
def test_an_issuer_of_ones_own_is_trusted_where_it_is_named(authority, over_tls, by, monkeypatch):
    (stream_url, rest_url), ca_file = over_tls, authority[1] if by == "--exchange-ca" else None
    if by == "SSL_CERT_FILE":
        monkeypatch.setenv(by, str(authority[1]))
    connection = open_websocket(stream_url, 5, ca_file)
    connection.send("sent")
    assert connection.recv() == "sent"
    connection.close()
    assert rest.get(rest_url, NUMBERS, VENUES["binance"].at(ca_file=ca_file)) == [1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unknown_issuer_is_refused_with_the_option_that_helps(over_tls):
    stream_url, rest_url = over_tls
    with pytest.raises(NotConnected, match=r"not trusted: .* --exchange-ca FILE"):
        open_websocket(stream_url, 5)
    with pytest.raises(ExchangeError, match=r"not trusted: .* --exchange-ca FILE"):
        rest.get(rest_url, NUMBERS, VENUES["binance"])


@pytest.fixture
def resolver(monkeypatch):
    """A resolver that does not answer until it is let go; gives the names it was asked for, and how to let it go."""
    asked, let_go, resolve = [], threading.Event(), dial.socket.getaddrinfo

    def hang(host, *arguments, **options):
        asked.append(host)
        let_go.wait(30)
        return resolve("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(dial.socket, "getaddrinfo", hang)
    yield asked, let_go
    let_go.set()


def test_a_resolver_that_hangs_holds_up_nobody_and_one_thread_at_most(resolver, exchange):
    asked, let_go = resolver
    url = f"ws://exchange.example:{exchange}"
    for _ in range(3):
        begun = time.monotonic()
        with pytest.raises(NotConnected, match=r"the name exchange\.example cannot be resolved: no answer within 0 s"):
            open_websocket(url, 0.2)
        with pytest.raises(ExchangeError, match=r"exchange\.example cannot be resolved: no answer within 0 s"):
            rest.fetch(f"http://exchange.example:{exchange}/", 0.2)
        assert time.monotonic() - begun < 2
    assert asked == ["exchange.example"]
    assert [thread.name for thread in threading.enumerate()].count("look up exchange.example") == 1
    let_go.set()
    connection = open_websocket(url, 5)
    connection.send("hello")
    assert connection.recv() == "hello"
    connection.close()
    open_websocket(url, 5).close()
    assert len(asked) == 2  # nothing is remembered


NOW = 1_795_784_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("2.5", 2.5),
        ("3600", 3600.0),
        ("86400", LONGEST_WAIT_SECONDS),  # a ban of a day is asked about again after an hour
        ("259200", LONGEST_WAIT_SECONDS),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90.0),
        (email.utils.formatdate(NOW - 90, usegmt=True), 0.0),
        (str(round(NOW) + 60), 60.0),  # Unix time in s
        (str(round(NOW * 1000) + 60_000), 60.0),  # and in ms
        ("1618228675371", 0.0),  # a moment that is over
        *((text, None) for text in ("99999999999", "inf", "-inf", "nan", "1e400", "-5", "", "soon", "9" * 4000)),
        (None, None),
    ],
)
def test_what_a_header_means(header, seconds):
    assert retry_after(header, now=lambda: NOW) == (seconds if seconds is None else pytest.approx(seconds, abs=1.0))


def test_without_a_header_the_text_of_a_ban_counts():
    body = b'{"code":-1003,"msg":"Way too much request weight used; IP banned until %d."}'
    assert retry_after(None, body % (NOW * 1000 + 42_000), lambda: NOW) == pytest.approx(42.0)
    assert retry_after("inf", body % (NOW * 1000 + 42_000), lambda: NOW) == pytest.approx(42.0)
    assert retry_after("5", body % (NOW * 1000 + 42_000), lambda: NOW) == 5.0
    assert retry_after(None, body % 9999999999999999, lambda: NOW) is None


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30) | st.floats().map(str) | st.integers().map(str), st.binary(max_size=60))
def test_nothing_ends_a_wait_with_an_error(header, body):
    seconds = retry_after(header, b"banned until " + body)
    assert seconds is None or 0 <= seconds <= LONGEST_WAIT_SECONDS <= threading.TIMEOUT_MAX
