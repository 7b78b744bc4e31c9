"""How faults are written down, and what they do to frames."""

import json

import pytest

from ingester.errors import SettingsError
from ingester.simulator.faults import Fault, FaultBoard, FaultRequest, PlannedFault, parse_fault, spoil

BOOK = b'{"lastUpdateId":7,"bids":[["2.0","1"],["1.0","1"]],"asks":[["3.0","5"],["4.0","1"]]}'


@pytest.mark.parametrize(
    ("text", "planned"),
    [
        ("drop@10", PlannedFault(10, FaultRequest("drop"))),
        ("silence:BTCUSDT@10s+5s", PlannedFault(10, FaultRequest("silence", "BTCUSDT", 5))),
        ("silence:btcusdt@1m+500ms", PlannedFault(60, FaultRequest("silence", "BTCUSDT", 0.5))),
        ("malformed?count=3@1h", PlannedFault(3600, FaultRequest("malformed", count=3))),
        ("refuse?status=429@0.5s+2s", PlannedFault(0.5, FaultRequest("refuse", seconds=2, options={"status": 429}))),
        ("drop?connection=2@0", PlannedFault(0, FaultRequest("drop", connection=2))),
    ],
)
def test_faults_are_written_as_kind_symbol_start_and_duration(text: str, planned: PlannedFault) -> None:
    assert parse_fault(text) == planned


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("drop", "drop"),
        ("explode@1s", "explode"),
        ("drop@1.2.3", "1.2.3"),
        ("slow?rate=fast@1s", "fast"),
        ("slow?colour=1@1s", "colour"),
        ("refuse?status=200@1s", "200"),
    ],
)
def test_a_bad_fault_is_named(text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        parse_fault(text)


def sent(board: FaultBoard, tick: int, symbol: str = "A", connection: int = 1, now: float = 0.0) -> list[bytes]:
    text = b"%s%d" % (symbol.encode(), tick)
    if not board.spoils_frames(now):
        return [text]
    return [sent for sent, _ in board.apply(connection, symbol, symbol.lower(), tick, text, tick)]


def board_with(*faults: Fault) -> FaultBoard:
    board = FaultBoard()
    for fault in faults:
        board.add(fault)
    return board


def test_a_held_back_frame_leaves_after_the_next_one_and_then_order_is_back() -> None:
    board = board_with(Fault("out_of_order", "A", count=1))
    assert [sent(board, tick) for tick in (1, 2, 3)] == [[], [b"A2", b"A1"], [b"A3"]]
    assert not board.spoils_frames(0.0)


def test_lasting_disorder_swaps_every_pair() -> None:
    board = board_with(Fault("out_of_order"))
    assert [sent(board, tick) for tick in (1, 2, 3, 4)] == [[], [b"A2", b"A1"], [], [b"A4", b"A3"]]


def test_a_counted_fault_spoils_the_same_frame_on_every_connection() -> None:
    board = board_with(Fault("malformed", "A", count=1))
    assert board.spoils_frames(0.0)
    frames = [board.apply(connection, "A", "a", 1, b"ABCD", 1) for connection in (1, 2)]
    assert frames == [[(b"AB", None)]] * 2
    assert sent(board, 2) == [b"A2"]


def test_a_fault_keeps_to_its_symbol_connection_and_time() -> None:
    board = board_with(Fault("silence", "A", connection=1, until=5.0))
    assert sent(board, 1, "A") == []
    assert sent(board, 1, "B") == [b"B1"]
    assert sent(board, 1, "A", connection=2) == [b"A1"]
    assert sent(board, 2, "A", now=5.0) == [b"A2"]


def test_frozen_data_repeats_the_first_frame_and_only_that_one_is_sound() -> None:
    board = board_with(Fault("repeat", until=5.0))
    assert board.spoils_frames(0.0)
    assert [board.apply(1, "A", "a", tick, b"A%d" % tick, tick) for tick in (1, 2)] == [[(b"A1", 1)], [(b"A1", None)]]
    assert sent(board, 3, now=6.0) == [b"A3"]


def test_a_duplicate_is_sent_twice() -> None:
    board = board_with(Fault("duplicate", count=1))
    assert [sent(board, tick) for tick in (1, 2)] == [[b"A1", b"A1"], [b"A2"]]


def test_nothing_is_kept_for_a_connection_that_ended() -> None:
    board = board_with(Fault("out_of_order", count=1))
    assert sent(board, 1) == []
    board.forget(1)
    assert sent(board, 2) == [b"A2"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_spoilt_book_keeps_its_wrapper(wrapped: bool) -> None:
    text = b'{"stream":"a","data":%b}' % BOOK if wrapped else BOOK

    def book(kind: str) -> dict[str, list[list[str]]]:
        message = json.loads(spoil(kind, text))
        assert ("data" in message) == wrapped
        return message.get("data", message)

    assert book("crossed")["bids"] == [["3.0", "5"], ["1.0", "1"]]
    assert book("crossed")["asks"] == [["2.0", "1"], ["4.0", "1"]]
    assert book("empty") == {"lastUpdateId": 7, "bids": [], "asks": []}
    for kind in ("malformed", "garbage"):
        with pytest.raises(ValueError, match=r"\w"):
            json.loads(spoil(kind, text))
