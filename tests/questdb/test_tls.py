"""TLS before a real QuestDB: who is trusted, and what is said where nobody is."""

import dataclasses
import datetime
import http.server
import threading

import pytest
import trustme
from tls_proxy import TlsProxy

from ingester.errors import AccessRefused, SettingsError, Unreachable, Untrusted
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint

DAY = datetime.timedelta(days=1)


def at(proxy, questdb, ca_file=None, url=None):
    return dataclasses.replace(questdb.endpoint, http_url=url or proxy.url, ca_file=ca_file)


def test_who_gives_the_issuers_certificate_gets_in(questdb, tmp_path):
    with TlsProxy(questdb.endpoint) as proxy:
        db = QuestDB(at(proxy, questdb, proxy.trust(tmp_path / "ca.pem")))
        assert db.sql("SELECT 1").rows == [[1]]
        assert proxy.seen[0].startswith("Basic ")


def test_another_issuer_is_refused_before_a_password_is_sent(questdb, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with TlsProxy(questdb.endpoint) as proxy:
        with pytest.raises(Untrusted, match=r"by none of the issuers in .*other.pem .*--questdb-ca FILE"):
            QuestDB(at(proxy, questdb, other)).sql("SELECT 1")
        with pytest.raises(Untrusted, match=r"issuer that this machine does not know .*--questdb-ca FILE"):
            QuestDB(at(proxy, questdb)).write(b"")
        assert proxy.seen == []


@pytest.mark.parametrize(
    ("names", "validity", "words"),
    [
        (["127.0.0.1"], (-9, -1), "has expired. Renew it"),
        (["127.0.0.1"], (1, 9), "not valid yet"),
        (["db.example"], (-1, 9), "of another name .*--questdb"),
    ],
)
def test_a_certificate_that_does_not_hold_is_explained(questdb, tmp_path, names, validity, words):
    now = datetime.datetime.now(datetime.UTC)
    dates = dict(zip(("not_before", "not_after"), (now + day * DAY for day in validity), strict=True))
    with TlsProxy(questdb.endpoint, *names, **dates) as proxy:
        with pytest.raises(Untrusted, match=words):
            QuestDB(at(proxy, questdb, proxy.trust(tmp_path / "ca.pem"))).sql("SELECT 1")
        assert proxy.seen == []


def test_tls_to_a_port_without_it_is_told(questdb):
    url = questdb.endpoint.http_url.replace("http:", "https:")
    with pytest.raises(Untrusted, match="does not seem to speak TLS"):
        QuestDB(at(None, questdb, url=url)).sql("SELECT 1")


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=str(path)):
        QuestDB(Endpoint("https://db:9000", ca_file=path))


def test_a_ca_file_for_an_address_without_tls_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="write https://"):
        QuestDB(Endpoint("http://db:9000", ca_file=tmp_path / "ca.pem"))


def test_a_secret_that_changed_in_its_file_is_taken_up(questdb, tmp_path, caplog):
    secret = tmp_path / "token"
    secret.write_text("first\n")
    with TlsProxy(questdb.endpoint) as proxy:
        proxy.token = "first"
        endpoint = Endpoint(proxy.url, token="first", read_from=secret, ca_file=proxy.trust(tmp_path / "ca.pem"))
        db = QuestDB(endpoint)
        assert db.sql("SELECT 1").rows == [[1]]
        proxy.token = "second"
        for content in ("first", ""):
            secret.write_text(content)
            with pytest.raises(AccessRefused, match=rf"refused the token .*{secret}"):
                db.sql("SELECT 1")
        secret.write_text("second\n")
        assert db.sql("SELECT 2").rows == [[2]]
        assert "second" not in caplog.text + repr(db.endpoint)


def test_a_redirect_takes_no_password_along(questdb):
    heard = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_response(302)
            self.send_header("location", f"http://admin:hidden@127.0.0.1:{server.server_port}/elsewhere")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        db = QuestDB(Endpoint(f"http://127.0.0.1:{server.server_port}", "admin", "hidden"))
        for ask in (lambda: db.sql("SELECT 1"), lambda: db.write(b"")):
            with pytest.raises(Unreachable, match=r"redirects to http://127\.0\.0\.1") as refused:
                ask()
            assert "hidden" not in str(refused.value)
        server.shutdown()
        thread.join()
    assert [path.split("?")[0] for path in heard] == ["/exec", "/write"]
