"""Writes the pickles of `pickles.tar.xz`. It runs under Python 3.7 and pandas 0.25 as well.

python make_pickles.py FOLDER               # in an environment of each pandas: FOLDER is named after it
python make_pickles.py --pack FOLDER ...    # all of them into pickles.tar.xz
"""

import datetime
import decimal
import importlib
import io
import os
import pickle
import sys
import tarfile
import warnings

import numpy as np
import pandas as pd

NAMES = ["Bid_1", "BidV_1", "Bid_2", "BidV_2", "Ask_1", "AskV_1", "Ask_2", "AskV_2"]
TIMES = pd.DatetimeIndex((1685608260 * 10**9 + 10**8 * np.arange(7)).view("M8[ns]"), name="Request Time")
BOOKS = pd.DataFrame(np.random.RandomState(1).rand(7, 8), index=TIMES, columns=NAMES)
UTC = BOOKS.tz_localize("UTC")


def at(frame, index):
    frame, name = frame.copy(), index.name
    frame.index = index
    frame.index.name = name
    return frame


def named(names, frame=BOOKS):
    frame = frame.copy()
    frame.columns = names
    return frame


def as_text(frame=BOOKS):
    return frame.map(repr) if hasattr(frame, "map") else frame.applymap(repr)


def text_index(frame=BOOKS):
    return at(frame, pd.Index([str(time) for time in frame.index], name="Request Time"))


def object_index(times):
    return at(BOOKS, pd.Index(list(times), dtype=object, name="Request Time"))


def text_of(dtype):
    columns = {name: pd.array([repr(float(each)) for each in BOOKS[name]], dtype=dtype) for name in NAMES}
    return pd.DataFrame(columns, index=TIMES)


def zone(module, of):
    return UTC.tz_convert(of(importlib.import_module(module)))


def added():
    frame = pd.DataFrame(index=TIMES)
    for name in NAMES:
        frame[name] = BOOKS[name]
    return frame


def with_attributes():
    frame = BOOKS.copy()
    frame.attrs.update({"a": 1, 2: (3,)})
    return frame


def freq(text):
    return at(BOOKS, pd.date_range("2023-06-01 08:31", periods=7, freq=text, name="Request Time"))


OK = {
    "exported": lambda: BOOKS,
    "freq": lambda: freq("100ms"),
    "freq-1s": lambda: freq("1s"),
    "utc": lambda: UTC,
    "berlin": lambda: UTC.tz_convert("Europe/Berlin"),
    "fixed": lambda: UTC.tz_convert(datetime.timezone(datetime.timedelta(hours=2))),
    "dtutc": lambda: UTC.tz_convert(datetime.timezone.utc),  # noqa: UP017
    "pytz-utc": lambda: zone("pytz", lambda pytz: pytz.utc),
    "pytz-berlin": lambda: zone("pytz", lambda pytz: pytz.timezone("Europe/Berlin")),
    "pytz-fixed": lambda: zone("pytz", lambda pytz: pytz.FixedOffset(120)),
    "zoneinfo": lambda: zone("zoneinfo", lambda zoneinfo: zoneinfo.ZoneInfo("Europe/Berlin")),
    "zoneinfo-utc": lambda: zone("zoneinfo", lambda zoneinfo: zoneinfo.ZoneInfo("UTC")),
    "dateutil-utc": lambda: zone("dateutil.tz", lambda tz: tz.tzutc()),
    "dateutil-berlin": lambda: zone("dateutil.tz", lambda tz: tz.gettz("Europe/Berlin")),
    "text": as_text,
    "object-text": lambda: as_text().astype(object),
    "object-floats": lambda: BOOKS.astype(object),
    "mixed": lambda: BOOKS.assign(
        Bid_1=BOOKS.Bid_1.map(repr).astype(object), BidV_1=BOOKS.BidV_1.astype("f4").astype("f8")
    ),
    "decimals": lambda: BOOKS.assign(Bid_1=[decimal.Decimal(repr(float(each))) for each in BOOKS.Bid_1]),
    "text-index": text_index,
    "text-index-zone": lambda: text_index(UTC.tz_convert("Europe/Berlin")),
    "object-index": lambda: object_index(TIMES),
    "object-index-tz": lambda: object_index(UTC.index),
    "datetime-index": lambda: object_index(time.to_pydatetime() for time in TIMES),
    "column": lambda: BOOKS.reset_index(),
    "column-tz": lambda: UTC.reset_index(),
    "column-berlin": lambda: UTC.tz_convert("Europe/Berlin").reset_index(),
    "text-column": lambda: text_index().reset_index(),
    "column-sliced": lambda: pd.concat([BOOKS.reset_index()] * 2).iloc[:7],
    "column-int-index": lambda: at(BOOKS.reset_index(), pd.Index([3, 5, 8, 9, 11, 12, 14])),
    "us": lambda: at(BOOKS, TIMES.as_unit("us")),
    "ms": lambda: at(BOOKS, TIMES.as_unit("ms")),
    "us-column": lambda: at(BOOKS, TIMES.as_unit("us")).reset_index(),
    "unnamed": lambda: at(BOOKS, TIMES.rename(None)),
    "reversed-columns": lambda: BOOKS[NAMES[::-1]],
    "reversed-rows": lambda: BOOKS[::-1],
    "sliced": lambda: pd.concat([BOOKS, BOOKS])[:7],
    "strided": lambda: at(pd.DataFrame(np.random.RandomState(1).rand(14, 8), columns=NAMES)[::2], TIMES),
    "split-blocks": lambda: BOOKS[NAMES[:3]].join(BOOKS[NAMES[3:]]),
    "column-by-column": lambda: pd.DataFrame({name: BOOKS[name] for name in NAMES}),
    "added": added,
    "ints": lambda: (BOOKS * 1e6).astype("i8"),
    "int32": lambda: (BOOKS * 1e6).astype("i4"),
    "uint8": lambda: (BOOKS * 100).astype("u1"),
    "f4": lambda: BOOKS.astype("f4"),
    "int-mixed": lambda: BOOKS.assign(BidV_1=(BOOKS.BidV_1 * 1e6).astype("i8"), Ask_2=BOOKS.Ask_2.astype("f4")),
    "bigendian": lambda: pd.DataFrame(BOOKS.to_numpy().astype(">f8"), index=TIMES, columns=NAMES),
    "nan": lambda: BOOKS.mask(BOOKS < 0.3),
    "none": lambda: BOOKS.astype(object).where(BOOKS > 0.3, None),
    "empty-strings": lambda: BOOKS.astype(object).where(BOOKS > 0.3, ""),
    "empty": lambda: BOOKS[:0],
    "one-row": lambda: BOOKS[:1],
    "object-columns": lambda: named(pd.Index(NAMES, dtype=object)),
    "string-columns": lambda: named(pd.Index(NAMES, dtype="string")),
    "string-python-columns": lambda: named(pd.Index(NAMES, dtype="string[python]")),
    "string-pyarrow-columns": lambda: named(pd.Index(NAMES, dtype="string[pyarrow]")),
    "string-values": lambda: text_of("string"),
    "string-python-values": lambda: text_of("string[python]"),
    "string-pyarrow-values": lambda: text_of("string[pyarrow]"),
    "str-values": lambda: text_of("str"),
    "attrs": with_attributes,
    "column-name": lambda: BOOKS.rename_axis(columns="x"),
    "np-str-columns": lambda: pd.DataFrame(BOOKS.to_numpy(), index=TIMES, columns=np.array(NAMES)),
}
REFUSED = {
    "Float64": lambda: BOOKS.astype(pd.Float64Dtype()),
    "Int64": lambda: BOOKS.assign(Bid_1=pd.array([1] * 7, dtype="Int64")),
    "category": lambda: BOOKS.astype("category"),
    "category-columns": lambda: named(pd.CategoricalIndex(NAMES)),
    "multi-columns": lambda: pd.concat({"x": BOOKS}, axis=1),
    "multi-index": lambda: BOOKS.set_index("Bid_1", append=True),
    "period": lambda: at(BOOKS, TIMES.to_period("D")),
    "timedelta": lambda: BOOKS.assign(Bid_1=TIMES - TIMES[0]),
    "complex": lambda: BOOKS.astype(complex),
    "float-pyarrow": lambda: BOOKS.astype("double[pyarrow]"),
    "ts-pyarrow": lambda: at(BOOKS, TIMES.astype("timestamp[ns][pyarrow]")),
    "sparse": lambda: BOOKS.astype("Sparse[float]"),
    "interval": lambda: BOOKS.assign(Bid_1=pd.interval_range(0, 7)),
}


def expected(shape, frame):
    """What is to be read: times in ns, values, names."""
    if "Request Time" in frame.columns:
        frame = frame.set_index("Request Time")
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex):
        form = {"format": "ISO8601"} if pd.__version__ >= "2" else {}
        index = pd.DatetimeIndex(pd.to_datetime(index, utc=True, **form))
    index = index if index.tz is None else index.tz_convert(None)
    missing = ("", None, getattr(pd, "NA", None))
    rows = [
        [float("nan") if any(each is none for none in missing) or each == "" else float(each) for each in frame[name]]
        for name in frame.columns
    ]
    values = np.array(rows).T.reshape(len(frame), len(frame.columns))
    names = np.array([str(name) for name in frame.columns])
    return {"ns": index.values.astype("M8[ns]").view("i8"), "values": values, "names": names}


def write(folder):
    warnings.simplefilter("ignore")
    for group, shapes in (("ok", OK), ("refused", REFUSED)):
        os.makedirs(os.path.join(folder, group), exist_ok=True)
        for shape, make in shapes.items():
            try:
                frame = make()
                protocols = range(pickle.HIGHEST_PROTOCOL + 1) if shape == "exported" else [pickle.HIGHEST_PROTOCOL]
                written = {protocol: pickle.dumps(frame, protocol) for protocol in protocols}
            except Exception as error:
                sys.stderr.write(f"{folder} has no {shape}: {error}\n")
                continue
            for protocol, content in written.items():
                with open(os.path.join(folder, group, f"{shape}-{protocol}.pkl"), "wb") as file:
                    file.write(content)
            if group == "ok":
                np.savez(os.path.join(folder, f"{shape}.npz"), **expected(shape, frame))


def pack(folders):
    files = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                group = os.path.join(os.path.basename(folder), os.path.relpath(parent, folder))
                with open(os.path.join(parent, name), "rb") as file:
                    files[os.path.join("expected" if name.endswith(".npz") else group, name)] = file.read()
    with tarfile.open("pickles.tar.xz", "w:xz") as archive:
        for path in sorted(files, key=lambda path: (os.path.basename(path), path)):
            member = tarfile.TarInfo(path)
            member.size = len(files[path])
            archive.addfile(member, io.BytesIO(files[path]))


if __name__ == "__main__":
    pack(sys.argv[2:]) if sys.argv[1] == "--pack" else write(sys.argv[1])
