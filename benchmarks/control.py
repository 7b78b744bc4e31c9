"""How the benchmark's processes talk: one word a line on stdin, one JSON object a line on stdout.

Standard library only, because a rival runs in an environment of its own.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

Report = Callable[[], dict[str, Any]]


def tell(**values: Any) -> None:
    """Says something to the benchmark."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def answer(report: Report, begin: Callable[[], None] | None = None) -> threading.Event:
    """Answers `begin` and `report` in a thread of its own; the event given back is set by `stop`.

    When the benchmark is gone, however it ended, this process ends too.
    """
    stop = threading.Event()

    def run() -> None:
        for line in sys.stdin:
            match line.strip():
                case "begin":
                    if begin is not None:
                        begin()
                    tell(threads={str(thread.native_id): thread.name for thread in threading.enumerate()})
                case "report":
                    tell(**report())
                case "stop":
                    stop.set()
        os._exit(1)

    threading.Thread(target=run, name="control", daemon=True).start()
    return stop
