"""A data set's file as a frame, whatever its format."""

import numpy as np
import pandas as pd

from ingester.grid import as_frame


def read(path):
    if path.suffix == ".pkl":
        return pd.read_pickle(path)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".csv":
        return pd.read_csv(path, index_col="Request Time", parse_dates=True)
    with np.load(path) as archive:
        return as_frame(archive["request_time"].view(np.int64), archive["values"])
