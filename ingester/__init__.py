"""Records Binance order books for months and turns any range of them into training sets."""

from importlib.metadata import version

__version__ = version("ingester")
