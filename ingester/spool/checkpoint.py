"""How far the records of the spool are acknowledged, in a file that is whole or not there."""

import logging
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ingester import private
from ingester.spool.disk import Disk, is_full, replace_durably

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """Everything before `sequence` is acknowledged; `last_ns` is the latest receive time in it, 0 for none."""

    sequence: int
    last_ns: int


class CheckpointFile:
    """Reads and writes the position. Whoever wants to save hands in how to ask for the position, so that of two
    threads the later one never writes an older position."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._path = folder / "position"
        self._disk = disk
        self._lock = threading.Lock()
        self._failing = False
        self.durable = 0
        """The sequence that is on disk: what lies before it may be removed."""

    def load(self) -> Checkpoint | None:
        """The position; None where there is no file, or it is damaged.

        Raises OSError where the file cannot be read now: without it, numbers would start below those given before.
        """
        try:
            content = self._path.read_bytes()
            sequence, last_ns, _ = content.split(b" ")
            position = Checkpoint(int(sequence), int(last_ns))
        except (FileNotFoundError, ValueError):
            return None
        if content != _encode(position):
            return None
        self.durable = position.sequence
        return position

    def lost(self) -> None:
        """The folder was made again: the file is to be written again."""
        self.durable = 0

    def save(self, current: Callable[[], Checkpoint]) -> None:
        """Writes and syncs the position. A failure is logged once, and leaves the old one."""
        with self._lock:
            position = current()
            try:
                self._write(_encode(position))
            except OSError as error:
                if not self._failing:
                    reason = error.strerror or error
                    log.error("cannot write %s, a restart would send rows again: %s", self._path, reason)
                self._failing = True
                return
            self._failing = False
            self.durable = position.sequence

    def _write(self, content: bytes) -> None:
        try:
            replace_durably(self._path, content, private.FILE)
        except OSError as error:
            if not is_full(error) or not self._disk.reserved:
                raise
            self._disk.ran_out()  # what the reserve is for
            replace_durably(self._path, content, private.FILE)


def _encode(position: Checkpoint) -> bytes:
    text = b"%d %d" % position
    return b"%b %08x\n" % (text, zlib.crc32(text))
