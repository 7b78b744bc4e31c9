"""Addresses of servers, as people write them."""

import pytest

from ingester.errors import SettingsError
from ingester.questdb.endpoint import Endpoint


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
