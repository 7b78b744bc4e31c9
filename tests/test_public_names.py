"""Names that users and their programs rely on: options, variables, events, metrics, JSON keys, files.

They are kept in `tests/data/public_names.json`. A change there is a change for users and needs a line in CHANGELOG.md:
`PUBLIC_NAMES=write pytest tests/test_public_names.py` writes the file.
"""

import json
import os
import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from reports import report

from ingester import events
from ingester.cli import cli
from ingester.cli.configuration import commands, settings
from ingester.datasets import manifest
from ingester.datasets.coverage import Coverage, PairCoverage, as_mapping
from ingester.datasets.dataset import Request
from ingester.datasets.gaps import MissingTime
from ingester.datasets.manifest import PairFile
from ingester.events import Event
from ingester.metrics import Histogram
from ingester.monitoring.metrics_server import metrics_registry
from ingester.monitoring.monitor import Observation
from ingester.monitoring.overview import Overview
from ingester.monitoring.report import Problem, Report
from ingester.sequence.event_counts import EventCounts

FILE = Path(__file__).parent / "data" / "public_names.json"
NOW = 1_700_000_000_000_000_000
GAP = MissingTime("BTCUSDT", NOW, NOW + 10**9, "restart", "a")


def options():
    found = {}
    for path, command in commands((), cli):
        name = " ".join(path)
        found[name] = sorted(" ".join(option.opts + option.secondary_opts) for option in command.params)
    return found


def variables():
    return sorted({each.variable for path, command in commands((), cli) for each in settings(path, command)})


def event_kinds():
    rows = re.findall(r"^\| ([a-z_, ]+) \|", events.__doc__, re.M)
    return sorted(kind for row in rows[1:] for kind in row.split(", "))


def metrics():
    journal = EventCounts()
    journal.add([Event(NOW, "gap", "BTCUSDT", detail="restart", until_ns=NOW)])
    vitals = Observation(report(), {"BTCUSDT": 0.1}, Histogram().read(), journal.read(NOW))
    text = generate_latest(metrics_registry(lambda: vitals)).decode()
    families = text_string_to_metric_families(text)
    return {
        family.name: sorted({label for sample in family.samples for label in sample.labels})
        for family in families
        if family.name.startswith("ingester_")
    }


def fields(type_):
    """The keys of a struct as JSON, those of the structs in it too."""
    found = {}
    for field in msgspec.structs.fields(type_):
        inner = [each for each in _types(field.type) if isinstance(each, type) and issubclass(each, msgspec.Struct)]
        found[field.encode_name] = fields(inner[0]) if inner else None
    return found


def _types(type_):
    yield type_
    for each in getattr(type_, "__args__", ()):
        yield from _types(each)


def keys(value):
    """The keys of a JSON value; lists by their first element, pairs' names left out."""
    if isinstance(value, list):
        return [keys(value[0])] if value else []
    if isinstance(value, dict):
        return {"PAIR" if key.endswith("USDT") else key: keys(inner) for key, inner in value.items()}
    return None


def sample_manifest():
    request = Request(NOW, NOW + 60 * 10**9, ("BTCUSDT",), format="csv", every_ns=250_000_000)
    file = PairFile("BTCUSDT", "BTC_USDT.csv", 240, 10, NOW, NOW + 10**9, 1000, "0" * 64)
    return manifest.build_manifest(request, [file], {"BTCUSDT": [GAP]}, ["a"])


def sample_coverage():
    whole = Coverage("BTCUSDT", NOW, NOW + 60 * 10**9, 240, 10**8, [GAP])
    return as_mapping([PairCoverage(whole, [whole])], NOW, NOW + 60 * 10**9, "day")


def current():
    return {
        "options": options(),
        "variables": variables(),
        "event kinds": event_kinds(),
        "gap reasons": sorted(events.REASONS),
        "metrics": metrics(),
        "status --json": fields(Overview),
        "state/COLLECTOR.json": fields(Report),
        "alert": fields(Problem),
        "manifest.json": keys(sample_manifest()),
        "coverage --json": keys(sample_coverage()),
    }


@pytest.fixture(scope="module")
def kept():
    if os.environ.get("PUBLIC_NAMES") == "write":
        FILE.write_text(json.dumps(current(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", current())
def test_names_that_users_rely_on_are_those_on_file(kept, part):
    assert current()[part] == kept[part]
    assert kept[part]
