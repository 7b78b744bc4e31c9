"""Python runs this before a recorder whose PYTHONPATH holds this folder: names and time are then as files say.

In the folder `TAMPERED`: while `dns` exists, `localhost` has no address; `clock` has the ns by which time is off; while
`eio` exists, no segment of a spool can be read.
"""

import errno
import io
import os
import socket
import time
from pathlib import Path

_folder = Path(os.environ["TAMPERED"])
_getaddrinfo, _time_ns, _open = socket.getaddrinfo, time.time_ns, io.open


def getaddrinfo(host, *arguments, **options):
    if host == "localhost" and (_folder / "dns").exists():
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _getaddrinfo(host, *arguments, **options)


def time_ns():
    try:
        return _time_ns() + int((_folder / "clock").read_text())
    except (OSError, ValueError):
        return _time_ns()


def open_(file, *arguments, **options):
    if str(file).endswith(".seg") and (_folder / "eio").exists():
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
    return _open(file, *arguments, **options)


socket.getaddrinfo, time.time_ns, io.open = getaddrinfo, time_ns, open_
