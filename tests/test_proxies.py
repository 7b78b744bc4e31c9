"""proxies.py: which proxy a URL is reached through."""

import pytest

from ingester.errors import SettingsError
from ingester.proxies import proxy_for

SET = {
    "http_proxy": "http://plain.proxy:3128",
    "HTTPS_PROXY": "http://user:p%40ss@secure.proxy:3129",
    "NO_PROXY": "corp.example, .suffix.org,*.star.net port.example:8443,10.0.0.0/8,192.0.2.7,2001:db8::/32",
}


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("ws://stream.example/x", "http://plain.proxy:3128"),
        ("http://api.example", "http://plain.proxy:3128"),
        ("wss://stream.example:9443", "http://secure.proxy:3129"),
        ("https://api.example", "http://secure.proxy:3129"),
        *((f"{scheme}://{host}:9000", None) for scheme in ("ws", "https") for host in ("localhost", "127.0.0.1")),
        ("http://127.3.2.1", None),
        ("wss://[::1]:9", None),
        ("ws://0.0.0.0:9443", None),
        ("ws://LOCALHOST.:9443", None),
        ("http://[::ffff:127.0.0.1]", None),
        ("http://db.localhost", None),
        ("https://corp.example", None),
        ("https://a.b.corp.example", None),
        ("https://notcorp.example", "http://secure.proxy:3129"),
        ("https://suffix.org", None),
        ("https://a.suffix.org", None),
        ("https://a.star.net", None),
        ("https://port.example:8443", None),
        ("https://port.example", "http://secure.proxy:3129"),
        ("ws://10.200.3.4", None),
        ("ws://11.0.0.1", "http://plain.proxy:3128"),
        ("ws://192.0.2.7", None),
        ("ws://[2001:db8::5]", None),
    ],
)
def test_one_rule_for_streams_and_rest(url, proxy):
    found = proxy_for(url, SET)
    assert (found and found.url) == proxy


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"ALL_PROXY": "socks5h://socks.proxy"}, "socks5h://socks.proxy:1080"),
        ({"ALL_PROXY": "socks5://a", "https_proxy": "b:8080"}, "http://b:8080"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://b"}, None),
        ({"HTTPS_PROXY": "http://b", "https_proxy": "http://a"}, "http://a:80"),
        ({"HTTPS_PROXY": "http://b", "no_proxy": "*"}, None),
        ({"HTTP_PROXY": "http://b"}, None),
    ],
)
def test_which_variable_counts(environment, proxy):
    found = proxy_for("wss://stream.example", environment)
    assert (found and found.url) == proxy


def test_user_and_password_are_sent_and_never_shown():
    proxy = proxy_for("https://api.example", SET)
    assert (proxy.user, proxy.password) == ("user", "p@ss")
    assert proxy.headers == {"Proxy-Authorization": "Basic dXNlcjpwQHNz"}
    for text in (str(proxy), repr(proxy), proxy.url):
        assert "ss@" not in text
        assert "user" not in text
    assert str(proxy) == "http://secure.proxy:3129 (from HTTPS_PROXY)"


@pytest.mark.parametrize("value", ["ftp://user:hush@x", "http://user:hush@", "http://user:hush@x:port", "https://x"])
def test_what_is_no_proxy_is_refused_by_its_variable_without_the_password(value):
    with pytest.raises(SettingsError, match="ALL_PROXY") as caught:
        proxy_for("https://api.example", {"ALL_PROXY": value})
    assert "hush" not in str(caught.value)
