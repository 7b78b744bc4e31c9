"""Records Binance order books for months and turns any range of them into training sets.

`Recorder` reads live books in this process, `open_dataset` opens a data set for training. Each is imported when it is
asked for, so that nothing else waits for it.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingester.datasets import open_dataset as open_dataset
    from ingester.record import Recorder as Recorder

__version__ = version("ingester")

_PUBLIC = {"Recorder": "ingester.record.recorder", "open_dataset": "ingester.datasets.opened"}
"""The module of each name that is imported from here."""


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
