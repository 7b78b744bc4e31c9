"""The process's surroundings: standard streams as they come, and signals that stop a command."""

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import click

ERRORS = "backslashreplace"
"""A character that the output's encoding lacks is printed as its number, which JSON readers understand too."""


class OutputLost(OSError):
    """Output cannot be written; not raised where the reader has closed the pipe."""


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(error.errno, error.strerror) from error


def open_streams() -> None:
    """Makes all three usable. A closed one leads to /dev/null: else the next file that is opened gets its number, and
    what some library prints ends up in that file."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif name == "stderr" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)
        elif name == "stdout" and isinstance(stream, io.TextIOWrapper):
            file = io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False))
            lines, through = stream.line_buffering, stream.write_through
            sys.stdout = io.TextIOWrapper(file, stream.encoding, ERRORS, line_buffering=lines, write_through=through)


def use_utf8() -> None:
    """Begins again in Python's UTF-8 mode where the locale has another encoding; only what is printed keeps that one.

    Names of data sets have characters that others lack, and a file is the same file whatever the locale says.
    """
    if sys.flags.utf8_mode or sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    environment = {"PYTHONIOENCODING": f"{sys.stdout.encoding}:{ERRORS}"} | os.environ
    with contextlib.suppress(OSError):
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


def say(text: str) -> None:
    """Prints a line; does nothing where that is impossible, as on a full disk or a closed terminal."""
    try:
        click.echo(text)
    except (OSError, ValueError):
        _drop(sys.stdout)


def close_streams() -> None:
    """Writes what is left; what cannot be written does not change how the command ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _drop(stream)


def _drop(stream: io.TextIOBase | object) -> None:
    """Leads a stream nowhere, so that Python's last flush does not fail either."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_signals(again: Callable[[], None] | None = None) -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a closed terminal sets; `again` is called for each Ctrl-C after that.

    A signal that was ignored when the process began stays ignored: nohup, or a shell's `&`, asked for that.
    """
    stop = threading.Event()
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT and again is not None:
            again()
        asked.append(number)
        stop.set()

    before = {number: signal.getsignal(number) for number in STOPPING}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number in taken:
            signal.signal(number, before[number])
