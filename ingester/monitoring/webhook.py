"""Alerts to a webhook, as JSON, from a thread of its own: nothing waits for it, however slow the receiver is.

    {"text": "…", "collector": "…", "host": "…", "kind": "rows_waiting", "state": "raised", "severity": "critical",
     "summary": "…", "mend": "…", "count": 1, "seconds": 61.0, "at": "2026-11-25T10:00:00Z", "version": "…"}

`text` says it all in words, which is what Slack, Mattermost and others with that field show.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import msgspec
import urllib3

from ingester.clock import backoff
from ingester.errors import SettingsError
from ingester.exchange import Deadline, NotConnected, http_connections
from ingester.monitoring.alerts import Notice
from ingester.monitoring.report import Report
from ingester.proxies import proxy_for
from ingester.text import duration_text
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

POST_SECONDS = 30.0
"""How long one attempt may take, with the proxy."""
TIMEOUT = urllib3.Timeout(connect=5.0, read=10.0)
MOST_WAITING = 100
"""So many messages wait while the other side does not take them; then the oldest goes."""
GIVE_UP_SECONDS = 900.0
"""Older news is no news."""
_PASSING = frozenset({408, 425, 429})
"""Refusals that may pass, besides those of 500 and above."""


def checked_url(url: str) -> str:
    """The address, if it is one. Raises SettingsError, which does not repeat it: it is a secret."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError("--alarm-webhook is no address of the form https://host/path.")
    return url


def message(notice: Notice, report: Report) -> bytes:
    """What is posted."""
    again = f" ({notice.times} times)" if notice.times > 1 else ""
    words = {
        "raised": f"{notice.severity}: {notice.text}{again}",
        "lasts": f"still {notice.severity}, for {duration_text(notice.seconds)}: {notice.text}",
        "recovered": f"over after {duration_text(notice.seconds)}{again}: {notice.text}",
        "information": notice.text,
    }[notice.state]
    body = {
        "text": f"ingester {report.collector}: {words}" + (f"\n{notice.mend}" if notice.mend else ""),
        "collector": report.collector,
        "host": report.host,
        "kind": notice.kind,
        "state": notice.state,
        "severity": notice.severity,
        "summary": notice.text,
        "mend": notice.mend,
        "count": notice.times,
        "seconds": round(notice.seconds, 1),
        "at": report.at,
        "version": report.version,
    }
    return msgspec.json.encode(body)


class Webhook:
    """Posts messages in their order; repeats a failed one with growing pauses, and logs once that it fails."""

    def __init__(
        self,
        url: str,
        *,
        waits: Callable[[], Iterator[float]] = lambda: backoff(1.0, 60.0),
        monotonic: Callable[[], float] = time.monotonic,
        timeout: urllib3.Timeout = TIMEOUT,
    ) -> None:
        self._url = checked_url(url)
        self._shown = f"{urlsplit(url).scheme}://{urlsplit(url).hostname}/…"  # the rest is the secret
        self._waits = waits
        self._monotonic = monotonic
        self._timeout = timeout
        self._waiting: deque[tuple[float, bytes]] = deque(maxlen=MOST_WAITING)
        self._news = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self._proxy = proxy_for(url)
        self._thread = SupervisedThread(self._run, "webhook", self._closing)
        self._thread.start()

    def tell(self, notice: Notice, report: Report) -> None:
        """Queues a message; returns at once."""
        self._waiting.append((self._monotonic(), message(notice, report)))
        self._news.set()

    def close(self, timeout: float = 5.0) -> None:
        """Tries to send what waits, for at most so many seconds."""
        self._closing.set()
        self._news.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            while self._waiting:
                self._deliver(*self._waiting.popleft())
            if self._closing.is_set() and not self._waiting:
                return

    def _deliver(self, since: float, body: bytes) -> None:
        waits = self._waits()
        while (problem := self._post(body)) is not None:
            if not self._failing:
                log.warning("the webhook at %s does not take messages: %s", self._shown, problem.reason)
            self._failing = True
            if problem.final or self._closing.is_set() or self._monotonic() - since > GIVE_UP_SECONDS:
                return
            self._closing.wait(next(waits))
        if self._failing:
            log.info("the webhook at %s takes messages again", self._shown)
        self._failing = False

    def _post(self, body: bytes) -> "_Refusal | None":
        headers = {"content-type": "application/json", "user-agent": "ingester"}
        try:
            with http_connections(self._proxy, Deadline(POST_SECONDS)) as made:
                answer = made.manager.request(
                    *("POST", self._url),
                    body=body,
                    headers=headers,
                    timeout=self._timeout,
                    redirect=False,
                    retries=False,
                    preload_content=False,  # what it says is not read
                )
        except (urllib3.exceptions.HTTPError, NotConnected) as error:
            return _Refusal(type(error).__name__, final=False)  # its text may hold the address
        except Exception as error:  # whatever it was, it must not end the thread
            return _Refusal(type(error).__name__, final=True)
        if 200 <= answer.status < 300:
            return None
        return _Refusal(f"HTTP {answer.status}", final=answer.status < 500 and answer.status not in _PASSING)


class _Refusal(msgspec.Struct, frozen=True):
    reason: str
    final: bool
    """Whether trying again is in vain."""
