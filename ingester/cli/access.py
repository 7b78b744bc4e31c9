"""Who asks a QuestDB: the address, user, password, token and CA that options, environment and files give, made one."""

import contextlib
import dataclasses
import logging
import os
from pathlib import Path
from typing import NamedTuple

import click
from click.core import ParameterSource

from ingester.errors import SettingsError
from ingester.questdb import Endpoint, read_secret

log = logging.getLogger("ingester.access")

OTHER_WAYS = "--questdb-password-file FILE or INGESTER_QUESTDB_PASSWORD"
_RANKS = {ParameterSource.COMMANDLINE: 2, ParameterSource.ENVIRONMENT: 1}
"""What is said nearer to the user holds where the same is said twice."""


class Access(NamedTuple):
    """What the options say, each as the one `--questdb-…` of its name; `url` is `--questdb`."""

    url: str | None
    user: str | None = None
    password: str | None = None
    password_file: Path | None = None
    token: str | None = None
    token_file: Path | None = None
    ca: Path | None = None

    def __repr__(self) -> str:
        return "Access(…)"  # it holds secrets


def endpoint_of(access: Access) -> Endpoint | None:
    """The endpoint that the options of the running command mean; None where they mean the managed server.

    Warns of passwords that others can read. Raises SettingsError on what does not fit together.
    """
    for name in ("password", "token"):
        if _rank(f"questdb_{name}") == 2:
            hide("", str(getattr(access, name)), "")
            raise SettingsError(
                f"--questdb-{name} on the command line could be read by every user of this machine. "
                f"Give it by INGESTER_QUESTDB_{name.upper()} or --questdb-{name}-file FILE."
            )
    if access.url is None:
        typed = [name for name in Access._fields[1:] if _rank(f"questdb_{name}") == 2]
        if typed:
            raise SettingsError(
                f"--questdb-{typed[0].replace('_', '-')} goes with --questdb URL, which is not given; the managed "
                "server has its own password."
            )
        return None
    endpoint = Endpoint.parse(access.url)
    if endpoint.password and _rank("questdb") == 2:
        hidden = hide(":", access.url.rpartition("@")[0].partition("://")[2].partition(":")[2], "@")
        log.warning(
            "the password in --questdb %s: give it by %s instead",
            "could be read by every user for a moment, and stays in the shell's history"
            if hidden
            else "can be read by every user of this machine",
            OTHER_WAYS,
        )
    endpoint = dataclasses.replace(_with_secret(endpoint, access), ca_file=access.ca)
    if endpoint.has_secret and not endpoint.is_encrypted and not endpoint.is_local:
        log.warning(
            "the %s goes to %s unencrypted, anybody on the way can read it; https:// prevents that",
            "token" if endpoint.token else "password",
            endpoint.host,
        )
    return endpoint


def _with_secret(endpoint: Endpoint, access: Access) -> Endpoint:
    """The endpoint with the user, and the one password or token, that is said nearest to the user."""
    if access.user is not None and (endpoint.user is None or _rank("questdb_user") >= _rank("questdb")):
        endpoint = dataclasses.replace(endpoint, user=access.user)
    given = {name: _rank(f"questdb_{name}") for name in ("password", "password_file", "token", "token_file")}
    given = {name: rank for name, rank in given.items() if getattr(access, name) is not None}
    if endpoint.password is not None:
        given["url"] = _rank("questdb")
    nearest = [name for name, rank in given.items() if rank == max(given.values())]
    if len(nearest) > 1:
        ways = " and ".join("in --questdb" if name == "url" else f"as {_shown(name)}" for name in nearest)
        raise SettingsError(f"Who asks QuestDB is said twice, {ways}. Say it once.")
    way = nearest[0] if nearest else None
    if way is None or way == "url":
        if endpoint.user is not None and endpoint.password is None:
            raise SettingsError(f"The QuestDB user {endpoint.user!r} is given without a password. Add {OTHER_WAYS}.")
        return endpoint
    file = getattr(access, way) if way.endswith("_file") else None
    secret = read_secret(file) if file is not None else getattr(access, way)
    if way.startswith("token"):
        return dataclasses.replace(endpoint, user=None, password=None, token=secret, read_from=file)
    if endpoint.user is None:
        raise SettingsError("A QuestDB password is given without its user. Add --questdb-user NAME.")
    return dataclasses.replace(endpoint, password=secret, read_from=file)


def _shown(name: str) -> str:
    return f"--questdb-{name.replace('_', '-')}" if name.endswith("_file") else f"INGESTER_QUESTDB_{name.upper()}"


def _rank(parameter: str) -> int:
    source = click.get_current_context().get_parameter_source(parameter)
    return _RANKS.get(source, 0) if source is not None else 0


def hide(before: str, secret: str, after: str) -> bool:
    """Overwrites a secret between two texts in this process' command line; whether that was possible.

    Linux shows the memory in which the arguments came: it is written to through the kernel, which checks the address.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start, arg_end: fields 48 and 49 of proc(5)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            arguments, sought = memory.read(end - start), os.fsencode(before + secret + after)
            if not secret or sought not in arguments:
                return False
            memory.seek(start)
            stars = before + "*" * len(os.fsencode(secret)) + after
            memory.write(arguments.replace(sought, os.fsencode(stars)))
        return True
    return False
