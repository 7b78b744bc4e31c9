"""Chooses the proxy for a URL, by one rule for the exchange's streams, its REST interface and webhooks.

* Addresses of this machine (localhost, 127.0.0.0/8, ::1, 0.0.0.0) never use a proxy.
* `NO_PROXY` lists others: hosts (with their subdomains), `host:port`, addresses, networks (10.0.0.0/8), `*`.
* Else `HTTP_PROXY` (http, ws) or `HTTPS_PROXY` (https, wss) is used, else `ALL_PROXY`; lower case comes first.

A proxy is `[http|socks4|socks4a|socks5|socks5h]://[user:password@]host[:port]`. Its password is never shown.
"""

import base64
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from ingester.errors import SettingsError

_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_PROXY_PORTS = {"http": 80, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True)
class Proxy:
    """A proxy as the environment names it."""

    scheme: str
    host: str
    port: int
    variable: str
    """The environment variable that names it."""
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether the proxy uses SOCKS, not HTTP."""
        return self.scheme.startswith("socks")

    @property
    def url(self) -> str:
        """The address without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that authenticate the user at an HTTP proxy."""
        if self.user is None:
            return {}
        pair = base64.b64encode(f"{self.user}:{self.password or ''}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {pair}"}

    def __str__(self) -> str:
        """Returns the text for errors and `ingester doctor`."""
        return f"{self.url} (from {self.variable})"


def proxy_for(url: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """Returns the proxy for a URL (http, https, ws, wss); None: no proxy.

    Raises SettingsError where the chosen variable does not hold the address of a proxy.
    """
    parts = urlsplit(url)
    host, port = (parts.hostname or "").rstrip("."), parts.port or _PORTS[parts.scheme]
    if is_loopback(host) or _is_excepted(host, port, environment):
        return None
    first = "HTTPS_PROXY" if parts.scheme in ("https", "wss") else "HTTP_PROXY"
    for name in (first.lower(), first, "all_proxy", "ALL_PROXY"):
        if name == "HTTP_PROXY" and "REQUEST_METHOD" in environment:  # in a CGI script, a header of the client sets it
            continue
        if value := environment.get(name, "").strip():
            return _parsed(value, name)
        if name == first.lower() and name in environment:  # an empty variable switches the proxy off
            return None
    return None


def is_loopback(host: str) -> bool:
    """Returns whether a host is this machine, by its name or address."""
    host = host.rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_excepted(host: str, port: int, environment: Mapping[str, str]) -> bool:
    entries = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return any(_matches(entry.lower(), host, port) for entry in entries.replace(",", " ").split())


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    if _address(entry) is None:  # in an IPv6 address, the last colon does not begin a port
        name, colon, number = entry.rpartition(":")
        if colon and number.isdigit():
            if int(number) != port:
                return False
            entry = name
    if address is not None:
        return _address(entry) == address
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _parsed(value: str, variable: str) -> Proxy:
    scheme = value.partition("://")[0].lower() if "://" in value else "http"
    shown = value.rpartition("@")[2].partition("://")[2] or value.rpartition("@")[2]  # never the password
    try:
        parts: SplitResult = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if scheme not in _PROXY_PORTS or not parts.hostname:
        raise SettingsError(
            f"{variable} names no proxy that can be used: {shown!r} with {scheme}://. "
            f"Write http://host:port or socks5h://host:port ({', '.join(_PROXY_PORTS)})."
        )
    user = unquote(parts.username) if parts.username is not None else None
    password = unquote(parts.password) if parts.password is not None else None
    return Proxy(scheme, parts.hostname, port or _PROXY_PORTS[scheme], variable, user, password)
