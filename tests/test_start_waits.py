"""`ingester start` waits for nobody for long: recording begins, and what was to be checked is checked beside."""

import re
import time

import pytest
from recorder import Recorder, at, rows_of
from unanswering import Late, Unanswering
from waiting import eventually

from ingester.questdb.client import QuestDB
from ingester.simulator import Simulator

pytestmark = pytest.mark.slow


def events(questdb, collector, kind):
    db = QuestDB(questdb.endpoint)
    db.sql("SELECT wait_wal_table('collector_events')")
    return db.sql(
        f"SELECT symbol, detail FROM collector_events WHERE collector = '{collector}' AND kind = '{kind}'"
    ).rows


def rest(options, url):
    """The same options with another address for REST."""
    options = list(options)
    options[options.index("--rest-url") + 1] = url
    return options


def test_an_exchange_that_never_lists_its_pairs_does_not_hold_up_recording(questdb):
    name = "slow-rest"
    with Simulator(pairs=["BTCUSDT"]) as simulator, Unanswering() as unanswering:
        options = rest(at(simulator, questdb), unanswering.url)
        begun = time.monotonic()
        with Recorder("--pairs", "BTCUSDT", "--collector", name, *options) as recorder:
            recorder.wait_for("did not list its pairs within 5 s", 30)
            recorder.wait_for("is open", 30)
            assert time.monotonic() - begun < 25
            eventually(lambda: rows_of(questdb, name))
            code, output = recorder.stop()
    assert code == 0, output


def test_pairs_that_turn_out_not_to_be_listed_are_taken_out_while_recording(questdb, tmp_path):
    """The list comes after recording has begun; one pair is not in it."""
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("BTCUSDT\nETHUSDT\n", encoding="utf-8")
    with Simulator(pairs=["BTCUSDT", "ETHUSDT"]) as simulator, Late(simulator, without="ETHUSDT") as late:
        options = [*rest(at(simulator, questdb), late.url), "--pairs-file", pairs]
        with Recorder("--collector", "late-list", *options) as recorder:
            recorder.wait_for("is open", 30)
            late.release.set()
            recorder.wait_for("no longer recorded", 30)
            eventually(
                lambda: ["ETHUSDT", "not listed by the exchange"] in events(questdb, "late-list", "pair_removed")
            )
            code, output = recorder.stop()
    assert code == 0, output


def test_a_named_pair_that_turns_out_unknown_is_an_event_and_the_others_go_on(questdb):
    with Simulator(pairs=["BTCUSDT"]) as simulator, Late(simulator) as late:
        options = ["--pairs", "BTCUSDT,NOSUCHUSDT", *rest(at(simulator, questdb), late.url)]
        with Recorder("--collector", "late-unknown", *options) as recorder:
            recorder.wait_for("is open", 30)
            late.release.set()
            recorder.wait_for("lists no pair 'NOSUCHUSDT'", 30)
            eventually(lambda: events(questdb, "late-unknown", "pairs_refused"))
            eventually(lambda: rows_of(questdb, "late-unknown"))
            code, output = recorder.stop()
    assert code == 0, output


def test_a_questdb_that_hangs_does_not_hold_up_a_later_start(questdb, tmp_path):
    """Twice the same recorder: QuestDB hangs at the second start. Its rows are stored when QuestDB answers again."""
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        options = list(at(simulator, questdb))
        options[options.index("--data-dir") + 1] = tmp_path
        options += ["--pairs", "BTCUSDT", "--collector", "hung-start"]
        with Recorder(*options, "--for", "1s") as recorder:
            recorder.process.wait(60)
        hung = list(options)
        with Unanswering() as unanswering:
            hung[hung.index("--questdb") + 1] = unanswering.url
            begun = time.monotonic()
            with Recorder(*hung) as recorder:
                recorder.wait_for("rows wait in the spool until it is", 30)
                recorder.wait_for("is open", 30)
                assert time.monotonic() - begun < 25
                time.sleep(1)
                code, output = recorder.stop()
            assert code == 0, output
        waiting = int(re.search(r"([\d,]+) in the spool", output)[1].replace(",", ""))
        assert waiting > 0
        before = len(rows_of(questdb, "hung-start"))
        with Recorder(*options, "--for", "1s") as recorder:
            recorder.wait_for(f"{waiting} rows of an earlier run wait", 60)
            recorder.process.wait(60)
        assert len(rows_of(questdb, "hung-start")) >= before + waiting


def test_a_first_start_needs_an_answer_within_seconds_and_says_who_does_not_give_it(tmp_path):
    with Simulator(pairs=["BTCUSDT"]) as simulator, Unanswering() as unanswering:
        begun = time.monotonic()
        exchange = ("--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url)
        where = ("--questdb", unanswering.url, "--data-dir", tmp_path)
        with Recorder("--pairs", "BTCUSDT", *exchange, *where) as recorder:
            recorder.process.wait(40)
            code, output = recorder.stop()
    assert code == 1
    assert time.monotonic() - begun < 20
    assert f"QuestDB at {unanswering.url} does not answer: it accepts the connection and has not responded" in output
    assert "Traceback" not in output
    assert not (tmp_path / "spool").exists()
