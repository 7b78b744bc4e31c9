"""Calls that are waited for so long and no longer, however slowly the other side answers."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def beside(do: Callable[[], Result], name: str) -> Future[Result]:
    """Starts a call in a thread of its own, for which nobody has to wait: not even the end of the process."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            result = do()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def within(seconds: float, do: Callable[[], Result], name: str) -> Result:
    """The result of a call. Raises what it raises, and TimeoutError where it takes longer; it is left behind then."""
    return beside(do, name).result(seconds)
