"""`ingester doctor`, as a person and a program see it."""

import json

from click.testing import CliRunner
from recorder import url_of

from ingester.cli import cli
from ingester.simulator import Simulator


def doctor(*options):
    answer = CliRunner().invoke(cli, ["doctor", *map(str, options)])
    return answer.exit_code, answer.stdout


def test_nothing_fails_where_all_is_there(questdb, tmp_path):
    with Simulator(pairs=["BTCUSDT"]) as simulator:
        code, text = doctor(
            *("--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url),
            *("--questdb", url_of(questdb.endpoint), "--data-dir", tmp_path / "data"),
        )
    assert code == 0, text
    for words in ("stream websocket", "clock", "open files", "memory maps", "disk sync", "server", "packages"):
        assert words in text
    assert questdb.endpoint.password not in text
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_exit_1_with_the_way_to_mend_it(tmp_path):
    code, text = doctor(
        *("--stream-url", "ws://127.0.0.1:9", "--rest-url", "http://127.0.0.1:9", "--json"),
        *("--questdb", "http://127.0.0.1:9", "--data-dir", tmp_path),
    )
    told = json.loads(text)
    assert code == 1
    assert told["ok"] is False
    failed = {finding["subject"]: finding for finding in told["findings"] if finding["state"] == "fail"}
    assert set(failed) == {"stream TCP", "rest TCP", "server"}
    assert all(finding["mend"] for finding in failed.values())


def test_the_simulator_needs_no_network(tmp_path):
    code, text = doctor("--exchange", "simulator", "--data-dir", tmp_path)
    assert code == 0
    assert "needs no network" in text
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_none_is_wrong_usage():
    assert doctor("--stream-url", "stream.binance.com")[0] == 2
    assert doctor("--exchange", "nowhere")[0] == 2
