"""The thread that makes appended records durable, so that no other thread waits for the disk."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ingester.spool.disk import sync_folder
from ingester.spool.segment import Segment
from ingester.threads import SupervisedThread

log = logging.getLogger(__name__)

T = TypeVar("T")


class Syncer:
    """Syncs what was touched a short while after the first touch, and closes files that take no more records."""

    def __init__(
        self,
        folder: Path,
        seconds: float,
        sync: Callable[[int], None],
        tend_seconds: float,
    ) -> None:
        """`seconds`: how long a touched file waits for its sync. `tend_seconds`: how often `tend` is called."""
        self._folder = folder
        self._seconds = seconds
        self._sync = sync
        self._tend: Callable[[], None] = lambda: None
        self._chore_seconds = tend_seconds
        self._lock = threading.Lock()
        self._touched: set[Segment] = set()
        self._finished: set[Segment] = set()  # to be closed once synced
        self._folder_touched = False
        self._until_ns = 0
        self._dirty = threading.Event()
        self._stopping = threading.Event()
        self._thread = SupervisedThread(self._run, "spool-sync", self._stopping)
        self.synced_ns = 0
        """Everything received up to here would survive a power cut."""
        self.failing = False
        """Whether the last sync failed."""

    def start(self, synced_ns: int, tend: Callable[[], None]) -> None:
        """Starts syncing; everything up to `synced_ns` is on disk already. Calls `tend` between syncs."""
        self._tend = tend
        self.synced_ns = self._until_ns = synced_ns
        self._thread.start()

    def created(self, segment: Segment) -> None:
        """Notes a new file in the folder."""
        with self._lock:
            self._touched.add(segment)
            self._folder_touched = True

    def appended(self, segment: Segment, last_ns: int) -> None:
        """Notes that records up to receive time `last_ns` were appended."""
        with self._lock:
            self._touched.add(segment)
            self._until_ns = max(self._until_ns, last_ns)
        self._dirty.set()

    def finished(self, segment: Segment) -> None:
        """Notes that a file takes no more records: this thread closes it."""
        with self._lock:
            self._finished.add(segment)
        self._dirty.set()

    def stop(self) -> None:
        """Syncs a last time; all files must be finished."""
        self._stopping.set()
        self._dirty.set()
        self._thread.join()
        self._sync_all()
        for segment in self._finished:  # where syncing fails
            os.close(segment.descriptor)
        self._finished.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._dirty.wait(self._chore_seconds):
                self._stopping.wait(self._seconds)
                self._dirty.clear()
                self._sync_all()
            self._tend()

    def _sync_all(self) -> None:
        with self._lock:
            touched, self._touched = self._touched, set()
            finished, self._finished = self._finished, set()
            folder, self._folder_touched = self._folder_touched, False
            until = self._until_ns
        try:
            failed = {segment for segment in touched if not self._try(self._sync, segment.descriptor)}
            folder_failed = folder and not self._try(sync_folder, self._folder)
        except BaseException:  # a bug: nothing is known to be synced, so all of it is synced again
            self._again(touched, finished, folder)
            raise
        for segment in finished - failed:
            os.close(segment.descriptor)
        if failed or folder_failed:
            self._again(failed, finished & failed, folder_failed)
            return
        self.synced_ns = until
        if self.failing:
            self.failing = False
            log.warning("%s can be synced again", self._folder)

    def _again(self, touched: set[Segment], finished: set[Segment], folder: bool) -> None:
        with self._lock:
            self._touched |= touched
            self._finished |= finished
            self._folder_touched |= folder
        self._dirty.set()

    def _try(self, sync: Callable[[T], None], what: T) -> bool:
        try:
            sync(what)
        except OSError as error:
            if not self.failing:
                log.error("cannot sync %s, a power cut would lose rows: %s", self._folder, error.strerror or error)
            self.failing = True
            return False
        return True
