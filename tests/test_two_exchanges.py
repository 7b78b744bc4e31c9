"""Spot and futures of one pair in one table: exports, coverage, playback and import keep them apart."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from recorder import url_of

import ingester
from ingester.book import OrderBook
from ingester.cli import cli
from ingester.clock import SECOND
from ingester.datasets import playback
from ingester.datasets.dataset import parse_time
from ingester.errors import OperationError, SettingsError
from ingester.events import Event
from ingester.questdb import query, schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.server import ManagedServer

NOON = parse_time("2026-05-04 12:00")
START, END = "2026-05-04 12:00", "2026-05-04 12:10"
SPOT, FUTURES = "binance", "binance-futures"
BASE_PRICE = {SPOT: 100.0, FUTURES: 200.0}


def prices(exchange):
    """Best bids of its books, two a second; those of spot pause for a minute, those of futures come between."""
    ticks = [each for each in range(1200) if exchange == FUTURES or not 600 <= each < 720]
    offset = 0 if exchange == SPOT else SECOND // 4
    return {NOON + each * SECOND // 2 + offset: BASE_PRICE[exchange] + each / 1e4 for each in ticks}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: the shared table has one exchange. One recorder's name for both, the same update ids."""
    server = ManagedServer(tmp_path_factory.mktemp("exchanges"), heap="256m")
    server.endpoint = server.ensure()
    db = QuestDB(server.endpoint)
    schema.ensure(db, 5)
    for exchange in (SPOT, FUTURES):
        encoder = RowEncoder(depth=5, exchange=exchange, collector="both")
        books = [
            OrderBook("BTCUSDT", at, number, [(bid, 1.0)], [(bid + 1, 2.0)])
            for number, (at, bid) in enumerate(prices(exchange).items(), 1)
        ]
        db.write(encoder.snapshots(books))
        gap = (NOON + 10 * SECOND, NOON + 10 * SECOND + SECOND // 4)
        db.write(encoder.events([Event(gap[0], "gap", "BTCUSDT", detail=f"of {exchange}", until_ns=gap[1])]))
    db.sql(
        "INSERT INTO instruments (timestamp, exchange, symbol, base, quote, status, tick_size, step_size) VALUES "
        "('2026-05-01T00:00:00.000000Z', 'binance', 'BTCUSDT', 'BTC', 'USDT', 'TRADING', 0.1, 0.001), "
        "('2026-05-04T00:00:00.000000Z', 'binance', 'BTCUSDT', 'BTC', 'USDT', 'TRADING', 0.01, 0.00001), "
        "('2026-06-01T00:00:00.000000Z', 'binance', 'BTCUSDT', 'BTC', 'USDT', 'TRADING', 1.0, 1.0), "
        "('2026-05-01T00:00:00.000000Z', 'binance-futures', 'BTCUSDT', 'BTC', 'USDT', 'TRADING', 0.5, 0.002)"
    )
    for table in ("orderbook", "collector_events", "instruments"):
        db.sql(f"SELECT wait_wal_table('{table}')")
    yield server
    server.stop()


@pytest.mark.parametrize("every", [None, "250ms"])
@pytest.mark.parametrize("exchange", [SPOT, FUTURES])
def test_a_data_set_holds_one_exchange_and_says_which(server, tmp_path, exchange, every):
    where = {"questdb": url_of(server.endpoint), "root": tmp_path}
    data = ingester.export_dataset(START, END, exchange=exchange, every=every, **where)
    folder = tmp_path / "extracted datasets"
    assert data.path.parent == (folder if exchange == SPOT else folder / exchange)
    bids = data["BTCUSDT"]["Bid_1"].to_numpy()
    bids = bids[~np.isnan(bids)]
    own = prices(exchange)
    assert set(bids) <= set(own.values())
    assert every or bids.tolist() == list(own.values())
    manifest = json.loads((data.path / "manifest.json").read_text())
    assert manifest["exchange"] == exchange
    pair = manifest["pairs"]["BTCUSDT"]
    facts = [pair[name] for name in ("base", "quote", "tick_size", "step_size")]
    assert facts == ["BTC", "USDT", *([0.01, 0.00001] if exchange == SPOT else [0.5, 0.002])]
    reasons = [f"of {exchange}", *(["unexplained"] if exchange == SPOT else [])]
    assert [gap["reason"] for gap in pair["gaps"]] == reasons


def test_without_a_name_the_exchanges_are_listed(server, tmp_path):
    where = {"questdb": url_of(server.endpoint)}
    with pytest.raises(SettingsError, match=r"binance, binance-futures\. Choose one of these exchanges with exchange"):
        ingester.export_dataset(START, END, root=tmp_path, **where)
    with pytest.raises(SettingsError, match=r"exchange 'kraken' has no books\. This range has books of binance, "):
        ingester.measure_coverage(START, END, exchange="kraken", **where)
    for command in (["export", "--root", tmp_path], ["coverage"], ["simulate", "--port", "0"]):
        words = [*command, "--from", START, "--to", END, "--questdb", where["questdb"]]
        result = CliRunner().invoke(cli, [*map(str, words)])
        assert (result.exit_code, "binance, binance-futures" in result.output) == (2, True), result.output
        assert "--exchange" in result.output
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OperationError, match="no rows"):
        ingester.export_dataset("2026-05-03", "2026-05-04", root=tmp_path, exchange=FUTURES, **where)


def test_coverage_counts_one_exchange(server):
    for exchange, gaps in ((SPOT, [60.5]), (FUTURES, [])):
        (pair,) = ingester.measure_coverage(START, END, exchange=exchange, questdb=url_of(server.endpoint))
        assert pair.whole.rows == len(prices(exchange))
        assert [gap.length_ns / SECOND for gap in pair.whole.gaps if gap.reason == "unexplained"] == gaps


def test_playback_plays_one_exchange(server):
    db = QuestDB(server.endpoint)
    end_ns = NOON + 600 * SECOND
    counts = query.rows_by_symbol(db, NOON, end_ns, exchange=FUTURES)
    played = [
        (book.receive_ns, book.bids[0][0])
        for book in playback.table_snapshots(db, NOON, end_ns, ["BTCUSDT"], counts, FUTURES)
    ]
    assert played == list(prices(FUTURES).items())


def test_import_stores_under_the_exchange_of_the_manifest_and_knows_its_books(server, tmp_path):
    where = {"questdb": url_of(server.endpoint)}
    data = ingester.export_dataset(START, END, exchange=FUTURES, root=tmp_path, **where)
    (known,) = ingester.import_files(data.path, **where).files
    assert (known.rows, known.new, known.exchange) == (1200, 0, FUTURES)
    manifest = json.loads((data.path / "manifest.json").read_text())
    manifest["exchange"] = elsewhere = "binance-futures@mirror.example:9443"
    (data.path / "manifest.json").write_text(json.dumps(manifest))
    (new,) = ingester.import_files(data.path, **where).files
    assert (new.rows, new.new, new.failure) == (1200, 1200, "")
    again = ingester.export_dataset(START, END, exchange=elsewhere, root=tmp_path, **where)
    assert again["BTCUSDT"].equals(ingester.open_dataset(data.path)["BTCUSDT"])
    assert [gap["reason"] for gap in again.manifest["pairs"]["BTCUSDT"]["gaps"]] == ["of binance-futures"]
