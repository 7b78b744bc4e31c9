"""A client of QuestDB's HTTP API: writes rows (`/write`), runs statements (`/exec`), exports files (`/exp`)."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlencode, urlsplit

import msgspec
import urllib3

from ingester.clock import backoff
from ingester.errors import AccessRefused, NoAnswer, QueryError, Unreachable, cause
from ingester.questdb import peer
from ingester.questdb.endpoint import Endpoint, ssl_context, tls_refusal
from ingester.threads import beside

log = logging.getLogger(__name__)

WRITE_TIMEOUT = urllib3.Timeout(connect=3.0, read=30.0)
READ_BYTES = 1 << 18
"""The size of one read of a long answer: it stays in the processor's cache until it is copied."""
QUERY_TIMEOUT = urllib3.Timeout(connect=3.0, read=300.0)
PING_SECONDS = 5.0
"""A server that does not answer a ping within this time hangs."""


class Result(NamedTuple):
    """The answer to a statement: column names, their QuestDB types, and rows; a statement without rows has none."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]


class _Column(msgspec.Struct):
    name: str
    type: str


class _Answer(msgspec.Struct):
    columns: list[_Column] = []
    dataset: list[list[Any]] = []


class RowsRefused(QueryError):
    """QuestDB refused rows with HTTP 400: at least one of them is bad, and none was stored."""


class QuestDB:
    """The client of one server. Threads may share it."""

    def __init__(self, endpoint: Endpoint, query_timeout: urllib3.Timeout = QUERY_TIMEOUT) -> None:
        """Raises SettingsError where the endpoint's CA file cannot be used."""
        self.endpoint = endpoint
        self._query_timeout = query_timeout
        self._trust = ssl_context(endpoint)
        # Over TLS the certificate says who answers.
        self._checked = _checked(endpoint.root) if endpoint.root and not endpoint.is_encrypted else None
        # Repeating is the callers' decision: a failure never proves that nothing happened. Nor is a redirect followed,
        # to where the password would go.
        self._pool = self._connections()
        # QuestDB knows tables by connection: rows for one that was dropped, or made again, vanish with a 204 on an old
        # connection. So each write has its own, for about a millisecond.
        self._writes = self._connections()
        self._ping: Future[Result] | None = None
        self._pinging = threading.Lock()

    def _connections(self) -> urllib3.PoolManager:
        pool = urllib3.PoolManager(retries=False, maxsize=4, ssl_context=self._trust)
        if self._checked is not None:
            pool.pool_classes_by_scheme = {"http": self._checked}
        return pool

    def ping(self, seconds: float = PING_SECONDS) -> None:
        """Returns once the server answers. Raises NoAnswer after so many seconds in all, however slowly bytes come;
        else as `sql`."""
        with self._pinging:
            if self._ping is None or self._ping.done():  # one that still waits is waited for again: no thread piles up
                self._ping = beside(lambda: self._sql("SELECT 1", urllib3.Timeout(PING_SECONDS)), "ping")
            ping = self._ping
        try:
            ping.result(seconds)
        except TimeoutError:
            raise NoAnswer(
                f"QuestDB at {self.endpoint.http_url} does not answer: it accepts the connection and has not responded "
                f"for {seconds:g} s"
            ) from None

    def write(self, body: bytes) -> None:
        """Stores ILP rows with times in nanoseconds; on return they are in the table's write-ahead log.

        Raises RowsRefused when a row is bad, and Unreachable when it is not known whether they landed; else as `sql`.
        """
        try:
            answer = self._request("POST", "/write", WRITE_TIMEOUT, {"precision": "n"}, body)
        finally:
            self._writes.clear()
        if answer.status in (200, 204):
            return
        if answer.status == 400:
            raise RowsRefused(f"{self.endpoint.http_url} refused rows: {_error_text(answer)}")
        self._raise(answer, " to rows")

    def sql(self, statement: str) -> Result:
        """Runs one statement.

        Raises QueryError or AccessRefused where QuestDB refuses it, Untrusted where its certificate is not accepted,
        else Unreachable.
        """
        return self._sql(statement, self._query_timeout)

    def _sql(self, statement: str, timeout: urllib3.Timeout) -> Result:
        answer = self._request("GET", "/exec", timeout, {"query": statement})
        self._check(answer, statement)
        try:
            decoded = msgspec.json.decode(answer.data, type=_Answer)
        except (ValueError, RecursionError) as error:  # msgspec's errors are among them
            raise Unreachable(f"{self.endpoint.http_url} does not answer as QuestDB does: {error}") from error
        columns = decoded.columns
        if decoded.dataset and len(decoded.dataset[-1]) != len(columns):  # so it ends where a file is too short
            raise QueryError(
                f"QuestDB aborted its answer: a file of the table may be damaged; `ingester doctor` shows which.\n"
                f"  {statement.strip()}"
            )
        return Result([c.name for c in columns], [c.type for c in columns], decoded.dataset)

    def csv(self, statement: str) -> Iterator[bytes]:
        """Yields the rows of a query as CSV with a header, in pieces. Raises as `sql` does."""
        answer = self._request("GET", "/exp", QUERY_TIMEOUT, {"query": statement}, stream=True)
        self._check(answer, statement)
        try:
            yield from answer.stream(1 << 16)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{self.endpoint.http_url} broke off its answer: {cause(error)}") from error

    def parquet(self, statement: str, room: bytearray) -> memoryview:
        """Returns the rows of a query as a Parquet file in `room`, which grows if needed and may be reused.

        Memory that was used before takes half the time of new memory, on this side and on the server's. Waits while
        all the server's exports are in use. Raises as `sql`.
        """
        codec = (
            "uncompressed" if self.endpoint.is_local else "lz4_raw"
        )  # both are faster to make and to read than others
        fields = {"query": statement, "fmt": "parquet", "compression_codec": codec, "statistics_enabled": "false"}
        waits = backoff(0.05, 1.0)
        while True:
            answer = self._request("GET", "/exp", QUERY_TIMEOUT, fields, stream=True)
            if answer.status != 429:
                break
            answer.drain_conn()
            time.sleep(next(waits))
        self._check(answer, statement)
        try:
            return _read(answer, room)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{self.endpoint.http_url} broke off its answer: {cause(error)}") from error

    def _check(self, answer: urllib3.BaseHTTPResponse, statement: str) -> None:
        if answer.status == 200:
            return
        if answer.status == 400:
            raise QueryError(f"QuestDB refused the statement: {_error_text(answer)}\n  {statement.strip()}")
        self._raise(answer)

    def _raise(self, answer: urllib3.BaseHTTPResponse, to: str = "") -> NoReturn:
        """Raises the error for an answer with a status other than success or 400."""
        url = self.endpoint.http_url
        if answer.status in (401, 403):
            raise AccessRefused(_refused(self.endpoint, answer.status))
        if 300 <= answer.status < 400:
            elsewhere = _origin(answer.headers.get("location", "")) or "nowhere"
            raise Unreachable(
                f"{url} redirects to {elsewhere} (HTTP {answer.status}), where no password is taken unasked. "
                "If that is the right address, give it as --questdb."
            )
        raise Unreachable(f"{url} answered HTTP {answer.status}{to}: {_error_text(answer)}")

    def _request(
        self,
        method: str,
        path: str,
        timeout: urllib3.Timeout,
        fields: dict[str, str],
        body: bytes | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        sent_as = self.endpoint
        answer = self._send(sent_as, method, path, timeout, fields, body, stream)
        if answer.status in (401, 403) and self._changed(sent_as):
            answer.release_conn()
            answer = self._send(self.endpoint, method, path, timeout, fields, body, stream)
        return answer

    def _changed(self, refused: Endpoint) -> bool:
        """Reads the secret again; returns whether it differs from the refused one."""
        if self.endpoint is refused and (changed := refused.read_again()):
            log.info("the secret in %s has changed, it is used from now on", changed.read_from)
            self.endpoint = changed
        return self.endpoint is not refused

    def _send(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        timeout: urllib3.Timeout,
        fields: dict[str, str],
        body: bytes | None,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse:
        url = f"{endpoint.http_url}{path}?{urlencode(fields)}"
        pool = self._writes if method == "POST" else self._connections() if stream else self._pool
        try:
            answer = pool.request(
                method, url, body=body, headers=endpoint.headers(), timeout=timeout, preload_content=not stream
            )
            if stream:  # QuestDB counts a connection as an export until it is closed, so it is, once it was read
                pool.clear()
            return answer
        except urllib3.exceptions.SSLError as error:
            raise tls_refusal(endpoint, error) from error
        except urllib3.exceptions.HTTPError as error:
            kind = NoAnswer if isinstance(error, urllib3.exceptions.TimeoutError) else Unreachable
            raise kind(f"QuestDB at {endpoint.http_url} does not answer: {cause(error)}") from error
        except (OverflowError, MemoryError) as error:
            raise Unreachable(f"{endpoint.http_url} does not answer as QuestDB does: it is too large") from error


def _checked(root: Path) -> type[urllib3.HTTPConnectionPool]:
    """Returns a pool whose connections are verified to reach the server of a folder before anything is sent."""

    class CheckedConnection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            peer.verify(self.sock, root)

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = CheckedConnection

    return Pool


def _refused(endpoint: Endpoint, status: int) -> str:
    if endpoint.token is not None:
        given, way = "the token it was given", "Give another: --questdb-token-file FILE"
    elif endpoint.user is not None:
        given = f"the user {endpoint.user!r} with the password it was given"
        way = "Give others: --questdb-user NAME --questdb-password-file FILE"
    else:
        given, way = "to answer without a password", "Give --questdb-user NAME and --questdb-password-file FILE"
    source = f"; it was read from {endpoint.read_from}" if endpoint.read_from else ""
    return f"{endpoint.http_url} refused {given} (HTTP {status}{source}). {way}."


def _origin(location: str) -> str:
    """Returns scheme, host and port of an address, without user and password."""
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else parts.path


def _read(answer: urllib3.BaseHTTPResponse, room: bytearray) -> memoryview:
    size = 0
    while True:
        if len(room) - size < READ_BYTES:
            room.extend(bytes(max(READ_BYTES, len(room) // 2)))
        with memoryview(room) as view, view[size : size + READ_BYTES] as free:
            arrived = answer.readinto(free)
        if not arrived:
            answer.release_conn()
            return memoryview(room)[:size]
        size += arrived


def _error_text(answer: urllib3.BaseHTTPResponse) -> str:
    try:
        data = answer.data
    except (urllib3.exceptions.HTTPError, OverflowError, MemoryError) as error:
        return f"and an explanation that cannot be read ({cause(error)})"
    try:
        decoded = msgspec.json.decode(data)
    except (ValueError, RecursionError):  # msgspec's errors are among them
        return data[:500].decode(errors="replace").strip()
    if isinstance(decoded, dict):
        return str(decoded.get("error") or decoded.get("message") or decoded)
    return str(decoded)
