"""Ctrl-C and its like, for commands that run until they are stopped."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

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
