"""The command in locales that are not UTF-8: files are UTF-8 all the same, and what cannot be printed is replaced."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ingester
from ingester.simulator import Simulator

PACKAGE = Path(ingester.__file__).parent
CHINESE = "币安人生USDT"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
OPENERS = {"open", "fdopen", "read_text", "write_text", "NamedTemporaryFile", "TemporaryFile", "FileHandler"}
RUNNERS = {"run", "Popen", "check_output"}


def name_of(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def says_encoding(call):
    """Whether a call opens no text, or says in which encoding."""
    given = {word.arg: word.value for word in call.keywords}
    if "encoding" in given or "force_zip64" in given:  # members of zip files are bytes
        return True
    if name_of(call) in RUNNERS:
        return not {"text", "universal_newlines"} & given.keys()
    if name_of(call) in ("read_text", "write_text", "FileHandler"):
        return False
    texts = [each.value for each in [*call.args, *given.values()] if isinstance(each, ast.Constant)]
    modes = [each for each in texts if isinstance(each, str) and set(each) <= set("rwabxt+")]
    if name_of(call) == "open" and isinstance(call.func, ast.Attribute) and not modes:
        return True  # os.open, gzip.open, or an `open` of our own
    return any("b" in mode for mode in modes)


def test_every_text_file_is_opened_with_its_encoding():
    unsaid = []
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and name_of(call) in OPENERS | RUNNERS and not says_encoding(call):
                unsaid.append(f"{path.relative_to(PACKAGE)}:{call.lineno} {ast.unparse(call)}")
    assert unsaid == []


@pytest.fixture(scope="module")
def latin1(tmp_path_factory):
    """Variables for a locale in ISO-8859-1, made here where the system has none."""
    folder = tmp_path_factory.mktemp("locale")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    try:
        subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no localedef")
    if not (folder / "en_US.ISO-8859-1").exists():
        pytest.skip("localedef cannot make the locale")
    return {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}


@pytest.fixture(params=["ascii", "latin1", "stdio"])
def locale(request):
    """Variables of a locale, or of Python, in which Chinese cannot be written."""
    if request.param == "latin1":
        return request.getfixturevalue("latin1")
    return ASCII if request.param == "ascii" else {"PYTHONIOENCODING": "ascii"}


def run(*options, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    command = [sys.executable, "-m", "ingester", *map(str, options)]
    done = subprocess.run(command, env=environment | variables, capture_output=True, timeout=120, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


@pytest.mark.parametrize("command", [["start"]])
def test_help_is_printed_in_every_locale(locale, command):
    code, output, errors = run(*command, "--help", **locale)
    assert code == 0, errors
    assert b"Examples" in output


def test_a_pairs_file_is_read_and_written_as_utf8(locale, tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text(f"{CHINESE}    # 名\n", encoding="utf-8")
    where = ("--data-dir", tmp_path, "--pairs-file", file)
    assert run("pairs", "add", "BTC", "--no-check", *where, **locale)[0] == 0
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"{CHINESE}    # 名\n")
    assert "BTCUSDT" in text
    code, output, errors = run("pairs", "list", *where, **locale)
    assert code == 0, errors
    assert b"USDT" in output


@pytest.mark.slow
def test_a_pair_with_a_chinese_name_is_recorded_and_exported_in_latin1(latin1, questdb, tmp_path):
    pairs = tmp_path / "pairs.txt"
    pairs.write_text(f"BTCUSDT\n{CHINESE}\n", encoding="utf-8")
    where = ("--data-dir", questdb.data_dir)
    recorder = ("--collector", "latin1", "--pairs-file", pairs, "--for", "3s", *where)
    with Simulator(pairs=["BTCUSDT", CHINESE]) as simulator:
        source = ("--stream-url", simulator.stream_url, "--rest-url", simulator.rest_url)
        for _ in range(2):
            code, _, errors = run("start", *recorder, *source, **latin1)
            assert code == 0, errors
    kinds = "SELECT kind, symbol FROM collector_events WHERE collector = 'latin1' AND symbol IS NOT NULL"
    code, output, errors = run("sql", kinds, "--format", "csv", *where, **latin1)
    assert code == 0, errors
    lines = output.decode().splitlines()
    assert f'"gap","{CHINESE}"' in lines
    assert not [line for line in lines if "pair_" in line]
    times = ("--from", "today", "--to", "now", "--pairs", "BTCUSDT")
    code, _, errors = run("export", *times, "--format", "csv", "--root", tmp_path / "out", *where, **latin1)
    assert code == 0, errors
    (file,) = (tmp_path / "out").rglob("*.csv")
    assert "꞉" in file.name
