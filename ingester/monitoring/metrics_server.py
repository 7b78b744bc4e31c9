"""The metrics port: `/metrics` for Prometheus, `/healthz` for container engines and load balancers.

prometheus_client makes the text; its own server answers on every path, has a thread for each client that connects and
says nothing, and prints errors across the terminal. This one has a few threads at most, and logs. A request has a
deadline, and the client that has been slow for longest makes way for a new one. Requests for other host names are
refused: a web page whose name suddenly leads to this address (DNS rebinding) would else have a browser read the answer.
"""

import contextlib
import itertools
import logging
import platform
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime
from functools import cache
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, get_type_hints
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import msgspec
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ingester.errors import OperationError, SettingsError
from ingester.metrics import LAG_BOUNDS, Counter, Durations, Gauge
from ingester.monitoring.alerts import connecting_text
from ingester.monitoring.monitor import Observation
from ingester.monitoring.report import Report
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)


class MetricsCollector(Collector):
    """Gives the latest observation of a recorder as metrics; nothing before the first."""

    def __init__(self, latest: Callable[[], Observation | None]) -> None:
        self._latest = latest

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known without asking."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of the latest observation, so that a scrape waits for nothing."""
        seen = self._latest()
        if seen is None:
            return
        report = seen.report
        yield from _identity(report)
        for section in (report, report.rows, report.storing, report.spool, report.feed, report.disk):
            yield from declared_metrics(section)
        yield from _labelled(report, seen)
        yield HistogramMetricFamily(
            "ingester_store_lag_seconds",
            "From the receipt of a row to QuestDB's acknowledgement.",
            buckets=lag_buckets(seen.lag),
            sum_value=seen.lag.seconds,
        )


def metrics_registry(latest: Callable[[], Observation | None]) -> CollectorRegistry:
    """What a scrape asks: the recorder by its latest observation, the process, and Python."""
    made = CollectorRegistry()
    made.register(MetricsCollector(latest))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


def declared_metrics(section: msgspec.Struct) -> Iterator[Metric]:
    """Yields a metric for each field that is annotated with `Counter` or `Gauge`."""
    for name, kind in _declared(type(section)):
        value = getattr(section, name)
        if isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(kind, Counter):
            yield CounterMetricFamily(f"ingester_{kind.name}", kind.help, value=value)
            continue
        family = GaugeMetricFamily(f"ingester_{kind.name}", kind.help)
        if (shown := kind.none if value is None else value) is not None:
            family.add_metric([], float(shown))
        yield family


@cache
def _declared(section: type[msgspec.Struct]) -> list[tuple[str, Counter | Gauge]]:
    hints = get_type_hints(section, include_extras=True)
    return [
        (name, each)
        for name in section.__struct_fields__
        for each in getattr(hints[name], "__metadata__", ())
        if isinstance(each, Counter | Gauge)
    ]


def _identity(report: Report) -> Iterator[Metric]:
    build = {"version": report.version, "python": platform.python_version()}
    yield InfoMetricFamily("ingester_build", "The program.", value=build)
    names = ("collector", "exchange", "depth", "interval_ms")
    recorder = {name: str(getattr(report, name)) for name in names}
    yield InfoMetricFamily("ingester_recorder", "What is recorded.", value=recorder)
    yield GaugeMetricFamily(
        "ingester_receiving", "Whether the first book has come since the start.", value=report.connecting is None
    )
    yield GaugeMetricFamily(
        "ingester_threads_down", "Threads that died and do not run now.", value=len(report.threads.down)
    )


def _labelled(report: Report, seen: Observation) -> Iterator[Metric]:
    counts, gaps, places = seen.event_counts, report.gaps, report.connections
    recording = report.pairs - gaps.open_pairs - gaps.halted_pairs
    states = {"recording": recording, "silent": gaps.open_pairs, "halted": gaps.halted_pairs}
    ages = {each.label: each.age_seconds for each in places if each.age_seconds is not None}
    for kind, name, help_, label, values in (
        (CounterMetricFamily, "thread_deaths", "Threads that died of an error.", "thread", report.threads.deaths),
        (CounterMetricFamily, "events", "Events put on record in collector_events.", "kind", counts.events),
        (GaugeMetricFamily, "pairs", "Pairs, by whether they bring books now.", "state", states),
        (GaugeMetricFamily, "pair_last_seen_age_seconds", "Since a pair's last book.", "pair", seen.ages),
        (GaugeMetricFamily, "connection_age_seconds", "Age of a connection that stands.", "connection", ages),
        (
            GaugeMetricFamily,
            "connection_up",
            "Whether a connection stands.",
            "connection",
            {each.label: each.age_seconds is not None for each in places},
        ),
        (
            CounterMetricFamily,
            "gaps",
            "Gaps that are over, over all pairs.",
            "reason",
            {reason: each.number for reason, each in counts.gaps.items()},
        ),
        (
            CounterMetricFamily,
            "gap_seconds",
            "Their lengths, summed over pairs.",
            "reason",
            {reason: each.seconds for reason, each in counts.gaps.items()},
        ),
    ):
        family = kind(f"ingester_{name}", help_, labels=[label])
        for value, number in values.items():
            family.add_metric([value], number)
        yield family
    problems = GaugeMetricFamily("ingester_problem", "1 for each thing that is wrong now.", labels=["kind", "severity"])
    for problem in report.problems:
        problems.add_metric([problem.kind, problem.severity], 1)
    yield problems


def lag_buckets(lag: Durations) -> list[tuple[str, float]]:
    """Returns upper bounds, each with the count up to it, as Prometheus wants a histogram."""
    bounds = [*map(str, LAG_BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, itertools.accumulate(lag.within)), strict=True))


# The port.

MOST_REQUESTS = 8
"""Requests that are answered at the same time; with more, the oldest is hung up on."""
MOST_THREADS = 4 * MOST_REQUESTS
"""At this number new requests are hung up on: threads of closed requests end at once, unless the answer hangs."""
REQUEST_SECONDS = 5.0
"""How long a client may take in all, from its connection to the last byte of its answer."""
RETRY_SECONDS = 0.2
"""After a connection that could not be taken."""
STALE_SECONDS = 30.0
"""A look at the recorder that is older means that looking hangs, as on a dead disk."""

Start = Callable[..., Any]


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:9464`, `[::1]:9464`, `:9464` (this machine only) or `9464` as (host, port). Raises SettingsError."""
    plain = text.strip()
    try:
        parts = urlsplit(f"//127.0.0.1:{plain}" if plain.isdigit() else f"//{plain}")
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        port = None
    if port is None or not 0 <= port <= 65535 or parts.path or parts.query or parts.username:
        raise SettingsError(f"--metrics {text!r} is no address of the form host:port, such as 127.0.0.1:9464.")
    return host, port


def is_ours(host: str, known: Collection[str]) -> bool:
    """Whether a `Host` header can be meant for us: no name at all, an address, a name without a dot (which nobody can
    register), or a known one."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    name = name.rstrip(".")
    if "." not in name or ":" in name or name in known or "*" in known:
        return True
    return all(part.isdecimal() for part in name.split("."))


class MonitoringServer:
    """Answers from its construction until `close`. Raises SettingsError, and OperationError where it cannot listen."""

    def __init__(self, address: str, hosts: Collection[str] = ()) -> None:
        """`hosts`: names for which requests are answered besides those of this machine."""
        host, port = parse_address(address)
        self._known = {name.lower() for name in (host, socket.gethostname(), *hosts)}
        self._latest: Callable[[], Observation | None] = _nothing
        self._age: Callable[[], float] = float
        self._failed = False
        try:
            self._server = _Server(host, port)
        except OSError as error:
            raise OperationError(
                f"--metrics {address} cannot be listened on: {error.strerror or error}. "
                "Choose another port, or end the program that has it."
            ) from error
        self._metrics = make_wsgi_app(metrics_registry(_nothing))
        self._server.set_app(self._answer)
        self._thread = SupervisedThread(self._server.serve_forever, "metrics")
        self._thread.start()
        log.info("metrics at %s/metrics", self.url)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else host
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def show(self, latest: Callable[[], Observation | None], age: Callable[[], float]) -> None:
        """Answers from now on with the latest observation; `age` gives the seconds since it was made."""
        self._age, self._latest = age, latest
        self._metrics = make_wsgi_app(metrics_registry(latest))

    def close(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        try:
            return self._route(environ, start)
        except Exception:  # a bug: logged once, for it would come again with every scrape
            if not self._failed:
                log.exception("%s could not be answered", environ["PATH_INFO"])
            self._failed = True
            return _reply(start, "500 Internal Server Error", "the recorder's log has the reason\n")

    def _route(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if not is_ours(environ.get("HTTP_HOST", ""), self._known):
            asked = ascii(environ["HTTP_HOST"][:200])
            text = f"there is no {asked} here; if this is the recorder's name: ingester start --metrics-host NAME\n"
            return _reply(start, "403 Forbidden", text)
        if environ["REQUEST_METHOD"] != "GET":
            return _reply(start, "405 Method Not Allowed", "only GET is answered\n")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start)
            return answer
        if path == "/healthz":
            status, health_now = health(self._latest(), self._age())
            line = "200 OK" if status == 200 else "503 Service Unavailable"
            return _reply(start, line, msgspec.json.encode(health_now).decode() + "\n", "application/json")
        return _reply(start, "404 Not Found", "there are /metrics and /healthz\n")


def _nothing() -> None:
    """Before recording begins there is no observation."""


def health(seen: Observation | None, age_seconds: float) -> tuple[int, dict[str, Any]]:
    """Returns HTTP status and answer of `/healthz`: 503 where something critical is wrong, no book has come yet, or the
    latest observation is old."""
    if seen is None or age_seconds > STALE_SECONDS:
        reason = "recording has not begun" if seen is None else "the recorder does not come to look at itself"
        return 503, {"status": "unknown", "reason": reason, "age_seconds": round(age_seconds, 1)}
    problems, connecting = seen.report.problems, seen.report.connecting
    critical = any(problem.severity == "critical" for problem in problems)
    status = "critical" if critical else "connecting" if connecting else "warning" if problems else "ok"
    return (503 if critical or connecting else 200), {
        "status": status,
        "connecting": connecting and connecting_text(connecting),
        "collector": seen.report.collector,
        "age_seconds": round(age_seconds, 1),
        "problems": problems,
    }


def _reply(start: Start, status: str, text: str, kind: str = "text/plain; charset=utf-8") -> Iterable[bytes]:
    body = text.encode()
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *arguments: object) -> None:
        """Scrapes are not worth a line in the log."""
        log.debug(format, *arguments)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int) -> None:
        self._changing = threading.Lock()
        self._since: dict[Any, float] = {}  # when each request came, the oldest first; not those that were hung up on
        self._running = 0
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__(found[0][4][:2], _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Binds without the reverse lookup of the host's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> Any:
        """Waits after a connection that could not be accepted: without descriptors, trying at once would be busy."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(RETRY_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own; with too many of them it hangs up on the oldest request, else on this one."""
        with self._changing:
            if len(self._since) >= MOST_REQUESTS:
                _hang_up(next(iter(self._since)))
                self._since.pop(next(iter(self._since)))
            if self._running >= MOST_THREADS:
                self.shutdown_request(request)
                return
            self._since[request] = time.monotonic()
            self._running += 1
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self._end(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._end(request)

    def service_actions(self) -> None:
        """Hangs up on requests whose time is over; called about twice a second."""
        with self._changing:
            late = [each for each, since in self._since.items() if time.monotonic() - since > REQUEST_SECONDS]
            for each in late:
                _hang_up(each)
                del self._since[each]

    def _end(self, request: Any) -> None:
        with self._changing:
            self._since.pop(request, None)
            self._running -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request from %s failed", client_address, exc_info=True)


def _hang_up(request: Any) -> None:
    """Its thread, which waits for it, finds it closed and ends."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
