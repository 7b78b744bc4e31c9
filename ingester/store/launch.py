"""What the managed QuestDB is started with: its command, its settings and its log."""

import os
from pathlib import Path

LOG_CONF = """\
# Written at each start. QuestDB's own log, kept small; `spinBeforeFlush`: else its last words are lost in a crash.
writers=file
w.file.class=io.questdb.log.LogRollingFileWriter
w.file.location=${log.dir}/questdb.log.${date:yyyyMMdd}
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
