"""The common grid of data sets, by the rule that the live record keeps too: see `ingester/grid.py`."""

from ingester.grid import LOOK_BACK_NS, Floats, Nanoseconds, Sampler, as_frame, grid

__all__ = ["LOOK_BACK_NS", "Floats", "Nanoseconds", "Sampler", "as_frame", "grid"]
