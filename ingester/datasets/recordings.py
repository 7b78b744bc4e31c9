"""Files of earlier recordings, one pair each: raw intervals and extracted data sets, as pickle or CSV."""

import gzip
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ingester.datasets import pickles
from ingester.datasets.dataset import COLON, INDEX, columns
from ingester.datasets.pickle_machine import UnreadablePickle
from ingester.errors import OperationError
from ingester.grid import Floats, Nanoseconds

MOST_LEVELS = 20
SUFFIXES = (".pkl", ".csv", ".pkl.gz", ".csv.gz")
EXPECTED = f"ADA_USDT_100ms_(2023-06-01 08{COLON}31)_(1).pkl"

_NAME = re.compile(r"([A-Z0-9]+)_([A-Z0-9]+)_\d+[a-z]+(_\([^()]+\))+", re.IGNORECASE)


class UnreadableRecording(OperationError):
    """A file is no recording of a pair's books, or holds what a recording does not."""


class Recording(NamedTuple):
    """The books of one pair, sorted by receive time; `values` as in a data set, NaN where there is no number."""

    symbol: str
    times: Nanoseconds
    values: Floats

    @property
    def levels(self) -> int:
        return int(self.values.shape[1]) // 4


def find(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths`, and in folders at any depth those with a recording's ending; each once, sorted."""
    found: set[Path] = set()
    for path in paths:
        inside = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        found |= {each for each in inside if each == path or each.name.endswith(SUFFIXES)}
    return sorted(found)


def read(path: Path) -> Recording:
    """The books in one file. Raises UnreadableRecording."""
    symbol = symbol_of(path.name)
    try:
        content = path.read_bytes()
        file = io.BytesIO(gzip.decompress(content) if path.name.endswith(".gz") else content)
        return _recording(symbol, _csv(file) if ".csv" in path.suffixes else load_pickle(file))
    except UnreadableRecording:
        raise
    except Exception as error:  # what broken and hostile bytes raise is anybody's guess
        raise UnreadableRecording(f"cannot be read: {type(error).__name__}: {_first_line(error)}") from error


def symbol_of(name: str) -> str:
    """`ADAUSDT` of a file name in one of the styles. Raises UnreadableRecording."""
    ending = next((each for each in SUFFIXES if name.endswith(each)), None)
    match = _NAME.fullmatch(name.removesuffix(ending)) if ending else None
    if match is None:
        raise UnreadableRecording(f"the name does not say which pair it is; expected one like {EXPECTED!r}")
    return (match[1] + match[2]).upper()


def _csv(file: IO[bytes]) -> Any:
    from pyarrow import csv, string

    as_written = csv.ConvertOptions(column_types={INDEX: string(), "": string()}, strings_can_be_null=True)
    return csv.read_csv(file, convert_options=as_written).to_pandas().rename(columns={"": INDEX})


def _recording(symbol: str, frame: Any) -> Recording:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise UnreadableRecording(f"holds a {type(frame).__name__}, expected a DataFrame")
    if INDEX in frame.columns:
        frame = frame.set_index(INDEX)
    names = [str(name) for name in frame.columns]
    known = columns(MOST_LEVELS)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        what = f"has columns of other names: {', '.join(unknown[:5])}" if unknown else "has no columns, or some twice"
        raise UnreadableRecording(f"{what}; expected Bid_1, BidV_1, … Ask_1, AskV_1, … to {MOST_LEVELS}")
    wanted = columns(max(int(name.rsplit("_", 1)[1]) for name in names))
    values = np.full((len(frame), len(wanted)), np.nan)
    for place, name in enumerate(names):
        values[:, wanted.index(name)] = _numbers(name, frame.iloc[:, place])
    values[~np.isfinite(values)] = np.nan
    times = _times(frame.index)
    order = np.argsort(times, kind="stable")
    return Recording(symbol, times[order], values[order])


def _numbers(name: str, column: Any) -> Floats:
    if column.dtype.kind in "iuf":
        return column.to_numpy(dtype=np.float64, na_value=np.nan)  # type: ignore[no-any-return]
    texts = column.to_numpy(dtype=object, na_value=np.nan).copy()
    texts[(texts == "") | (texts == None)] = np.nan  # noqa: E711
    try:
        return texts.astype(np.float64)  # type: ignore[no-any-return]
    except (ValueError, TypeError) as error:
        raise UnreadableRecording(f"column {name} holds more than numbers: {_first_line(error)}") from error


def _times(index: Any) -> Nanoseconds:
    """Nanoseconds since 1970; times without a zone are UTC."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(index.dtype):
        raise UnreadableRecording(f"has no times: neither an index of times nor a column {INDEX!r}")
    try:
        if not isinstance(index, pd.DatetimeIndex):
            index = pd.DatetimeIndex(pd.to_datetime(index, utc=True, format="ISO8601"))
        times = index.tz_convert(None) if index.tz is not None else index
        if times.hasnans:
            raise UnreadableRecording(f"{int(times.isna().sum())} rows have no time")
        if len(times) and times.min().year < 1970:
            raise UnreadableRecording(f"has times before 1970: {times.min()}")
        return times.as_unit("ns").asi8.copy()  # type: ignore[no-any-return]
    except (ValueError, TypeError, OverflowError) as error:
        raise UnreadableRecording(f"the index holds more than times: {_first_line(error)}") from error


def load_pickle(file: IO[bytes]) -> Any:
    """The DataFrame in a pickle, of which nothing is executed. Raises UnreadableRecording."""
    import pandas as pd

    try:
        plain = pickles.read(file.read())
    except UnreadablePickle as error:
        raise UnreadableRecording(str(error)) from error
    index = pd.Index(plain.labels, name=plain.labels_name)
    if plain.block is not None:
        return pd.DataFrame(plain.block, index=index, columns=plain.names, copy=False)
    frame = pd.DataFrame(dict(enumerate(plain.columns)), index=index)
    return frame.set_axis(plain.names, axis=1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
