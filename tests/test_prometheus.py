"""docker/prometheus and docker/grafana: promtool takes them, each alert fires when it should, dashboards' SQL runs."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ingester.questdb import schema
from ingester.questdb.client import QuestDB

DOCKER = Path(__file__).parents[1] / "docker"
RULES = DOCKER / "prometheus" / "alerts.yml"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "ingester.json"
HOUR, HALF_DAY = "60", "720"
"""Minutes; each series has a value a minute."""
LONG = "LONG"  # as long as a case lasts
START = "ingester_start_time_seconds"


def promtool(*arguments):
    tool = shutil.which("promtool")
    if tool is None:
        assert not os.environ.get("CI"), "promtool is missing; .ci/run brings it"
        pytest.skip("promtool is missing: apt-get install prometheus")
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_promtool_takes_configuration_and_rules():
    done = promtool("check", "config", DOCKER / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert "$labels.instance" in rule["annotations"]["summary"], rule["alert"]
        assert len(rule["annotations"]["runbook"]) > 20, rule["alert"]


WELL = {
    "up": f"1+0x{LONG}",
    START: f"0+0x{LONG}",
    "ingester_look_timestamp_seconds": f"0+60x{LONG}",
    "ingester_rows_received_total": f"0+26400x{LONG}",
    'ingester_connection_up{connection="1a"}': f"1+0x{LONG}",
    'ingester_connection_age_seconds{connection="1a"}': f"3600+0x{LONG}",
    'ingester_pairs{state="silent"}': f"0+0x{LONG}",
    'ingester_gap_seconds_total{reason="restart"}': f"0+0x{LONG}",
    "ingester_rows_lost_total": f"0+0x{LONG}",
    "ingester_spool_full": f"0+0x{LONG}",
    "ingester_spool_oldest_age_seconds": f"0+0x{LONG}",
    "ingester_store_failing_seconds": f"0+0x{LONG}",
    "ingester_spool_waiting_bytes": f"0+0x{LONG}",
    "ingester_spool_limit_bytes": f"8000000000+0x{LONG}",
    "ingester_spool_sync_failing": f"0+0x{LONG}",
    'ingester_store_lag_seconds_bucket{le="0.5"}': f"0+26400x{LONG}",
    'ingester_store_lag_seconds_bucket{le="60.0"}': f"0+26400x{LONG}",
    'ingester_store_lag_seconds_bucket{le="+Inf"}': f"0+26400x{LONG}",
    "ingester_table_suspended": f"0+0x{LONG}",
    "ingester_rows_missing": f"0+0x{LONG}",
    "ingester_dead_letters_total": f"0+0x{LONG}",
    "ingester_frames_quarantined_total": f"0+0x{LONG}",
    "ingester_server_restarts_total": f"0+0x{LONG}",
    "ingester_disk_free_bytes": f"100000000000-1000000x{LONG}",
    "ingester_disk_growth_bytes_per_day": f"8000000000+0x{LONG}",
    "ingester_clock_offset_seconds": f"0.001+0x{LONG}",
}

CASES = [
    (set(), {}, HOUR),
    (set(), {}, HALF_DAY),
    ({"RecorderDown"}, {"up": "1x30 0x30"}, HOUR),
    ({"RecorderDown"}, {"up": None}, HOUR),
    ({"RecorderHangs"}, {"ingester_look_timestamp_seconds": "0+60x50 3000x10"}, HOUR),
    ({"RecorderRestartsOften"}, {START: "0x20 1200x9 1800x9 2400x9 3000x20"}, "55"),
    ({"NothingReceived"}, {"ingester_rows_received_total": "0+26400x50 1320000x10"}, HOUR),
    (set(), {"ingester_rows_received_total": "0x4"}, "4"),  # it has only begun
    ({"ConnectionDown"}, {'ingester_connection_up{connection="1a"}': "1x50 0x10"}, HOUR),
    (set(), {'ingester_connection_up{connection="1a"}': "1x57 0x3"}, HOUR),  # not for long yet
    ({"ConnectionTooOld"}, {'ingester_connection_age_seconds{connection="1a"}': "86500x60"}, HOUR),
    ({"PairsSilent"}, {'ingester_pairs{state="silent"}': "0x57 2x3"}, HOUR),
    ({"Gaps"}, {'ingester_gap_seconds_total{reason="restart"}': "0x55 90x5"}, HOUR),
    (set(), {'ingester_gap_seconds_total{reason="restart"}': "0x55 30x5"}, HOUR),
    ({"RowsLost"}, {"ingester_rows_lost_total": "0x57 100x3"}, HOUR),
    ({"RowsLost"}, {"ingester_spool_full": "0x59 1x1"}, HOUR),
    ({"RowsWait"}, {"ingester_spool_oldest_age_seconds": "0x55 60+60x5"}, HOUR),
    ({"RowsWait"}, {"ingester_store_failing_seconds": "0x55 60+60x5"}, HOUR),
    ({"SpoolFillsUp"}, {"ingester_spool_waiting_bytes": "4500000000x60"}, HOUR),
    ({"SpoolNotSynced"}, {"ingester_spool_sync_failing": "1x60"}, HOUR),
    ({"LagHigh"}, {'ingester_store_lag_seconds_bucket{le="0.5"}': "0x60"}, HOUR),
    ({"TableSuspended"}, {"ingester_table_suspended": "1x60"}, HOUR),
    ({"RowsMissing"}, {"ingester_rows_missing": "3x60"}, HOUR),
    (set(), {"ingester_rows_missing": "0x58 3x2"}, HOUR),  # sent again within the minute
    ({"DeadLetters"}, {"ingester_dead_letters_total": "0x50 2x10"}, HOUR),
    ({"FramesQuarantined"}, {"ingester_frames_quarantined_total": "0x55 20x5"}, HOUR),
    ({"ServerRestarts"}, {"ingester_server_restarts_total": "0x40 1x10 2x10"}, HOUR),
    ({"ThreadDied"}, {'ingester_problem{kind="thread_died",severity="warning"}': "1x60"}, HOUR),
    ({"DiskNearlyFull"}, {"ingester_disk_free_bytes": "4000000000x60"}, HOUR),
    ({"DiskNearlyFull"}, {"ingester_disk_free_bytes": "100000000000-20000000x720"}, HALF_DAY),  # by its course
    ({"DiskNearlyFull"}, {"ingester_disk_growth_bytes_per_day": "40000000000x60"}, HOUR),
    (set(), {"ingester_disk_growth_bytes_per_day": "0x60"}, HOUR),  # rows are stored elsewhere
    ({"ClockOff"}, {"ingester_clock_offset_seconds": "-2x60"}, HOUR),
]


def with_labels(series):
    name, _, labels = series.partition("{")
    return f'{name}{{instance="recorder-a:9464",job="ingester"{"," + labels if labels else "}"}'


def unit_test(fires, changes, at_minute):
    series = {**WELL, **changes}
    return {
        "interval": "1m",
        "input_series": [
            {"series": with_labels(name), "values": values.replace(LONG, at_minute)}
            for name, values in series.items()
            if values is not None
        ],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{at_minute}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(fires)],
            }
        ],
    }


def test_each_alert_fires_when_it_should_and_no_other(tmp_path):
    assert {name for fires, _, _ in CASES for name in fires} == {rule["alert"] for rule in rules()}
    cases = [unit_test(*case) for case in CASES]
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases})
    )
    done = promtool("test", "rules", tmp_path / "test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def panels():
    return json.loads(DASHBOARD.read_text())["panels"]


def test_panels_know_their_source_and_do_not_overlap():
    provisioned = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/ingester.yml").read_text())
    sources = {(source["type"], source["uid"]) for source in provisioned["datasources"]}
    taken = set()
    for panel in panels():
        for target in panel["targets"]:
            assert (target["datasource"]["type"], target["datasource"]["uid"]) in sources, panel["title"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_sql_of_the_dashboard_runs(questdb):
    db = QuestDB(questdb.endpoint)
    schema.ensure(db, 5)
    statements = [target["rawSql"] for panel in panels() for target in panel["targets"] if "rawSql" in target]
    assert len(statements) == 3
    for statement in statements:
        since, until = "'2026-01-01T00:00:00Z'", "'2026-01-02T00:00:00Z'"
        told = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN {since} AND {until}", statement)
        told = told.replace("$__interval", "30s").replace("$pair", "BTCUSDT")
        assert "$" not in told
        assert db.sql(told).columns
