"""`ingester start` as a process of its own, for tests: started, watched, ended as a user would."""

import os
import signal
import subprocess
import sys
import threading
import uuid

from ingester.questdb.client import QuestDB


def interruptible():
    """For a child that is to feel Ctrl-C: a shell's background job, and all that it starts, would not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Recorder:
    """A running `ingester start`; what it logs can be waited for."""

    def __init__(self, *options, environment=None):
        """`environment`: variables that it has beyond ours."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ingester", "start", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            preexec_fn=interruptible,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | (environment or {}),
        )
        self.lines = []
        self._looked_at = 0  # lines that were waited for already
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        self.process.stdout.close()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, words, timeout=60):
        """Waits until it prints a line that holds `words`, after the one that was waited for last."""
        with self._news:
            if self._news.wait_for(lambda: self._find(words) or self._ended, timeout) and (line := self._find(words)):
                self._looked_at = self.lines.index(line, self._looked_at) + 1
                return line
        raise AssertionError(f"{words!r} never came:\n{self.output}")

    def _find(self, words):
        return next((line for line in self.lines[self._looked_at :] if words in line), None)

    @property
    def output(self):
        """Everything it has printed."""
        return "".join(self.lines)

    def stop(self, number=signal.SIGTERM, timeout=60):
        """Ends it; gives (exit code, everything it printed)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(timeout)
        self._reader.join(timeout)
        return self.process.returncode, self.output

    def kill(self):
        """Ends it as a power cut would."""
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()


def url_of(endpoint):
    """`--questdb` for a managed server."""
    scheme, address = endpoint.http_url.split("://")
    return f"{scheme}://{endpoint.user}:{endpoint.password}@{address}"


def at(simulator, questdb):
    """The options that point a recorder at a simulator and a server, each with its own list of pairs."""
    return (
        "--stream-url",
        simulator.stream_url,
        "--rest-url",
        simulator.rest_url,
        "--questdb",
        url_of(questdb.endpoint),
        "--data-dir",
        str(questdb.data_dir),
        "--pairs-file",
        str(questdb.data_dir / f"pairs-{uuid.uuid4().hex}.txt"),
    )


def rows_of(questdb, collector, columns="symbol, last_update_id"):
    """All rows of a collector, in the order of time."""
    db = QuestDB(questdb.endpoint)
    db.sql("SELECT wait_wal_table('orderbook')")
    return db.sql(f"SELECT {columns} FROM orderbook WHERE collector = '{collector}' ORDER BY timestamp, symbol").rows
