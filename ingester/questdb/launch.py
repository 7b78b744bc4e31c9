"""What the managed QuestDB is started with: its command, its settings and its log."""

import logging
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

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
"""What is in the server's folder. QuestDB sets an umask of its own (0002), so that nobody else may come as far as its
files, these folders are there before it is: for one user alone."""


def command(java: Path, jar: Path, root: Path, native: Path, heap: str) -> list[str]:
    """The command line; `root` is the server's folder, `native` one for libraries that it unpacks."""
    return [
        str(java),
        f"-Xmx{heap}",
        "-Xms32m",
        "-XX:+UseSerialGC",  # 40 MB less than the default collector
        "-XX:+ExitOnOutOfMemoryError",  # a server out of heap half works; one that ends is started again
        "-XX:-UsePerfData",
        "-XX:-CreateCoredumpOnCrash",
        "-XX:ErrorFile=log/crash-%p.log",
        f"-Djava.io.tmpdir={native}",
        "--enable-native-access=io.questdb",
        "--sun-misc-unsafe-memory-access=allow",
        *("-p", str(jar), "-m", "io.questdb/io.questdb.ServerMain", "-d", str(root)),
    ]


def environment(http_port: int, pg_port: int, user: str, password: str) -> dict[str, str]:
    """QuestDB's settings; passwords stay out of the process list this way."""
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
    """Removes files that QuestDB has made for itself and a power cut has emptied, with which it does not start.

    It makes them again: those of the console all together, where the file with their version is missing.
    """
    lost = [path for part in ("conf", "public") for path in sorted((root / part).rglob("*")) if _is_lost(path)]
    if any(path.is_relative_to(root / "public") for path in lost):
        lost.append(root / "public" / "version.txt")
    for path in lost:
        log.warning("%s is empty since a crash, QuestDB creates it again", path)
        path.unlink(missing_ok=True)
    for table in [*root.glob("db/sys.*"), root / "db" / "telemetry_config"]:  # its own notes, nobody's data
        if _is_lost(table / "_meta"):
            log.warning("%s is damaged since a crash, QuestDB creates it again", table)
            shutil.rmtree(table, ignore_errors=True)


def _is_lost(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        return not file.read(64).strip(b"\0")


def first_cause(lines: Sequence[str]) -> str:
    """What ended a server, out of all that it has printed and logged: without the places in its source.

    Of the first exception it is the innermost cause, else the first error, else the last lines.
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
