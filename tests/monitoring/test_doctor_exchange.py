"""exchange.py: each step of the way to the exchange, over real sockets."""

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import trustme
import websocket
from proxy_server import ProxyServer
from websockets.sync.server import serve

from ingester.exchange import VENUES
from ingester.monitoring.doctor import examine
from ingester.monitoring.doctor_exchange import (
    Sample,
    clock_finding,
    exchange_checks,
    expires_in,
    offset,
    refusal_finding,
)
from ingester.simulator import Simulator


def examined(stream_url, rest_url):
    return {
        finding.subject: finding
        for finding in examine(exchange_checks(VENUES["binance"].at(stream_url=stream_url, rest_url=rest_url)))
    }


def test_all_steps_to_an_exchange_that_answers():
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        found = examined(simulator.stream_url, simulator.rest_url)
    assert {subject: finding.state for subject, finding in found.items()} == dict.fromkeys(
        ["stream name", "stream TCP", "stream websocket", "rest name", "rest TCP", "rest answer", "clock"], "ok"
    )


def test_a_region_that_is_refused_gets_the_exchanges_that_may_work():
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        simulator.fault("refuse", status=451)
        found = examined(simulator.stream_url, simulator.rest_url)
    assert found["stream websocket"].state == "fail"
    assert "--exchange binance-vision" in found["stream websocket"].mend
    assert found["rest answer"].state == "ok"


def test_what_follows_a_step_that_failed_is_skipped():
    found = examined("ws://127.0.0.1:9", "http://no-such-host.invalid")
    assert {subject: finding.state for subject, finding in found.items()} == {
        "stream name": "ok",
        "stream TCP": "fail",
        "stream websocket": "skipped",
        "rest name": "fail",
        "rest answer": "skipped",
        "clock": "skipped",
    }
    assert "no-such-host.invalid" in found["rest name"].mend


@contextlib.contextmanager
def tls_server(authority, name):
    """Shakes hands with whoever comes, and hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(client, server_side=True):
                    pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_certificates(monkeypatch, tmp_path):
    authority = trustme.CA()
    with tls_server(authority, "localhost") as port:
        found = examined(f"wss://localhost:{port}", f"https://localhost:{port}")
        assert found["stream TLS"].state == "fail"
        assert "not trusted" in found["stream TLS"].text
        assert found["stream websocket"].state == "skipped"
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        found = examined(f"wss://localhost:{port}", f"https://localhost:{port}")
    assert found["stream TLS"].state == "ok"
    assert "TLSv1" in found["stream TLS"].text
    assert found["stream websocket"].state == "fail"  # it hangs up after the handshake
    assert found["rest answer"].state == "fail"


def test_the_clock_is_compared_by_the_quickest_answer():
    slow = Sample(0, 9_000_000_000, 2_000_000_000)
    quick = Sample(10_000_000_000, 13_050_000_000, 10_100_000_000)
    assert offset([slow, quick]) == (3.0, 0.05)


@pytest.mark.parametrize(
    ("seconds", "doubt", "state"),
    [(0.4, 0.0, "ok"), (-0.9, 0.5, "ok"), (-0.9, 0.1, "warning"), (5.5, 0.1, "fail"), (3600.0, 0.1, "fail")],
)
def test_what_an_offset_means(seconds, doubt, state):
    finding = clock_finding(seconds, doubt)
    assert finding.state == state
    assert ("behind" if seconds > 0 else "ahead of") in finding.text
    assert bool(finding.mend) == (state != "ok")


@pytest.mark.parametrize(("status", "words"), [(451, "region"), (418, "wait"), (503, "later")])
def test_refusals(status, words):
    finding = refusal_finding("rest answer", status, VENUES["binance"], "https://api.binance.com")
    assert finding.state == "fail"
    assert words in finding.mend


def test_days_until_a_certificate_expires():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert expires_in("Jan 11 00:00:00 2026 GMT", now) == 10
    assert expires_in("Jan 11 00:00:00 2026 GMT", now + timedelta(days=11)) == -1


def test_a_proxy_is_named_where_it_works_and_where_it_does_not(monkeypatch):
    for name in ("HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Simulator(pairs=["BTCUSDT"]) as simulator, ProxyServer({"exchange.example": "127.0.0.1"}) as proxy:
        monkeypatch.setenv("http_proxy", f"http://user:hush@127.0.0.1:{proxy.port}")
        urls = (f"{scheme}://exchange.example:{simulator.port}" for scheme in ("ws", "http"))
        found = examined(*urls)
        assert {subject: finding.state for subject, finding in found.items()} == dict.fromkeys(
            ["stream proxy", "stream websocket", "rest proxy", "rest answer", "clock"], "ok"
        )
        assert f"through the proxy http://127.0.0.1:{proxy.port} (from http_proxy)" in found["stream proxy"].text
        assert "proxy" not in " ".join(examined(simulator.stream_url, simulator.rest_url))  # this machine: directly
    found = examined("ws://exchange.example:1", "http://exchange.example:1")
    assert found["stream proxy"].state == found["rest proxy"].state == "fail"
    assert f"the proxy http://127.0.0.1:{proxy.port} (from http_proxy) cannot be reached" in found["stream proxy"].text
    assert "NO_PROXY" in found["rest proxy"].mend
    assert "hush" not in str(found)


@contextlib.contextmanager
def says(*pieces, pause=0.0, forever=False):
    """A server that answers whoever comes with these bytes, piece by piece, and the last one over and over."""
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for piece in pieces:
                connection.sendall(piece)
            while forever and not over.wait(pause):
                connection.sendall(pieces[-1])

    def serve():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.close()


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "pause", "forever"),
    [
        ((OK, b" "), 0.1, True),
        ((OK, b" " * 65536), 0.0, True),
        (
            (OK.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + gzip.compress(bytes(64 << 20)),),
            0.0,
            False,
        ),
        ((OK + b"[" * 60_000,), 0.0, False),
        ((OK + b'{"serverTime": "\xff"}',), 0.0, False),
        ((OK + b'{"serverTime": 1e300}',), 0.0, False),
        ((OK + b'{"serverTime": -5}',), 0.0, False),
        ((OK + b'{"serverTime": []}',), 0.0, False),
        ((OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 99999999999999999999\r\n\r\n"),), 0.0, False),
    ],
)
def test_whatever_is_answered_instead_of_the_time_is_a_finding_within_seconds(monkeypatch, pieces, pause, forever):
    monkeypatch.setattr("ingester.monitoring.doctor_exchange.CONNECT_SECONDS", 1.0)
    with says(*pieces, pause=pause, forever=forever) as port:
        begun = time.monotonic()
        found = examined("ws://127.0.0.1:9", f"http://127.0.0.1:{port}")
    assert time.monotonic() - begun < 5
    assert found["rest answer"].state == "fail"
    assert len(found["rest answer"].text) < 400
    assert found["clock"].state == "skipped"


def test_a_goodbye_that_never_ends_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("ingester.monitoring.doctor_exchange.open_websocket", lambda *_: endless)
    begun = time.monotonic()
    with says(b"\x81\x7f" + (1 << 24).to_bytes(8), b" ", pause=0.05, forever=True) as port:
        endless = websocket.WebSocket()
        endless.sock, endless.connected = socket.create_connection(("127.0.0.1", port)), True
        found = examined(f"ws://127.0.0.1:{port}", "http://127.0.0.1:9")
    assert time.monotonic() - begun < 5
    assert found["stream websocket"].state == "warning"
    assert "no book of BTCUSDT came" in found["stream websocket"].text


def test_a_subscription_that_is_acknowledged_and_stays_silent_is_a_warning(monkeypatch):
    """As on a wrong path of Binance's futures market."""
    monkeypatch.setattr("ingester.monitoring.doctor_exchange.BOOK_SECONDS", 0.3)
    asked = []

    def acknowledge(connection):
        for text in connection:
            asked.append(json.loads(text))
            connection.send(json.dumps({"result": None, "id": asked[-1]["id"]}))

    with serve(acknowledge, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        venue = VENUES["binance-futures"].at(stream_url=url, rest_url="http://127.0.0.1:9")
        found = {finding.subject: finding for finding in examine(exchange_checks(venue))}["stream websocket"]
        server.shutdown()
    assert [each["params"] for each in asked] == [["btcusdt@depth5@100ms"]]
    assert found.state == "warning"
    assert "brought no book of BTCUSDT" in found.text
    assert f"{url}/public/stream" in found.mend
