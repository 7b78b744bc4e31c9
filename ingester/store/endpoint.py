"""Where a QuestDB is reached, and as whom."""

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from ingester.errors import SettingsError

EXPECTED = "Write http://host:9000 or https://user:password@host:9000."


@dataclass(frozen=True)
class Endpoint:
    """A server's HTTP address with its user and password; the PostgreSQL door too, where the server is our own."""

    http_url: str
    """Scheme, host and port, without user and path: `http://127.0.0.1:9000`."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    pg_port: int | None = None
    """The PostgreSQL port of a managed server; user and password are the same."""

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, by its address."""
        return urlsplit(self.http_url).hostname in ("127.0.0.1", "localhost", "::1")

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """From `http(s)://[user:password@]host[:port]`; the port is 9000 unless said, 443 for https.

        Raises SettingsError naming what was wrong; the password never appears in it.
        """
        shown = url.rsplit("@", 1)[-1]  # never the password
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise SettingsError(f"The QuestDB address {shown!r} has no usable host and port. {EXPECTED}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(f"The QuestDB address {shown!r} has no http(s) scheme or no host. {EXPECTED}")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise SettingsError(f"The QuestDB address {shown!r} goes on after host and port. {EXPECTED}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        if port is None:
            port = 443 if parts.scheme == "https" else 9000
        user = unquote(parts.username) if parts.username is not None else None
        password = unquote(parts.password) if parts.password is not None else None
        return cls(f"{parts.scheme}://{host}:{port}", user, password)
