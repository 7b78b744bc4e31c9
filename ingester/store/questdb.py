"""QuestDB over HTTP: rows in (`/write`), statements and their answers (`/exec`), text out (`/exp`)."""

import base64
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import urllib3

from ingester.clock import backoff
from ingester.errors import AccessRefused, QueryError, Unreachable
from ingester.store.endpoint import Endpoint

WRITE_TIMEOUT = urllib3.Timeout(connect=3.0, read=30.0)
READ_BYTES = 1 << 18
"""So much of a long answer is read at once: it stays in the processor's cache until it is copied."""
QUERY_TIMEOUT = urllib3.Timeout(connect=3.0, read=300.0)


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
    """One server, by its HTTP address. May be shared by threads."""

    def __init__(self, endpoint: Endpoint, query_timeout: urllib3.Timeout = QUERY_TIMEOUT) -> None:
        self.endpoint = endpoint
        self._query_timeout = query_timeout
        headers = {}
        if endpoint.user is not None:
            token = base64.b64encode(f"{endpoint.user}:{endpoint.password or ''}".encode()).decode()
            headers["authorization"] = f"Basic {token}"
        # Repeating is the callers' decision: a failure never proves that nothing happened.
        self._pool = urllib3.PoolManager(headers=headers, retries=False, maxsize=4)
        # QuestDB knows tables by connection: rows for one that was dropped, or made anew, vanish with a 204 on an old
        # connection. So each write has its own, for about a millisecond.
        self._writes = urllib3.PoolManager(headers=headers, retries=False)

    def write(self, body: bytes) -> None:
        """Stores ILP rows with times in nanoseconds; on return they are in the table's write-ahead log.

        Raises RowsRefused when a row is bad, and Unreachable when it is not known whether the rows landed.
        """
        try:
            answer = self._request("POST", "/write", WRITE_TIMEOUT, {"precision": "n"}, body)
        finally:
            self._writes.clear()
        if answer.status in (200, 204):
            return
        text = _error_text(answer)
        if answer.status == 400:
            raise RowsRefused(f"{self.endpoint.http_url} refused rows: {text}")
        raise Unreachable(f"{self.endpoint.http_url} answered HTTP {answer.status} to rows: {text}")

    def sql(self, statement: str) -> Result:
        """Runs one statement. Raises QueryError or AccessRefused where QuestDB refuses it, else Unreachable."""
        answer = self._request("GET", "/exec", self._query_timeout, {"query": statement})
        self._check(answer, statement)
        try:
            decoded = msgspec.json.decode(answer.data, type=_Answer)
        except msgspec.DecodeError as error:
            raise Unreachable(f"{self.endpoint.http_url} does not answer as QuestDB does: {error}") from error
        columns = decoded.columns
        return Result([c.name for c in columns], [c.type for c in columns], decoded.dataset)

    def csv(self, statement: str) -> Iterator[bytes]:
        """The rows of a query as CSV with a header, in pieces, however many there are. Raises as `sql` does."""
        answer = self._request("GET", "/exp", QUERY_TIMEOUT, {"query": statement}, stream=True)
        self._check(answer, statement)
        try:
            yield from answer.stream(1 << 16)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"{self.endpoint.http_url} broke off its answer: {error}") from error

    def parquet(self, statement: str, room: bytearray) -> memoryview:
        """The rows of a query as a Parquet file, in `room`, which grows where it has to and may be used again.

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
            raise Unreachable(f"{self.endpoint.http_url} broke off its answer: {error}") from error

    def _check(self, answer: urllib3.BaseHTTPResponse, statement: str) -> None:
        if answer.status == 200:
            return
        text = _error_text(answer)
        if answer.status in (401, 403):
            raise AccessRefused(
                f"{self.endpoint.http_url} refused the user and password it was given (HTTP {answer.status}). "
                "Give them as --questdb http://user:password@host:port."
            )
        if answer.status == 400:
            raise QueryError(f"QuestDB refused the statement: {text}\n  {statement.strip()}")
        raise Unreachable(f"{self.endpoint.http_url} answered HTTP {answer.status}: {text}")

    def _request(
        self,
        method: str,
        path: str,
        timeout: urllib3.Timeout,
        fields: dict[str, str],
        body: bytes | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        url = f"{self.endpoint.http_url}{path}?{urlencode(fields)}"
        pool = self._writes if method == "POST" else self._pool
        try:
            return pool.request(method, url, body=body, timeout=timeout, preload_content=not stream)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(f"QuestDB at {self.endpoint.http_url} does not answer: {error}") from error


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
    data = answer.data
    try:
        decoded = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data[:500].decode(errors="replace").strip()
    if isinstance(decoded, dict):
        return str(decoded.get("error") or decoded.get("message") or decoded)
    return str(decoded)
