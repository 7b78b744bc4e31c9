"""Python runs this before a recorder whose PYTHONPATH holds this folder: names and time are then as files say.

In the folder `TAMPERED`: while `dns` exists, `localhost` has no address; `clock` has the ns by which the time of day is
off; `asleep` those for which the machine was suspended, which the time of day and the time since boot count.
"""

import os
import socket
import time
from pathlib import Path

_folder = Path(os.environ["TAMPERED"])
_getaddrinfo, _time_ns, _clock_gettime_ns = socket.getaddrinfo, time.time_ns, time.clock_gettime_ns


def getaddrinfo(host, *arguments, **options):
    if host == "localhost" and (_folder / "dns").exists():
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _getaddrinfo(host, *arguments, **options)


def number(name):
    try:
        return int((_folder / name).read_text())
    except (OSError, ValueError):
        return 0


def time_ns():
    return _time_ns() + number("clock") + number("asleep")


def clock_gettime_ns(clock):
    return _clock_gettime_ns(clock) + (number("asleep") if clock == time.CLOCK_BOOTTIME else 0)


socket.getaddrinfo, time.time_ns, time.clock_gettime_ns = getaddrinfo, time_ns, clock_gettime_ns
