"""webhook.py: messages arrive in order, also where the other side fails or hangs, and the address stays secret."""

import json
import logging
import time

import pytest
import urllib3
from receiver import SECRET, Receiver
from reports import report

from ingester.errors import SettingsError
from ingester.monitoring.alerts import Notice
from ingester.monitoring.webhook import MOST_WAITING, Webhook, checked_url, message

NOTICE = Notice("rows_waiting", "raised", "critical", "rows wait", "mend it")


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def webhook(receiver):
    made = []

    def make(url=receiver.url):
        made.append(
            Webhook(url, waits=lambda: iter(lambda: 0.01, None), timeout=urllib3.Timeout(connect=1.0, read=0.3))
        )
        return made[0]

    yield make
    receiver.release.set()
    made[0].close()


def test_a_message_says_it_in_words_and_in_fields():
    told = json.loads(message(NOTICE._replace(times=3, seconds=61.2), report()))
    assert told["text"] == "ingester one: critical: rows wait (3 times)\nmend it"
    assert told["kind"] == "rows_waiting"
    assert told["state"] == "raised"
    assert told["severity"] == "critical"
    assert told["count"] == 3
    assert told["seconds"] == 61.2
    assert told["at"] == "2026-11-25T10:00:00Z"
    assert set(told) == set("text collector host kind state severity summary mend count seconds at version".split())
    over = json.loads(message(NOTICE._replace(state="recovered", seconds=150.0, mend=""), report()))
    assert over["text"] == "ingester one: over after 2.5 min: rows wait"
    still = json.loads(message(NOTICE._replace(state="lasts", seconds=7200.0), report()))
    assert still["text"].startswith("ingester one: still critical, for 2.0 h: rows wait")


def test_messages_arrive_in_order(receiver, webhook):
    hook = webhook()
    for number in range(5):
        hook.tell(NOTICE._replace(text=f"number {number}"), report())
    told = [receiver.received.get(timeout=10) for _ in range(5)]
    assert [body["summary"] for _, body in told] == [f"number {number}" for number in range(5)]
    assert {path for path, _ in told} == {SECRET}


def test_it_tries_again_while_the_other_side_fails_or_hangs_and_says_so_once(receiver, webhook, caplog):
    caplog.set_level(logging.INFO)
    receiver.answers = [500, None, 429, 200]
    webhook().tell(NOTICE, report())
    assert receiver.received.get(timeout=20)[1]["summary"] == "rows wait"
    receiver.release.set()
    deadline = time.monotonic() + 10
    while len(webhook_lines(caplog)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    first, second = webhook_lines(caplog)
    assert "does not take messages: HTTP 500" in first
    assert "takes messages again" in second
    assert "hush" not in caplog.text


def webhook_lines(caplog):
    return [record.getMessage() for record in caplog.records if "webhook" in record.getMessage()]


def test_what_is_refused_for_good_is_not_sent_again(receiver, webhook):
    receiver.answers = [404, 200]
    hook = webhook()
    hook.tell(NOTICE, report())
    hook.tell(NOTICE._replace(text="the next"), report())
    assert receiver.received.get(timeout=10)[1]["summary"] == "the next"
    assert receiver.attempts.qsize() == 2


def test_nobody_waits_for_a_webhook_that_hangs_and_it_keeps_a_bounded_number(receiver, webhook):
    receiver.answers = [None] * 1000
    hook = webhook()
    begun = time.monotonic()
    for number in range(3 * MOST_WAITING):
        hook.tell(NOTICE._replace(text=f"number {number}"), report())
    assert time.monotonic() - begun < 5
    receiver.answers.clear()
    receiver.release.set()
    sent = []
    while not sent or sent[-1] != f"number {3 * MOST_WAITING - 1}":  # the newest are kept
        sent.append(receiver.received.get(timeout=30)[1]["summary"])
    assert len(sent) <= MOST_WAITING + 1  # and the one that was being sent


def test_a_server_that_is_not_there_is_told_without_the_secret(webhook, receiver, caplog):
    hook = webhook(f"http://127.0.0.1:9{SECRET}")
    hook.tell(NOTICE, report())
    deadline = time.monotonic() + 10
    while "does not take messages" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "does not take messages" in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize("url", ["hooks.example/hush", "ftp://host/hush", "https:///hush", "https://host:port/hush"])
def test_what_is_no_address_is_refused_without_repeating_it(url):
    with pytest.raises(SettingsError, match="https://host/path") as refused:
        checked_url(url)
    assert "hush" not in str(refused.value)
