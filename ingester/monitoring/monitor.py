"""The thread that looks at a running recorder once a second, publishes what it sees, and tells what is wrong."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from ingester.monitoring.alerts import AlertTracker, Notice, duration_text
from ingester.monitoring.observer import Observation, Observer
from ingester.monitoring.report import Report
from ingester.monitoring.state_file import StateFile, read_all
from ingester.threads import SupervisedThread
from ingester.words import counted

log = logging.getLogger(__name__)

Seen = TypeVar("Seen")

LOOK_SECONDS = 1.0
AGAIN_SECONDS = 300.0
"""One that was started again within so long is not announced: whatever starts it again and again would do so too."""


class Tell(Protocol):
    """Takes a message to whoever is told; returns at once."""

    def __call__(self, notice: Notice, report: Report) -> None: ...


class Monitor:
    """Never in the way of recording: it only reads, in a thread of its own, and what fails is logged once."""

    def __init__(self, observer: Observer, data_dir: Path, collector: str, tell: Tell | None = None) -> None:
        self._observer = observer
        self._data_dir = data_dir
        self._collector = collector
        self._tell = tell
        self._file = StateFile(data_dir, collector)
        self._bulletin = AlertTracker()
        self._vitals: Observation | None = None
        self._looked_at = time.monotonic()
        self._failed: set[str] = set()  # what was logged already
        self._failure = ""
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "pulse", self._stopping)

    def latest(self) -> Observation | None:
        """What was seen last; None before the first look."""
        return self._vitals

    def age(self) -> float:
        """Seconds since the last look, or since the start."""
        return time.monotonic() - self._looked_at

    def start(self) -> None:
        """Starts looking."""
        self._thread.start()

    def stop(self, failure: str = "", timeout: float = 5.0) -> None:
        """Looks a last time, for the recorder has ended, and publishes that; `failure`: why not in order."""
        self._failure = failure
        self._stopping.set()
        if self._thread.ident is not None:  # else recording never began
            self._thread.join(timeout)

    def _run(self) -> None:
        before = self._guard("the earlier report cannot be read", self._earlier)
        self._beat()
        if self._vitals is not None and not _is_again(before, self._vitals.report):
            self._announce("started", before)
        while not self._stopping.wait(LOOK_SECONDS):
            self._beat()
        self._beat(stopped=not self._failure)
        self._announce("stopped", None)
        self._file.close()

    def _earlier(self) -> Report | None:
        mine = (each.report for each in read_all(self._data_dir))
        return next((report for report in mine if report.collector == self._collector), None)

    def _beat(self, stopped: bool = False) -> None:
        vitals = self._guard("the recorder cannot be looked at", self._observer.look) or (
            self._vitals if stopped else None
        )
        if vitals is None:
            return
        if stopped:
            vitals = vitals._replace(report=msgspec.structs.replace(vitals.report, stopped=True, problems=[]))
        self._vitals, self._looked_at = vitals, time.monotonic()
        self._guard("the state of the recorder cannot be published", lambda: self._file.write(vitals.report))
        if self._tell is not None and not stopped:
            for notice in self._bulletin.news(vitals.report.problems, time.monotonic()):
                self._tell(notice, vitals.report)

    def _announce(self, kind: str, before: Report | None) -> None:
        if self._tell is None or self._vitals is None:
            return
        report = self._vitals.report
        text = f"recording of {counted(report.pairs, 'pair')} from {report.exchange} {kind}"
        if kind == "stopped":
            text += f" after {duration_text((report.at - report.started).total_seconds())}, "
            text += f"by an error: {self._failure}" if self._failure else "in order"
        elif before is not None and not before.stopped:
            text += f"; the run before was last heard of at {before.at:%Y-%m-%d %H:%M:%S} UTC, and did not end in order"
        self._tell(Notice(kind, "information", "information", text), report)

    def _guard(self, what: str, do: Callable[[], Seen]) -> Seen | None:
        """Does something that must not end the thread; its failure is logged once until it works again."""
        try:
            seen = do()
        except Exception as error:
            if what not in self._failed:
                log.warning("%s: %s: %s", what, type(error).__name__, error)
            self._failed.add(what)
            return None
        if what in self._failed:
            self._failed.discard(what)
            log.info("again all right, which was not: %s", what)
        return seen


def _is_again(before: Report | None, now: Report) -> bool:
    """Whether a recorder was started again shortly after its last start, without having been stopped in order."""
    return before is not None and not before.stopped and (now.started - before.started).total_seconds() < AGAIN_SECONDS
