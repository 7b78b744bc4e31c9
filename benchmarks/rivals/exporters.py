"""Data sets as they are written without the ingester: pair by pair, read into a DataFrame, `to_pickle`.

Each reader uses the fastest settings that were found for it on this table:

* connectorx speaks to QuestDB with `redshift://`; with `postgresql://` only the cursor protocol is understood, which is
  as fast or slower. Several queries at once gain nothing: one server, two cores.
* psycopg takes binary results, times as integers and all rows through one array, which is faster than a DataFrame made
  of tuples with datetime objects.
* pandas.read_sql has SQLAlchemy over psycopg; `use_native_hstore` asks for something that QuestDB lacks.
* CSV is faster with pandas' default parser than with pyarrow's (`csv-pyarrow`).
"""

import base64
import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any, BinaryIO
from urllib.parse import urlencode

import pandas as pd


def connectorx(task: dict[str, Any]) -> Callable[[str], pd.DataFrame]:
    import connectorx

    address = f"redshift://{_postgres(task)}"
    return lambda query: connectorx.read_sql(address, query)


def connectorx_cursor(task: dict[str, Any]) -> Callable[[str], pd.DataFrame]:
    import connectorx

    address = f"postgresql://{_postgres(task)}"
    return lambda query: connectorx.read_sql(address, query, protocol="cursor")


def psycopg(task: dict[str, Any]) -> Callable[[str], pd.DataFrame]:
    import numpy as np
    import psycopg

    connection = psycopg.connect(f"postgresql://{_postgres(task)}", autocommit=True)

    def read(query: str) -> pd.DataFrame:
        with connection.cursor(binary=True) as cursor:
            cursor.execute(query.replace("SELECT timestamp,", "SELECT cast(timestamp AS long),", 1))
            rows = np.array(cursor.fetchall(), float)  # microseconds since 1970 are exact in a float
        frame = pd.DataFrame(rows[:, 1:], copy=False)
        frame.insert(0, "timestamp", rows[:, 0].astype("datetime64[us]"))
        return frame

    return read


def read_sql(task: dict[str, Any]) -> Callable[[str], pd.DataFrame]:
    import sqlalchemy

    engine = sqlalchemy.create_engine(f"postgresql+psycopg://{_postgres(task)}", use_native_hstore=False)
    return lambda query: pd.read_sql(query, engine)


def csv(task: dict[str, Any]) -> Callable[[str], pd.DataFrame]:
    return lambda query: pd.read_csv(exported(task, query), parse_dates=["timestamp"])


def csv_pyarrow(task: dict[str, Any]) -> Callable[[str], pd.DataFrame]:
    import pyarrow.csv

    return lambda query: pyarrow.csv.read_csv(exported(task, query)).to_pandas()


def _postgres(task: dict[str, Any]) -> str:
    return f"{task['user']}:{task['password']}@127.0.0.1:{task['pg_port']}/qdb"


def exported(task: dict[str, Any], query: str, **how: str) -> BinaryIO:
    """The answer of `/exp`, to be read."""
    token = base64.b64encode(f"{task['user']}:{task['password']}".encode()).decode()
    address = f"{task['http_url']}/exp?{urlencode({'query': query} | how)}"
    answer: BinaryIO = urllib.request.urlopen(
        urllib.request.Request(address, headers={"authorization": f"Basic {token}"})
    )
    return answer


READERS = {
    "connectorx": connectorx,
    "connectorx-cursor": connectorx_cursor,
    "psycopg": psycopg,
    "pandas": read_sql,
    "csv": csv,
    "csv-pyarrow": csv_pyarrow,
}


def main() -> None:
    task = json.loads(sys.argv[2])
    read = READERS[sys.argv[1]](task)
    for symbol, path in task["files"].items():
        frame = read(
            f"SELECT timestamp, {', '.join(task['levels'])} FROM orderbook WHERE symbol = '{symbol}' "
            f"AND timestamp >= '{task['start']}' AND timestamp < '{task['end']}'"
        )
        times = pd.DatetimeIndex(frame.pop("timestamp"), name=task["index"])
        frame.index = (times.tz_localize(None) if times.tz else times).as_unit("ns")
        frame.columns = task["columns"]
        frame.to_pickle(path)


if __name__ == "__main__":
    main()
