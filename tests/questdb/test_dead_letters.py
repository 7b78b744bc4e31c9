"""dead_letters.py: a refused row can be found, read, and sent again."""

import base64
import json
import os

import pytest

from ingester.book import OrderBook
from ingester.errors import SpoolError
from ingester.questdb.dead_letters import DeadLetters
from ingester.questdb.encoder import RowEncoder

NOON = 1_700_049_600 * 10**9  # 2023-11-15 12:00
DAY = 86_400 * 10**9
ROW = RowEncoder(depth=5, exchange="binance", collector="x").snapshots(
    [OrderBook("BTC,USDT", NOON - 1, 42, [(1.0, 2.0)], [])]
)


def letters(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_which_row_why_and_when_and_holds_it_whole(tmp_path):
    dead = DeadLetters(tmp_path / "dead-letter" / "x")
    assert dead.put(ROW, 'column "bid_1"\nis bad', NOON)
    (letter,) = letters(tmp_path / "dead-letter" / "x" / "2023-11-15.jsonl")
    assert base64.b64decode(letter.pop("row")) == ROW
    assert letter == {
        "at": "2023-11-15T12:00:00+00:00",
        "table": "orderbook",
        "symbol": "BTC,USDT",
        "last_update_id": 42,
        "timestamp_ns": NOON - 1,
        "error": 'column "bid_1"\nis bad',
    }


def test_a_row_that_cannot_be_read_is_kept_all_the_same(tmp_path):
    dead = DeadLetters(tmp_path)
    assert dead.put(b"\xff\x00", "what is this", NOON)
    (letter,) = letters(dead.path(NOON))
    assert letter["symbol"] is None
    assert base64.b64decode(letter["row"]) == b"\xff\x00"


def test_each_day_has_a_file_and_a_row_that_comes_again_is_written_once(tmp_path):
    dead = DeadLetters(tmp_path)
    assert dead.put(ROW, "bad", NOON)
    assert not dead.put(ROW, "bad", NOON + DAY)
    assert dead.put(ROW + b"#", "bad", NOON + DAY)
    assert DeadLetters(tmp_path).put(b"of the next run\n", "bad", NOON)
    assert {path.name: len(letters(path)) for path in tmp_path.iterdir()} == {
        "2023-11-15.jsonl": 2,
        "2023-11-16.jsonl": 1,
    }


def test_where_it_cannot_be_written_the_error_says_so_and_the_row_is_not_known(tmp_path):
    folder = tmp_path / "dead"
    folder.touch()
    dead = DeadLetters(folder)
    with pytest.raises(SpoolError, match=r"cannot set aside a refused row in .*dead"):
        dead.put(ROW, "bad", NOON)
    folder.unlink()
    assert dead.put(ROW, "bad", NOON)


def test_half_a_line_is_taken_back(tmp_path, monkeypatch):
    dead = DeadLetters(tmp_path)
    dead.put(b"first\n", "bad", NOON)

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(SpoolError, match="No space left"):
            dead.put(ROW, "bad", NOON)
    assert dead.put(ROW, "bad", NOON)
    assert [letter["symbol"] for letter in letters(dead.path(NOON))] == [None, "BTC,USDT"]
