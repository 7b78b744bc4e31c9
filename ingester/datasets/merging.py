"""Lets each book of a pair pass once, where several collectors recorded it: the earliest receive time wins."""

import numpy as np
import numpy.typing as npt

from ingester.clock import SECOND
from ingester.grid import Nanoseconds

WINDOW_NS = 60 * SECOND
"""A row of the same update id within this time after another is a copy of it, as in the view `books`."""


class Merger:
    """One pair's rows, piece by piece in the order of receive time."""

    def __init__(self) -> None:
        self._times = np.empty(0, np.int64)
        self._ids = np.empty(0, np.int64)

    def take(self, times: Nanoseconds, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the rows, with times (n,) and update ids (n,), are no copies."""
        if not len(times):
            return np.ones(0, bool)
        carried = len(self._times)
        all_times, all_ids = np.concatenate([self._times, times]), np.concatenate([self._ids, ids])
        if (all_ids[1:] > all_ids[:-1]).all():  # as a single collector records them
            kept = np.ones(len(times), bool)
        else:
            order = np.lexsort((all_times, all_ids))
            sorted_times, sorted_ids = all_times[order], all_ids[order]
            copy = np.zeros(len(order), bool)
            copy[1:] = (sorted_ids[1:] == sorted_ids[:-1]) & (sorted_times[1:] - sorted_times[:-1] <= WINDOW_NS)
            kept = np.empty(len(order), bool)
            kept[order] = ~copy
            kept = kept[carried:]
        recent = np.searchsorted(all_times, all_times[-1] - WINDOW_NS)
        self._times, self._ids = all_times[recent:].copy(), all_ids[recent:].copy()
        return kept
