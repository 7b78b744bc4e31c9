"""`ingester pairs`, and a recorder that follows it: what comes and goes, and what beside it must not notice."""

import json
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner
from recorder import Recorder, at, rows_of
from small_servers import Accepting, Answering

from ingester.cli import cli
from ingester.cli.pairs import repeat_screening
from ingester.cli.start import planned
from ingester.exchange import simulator_at
from ingester.exchange.pairs import DEFAULT_COINS, symbols_of
from ingester.exchange.screening import SUPPLIES_PATH, Criteria
from ingester.questdb.client import QuestDB
from ingester.record import LastRecorded, spool_folder
from ingester.record.pairs_file import PairsFile
from ingester.simulator import Simulator
from ingester.simulator.rest_answers import SimulatedPair


@pytest.fixture
def file(tmp_path):
    return PairsFile(tmp_path / "pairs.txt")


def run(*words, code=0):
    """Runs `ingester pairs`; gives what it printed."""
    answer = CliRunner().invoke(cli, ["pairs", *map(str, words)])
    assert answer.exit_code == code, answer.output
    return answer.output


def following(simulator, questdb, file):
    """Options of a recorder that follows this file."""
    return (*at(simulator, questdb), "--pairs-file", str(file.path))


def events(questdb, collector, condition="symbol IS NOT NULL"):
    """(kind, symbol, detail, microseconds since 1970) of a collector, in the order of time."""
    db = QuestDB(questdb.endpoint)
    db.sql("SELECT wait_wal_table('collector_events')")
    return db.sql(
        "SELECT kind, symbol, detail, cast(timestamp AS LONG) FROM collector_events "
        f"WHERE collector = '{collector}' AND {condition} ORDER BY timestamp"
    ).rows


def stored(questdb, collector):
    """Update ids by symbol, in the order of time."""
    ids = {}
    for symbol, number in rows_of(questdb, collector):
        ids.setdefault(symbol, []).append(number)
    return ids


def whole(numbers, sent):
    """Whether none of the books that the exchange sent is missing between the first of these and the last."""
    return numbers == [number for number in sent if numbers[0] <= number <= numbers[-1]]


def flows(simulator, symbol, books=10):
    """Waits until some more of a pair was sent."""
    before = len(simulator.sent.get(symbol, ()))
    deadline = time.monotonic() + 60
    while len(simulator.sent.get(symbol, ())) < before + books:
        assert time.monotonic() < deadline, f"no more of {symbol}"
        time.sleep(0.02)


@pytest.mark.slow
def test_120_pairs_lose_no_book_while_others_come_and_go_and_connections_are_replaced(questdb, file):
    base = [f"B{number}USDT" for number in range(120)]
    guests = [f"G{number}USDT" for number in range(40)]
    file.create(base, "the first ones")
    asked = {}
    with (
        Simulator(pairs=[*base, *guests], keep_sent=True) as simulator,
        Recorder(
            *("--collector", "come-and-go", "--rotate-every", "4s"), *following(simulator, questdb, file)
        ) as recorder,
    ):
        recorder.wait_for("is open")
        flows(simulator, base[-1])
        for number in range(5):
            with file.changing() as change:
                change.added = dict.fromkeys(guests[8 * number : 8 * number + 8], "added by alice")
                change.removed = dict.fromkeys(guests[8 * number - 8 : 8 * number - 4] if number else [], "removed")
                asked |= dict.fromkeys(change.added, time.time())
            recorder.wait_for("also recorded")
            flows(simulator, guests[8 * number + 7])
        code, output = recorder.stop()
        sent = simulator.sent
    assert code == 0, output
    assert "frame not stored" not in output
    assert f"recorded {120 + 40 - 16} pairs" in output
    assert int(output.split(" connections replaced")[0].split()[-1]) >= 4
    ids = stored(questdb, "come-and-go")
    for symbol in [*base, *guests]:
        assert whole(ids[symbol], sent[symbol]), symbol
    for symbol in base:  # a few may leave after the goodbye
        assert ids[symbol][0] == sent[symbol][0]
        assert len(sent[symbol]) - len(ids[symbol]) <= 5
    told = events(questdb, "come-and-go")
    assert {detail for kind, _, detail, _ in told if kind == "gap"} <= {"exchange silent"}  # of a machine that stalls
    added = {symbol: (detail, us) for kind, symbol, detail, us in told if kind == "pair_added"}
    assert added.keys() == set(guests)
    assert {detail for detail, _ in added.values()} == {"pairs.txt: added by alice"}
    delays = sorted(us / 1e6 - asked[symbol] for symbol, (_, us) in added.items())
    assert delays[0] < 2.0  # on an idle machine all are
    assert min(us % 1_000_000 for _, us in added.values()) < 300_000  # at a full second, and what waking up takes
    gone = {symbol for kind, symbol, *_ in told if kind == "pair_removed"}
    assert gone == {guests[8 * number + each] for number in range(4) for each in range(4)}


@pytest.mark.slow
def test_what_is_watched_survives_a_kill_and_a_broken_file(questdb, file):
    with Simulator(pairs=["BTCUSDT", "ETHUSDT", "SUIUSDT", "EDUUSDT"], keep_sent=True) as simulator:
        options = ("--collector", "pairs-killed", *following(simulator, questdb, file))
        asking = ("--rest-url", simulator.rest_url, "--pairs-file", file.path)
        run("add", "BTC", "EDU", *asking)
        with Recorder(*options) as recorder:
            recorder.wait_for("is open")
            assert "SUIUSDT added" in run("add", "SUI", *asking)
            recorder.wait_for("also recorded from now on: SUIUSDT")
            flows(simulator, "SUIUSDT")
            recorder.kill()
        run("remove", "EDU", "--pairs-file", file.path)
        with Recorder(*options) as recorder:
            recorder.wait_for("is open")
            file.path.write_text("BTCUSDT\nSUIUSDT and more\n")
            recorder.wait_for("line 2: 'SUIUSDT and more' is not a pair")
            flows(simulator, "SUIUSDT")
            recorder.kill()
        with Recorder(*options) as recorder:
            assert "2 pairs watched before" in recorder.wait_for("line 2")
            recorder.wait_for("is open")
            recorder.wait_for("stay as they are")
            file.path.write_text("BTCUSDT\nETHUSDT\n")
            recorder.wait_for("also recorded from now on: ETHUSDT")
            flows(simulator, "ETHUSDT")
            code, output = recorder.stop()
    assert code == 0, output
    assert "recorded 2 pairs" in output
    told = events(questdb, "pairs-killed")
    changes = [
        (kind, symbol, detail.partition(" 20")[0]) for kind, symbol, detail, _ in told if kind.startswith("pair_")
    ]
    assert changes == [
        ("pair_added", "SUIUSDT", "pairs.txt: added"),
        ("pair_removed", "EDUUSDT", "found at the start"),
        ("pair_removed", "SUIUSDT", "pairs.txt: edited"),
        ("pair_added", "ETHUSDT", "pairs.txt: edited"),
    ]
    gaps = [(symbol, detail) for kind, symbol, detail, _ in told if kind == "gap" and detail == "restart"]
    assert sorted(gaps) == [("BTCUSDT", "restart")] * 2 + [("SUIUSDT", "restart")] * 2
    assert len(events(questdb, "pairs-killed", "kind = 'pairs_refused'")) == 2
    assert stored(questdb, "pairs-killed").keys() == {"BTCUSDT", "EDUUSDT", "SUIUSDT", "ETHUSDT"}


def test_the_first_start_makes_the_list_and_named_pairs_leave_it_alone(questdb, file):
    listed = symbols_of(DEFAULT_COINS[:40], "USDT")
    with Simulator(pairs=listed) as simulator:
        options = ("--collector", "pairs-first", "--for", "3s", *following(simulator, questdb, file))
        for words in ((), ("--pairs", "BTCUSDT")):
            with Recorder(*options, *words) as recorder:
                recorder.process.wait(60)
                code, output = recorder.stop()
            assert code == 0, output
            assert file.read().pairs == dict.fromkeys(listed, "")
    assert f"{file.path} is left alone" in output
    assert "recorded 1 pair " in output


def test_pairs_that_are_no_longer_listed_do_not_keep_a_recorder_from_starting(questdb, file):
    file.create(["BTCUSDT", "OLDUSDT"], "from another year")
    with (
        Simulator(pairs=["BTCUSDT"]) as simulator,
        Recorder("--collector", "pairs-old", "--for", "3s", *following(simulator, questdb, file)) as recorder,
    ):
        recorder.process.wait(60)
        code, output = recorder.stop()
    assert code == 0, output
    assert "does not list them: OLDUSDT" in output
    assert "recorded 1 pair " in output
    assert "OLDUSDT" in file.read().pairs


def test_a_broken_list_ends_a_first_start_with_its_line(questdb, file):
    file.path.write_text("BTCUSDT ETHUSDT\n")
    with (
        Simulator(pairs=["BTCUSDT"]) as simulator,
        Recorder("--collector", "pairs-broken", *following(simulator, questdb, file)) as recorder,
    ):
        recorder.process.wait(60)
        code, output = recorder.stop()
    assert code == 2
    assert "line 1: 'BTCUSDT ETHUSDT' is not a pair" in output


@pytest.fixture(scope="module")
def exchange():
    pairs = [*(set(symbols_of(DEFAULT_COINS, "USDT")) - {"EOSUSDT"}), "ETHBTC", "USDCUSDT", "BTCUPUSDT"]
    with Simulator([SimulatedPair("EOSUSDT", status="BREAK"), *pairs]) as simulator:
        yield simulator


@pytest.fixture
def asking(exchange, file):
    return ("--rest-url", exchange.rest_url, "--pairs-file", file.path)


def test_pairs_are_added_removed_and_listed(asking, file):
    place = asking[2:]
    assert "There is no" in run("list", *place)
    assert json.loads(run("list", "--json", *place)) == {"file": str(file.path), "pairs": []}
    assert "3 pairs in" in run("add", "btc,sui", "eth/btc", *asking)
    assert "SUIUSDT is watched already" in run("add", "SUIUSDT", *asking)
    assert "EOSUSDT is not trading now (BREAK)" in run("add", "EOS", *asking)
    assert "SUIUSDT removed" in run("remove", "SUI", "ETHBTC", *place)
    assert [pair["symbol"] for pair in json.loads(run("list", "--json", *place))["pairs"]] == ["BTCUSDT", "EOSUSDT"]
    assert "BTCUSDT  added 20" in run("list", *place)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["add", "SUUI"], "'SUUIUSDT'. Nearest names: SUIUSDT"),
        (["add", "SUI", "--quote", "EUR"], "'SUIEUR'"),
        (["add", "SUI$"], "'SUI$'"),
        (["remove", "ETC"], "'ETCUSDT' is not watched. Nearest names: ETHUSDT"),
        (["remove", "BTC", "ETH"], "leave no pair"),
        (["screen"], "--min-market-cap 500M"),
        (["screen", "--min-volume", "50X"], "'50X'"),
        (["screen", "--min-volume", "1", "--every", "1d"], "--apply"),
        (["screen", "--min-volume", "1", "--every", "1s", "--apply"], "'1s'"),
        (["screen", "--min-volume", "1", "--stay", "120%"], "'120%'"),
        (["screen", "--min-volume", "1", "--quote", "USDX"], "'USDX'"),
        (["screen", "--min-market-cap", "1", "--supply-source", "none.csv"], "none.csv"),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_says_why(asking, file, words, named):
    file.create(["BTCUSDT", "ETHUSDT"], "heading")
    before = file.path.read_bytes()
    options = asking[2:] if words[0] == "remove" else asking
    assert named in run(*words, *options, code=2)
    assert file.path.read_bytes() == before


def test_where_the_exchange_cannot_be_asked_a_pair_is_added_all_the_same(file):
    place = ("--pairs-file", file.path)
    output = run("add", "SUI", "ETHBTC", "--rest-url", "http://127.0.0.1:9", *place)
    assert "not checked" in output
    assert "WETHUSDT added" in run("add", "WETH", "--no-check", *place)
    assert file.read().pairs.keys() == {"SUIUSDT", "ETHBTC", "WETHUSDT"}


def test_screening_shows_what_would_change_and_does_it_when_told(asking, file):
    file.create(["BTCUSDT", "XYZUSDT", "ETHBTC", "EDUUSDT"], "heading")
    criteria = ("--min-market-cap", "500M", "--min-volume", "20M", "--keep", "EDU")
    shown = json.loads(run("screen", *criteria, *asking, "--json"))
    assert not shown["applied"]
    qualify = {pair["symbol"]: pair for pair in shown["qualify"]}
    assert 5 < len(qualify) < 40
    assert "EDUUSDT" in qualify
    for symbol, pair in qualify.items():
        assert symbol == "EDUUSDT" or (pair["volume"] >= 20e6 and pair["market_cap"] >= 500e6)
    assert qualify.keys().isdisjoint({"USDCUSDT", "BTCUPUSDT", "EOSUSDT", "ETHBTC"})
    assert {"symbol": "XYZUSDT", "reason": "the exchange no longer lists it"} in shown["remove"]
    assert len(file.read().pairs) == 4
    table = run("screen", *criteria, *asking)
    assert f"{len(shown['add'])} to add" in table
    assert "--apply does it" in table
    assert f"{len(shown['add'])} added" in run("screen", *criteria, *asking, "--apply")
    assert file.read().pairs.keys() == {*qualify, "ETHBTC"}
    assert "no others" in run("screen", *criteria, *asking, "--apply")
    remarks = file.read().pairs
    assert all("screened: market cap" in remarks[pair["symbol"]] for pair in shown["add"])
    assert "the exchange no longer lists it" in file.read().removed["XYZUSDT"]


def test_a_file_can_stand_in_for_the_list_of_products(asking, file, tmp_path):
    supplies = tmp_path / "supplies.csv"
    supplies.write_text("coin,circulating_supply\nBTC,19700000\nETH,1\n")
    shown = json.loads(run("screen", "--min-market-cap", "1M", "--supply-source", supplies, *asking, "--json"))
    assert [pair["symbol"] for pair in shown["qualify"]] == ["BTCUSDT"]


def test_no_failure_of_the_exchange_empties_the_list(asking, file):
    file.create(["BTCUSDT", "ETHUSDT"], "heading")
    before = file.path.read_bytes()
    assert "No pair qualifies" in run("screen", "--min-volume", "900B", "--apply", *asking, code=1)
    away = ("--rest-url", "http://127.0.0.1:9", "--pairs-file", file.path)
    assert "cannot be reached" in run("screen", "--min-volume", "1", "--apply", *away, code=1)
    with Simulator(pairs=[]) as empty:
        nothing = ("--rest-url", empty.rest_url, "--pairs-file", file.path)
        assert "lists no pair" in run("screen", "--min-volume", "1", "--apply", *nothing, code=1)
    assert file.path.read_bytes() == before


def test_screening_again_and_again_follows_the_market_and_outlives_failures(exchange, file, caplog):
    """Three rounds: the exchange is away, then it qualifies everything, then most would go, which is refused."""
    waits = []
    rounds = [("http://127.0.0.1:9", 1.0), (exchange.rest_url, 1.0), (exchange.rest_url, 1e12)]

    class Stop(threading.Event):
        def is_set(self):
            return len(waits) == 1

        def wait(self, seconds):
            waits.append(seconds)

    file.create(["ADAUSDT", "BTCUSDT"], "heading")
    caplog.set_level("INFO")
    sizes, pauses = [], []
    for rest_url, least in rounds:
        waits.clear()
        place = simulator_at("", rest_url)
        repeat_screening(Criteria(min_volume=least), place, rest_url + SUPPLIES_PATH, file, 86400.0, Stop())
        sizes.append(len(file.read().pairs))
        pauses += waits
    assert sizes == [2, 43, 43]
    assert pauses == [600.0, 86400.0, 600.0]
    assert "which a repetition does not do" in caplog.text


def test_a_pair_that_the_exchange_lists_later_joins_while_the_recorder_runs(questdb, file):
    """It is in the file, and was never listed before: a short list of a first start, or a pair that comes tomorrow."""
    file.create(["BTCUSDT", "SUIUSDT"], "of today")
    listing = [["BTCUSDT"]]

    def answer(path):
        assets = [{"symbol": symbol, "baseAsset": symbol[:-4], "quoteAsset": "USDT"} for symbol in listing[-1]]
        return json.dumps({"symbols": [{"status": "TRADING", **each} for each in assets]}).encode()

    with Answering(answer) as server, Simulator(pairs=["BTCUSDT", "SUIUSDT"]) as simulator:
        options = ["--collector", "pairs-later", *following(simulator, questdb, file)]
        options[options.index("--rest-url") + 1] = server.url
        with Recorder(*options) as recorder:
            recorder.wait_for("does not list them: SUIUSDT")
            recorder.wait_for("is open")
            listing.append(["BTCUSDT", "SUIUSDT"])
            recorder.wait_for("recorded from now on, because the exchange lists them now: SUIUSDT")
            recorder.wait_for("also recorded from now on: SUIUSDT")
            time.sleep(1)
            code, output = recorder.stop()
    assert code == 0, output
    assert stored(questdb, "pairs-later").keys() == {"BTCUSDT", "SUIUSDT"}
    (added,) = events(questdb, "pairs-later", "kind = 'pair_added'")
    assert "listed by the exchange now" in str(added)


@pytest.mark.parametrize("answer", ["later", "never"])
def test_a_screening_that_waits_for_the_exchange_ends_at_once_when_it_is_told_to(tmp_path, answer):
    """It wants to be asked again in 50 s, or does not answer at all."""
    asked = threading.Event()

    def serve(client):
        client.recv(4096)
        asked.set()
        if answer == "later":
            client.sendall(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 50\r\nContent-Length: 0\r\n\r\n")
        else:
            client.recv(4096)

    with Accepting(serve) as server:
        options = ("--min-volume", "1", "--apply", "--every", "1d", "--rest-url", f"http://127.0.0.1:{server.port}")
        command = [sys.executable, "-m", "ingester", "pairs", "screen", *options, "--data-dir", str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert asked.wait(30)
            time.sleep(0.3)
            begun = time.monotonic()
            process.terminate()
            _, output = process.communicate(timeout=60)
    assert time.monotonic() - begun < 3, output  # 1 s where nothing else runs on the machine
    assert process.returncode == 0
    assert "Traceback" not in output


def test_pairs_of_one_exchange_are_not_those_of_another(tmp_path):
    def pairs(*words):
        answer = CliRunner().invoke(cli, ["pairs", *words, "--data-dir", str(tmp_path)])
        assert answer.exit_code == 0, answer.output
        return answer.output

    pairs("add", "BTC", "--no-check")
    pairs("add", "ETH", "SUI", "--no-check", "--exchange", "binance-futures")
    pairs("remove", "SUI", "--exchange", "binance-futures")
    assert (tmp_path / "pairs-binance-futures.txt").is_file()
    assert [line.split()[0] for line in pairs("list").splitlines()[:-1]] == ["BTCUSDT"]
    listed = json.loads(pairs("list", "--json", "--exchange", "binance-futures"))
    assert [each["symbol"] for each in listed["pairs"]] == ["ETHUSDT"]


def test_a_recorder_goes_on_with_its_pairs_where_its_exchange_gets_a_file_of_its_own(tmp_path):
    spool_folder(tmp_path, "one").mkdir(parents=True)
    LastRecorded(spool_folder(tmp_path, "one")).write(["SUIUSDT"])
    (tmp_path / "pairs.txt").write_text("BTCUSDT\n")
    plan = planned(None, "USDT", None, tmp_path, None, "testnet", "one")
    assert (plan.symbols, plan.file.path.name) == (["SUIUSDT"], "pairs-testnet.txt")
    assert planned(None, "USDT", None, tmp_path, None, "binance", "one").symbols == ["BTCUSDT"]
