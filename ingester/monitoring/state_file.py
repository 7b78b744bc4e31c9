"""`state/<collector>.json` in the data folder: a recorder's latest report, for other processes to read.

It is replaced as a whole about once a second, and not synced: nobody needs it after a power cut. Beside it lies a lock
that the recorder holds for as long as its process lives, however that ends; so a process id that went to someone else,
or is another one inside a container, misleads nobody.
"""

import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from ingester import private
from ingester.locks import is_locked, take_lock
from ingester.monitoring.report import Report
from ingester.text import inside, path_part

log = logging.getLogger(__name__)


def state_folder(data_dir: Path) -> Path:
    """Where the reports of a data folder's recorders are."""
    return data_dir / "state"


class StateFile:
    """The writing side; belongs to one thread. Raises OSError and UnsafeFile."""

    def __init__(self, data_dir: Path, collector: str) -> None:
        self._folder = state_folder(data_dir)
        self._path = inside(self._folder, f"{path_part(collector)}.json", "collector")
        self._lock = -1

    def write(self, report: Report) -> None:
        """Replaces the report, and takes the lock where it is not held yet."""
        private.folder(self._folder)
        if self._lock < 0:
            self._claim()
        temporary = self._path.with_suffix(".new")
        with private.write_anew(temporary) as file:
            file.write(msgspec.json.encode(report) + b"\n")
        temporary.replace(self._path)

    def close(self) -> None:
        """Gives up the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _claim(self) -> None:
        descriptor = private.open_file(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
        if take_lock(descriptor):
            self._lock = descriptor
        else:  # a reader may hold it for a moment: next time
            os.close(descriptor)


class Published(NamedTuple):
    """What a recorder has published last."""

    report: Report
    alive: bool
    """Whether its process runs."""
    age_seconds: float
    """How old that is by the wall clock."""
    path: Path


def read_all(data_dir: Path) -> list[Published]:
    """The reports of all recorders that ever ran in a data folder; of files that cannot be read, a warning."""
    found = []
    for path in sorted(state_folder(data_dir).glob("*.json")):
        try:
            age = time.time() - path.stat().st_mtime
            report = msgspec.json.decode(path.read_bytes(), type=Report)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # msgspec's errors are among them
            log.warning("%s cannot be read: %s", path, error)
            continue
        found.append(Published(report, is_locked(path.with_suffix(".lock")), max(0.0, age), path))
    return found


def running_collectors(data_dir: Path) -> set[str]:
    """The names of the recorders that run in a data folder."""
    return {path.stem for path in state_folder(data_dir).glob("*.lock") if is_locked(path)}
