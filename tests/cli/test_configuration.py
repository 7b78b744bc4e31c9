"""configuration.py: file, variables and options as a user meets them; which one wins, and what is refused."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from click.testing import CliRunner
from recorder import Recorder, at, rows_of

from ingester.cli import cli
from ingester.cli.configuration import WITHOUT_TABLE, common_settings, settings_by_path, unknown_variables
from ingester.simulator import Simulator

EVERY = [name for name in cli.list_commands(click.Context(cli)) if name not in WITHOUT_TABLE]
SETTINGS = [setting for own in settings_by_path(click.Context(cli), EVERY).values() for setting in own]


pytestmark = pytest.mark.usefixtures("home")


def run(*words, file=None, **variables):
    """Runs a command in this process, beside an `ingester.toml` of that text; gives exit code and all that it said."""
    if file is not None:
        Path("ingester.toml").write_text(file)
        Path("ingester.toml").chmod(0o600)
    answer = CliRunner().invoke(cli, [str(word) for word in words], env=variables)
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer.exit_code, answer.output


def in_force(*words, **told):
    code, output = run("config", "--json", *words, **told)
    assert code == 0, output
    return json.loads(output)["commands"]


def refused(*words, **told):
    code, output = run(*words, **told)
    assert code == 2, output
    return output


# default < file < variable < option


@pytest.mark.parametrize(
    ("command", "key", "default", "in_file", "variable", "option"),
    [
        ("start", "depth", 5, 10, 20, 5),
        ("start", "interval", "100ms", '"200ms"', "300ms", "1s"),
        ("export", "levels", 5, 1, 2, 3),
        ("export", "format", "pkl", '"csv"', "npz", "parquet"),
        ("coverage", "by", None, '"day"', "hour", "day"),
        ("sql", "format", "table", '"csv"', "json", "table"),
        ("simulate", "port", 9443, 0, 1, 2),
        ("simulate", "speed", 1.0, "2", "3.5", "4"),
    ],
)
def test_an_option_wins_over_a_variable_over_the_file_over_the_default(
    command, key, default, in_file, variable, option
):
    name = f"INGESTER_{command}_{key}".upper()
    file = f"# one\n[{command}]\n{key} = {in_file}\n"
    typed = type(json.loads(str(in_file))) if default is None else type(default)

    def now(*words, **told):
        return in_force(command, *words, **told)[command][key]

    assert now() == {"value": default, "source": "default", "place": None}
    found = now(file=file)
    assert found == {"value": typed(json.loads(str(in_file))), "source": "file", "place": "ingester.toml"}
    assert now(**{name: str(variable)}) == {"value": typed(variable), "source": "variable", "place": name}
    assert now("--", f"--{key}", option, **{name: str(variable)}) == {
        "value": typed(option),
        "source": "option",
        "place": None,
    }


def status(*words, **told):
    return Path(json.loads(run("server", "status", "--json", *words, **told)[1])["data_dir"]).name


def test_a_command_runs_with_what_is_in_force():
    """The same, seen from a command that tells where it looks."""
    assert status() == "ingester"
    assert status(file='data-dir = "from-file"') == "from-file"
    assert status(INGESTER_DATA_DIR="from-variable") == "from-variable"
    assert status("--data-dir", "from-option", INGESTER_DATA_DIR="from-variable") == "from-option"
    assert status(INGESTER_DATA_DIR="") == "from-file"  # an empty variable is none


def test_the_file_may_be_named_by_option_or_variable(home):
    for name in ("one", "two", "three"):
        (home / f"{name}.toml").write_text(f'data-dir = "{name}"')
    assert status(file='data-dir = "here"') == "here"
    assert status(INGESTER_CONFIG="one.toml") == "one"
    assert status("--config", "two.toml", INGESTER_CONFIG="one.toml") == "two"
    assert status("--config", "/dev/null") == "ingester"
    (home / "ingester.toml").unlink()
    users = home / "config" / "ingester" / "ingester.toml"
    users.parent.mkdir(parents=True)
    users.write_text('data-dir = "users"')
    assert status() == "users"
    assert f"file: {users}" in run("config", "sql")[1]
    assert "INGESTER_CONFIG names the configuration file gone.toml" in refused("sql", "x", INGESTER_CONFIG="gone.toml")
    assert "--config names the configuration file gone.toml" in refused("start", "--config", "gone.toml")


def test_flags_and_repeated_options_come_from_everywhere():
    file = '[simulate]\nburst = true\nfault = ["drop@1s", "drop@2s"]\npairs = ["BTCUSDT", "ETHUSDT"]\n'
    found = in_force("simulate", file=file)["simulate"]
    assert found["burst"]["value"] is True
    assert found["fault"]["value"] == ["drop@1s", "drop@2s"]
    assert found["pairs"]["value"] == "BTCUSDT,ETHUSDT"
    found = in_force("simulate", INGESTER_SIMULATE_BURST="false", INGESTER_SIMULATE_FAULT="drop@3s drop@4s")["simulate"]
    assert found["burst"] == {"value": False, "source": "variable", "place": "INGESTER_SIMULATE_BURST"}
    assert found["fault"]["value"] == ["drop@3s", "drop@4s"]
    found = in_force("simulate", file='[simulate]\nfault = "drop@1s"\npairs = "BTCUSDT,ETHUSDT"')["simulate"]
    assert found["fault"]["value"] == ["drop@1s"]
    assert found["pairs"]["value"] == "BTCUSDT,ETHUSDT"


def test_tables_may_be_written_in_every_way_that_toml_has():
    for file in ("[export]\nlevels = 3", "export.levels = 3", "export = { levels = 3 }", '["export"]\n"levels" = 3'):
        assert in_force("export", file=file)["export"]["levels"]["value"] == 3
    assert in_force("server", file="server.status.json = true")["server status"]["json"]["value"] is True


def test_times_may_be_toml_and_a_home_folder_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    file = 'data-dir = "~/books"\n[export]\nfrom = 2024-08-08\nto = 2024-08-09T12:00:00Z\n'
    found = in_force("export", file=file)["export"]
    assert (found["from"]["value"], found["to"]["value"]) == ("2024-08-08", "2024-08-09T12:00:00+00:00")
    assert found["data-dir"]["value"] == "/home/somebody/books"


def test_of_options_that_exclude_each_other_the_stronger_counts():
    file = '[start]\npairs = ["NOSUCHPAIR"]\ndepth = 7\n'
    told = ("start", "--exchange", "simulator")
    assert "--depth 7" in refused(*told, "--coins", "BTC", file=file)
    assert "--depth 7" in refused(*told, INGESTER_START_COINS="BTC")
    both = refused(*told, file='[start]\npairs = ["BTCUSDT"]\ncoins = ["BTC"]\n')
    assert "--coins comes from [start] coins in ingester.toml." in both
    assert "--pairs comes from [start] pairs in ingester.toml." in both


@pytest.mark.slow
def test_a_recorder_and_an_export_take_everything_from_the_file(questdb, home):
    with Simulator(pairs=["BTCUSDT", "ETHUSDT"]) as simulator:
        options = dict(zip(*[iter(at(simulator, questdb))] * 2, strict=True))
        (home / "ingester.toml").write_text(
            f"""
            data-dir = {json.dumps(options["--data-dir"])}
            questdb = {json.dumps(options["--questdb"])}
            [start]
            pairs = ["BTCUSDT", "ETHUSDT"]
            collector = "by-file"
            for = "1h"
            stream-url = {json.dumps(options["--stream-url"])}
            rest-url = {json.dumps(options["--rest-url"])}
            [export]
            exchange = {json.dumps(urlsplit(options["--stream-url"]).netloc)}
            from = "today"
            to = "now"
            format = "csv"
            levels = 1
            """
        )
        (home / "ingester.toml").chmod(0o600)
        with Recorder("--for", "3s", environment={"INGESTER_START_PAIRS": "BTCUSDT"}) as recorder:
            recorder.wait_for("options come from ingester.toml")
            recorder.process.wait(60)
            assert recorder.stop()[0] == 0, recorder.output
    assert {symbol for symbol, _ in rows_of(questdb, "by-file")} == {"BTCUSDT"}
    exported = subprocess.run(
        [sys.executable, "-m", "ingester", "export", "--pairs", "BTCUSDT"], capture_output=True, text=True, timeout=120
    )
    assert exported.returncode == 0, exported.stderr
    (written,) = home.glob("hft data/extracted datasets/*/*/BTC_USDT_100ms_*.csv")
    assert written.read_text().splitlines()[0] == "Request Time,Bid_1,BidV_1,Ask_1,AskV_1"


# what is refused, and where it is written


@pytest.mark.parametrize(
    ("command", "file", "message"),
    [
        ("start", "[start]\ndepht = 10", "[start] has no 'depht'. Did you mean 'depth'?"),
        ("start", "\n\n  depth = 10", "there is no 'depth'. It is [start] depth"),
        ("start", 'data_dir = "x"', "there is no 'data_dir'. Did you mean 'data-dir'?"),
        ("start", '[start]\n\ndata-dir = "x"', "[start] has no 'data-dir'. It is data-dir: common options"),
        ("start", "[strat]\ndepth = 10", "there is no 'strat'. Did you mean 'start'"),
        ("start", "start = 5", "start is a command: write its options in a table, [start]."),
        ("start", "[[start]]\ndepth = 10", "start is a command: write its options in a table, [start]."),
        ("start", "export = 5", "export is a command: write its options in a table, [export]."),
        ("start", "[config]\njson = true", "there is no 'config'."),
        ("import", "[import]\nx = 1", "[import] has no 'x'."),
        ("server status", "[server]\njson = true", "[server] has no 'json'. It is [server.status] json"),
        ("server status", "[server.statsu]", "[server] has no 'statsu'. Did you mean 'status'"),
        ("server stop", "server.status.jsno = true", "[server.status] has no 'jsno'. Did you mean 'json'?"),
        ("start", "[start]\ndepth = true", "[start] depth: expected a value such as 5."),
        ("start", "[start]\ndepth = 5.0", "[start] depth: '5.0' is not a valid integer."),
        ("start", '[start]\ndepth = "many"', "[start] depth: 'many' is not a valid integer."),
        ("start", "start = {depth = [5]}", "[start] depth: expected a value such as 5."),
        ("start", "[start.pairs]\nx = 1", '[start] pairs: expected a value such as ["BTCUSDT", "ETHUSDT"].'),
        ("start", '[start]\npairs = ["A",\n  {x = 5}]', "[start] pairs: expected a value such as"),
        ("start", '[start]\nexchange = "binanse"', "[start] exchange: 'binanse' is not one of 'binance',"),
        ("start", "[start]\nbackup-every = 0", "[start] backup-every: 0 is not in the range 1<=x<=1440."),
        ("simulate", '[simulate]\nburst = "yes"', "[simulate] burst: expected true or false."),
        ("simulate", "[simulate]\nburst = 1", "[simulate] burst: expected true or false."),
        ("simulate", "[simulate]\nspeed = -1", "[simulate] speed: '-1' is neither a number such as 1, 10 or 0.5"),
        ("simulate", '[simulate]\nfile = ["gone.gz"]', "[simulate] file: File 'gone.gz' does not exist."),
        ("sql x", "[sql]\nformat = csv", "this is not TOML: Invalid value (at line 2, column 10)."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_its_key(command, file, message):
    assert f"Error: ingester.toml: {message}" in refused(*command.split(), file=file)


def test_a_wrong_value_is_refused_also_where_an_option_replaces_it():
    assert "ingester.toml: [simulate] port: 99999" in refused(
        "simulate", "--port", "0", file="[simulate]\nport = 99999"
    )


def test_the_table_of_another_command_is_left_to_that_command_and_to_config():
    file = "[export]\nlevles = 3\n"
    assert run("server", "status", "--json", file=file)[0] == 1  # it looked: there is no server
    assert "ingester.toml: [export] has no 'levles'. Did you mean 'levels'?" in refused("config", "sql")


@pytest.mark.parametrize(
    ("words", "told", "message", "place"),
    [
        (
            "start --exchange simulator",
            {"file": "[start]\ndepth = 7"},
            "--depth 7 is not offered",
            "--depth comes from [start] depth in ingester.toml.",
        ),
        (
            "start --exchange simulator",
            {"INGESTER_START_DEPTH": "7"},
            "--depth 7 is not offered",
            "--depth comes from INGESTER_START_DEPTH.",
        ),
        (
            "export --to now",
            {"file": '[export]\nfrom = "noon"'},
            "--from 'noon'",
            "--from comes from [export] from in ingester.toml.",
        ),
        (
            "start",
            {"INGESTER_START_PAIRS": "B!C"},
            "--pairs 'B!C' is not",
            "--pairs comes from INGESTER_START_PAIRS.",
        ),
        (
            "sql x",
            {"file": 'questdb = "http://db"\nquestdb-user = "a"'},
            "is given without a password. Add --questdb-password-file",
            "",
        ),
    ],
)
def test_what_the_library_refuses_names_the_file_or_variable(words, told, message, place):
    output = refused(*words.split(), **told)
    assert message in output
    assert place in output


def test_what_was_said_on_the_command_line_is_not_looked_for_elsewhere():
    assert "comes from" not in refused("start", "--exchange", "simulator", "--depth", "7", file="[start]\ndepth = 10")


def test_a_variable_that_cannot_be_used_is_named():
    assert "Invalid value for INGESTER_SIMULATE_PORT: 'x' is not a valid" in refused(
        "simulate", INGESTER_SIMULATE_PORT="x"
    )
    assert "Invalid value for INGESTER_START_DEPTH: 'x'" in refused("config", "start", INGESTER_START_DEPTH="x")
    assert "Invalid value for '--port': 'y'" in refused("simulate", "--port", "y", INGESTER_SIMULATE_PORT="1")


def test_a_variable_that_nobody_knows_is_warned_of():
    known_ones = ["INGESTER_DATA_DIR", "INGESTER_START_DEPTH"]
    environment = dict.fromkeys(
        ["INGESTER_START_DEPHT", "INGESTER_PORT", "INGESTER_EXPORT_X", "INGESTER_CONFIG", "HOME", *known_ones], "x"
    )
    assert unknown_variables(environment, known_ones, ["INGESTER_EXPORT_"]) == [
        "the variable INGESTER_PORT is unknown and changes nothing.",
        "the variable INGESTER_START_DEPHT is unknown and changes nothing. Did you mean INGESTER_START_DEPTH?",
    ]
    code, output = run("server", "status", INGESTER_QUSTDB="x", INGESTER_EXPORT_WHAT="x")
    assert code == 1
    assert "INGESTER_QUSTDB is unknown and changes nothing. Did you mean INGESTER_QUESTDB?" in output
    assert "EXPORT" not in output
    assert "INGESTER_EXPORT_WHAT" in run("config", "sql", INGESTER_EXPORT_WHAT="x")[1]


# ingester config


def test_config_shows_every_option_of_every_command_without_passwords():
    file = 'questdb = "http://admin:geheim@db:9000"\n[start]\nstream-url = "wss://u:geheim@h"\n'
    code, output = run("config", file=file, INGESTER_START_REST_URL="http://u:geheim@h")
    assert code == 0
    assert "geheim" not in output
    assert "geheim" not in run("config", "--json")[1]
    assert re.search(r"^questdb +http://admin:\*\*\*@db:9000 +ingester.toml *$", output, re.MULTILINE)
    assert re.search(r"^  rest-url +http://u:\*\*\*@h +INGESTER_START_REST_URL *$", output, re.MULTILINE)
    for path in {setting.path for setting in SETTINGS if not setting.common}:
        assert f"\n{' '.join(path)} " in output
    everything = json.loads(run("config", "--json")[1])["commands"]
    for setting in SETTINGS:
        if setting.path:
            assert setting.key in everything[" ".join(setting.path)]


def test_config_knows_its_commands_and_their_options():
    assert "There is no command 'strat'" in refused("config", "strat")
    assert "No such option '--dept'" in refused("config", "start", "--", "--dept", "5").replace(": ", " ")
    assert list(in_force("server", "status")) == ["server status"]
    assert "there is neither ./ingester.toml nor " in run("config", "sql")[1]


def test_an_option_that_is_required_may_be_missing_in_config():
    assert in_force("export")["export"]["from"] == {"value": None, "source": "default", "place": None}


# what is declared


def test_no_two_options_share_a_key_or_a_variable():
    ways = {setting.keys for setting in SETTINGS}
    variables = {setting.variable: setting.keys for setting in SETTINGS}
    assert len(variables) == len(ways)
    assert not {setting.key for setting in common_settings()} & set(cli.list_commands(click.Context(cli)))


def test_every_command_but_init_takes_a_file():
    for name in cli.list_commands(click.Context(cli)):
        assert ("--config" in run(name, "--help")[1] or name in ("server", "pairs", "spool")) is (name != "init")
    assert "--config" in run("server", "status", "--help")[1]
    assert "--config" in run("pairs", "add", "--help")[1]
