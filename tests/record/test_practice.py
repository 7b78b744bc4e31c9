"""Practice and real data never mix in one table, and nothing is called by the name of an exchange that it is not."""

import errno
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from recorder import Recorder, url_of
from spools import wait_in_spool

from ingester.book import OrderBook
from ingester.cli import cli
from ingester.config.settings import Settings
from ingester.errors import MixedData, SpoolError
from ingester.events import Event
from ingester.exchange import VENUES, is_practice, rightly_named
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.encoder import RowEncoder
from ingester.questdb.endpoint import Endpoint
from ingester.record.practice import FILE, refuse_mixing, refuse_mixing_unasked
from ingester.simulator import Simulator

REAL, SIMULATED = "binance", "simulator"
FUTURES = VENUES["binance-futures"]
AWAY = Endpoint.parse("http://127.0.0.1:1")
AT = 1_700_000_000_000_000_000


def at(name, stream_url):
    """A recorder's exchange of this name at this address."""
    return VENUES["binance"].at(name=name, stream_url=stream_url)


@pytest.fixture
def db(questdb):
    """The server without our tables, before and after."""
    db = QuestDB(questdb.endpoint)
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"DROP TABLE IF EXISTS {table}")
    schema.ensure_tables(db, 5)
    yield db
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"DROP TABLE IF EXISTS {table}")


def recorded_by(db, *exchanges):
    """The table as recorders of these exchanges leave it."""
    encoder = RowEncoder(depth=5, exchange="binance", collector="mixed")
    started = [
        Event(AT + place, "started", detail=f"1 pair, depth 5, 100 ms, {name}") for place, name in enumerate(exchanges)
    ]
    db.write(encoder.events(started))
    db.write(encoder.snapshots([OrderBook("AUSDT", AT, 1, [(1.0, 1.0)], [(2.0, 1.0)])]))
    for table in (schema.ORDERBOOK, schema.EVENTS):
        db.sql(f"SELECT wait_wal_table('{table}')")


@pytest.mark.parametrize(
    ("exchange", "name", "practice"),
    [
        (VENUES["binance"], "binance", False),
        (at("binance", "wss://stream.binance.com:443"), "binance", False),
        (at("binance", "wss://data-stream.binance.vision"), "binance-vision", False),
        (at("binance", "wss://mirror.example:9443/x"), "mirror.example:9443", False),
        (at("binance", "ws://127.0.0.1:9443"), "127.0.0.1:9443", True),
        (at("binance-us", "ws://localhost:1"), "localhost:1", True),
        (FUTURES.at(stream_url="ws://127.0.0.1:9443"), "binance-futures@127.0.0.1:9443", True),
        (FUTURES.at(stream_url="wss://me:pw@mirror.example"), "binance-futures@mirror.example", False),
        (at("mine", "ws://[::1]:9443"), "[::1]:9443", True),
        (at("mine", "wss://books.example"), "mine", False),
        (at("binance", "ws://127.0.0.2:9443"), "127.0.0.2:9443", True),
        (at("mine", "ws://0.0.0.0:9443"), "0.0.0.0:9443", True),
        (at("mine", "ws://db.localhost:9443"), "db.localhost:9443", True),
        (at("simulator", "ws://127.0.0.1:9443"), "simulator", True),
        (at("simulator", "wss://stream.binance.com:9443"), "binance", False),
        (VENUES["testnet"], "testnet", True),
    ],
)
def test_an_exchange_is_called_by_a_presets_name_only_at_the_presets_own_address(exchange, name, practice):
    assert rightly_named(exchange).name == name
    assert rightly_named(rightly_named(exchange)) == rightly_named(exchange)
    assert is_practice(name) is practice


def test_settings_name_the_exchange_rightly():
    assert (
        Settings(
            ("AUSDT",),
            at("binance", "ws://127.0.0.1:9443"),
        ).exchange.name
        != REAL
    )


@pytest.mark.parametrize(("held", "wanted"), [(REAL, SIMULATED), (SIMULATED, REAL), ("127.0.0.1:9", "binance-us")])
def test_the_other_kind_is_refused_with_the_way_out(db, tmp_path, held, wanted):
    recorded_by(db, held)
    with pytest.raises(MixedData, match=rf"\(from {held}\).* --data-dir"):
        refuse_mixing(db, wanted, tmp_path)
    refuse_mixing(db, held, tmp_path)
    with pytest.raises(MixedData):  # where QuestDB cannot be asked, the data folder knows
        refuse_mixing_unasked(db.endpoint, wanted, tmp_path)
    refuse_mixing_unasked(db.endpoint, held, tmp_path)


def test_the_same_kind_and_an_empty_table_are_fine(db, tmp_path):
    refuse_mixing(db, REAL, tmp_path)
    refuse_mixing(db, SIMULATED, tmp_path)  # nothing was recorded yet
    recorded_by(db, "simulator", "127.0.0.1:9443", "testnet")
    refuse_mixing(db, "localhost:1", tmp_path)
    db.sql("TRUNCATE TABLE orderbook")
    db.sql("SELECT wait_wal_table('orderbook')")
    refuse_mixing(db, REAL, tmp_path)


@pytest.mark.parametrize(("left", "wanted"), [(REAL, SIMULATED), (SIMULATED, REAL)])
def test_rows_of_the_other_kind_that_still_wait_are_not_forgotten(db, questdb, tmp_path, left, wanted):
    """The table is empty: QuestDB was away, or it is another one now."""
    (tmp_path / "recorded.json").write_text(f'{{"http://127.0.0.1:1": "{left}"}}')
    wait_in_spool(tmp_path, "old")
    told = rf"\(from {left}\), and {wanted} would add .*30 rows of the recorder old"
    with pytest.raises(MixedData, match=told):
        refuse_mixing(db, wanted, tmp_path)
    with pytest.raises(MixedData, match=told):
        refuse_mixing_unasked(AWAY, wanted, tmp_path)
    refuse_mixing(db, left, tmp_path)
    recorded_by(db, wanted)
    sent = CliRunner().invoke(
        cli, ["spool", "send", "--questdb", url_of(questdb.endpoint), "--data-dir", str(tmp_path)]
    )
    assert sent.exit_code == 1
    assert f"(from {wanted})" in sent.output
    assert db.sql("SELECT count() FROM orderbook").rows == [[1]]


def test_a_start_is_refused_before_anything_is_recorded(db, questdb, tmp_path):
    recorded_by(db, REAL)
    where = ["--questdb", url_of(questdb.endpoint), "--data-dir", str(tmp_path)]
    refused = CliRunner().invoke(cli, ["start", "--exchange", "simulator", "--for", "1s", *where])
    assert refused.exit_code == 1
    assert "holds real books (from binance)" in refused.output
    assert db.sql("SELECT count() FROM orderbook").rows == [[1]]


@pytest.mark.slow
def test_a_start_while_questdb_is_away_is_refused_by_the_data_folder(db, questdb, tmp_path):
    away = "http://127.0.0.1:1"
    (tmp_path / "recorded.json").write_text(f'{{"{away}": "binance"}}')
    (tmp_path / "spool" / "one").mkdir(parents=True)
    options = ["--exchange", "simulator", "--collector", "one", "--questdb", away, "--data-dir", str(tmp_path)]
    refused = CliRunner().invoke(cli, ["start", "--for", "1s", *options])
    assert refused.exit_code == 1
    assert "holds real books (from binance)" in refused.output


@pytest.mark.slow
def test_screen_and_events_call_another_address_by_its_host(db, questdb, tmp_path):
    with Simulator(pairs=["AUSDT"]) as simulator:
        source = ("--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url)
        where = ("--questdb", url_of(questdb.endpoint), "--data-dir", tmp_path, "--collector", "named")
        with Recorder("--pairs", "AUSDT", *source, *where, "--for", "2s") as recorder:
            recorder.process.wait(60)
            code, output = recorder.stop()
    assert code == 0, output
    db.sql("SELECT wait_wal_table('collector_events')")
    ((detail,),) = db.sql("SELECT detail FROM collector_events WHERE kind = 'started' AND collector = 'named'").rows
    address = simulator.stream_url.removeprefix("ws://")
    assert detail.endswith(f", {address}")
    assert REAL not in output


def test_what_was_recorded_is_noted_for_this_user_alone_and_never_replaced_by_less(tmp_path, monkeypatch):
    first, second = Endpoint("http://one:9000"), Endpoint("http://two:9000")
    refuse_mixing_unasked(first, REAL, tmp_path)
    assert stat.S_IMODE((tmp_path / "recorded.json").stat().st_mode) == 0o600

    def refused(path):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as failing:
        failing.setattr(Path, "read_bytes", refused)
        with pytest.raises(SpoolError, match=r"recorded.json cannot be read \(Too many open files\)"):
            refuse_mixing_unasked(second, REAL, tmp_path)
    with pytest.raises(MixedData):
        refuse_mixing_unasked(first, SIMULATED, tmp_path)


def test_what_is_noted_is_for_this_user_alone_and_survives_a_spoilt_file(tmp_path):
    before = os.umask(0)
    try:
        refuse_mixing_unasked(Endpoint("http://127.0.0.1:9"), "binance", tmp_path)
        assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
        (tmp_path / FILE).write_bytes(b'{"managed": "\xff"}')
        refuse_mixing_unasked(Endpoint("http://127.0.0.1:9"), "simulator", tmp_path)
    finally:
        os.umask(before)
