"""The QuestDB server's jar: fetched once by its Maven coordinate, and verified before every start."""

import hashlib
import logging
import math
import os
from pathlib import Path
from typing import BinaryIO

from platformdirs import user_cache_path

from ingester.errors import ServerError
from ingester.private import take_lock

log = logging.getLogger(__name__)

GROUP, ARTIFACT, VERSION = "org.questdb", "questdb", "9.3.4"
SHA256 = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"
OTHER_WAYS = "Or use a QuestDB of your own: --questdb http://host:9000."


def cache_folder() -> Path:
    """Where fetched jars are kept: `INGESTER_CACHE_DIR`, or the platform's folder for caches."""
    return Path(os.environ.get("INGESTER_CACHE_DIR") or user_cache_path("ingester", appauthor=False)) / "maven"


def path_in(cache: Path) -> Path:
    """Where the pinned jar is in a cache."""
    return cache.joinpath(*GROUP.split("."), ARTIFACT, VERSION, f"{ARTIFACT}-{VERSION}.jar")


def verified_jar(cache: Path) -> BinaryIO:
    """The pinned jar, open, after its SHA-256 was checked; the network is only asked where the cache lacks it.

    Whoever runs the jar uses this descriptor: another file put in its place after the check is not the one that runs.
    Raises ServerError where the jar cannot be had.
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
    """What to say where Java or its fetcher is not installed."""
    return ServerError(
        f"The managed QuestDB needs the package {error.name!r}: pip install 'ingester[embedded]'. {OTHER_WAYS}"
    )


def sha256(path: Path) -> str | None:
    """The digest of a file; None where it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
