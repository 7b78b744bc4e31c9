"""endpoint.py: addresses as people write them, secrets in files, and TLS before a real QuestDB."""

import dataclasses
import datetime
import http.server
import os
import threading

import pytest
import trustme
from tls_proxy import TlsProxy

from ingester.errors import AccessRefused, SettingsError, Unreachable, Untrusted
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint, read_secret


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost", Endpoint("http://localhost:9000")),
        ("http://localhost/", Endpoint("http://localhost:9000")),
        ("https://db", Endpoint("https://db:443")),
        ("https://db:9000", Endpoint("https://db:9000")),
        ("http://[::1]:9100", Endpoint("http://[::1]:9100")),
        ("http://admin:secret@db:9100", Endpoint("http://db:9100", "admin", "secret")),
        ("http://a%40b:p%2Fq%3A%40@db:9100", Endpoint("http://db:9100", "a@b", "p/q:@")),
    ],
)
def test_an_address_is_taken_apart(url, expected):
    assert Endpoint.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:9000",
        "ftp://admin:secret@db",
        "admin:secret@db:9000",
        "http://",
        "http://admin:secret@",
        "http://admin:secret@db:port",
        "http://admin:secret@db:70000",
        "http://admin:secret@db/exec",
        "http://admin:secret@db?token=1",
        "http://admin:secret@db#1",
        "http://[::1",
    ],
)
def test_what_is_no_address_is_refused_with_the_way_to_write_it_and_without_the_password(url):
    with pytest.raises(SettingsError, match="Write http://host:9000") as refused:
        Endpoint.parse(url)
    assert "secret" not in str(refused.value)


def test_a_password_is_not_shown():
    shown = Endpoint.parse("http://admin:secret@db:9000")
    assert "secret" not in repr(shown) + str(shown)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.0.0.2", "localhost", "localhost.", "db.localhost", "[::1]")],
        *[(host, False) for host in ("db", "10.0.0.1", "127.0.0.1.example", "[fe80::1]")],
    ],
)
def test_this_machine_is_known_by_each_of_its_names(host, local):
    assert Endpoint.parse(f"http://{host}:9000").is_local == local


@pytest.mark.parametrize(
    ("content", "secret"), [(b"pa ss", "pa ss"), (b"pass\n", "pass"), (b"pass\r\n", "pass"), ("päß ".encode(), "päß ")]
)
def test_the_lines_end_is_not_part_of_it(tmp_path, content, secret):
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    assert read_secret(path) == secret


@pytest.mark.parametrize("content", [b"", b"\n", b"hidden\nhidden\n", b"\xff\xfehidden", b"hidden" * 20_000])
def test_what_cannot_be_one_is_refused_with_the_files_name_and_without_its_content(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        read_secret(path)
    assert str(path) in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(SettingsError, match=f"{path} cannot be read"):
            read_secret(path)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_file_that_everybody_may_read_is_told(tmp_path, caplog, mode, warned):
    path = tmp_path / "secret"
    path.write_text("hidden")
    os.chmod(path, mode)
    assert read_secret(path) == "hidden"
    assert (f"{path}" in caplog.text) is warned
    assert "hidden" not in caplog.text


def test_a_file_that_others_may_change_is_not_used(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_text("hidden")
    path.chmod(0o666)
    with pytest.raises(SettingsError, match=rf"{path} can be changed by every user .*chmod 600") as refused:
        read_secret(path)
    assert "hidden" not in str(refused.value)
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    os.chown(path, 65534, -1) if os.getuid() == 0 else None
    with pytest.raises(SettingsError, match=r"can be changed by user \S+, who owns it"):
        read_secret(path)


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
