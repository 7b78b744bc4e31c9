"""The common grid of a data set, and its frames.

A row at time t holds the last snapshot received at or before t, never a later one. If that snapshot is older than
`max_age`, the row is NaN; with `fill="forward"` it holds the snapshot even then.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ingester.book import INDEX, frame_columns
from ingester.clock import SECOND

Floats = npt.NDArray[np.float64]
Nanoseconds = npt.NDArray[np.int64]

LOOK_BACK_NS = 60 * SECOND
"""The first rows of a grid may hold snapshots of so long before it begins, or of `max_age` before if that is more."""


def grid(start_ns: int, end_ns: int, every_ns: int) -> Nanoseconds:
    """Returns the grid times (n,) in [start, end), in ns."""
    return np.arange(start_ns, end_ns, every_ns, dtype=np.int64)


class Sampler:
    """Samples the snapshots of one pair on a grid, piece by piece in the order of time. The rule is only here."""

    def __init__(self, width: int, max_age_ns: int, fill: str = "none") -> None:
        """`width`: the number of values of a snapshot."""
        self._max_age_ns = max_age_ns if fill == "none" else np.iinfo(np.int64).max
        self._time = np.empty(0, np.int64)  # the receive time of the last snapshot so far, (0,) or (1,)
        self._values = np.empty((0, width))

    def take(self, times: Nanoseconds, values: Floats, grid_times: Nanoseconds) -> Floats:
        """Takes snapshots, `times` (n,) and `values` (n, width), and returns values at the next grid times.

        Returns (len(grid_times), width). The snapshots must include all up to the last grid time, and none from before
        those of the last call.
        """
        times, values = np.concatenate([self._time, times]), np.concatenate([self._values, values])
        place = np.searchsorted(times, grid_times, side="right") - 1
        if len(times):
            sampled: Floats = values[np.maximum(place, 0)]
            sampled[(place < 0) | (grid_times - times[np.maximum(place, 0)] > self._max_age_ns)] = np.nan
            self._time, self._values = times[-1:], values[-1:]
        else:
            sampled = np.full((len(grid_times), values.shape[1]), np.nan)
        return sampled


def as_frame(times: Nanoseconds, values: Floats) -> Any:
    """Returns the DataFrame of a data set for receive or grid times (n,) in ns and values (n, 4 x levels)."""
    import pandas as pd

    index = pd.DatetimeIndex(times.view("datetime64[ns]"), name=INDEX)
    return pd.DataFrame(values, index=index, columns=frame_columns(values.shape[1] // 4), copy=False)
