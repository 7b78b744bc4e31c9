"""Records Binance order books for months and turns any range of them into training sets."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingester.datasets.opened import open_dataset as open_dataset

__version__ = version("ingester")

_LAZY = {"open_dataset": "ingester.datasets.opened"}
"""Where the names are that a program may import from here; the modules are imported when one is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
