"""`ingester start` as a process of its own, for tests: started, watched, ended as a user would."""

import os
import signal
import subprocess
import sys
import time

from ingester.store.questdb import QuestDB


class Recorder:
    """A running `ingester start`; what it logs can be waited for."""

    def __init__(self, *options):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ingester", "start", *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.lines = []

    def wait_for(self, words, timeout=60):
        """Reads what it prints until a line holds `words`."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            line = self.process.stdout.readline()
            if not line:
                break
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"{words!r} never came:\n{''.join(self.lines)}")

    def stop(self, number=signal.SIGTERM, timeout=60):
        """Ends it; gives (exit code, everything it printed)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, "".join(self.lines) + rest

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def url_of(endpoint):
    """`--questdb` for a managed server."""
    scheme, address = endpoint.http_url.split("://")
    return f"{scheme}://{endpoint.user}:{endpoint.password}@{address}"


def at(simulator, questdb):
    """The options that point a recorder at a simulator and a server."""
    return (
        "--stream-url",
        simulator.stream_url,
        "--rest-url",
        simulator.rest_url,
        "--questdb",
        url_of(questdb.endpoint),
        "--data-dir",
        str(questdb.data_dir),
    )


def rows_of(questdb, collector, columns="symbol, last_update_id"):
    """All rows of a collector, in the order of time."""
    db = QuestDB(questdb.endpoint)
    db.sql("SELECT wait_wal_table('orderbook')")
    return db.sql(f"SELECT {columns} FROM orderbook WHERE collector = '{collector}' ORDER BY timestamp, symbol").rows
