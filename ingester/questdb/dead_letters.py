"""Rows that QuestDB refuses for good, set aside in files that a person can read and send again."""

import base64
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from ingester import private
from ingester.clock import SECOND
from ingester.errors import SpoolError, UnsafeFile
from ingester.questdb import ilp
from ingester.spool import reason_of, sync_folder

REMEMBERED = 100_000
"""So many rows are known again when they come again, as after a resend."""


class DeadLetters:
    """A file of JSON lines per day (UTC) in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[bytes, None] = {}

    def path(self, at_ns: int) -> Path:
        """The file of a day."""
        return self.folder / f"{datetime.fromtimestamp(at_ns // SECOND, UTC):%Y-%m-%d}.jsonl"

    def put(self, row: bytes, error: str, at_ns: int) -> bool:
        """Writes a row down durably; False where this run has done so before. Raises SpoolError."""
        digest = hashlib.blake2b(row, digest_size=16).digest()
        if digest in self._known:
            return False
        path = self.path(at_ns)
        try:
            self._append(path, _line(row, error, at_ns))
        except (OSError, UnsafeFile) as failure:
            raise SpoolError(
                f"cannot set aside a refused row in {path}: {reason_of(failure)}. Make room, or let the "
                "recorder write there"
            ) from failure
        self._known[digest] = None
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return True

    def _append(self, path: Path, line: bytes) -> None:
        new = not path.exists()
        if not self.folder.is_dir():
            private.folder(self.folder.parent)
            private.folder(self.folder)
            sync_folder(self.folder.parent)
        with os.fdopen(private.open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
            start = file.tell()
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, start)  # a part of a line would spoil the next one
                raise
        if new:
            sync_folder(self.folder)


def _line(row: bytes, error: str, at_ns: int) -> bytes:
    tags = ilp.tags(row)
    letter = {
        "at": datetime.fromtimestamp(at_ns / SECOND, UTC).isoformat(),
        "table": tags.table,
        "symbol": tags.symbol,
        "last_update_id": tags.update_id,
        "timestamp_ns": tags.at_ns,
        "error": error,
        "row": base64.b64encode(row).decode(),
    }
    return json.dumps(letter, ensure_ascii=False).encode() + b"\n"
