"""options.py: who asks QuestDB, by all options together; recording over TLS leaves no trace of a secret."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from recorder import Recorder, rows_of, url_of
from tls_proxy import TlsProxy

from ingester.cli.configuration import settings
from ingester.cli.options import Access, data_options
from ingester.errors import SettingsError
from ingester.simulator import Simulator


@click.command()
@data_options
def asked(data_dir, questdb):
    """Tells what it would ask."""
    click.echo("managed" if questdb is None else f"{questdb.http_url} {questdb.headers()} {questdb.read_from}")
    click.echo(repr(questdb), err=True)


for setting in settings(("asked",), asked):
    setting.option.envvar = setting.variable


def ask(*options, **environment):
    names = {f"INGESTER_QUESTDB{'_' + name.upper() if name else ''}": str(value) for name, value in environment.items()}
    return CliRunner().invoke(asked, [str(option) for option in options], env=names)


BASIC = "Basic YWRtaW46c2VjcmV0"  # admin:secret
URL = "https://db:9000"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "file"
    path.write_text("secret\n")
    path.chmod(0o600)
    return path


def test_each_way_to_say_it_leads_to_the_same_header(secret):
    for result in (
        ask("--questdb", "https://admin:secret@db:9000"),
        ask("--questdb", URL, "--questdb-user", "admin", "--questdb-password-file", secret),
        ask("--questdb", "https://admin@db:9000", "--questdb-password-file", secret),
        ask("--questdb", URL, "--questdb-user", "admin", password="secret"),
        ask("--questdb", URL, user="admin", password_file=secret),
        ask("--questdb", "https://admin:secret@db:9000", password="another", token="further off"),
    ):
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"{URL} {{'authorization': '{BASIC}'}}"), result.output
        assert "secret" not in result.stderr
    for result in (ask("--questdb", URL, "--questdb-token-file", secret), ask("--questdb", URL, token="secret")):
        assert result.stdout.startswith(f"{URL} {{'authorization': 'Bearer secret'}}"), result.output
    assert str(secret) in ask("--questdb", URL, "--questdb-token-file", secret).stdout


def test_the_managed_server_needs_no_password_from_outside():
    assert ask(password="for another server").stdout == "managed\n"


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        (["--questdb", URL, "--questdb-user", "admin"], {}, "without a password"),
        (["--questdb", URL], {"password": "hidden"}, "without its user"),
        (["--questdb", URL], {"password": "hidden", "token": "hidden"}, "given twice"),
        (
            ["--questdb", URL, "--questdb-password", "hidden"],
            {},
            "INGESTER_QUESTDB_PASSWORD or --questdb-password-file",
        ),
        (["--questdb", URL, "--questdb-token", "hidden"], {}, "INGESTER_QUESTDB_TOKEN or --questdb-token-file"),
        (["--questdb-user", "admin"], {}, "--questdb-user goes with --questdb URL"),
        (["--questdb", URL], {"token": "hidden\nhost: elsewhere"}, "not one line"),
        (["--questdb", URL, "--questdb-user", "a:b"], {"password": "hidden"}, "colon"),
        (["--questdb", URL, "--questdb-token-file", "/missing/token"], {}, "/missing/token cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(options, environment, words):
    result = ask(*options, **environment)
    assert isinstance(result.exception, SettingsError)
    assert words in str(result.exception)
    assert "hidden" not in str(result.exception)


@pytest.mark.parametrize(
    ("url", "warned"),
    [("http://db:9000", True), ("http://127.0.0.1:9000", False), ("http://localhost", False), (URL, False)],
)
def test_a_password_that_goes_through_a_network_unencrypted_is_told(url, warned, caplog):
    with caplog.at_level(logging.WARNING):
        assert ask("--questdb", url, user="admin", password="hidden").exit_code == 0
    assert ("unencrypted" in caplog.text) is warned
    assert "hidden" not in caplog.text


def test_the_options_hold_secrets_that_are_not_shown():
    assert "hidden" not in repr(Access("http://a:hidden@db", password="hidden", token="hidden"))


def arguments_of(process):
    return Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()


def test_recording_and_exporting_over_tls_leaves_no_trace_of_a_secret(questdb, tmp_path):
    password = tmp_path / "password"
    password.write_text(questdb.endpoint.password + "\n")
    password.chmod(0o600)
    token = "a-token-of-this-test"
    with Simulator(pairs=["XTLSUSDT"]) as simulator, TlsProxy(questdb.endpoint) as proxy:
        proxy.token = token
        where = ["--questdb", proxy.url, "--questdb-ca", str(proxy.trust(tmp_path / "ca.pem"))]
        basic = [*where, "--questdb-user", "admin", "--questdb-password-file", str(password)]
        source = ["--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url]
        begin = ["--pairs", "XTLSUSDT", "--collector", "tls", "--data-dir", str(tmp_path / "data"), "--for", "4s"]
        with Recorder(*begin, *source, *basic) as recorder:
            recorder.wait_for("rows")
            shown = arguments_of(recorder.process)
            recorder.process.wait(60)
            code, output = recorder.stop()
        assert code == 0, output
        assert len(rows_of(questdb, "tls")) > 5
        assert "--questdb-password-file" in shown
        export = ["export", "--from", "today", "--to", "now", "--pairs", "XTLSUSDT", "--root", str(tmp_path), *where]
        wrong = ["sql", "SELECT 1", *where, "--questdb-user", "admin"]
        answers = [
            subprocess.run(
                [sys.executable, "-m", "ingester", *words],
                env=os.environ | {"INGESTER_QUESTDB_TOKEN" if words is export else "INGESTER_QUESTDB_PASSWORD": secret},
                capture_output=True,
                text=True,
            )
            for words, secret in ((export, token), (wrong, "not the password"))
        ]
    assert answers[0].returncode == 0, answers[0].stderr
    assert "XTLSUSDT" in answers[0].stdout
    assert {each.split()[0] for each in proxy.seen} == {"Basic", "Bearer"}
    assert answers[1].returncode == 1
    assert "refused the user 'admin'" in answers[1].stderr
    written = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    everything = written.replace(password.read_text(), "") + output + "".join(a.stdout + a.stderr for a in answers)
    for hidden in (questdb.endpoint.password, token, "not the password"):
        assert hidden not in everything + shown


@pytest.mark.parametrize("form", ["--alarm-webhook URL", "--alarm-webhook=URL"])
def test_a_webhooks_address_vanishes_from_the_process_list(tmp_path, form):
    with Simulator(pairs=["XTLSUSDT"]) as simulator:
        source = ["--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url, "--data-dir", str(tmp_path)]
        words = [word.replace("URL", "http://127.0.0.1:9/services/hidden-part") for word in form.split()]
        # A QuestDB that is not there: the first start waits for none, and ends with an error.
        with Recorder("--pairs", "XTLSUSDT", *source, "--questdb", "http://127.0.0.1:9", *words) as recorder:
            told = recorder.wait_for("the address in --alarm-webhook")
            shown = Path(f"/proc/{recorder.process.pid}/cmdline").read_bytes().decode()
            output = recorder.stop()[1]
    assert "INGESTER_START_ALARM_WEBHOOK" in told
    assert "hidden-part" not in shown + output
    if shown:  # it may have ended meanwhile
        assert "http://***" in shown


def test_a_password_in_the_address_is_hidden_and_told_once(questdb, tmp_path):
    hidden = questdb.endpoint.password
    with Simulator(pairs=["XTLSUSDT"]) as simulator:
        source = ["--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url, "--data-dir", str(tmp_path)]
        with Recorder(
            "--pairs", "XTLSUSDT", "--collector", "shy", *source, "--questdb", url_of(questdb.endpoint)
        ) as recorder:
            told = recorder.wait_for("the password in --questdb")
            shown = arguments_of(recorder.process)
            recorder.wait_for("rows")
            code, output = recorder.stop()
    assert code == 0
    assert "--questdb-password-file" in told
    assert output.count("the password in --questdb") == 1
    assert hidden not in shown + output
    assert "admin:" + "*" * len(hidden) + "@127.0.0.1" in shown
