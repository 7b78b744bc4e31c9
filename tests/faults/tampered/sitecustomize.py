"""Python runs this before a recorder whose PYTHONPATH holds this folder: names and time are then as files say.

In the folder `TAMPERED`: while `dns` exists, `localhost` has no address; `clock` has the ns by which the time of day is
off; `asleep` those for which the machine was suspended, which the time of day and the time since boot count; while
`eio` exists, no segment of a spool can be read; the threads whose names begin as a line of `kill` says die, once, of an
error where they are.
"""

import ctypes
import errno
import io
import os
import socket
import threading
import time
from pathlib import Path

_folder = Path(os.environ["TAMPERED"])
_getaddrinfo, _time_ns, _clock_gettime_ns = socket.getaddrinfo, time.time_ns, time.clock_gettime_ns
_open = io.open


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


def open_(file, *arguments, **options):
    if str(file).endswith(".seg") and (_folder / "eio").exists():
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
    return _open(file, *arguments, **options)


socket.getaddrinfo, time.time_ns, time.clock_gettime_ns = getaddrinfo, time_ns, clock_gettime_ns
io.open = open_


def kill():
    while True:
        time.sleep(0.05)
        try:
            names = (_folder / "kill").read_text().split("\n")
            (_folder / "kill").unlink()
        except OSError:
            continue
        for thread in threading.enumerate():
            if any(name and thread.name.startswith(name) for name in names):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


threading.Thread(target=kill, daemon=True).start()
