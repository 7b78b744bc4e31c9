"""database.py, with a real QuestDB: the managed one, a foreign one, tables that do not fit."""

import pytest

from ingester.monitoring.doctor import examine
from ingester.monitoring.doctor_questdb import questdb_checks, version_finding
from ingester.questdb import schema
from ingester.questdb.client import QuestDB
from ingester.questdb.endpoint import Endpoint
from ingester.questdb.server import ManagedServer


def examined(server=None, foreign=None):
    found = examine(questdb_checks(server, foreign))
    return found, {finding.subject: finding for finding in found}


def test_a_managed_server_that_runs(questdb):
    schema.ensure_tables(QuestDB(questdb.endpoint), 5)
    found, by_subject = examined(questdb)
    assert {finding.state for finding in found} == {"ok"}
    assert by_subject["java"].text.startswith("openjdk")
    assert "QuestDB 9.3.4 at" in by_subject["server"].text
    tables = [finding.text for finding in found if finding.subject == "table"]
    assert tables[0].startswith("orderbook fits")
    assert tables[1] == "collector_events fits"


def test_a_managed_server_that_was_never_started_is_not_started_now(tmp_path):
    _, found = examined(ManagedServer(tmp_path))
    assert found["server"].state == "ok"
    assert "the first start makes one" in found["server"].text
    assert found["table"].state == "skipped"
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_password(questdb):
    endpoint = Endpoint(questdb.endpoint.http_url, "admin", "wrong")
    _, found = examined(foreign=endpoint)
    assert found["server"].state == "fail"
    assert "--questdb" in found["server"].mend
    assert "wrong" not in found["server"].text


def test_a_server_that_is_not_there():
    _, found = examined(foreign=Endpoint("http://127.0.0.1:9"))
    assert found["server"].state == "fail"
    assert "curl -i http://127.0.0.1:9/ping" in found["server"].mend


def test_a_table_that_does_not_fit_is_told_and_left_alone(questdb):
    db = QuestDB(questdb.endpoint)
    db.sql("DROP TABLE IF EXISTS orderbook")
    db.sql("CREATE TABLE orderbook (timestamp TIMESTAMP, symbol STRING) TIMESTAMP(timestamp) PARTITION BY DAY WAL")
    try:
        found, _ = examined(foreign=questdb.endpoint)
        columns = db.sql("SELECT count() FROM table_columns('orderbook')").rows[0][0]
    finally:
        db.sql("DROP TABLE orderbook")
    (table,) = [finding for finding in found if finding.state == "fail"]
    assert "symbol is STRING, expected SYMBOL" in table.text
    assert "RENAME TABLE orderbook" in table.mend
    assert columns == 2


@pytest.mark.parametrize(
    ("version", "state"), [("QuestDB 8.2.1", "warning"), ("QuestDB 9.3.4", "ok"), ("strange", "ok")]
)
def test_versions(version, state):
    assert version_finding(version, "http://db:9000").state == state
