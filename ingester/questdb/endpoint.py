"""Where a QuestDB is reached, and as whom."""

import base64
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ingester.errors import SettingsError
from ingester.proxies import is_loopback
from ingester.questdb.secrets import read_secret

log = logging.getLogger(__name__)

EXPECTED = "Write http://host:9000 or https://user:password@host:9000."


@dataclass(frozen=True)
class Endpoint:
    """A server's HTTP address with who asks there; the PostgreSQL door too, where the server is our own.

    Raises SettingsError on a user, password or token that cannot be sent; none of them appears in it.
    """

    http_url: str
    """Scheme, host and port, without user and path: `http://127.0.0.1:9000`."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    pg_port: int | None = None
    """The PostgreSQL port of a managed server; user and password are the same."""
    token: str | None = field(default=None, repr=False)
    """Sent instead of user and password."""
    read_from: Path | None = None
    """What the password or token was read from, and is read from again where it is refused."""
    ca_file: Path | None = None
    """The certificates of those who may vouch for an https server, instead of the ones that the system trusts."""
    root: Path | None = None
    """The folder of a managed server: only the process that runs in it is sent anything."""

    def __post_init__(self) -> None:
        if self.user is not None and ":" in self.user:
            raise SettingsError("The QuestDB user has a colon in it, which HTTP cannot send. Choose another user.")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise SettingsError("The QuestDB token is not one line of ASCII characters without spaces.")

    @property
    def host(self) -> str:
        """Host name or address, without port."""
        return urlsplit(self.http_url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, by its name or address."""
        return is_loopback(self.host)

    @property
    def folder(self) -> Path | None:
        """The data folder of a managed server."""
        return self.root.parent.parent if self.root else None

    @property
    def is_encrypted(self) -> bool:
        """Whether what is sent there can be read by nobody between."""
        return self.http_url.startswith("https:")

    @property
    def has_secret(self) -> bool:
        """Whether a password or token is sent there."""
        return bool(self.password or self.token)

    def headers(self) -> dict[str, str]:
        """The HTTP headers that say who asks."""
        if self.token is not None:
            return {"authorization": f"Bearer {self.token}"}
        if self.user is None:
            return {}
        pair = base64.b64encode(f"{self.user}:{self.password or ''}".encode()).decode()
        return {"authorization": f"Basic {pair}"}

    def read_again(self) -> "Endpoint | None":
        """The same with what its secret file holds now; None where that is the same, or cannot be read."""
        if self.read_from is None:
            return None
        try:
            secret = read_secret(self.read_from)
            again = replace(self, token=secret) if self.token is not None else replace(self, password=secret)
        except SettingsError as error:
            log.warning("%s", error)
            return None
        return again if again != self else None

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
