"""The address of a QuestDB, with user, password or token, and the TLS settings of a connection to it.

Passwords and tokens may come from files (`read_secret`).
"""

import base64
import logging
import os
import ssl
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3

from ingester import private
from ingester.errors import SettingsError, Untrusted
from ingester.proxies import is_loopback

log = logging.getLogger(__name__)

EXPECTED = "Write http://host:9000 or https://user:password@host:9000."
MAX_SECRET_BYTES = 64 << 10
CONTAINER_SECRETS = Path("/run/secrets")
"""The folder in which container runtimes put secrets; nobody chose the modes of its files."""
EXPIRED, NOT_YET_VALID, OTHER_NAME, OTHER_ADDRESS = 10, 9, 62, 64
UNKNOWN_ISSUER = (18, 19, 20, 21)
"""X509_V_ERR_… of OpenSSL, in `ssl.SSLCertVerificationError.verify_code`."""
NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "UNEXPECTED_EOF_WHILE_READING",
)


@dataclass(frozen=True)
class Endpoint:
    """The HTTP address of a server, with user, password or token; of a managed server the PostgreSQL port too.

    Raises SettingsError if a user, password or token cannot be sent; the message contains none of them.
    """

    http_url: str
    """Scheme, host and port, without user and path: `http://127.0.0.1:9000`."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    pg_port: int | None = None
    """The PostgreSQL port of a managed server; user and password are the same."""
    token: str | None = field(default=None, repr=False)
    """Is sent instead of user and password."""
    read_from: Path | None = None
    """The file of the password or token. It is read again if the server refuses the secret."""
    ca_file: Path | None = None
    """The CA certificates for an https server, instead of those that the system trusts."""
    root: Path | None = None
    """The folder of a managed server: only the process that runs in it gets requests."""

    def __post_init__(self) -> None:
        if self.user is not None and ":" in self.user:
            raise SettingsError("The QuestDB user has a colon in it, which HTTP cannot send. Choose another user.")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise SettingsError("The QuestDB token is not one line of ASCII characters without spaces.")

    @property
    def host(self) -> str:
        """The host name or address, without port."""
        return urlsplit(self.http_url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        return is_loopback(self.host)

    @property
    def folder(self) -> Path | None:
        """The data folder of a managed server."""
        return self.root.parent.parent if self.root else None

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.http_url.startswith("https:")

    @property
    def has_secret(self) -> bool:
        """Whether a password or token is sent."""
        return bool(self.password or self.token)

    def headers(self) -> dict[str, str]:
        """Returns the HTTP headers with user and password, or token."""
        if self.token is not None:
            return {"authorization": f"Bearer {self.token}"}
        if self.user is None:
            return {}
        pair = base64.b64encode(f"{self.user}:{self.password or ''}".encode()).decode()
        return {"authorization": f"Basic {pair}"}

    def read_again(self) -> "Endpoint | None":
        """Returns the endpoint with the present secret of its file; None if it is the same, or cannot be read."""
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
        """Returns the endpoint of `http(s)://[user:password@]host[:port]`; the default port is 9000, for https 443.

        Raises SettingsError, which never contains the password.
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


def read_secret(path: Path) -> str:
    """Returns the content of a file without the end of its line; warns if every user can read the file.

    Raises SettingsError, which names the file and never its content, if there is no usable secret.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
            state = os.fstat(file.fileno())
    except OSError as error:
        raise SettingsError(f"The secret file {path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_SECRET_BYTES:
        raise SettingsError(f"The secret file {path} is too large to hold a password or token.")
    try:
        secret = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(f"The secret file {path} is not text in UTF-8.") from None
    if not secret:
        raise SettingsError(f"The secret file {path} is empty; the password or token belongs into it.")
    if "\n" in secret:
        raise SettingsError(f"The secret file {path} has several lines; only the password or token belongs into it.")
    owners = (state.st_uid,) if os.geteuid() == 0 else ()
    if CONTAINER_SECRETS not in path.absolute().parents and (who := private.changeable_by(state, owners)):
        raise SettingsError(
            f"The secret file {path} can be changed by {who}, so it is not used. Make it yours alone: "
            f"chown {private.user_name(os.geteuid())} {path}; chmod 600 {path}."
        )
    if state.st_mode & stat.S_IROTH and CONTAINER_SECRETS not in path.absolute().parents:
        log.warning("every user of this machine can read the secret in %s; chmod 600 mends that", path)
    return secret


def ssl_context(endpoint: Endpoint) -> ssl.SSLContext | None:
    """Returns the TLS settings for an https server, else None. Raises SettingsError if the CA file cannot be used."""
    path = endpoint.ca_file
    if not endpoint.is_encrypted:
        if path is not None:
            raise SettingsError(f"--questdb-ca {path} is of no use with {endpoint.http_url}: write https:// there.")
        return None
    try:
        return ssl.create_default_context(cafile=str(path) if path else None)
    except ssl.SSLError:
        raise SettingsError(
            f"--questdb-ca {path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)."
        ) from None
    except OSError as error:
        raise SettingsError(f"--questdb-ca {path} cannot be read: {error.strerror}.") from None


def tls_refusal(endpoint: Endpoint, error: urllib3.exceptions.SSLError) -> Untrusted:
    """Returns the error of a TLS connection as a sentence with the next step."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    return Untrusted(f"QuestDB at {endpoint.http_url} {_tls_reason(endpoint, cause)}")


def _tls_reason(endpoint: Endpoint, cause: Exception) -> str:
    if not isinstance(cause, ssl.SSLCertVerificationError):
        if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
            return "does not seem to speak TLS at this port. Write http:// there, or the port that has TLS."
        return f"cannot be spoken to over TLS: {cause}"
    code, words = cause.verify_code, cause.verify_message
    if code == EXPIRED:
        return "shows a certificate that has expired. Renew it at the server, and look at this machine's clock."
    if code == NOT_YET_VALID:
        return "shows a certificate that is not valid yet. Look at this machine's clock, and at the certificate."
    if code in (OTHER_NAME, OTHER_ADDRESS):
        return f"shows a certificate of another name ({words}). Write the host in --questdb as the certificate has it."
    if code in UNKNOWN_ISSUER:
        if endpoint.ca_file is None:
            return (
                f"shows a certificate by an issuer that this machine does not know ({words}). "
                "Give the file with the issuer's certificate: --questdb-ca FILE."
            )
        return (
            f"shows a certificate by none of the issuers in {endpoint.ca_file} ({words}). "
            "Give the file with the certificate of its issuer: --questdb-ca FILE."
        )
    return f"shows a certificate that is not accepted: {words}."
