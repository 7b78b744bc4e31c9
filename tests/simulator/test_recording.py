"""Recordings are read as they were written, and played in the order of time, again where they loop."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import websocket
from hypothesis import example, given, strategies as st
from simulated_client import eventually

from ingester.book import OrderBook
from ingester.errors import SettingsError, StoreError
from ingester.simulator import Simulator, Tape, tape_of_file, tape_of_snapshots
from ingester.simulator.recording import TapeBook, decimal, read_recording

PAYLOAD = b'{"lastUpdateId":7,"bids":[["2.10","1"],["1.00","1e3"]],"asks":[["3.0","5"]]}'
LINE = b'12 {"stream":"adausdt@depth20@100ms","data":' + PAYLOAD + b"}\n"
BOOK = TapeBook(12, "ADAUSDT", 7, [("2.10", "1"), ("1.00", "1e3")], [("3.0", "5")])


@pytest.mark.parametrize("compressed", [False, True])
def test_plain_and_compressed_files_are_read(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "recording"
    path.write_bytes(gzip.compress(LINE) if compressed else LINE)
    assert list(read_recording(path)) == [BOOK]


def test_cutting_a_book_leaves_the_texts_of_its_numbers_alone() -> None:
    assert BOOK.sides(2) == BOOK.sides(20) == (b'["2.10","1"],["1.00","1e3"]', b'["3.0","5"]')
    assert BOOK.sides(1) == (b'["2.10","1"]', b'["3.0","5"]')


def test_other_streams_and_empty_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(LINE + b'\n13 {"stream":"bnbusdt@trade","data":{"p":"1"}}\n' + LINE.replace(b"ada", b"zec"))
    assert list(tape_of_file(path).symbols) == ["ADAUSDT", "ZECUSDT"]


@pytest.mark.parametrize(
    "bad", [b"nonsense\n", LINE[:60], LINE.replace(b"12", b"noon"), LINE.replace(b"lastUpdateId", b"id")]
)
def test_a_bad_line_is_named(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "recording.jsonl"
    path.write_bytes(LINE + bad)
    with pytest.raises(SettingsError, match=r"recording\.jsonl, line 2"):
        tape_of_file(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing"):
        tape_of_file(tmp_path / "missing.jsonl")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(LINE * 100)[:-20])
    with pytest.raises(SettingsError, match=r"cut\.gz"):
        tape_of_file(tmp_path / "cut.gz")


def test_a_recording_of_a_pair_whose_name_is_not_ascii_is_played(tmp_path):
    path = tmp_path / "recording.jsonl"
    book = '{"lastUpdateId":7,"bids":[["1","2"]],"asks":[]}'
    lines = [
        f'{number} {{"stream":"{name}@depth20@100ms","data":{book}}}'
        for number, name in enumerate(("币安人生usdt", "ßusdt"))
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [each.symbol for each in read_recording(path)] == ["币安人生USDT", "ßUSDT"]


numbers = st.floats(min_value=1e-30, max_value=1e30, allow_nan=False)
levels = st.lists(st.tuples(numbers, numbers), max_size=20)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (7.9e-6, "0.00000790"),
        (61811.37, "61811.37000000"),
        (1.0, "1.00000000"),
        (1e-8, "0.00000001"),
        (1.5e-9, "0.0000000015"),
        (0.1 + 0.2, "0.30000000000000004"),
        (12345678901234567000.0, "12345678901234567168.00000000"),
    ],
)
def test_numbers_look_like_those_of_the_exchange(number: float, text: str) -> None:
    assert decimal(number) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(1.7976931348623157e308)
def test_every_number_reads_back_as_the_same(number: float) -> None:
    text = decimal(number)
    assert float(text) == number
    assert "e" not in text
    assert len(text.partition(".")[2]) >= 8


@given(levels, levels, st.integers(0, 2**63 - 1), st.sampled_from([5, 10, 20]))
def test_a_book_reads_back_as_it_was(
    bids: list[tuple[float, float]], asks: list[tuple[float, float]], number: int, depth: int
) -> None:
    tape = tape_of_snapshots("x", ["BTCUSDT"], lambda: iter([OrderBook("BTCUSDT", 5, number, bids, asks)]))
    (book,) = tape.books()
    sides = [
        [(float(price), float(quantity)) for price, quantity in json.loads(b"[%b]" % side)]
        for side in book.sides(depth)
    ]
    assert (book.update_id, *sides) == (number, bids[:depth], asks[:depth])


def test_a_tape_can_be_read_again() -> None:
    tape = tape_of_snapshots("x", ["BTCUSDT"], lambda: iter([OrderBook("BTCUSDT", 5, 7, [(2.0, 1.0)], [])]))
    assert list(tape.books()) == list(tape.books()) == [TapeBook(5, "BTCUSDT", 7, [(2.0, 1.0)], [])]


def test_a_futures_line_is_a_book_with_its_event_time(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(
        b'12 {"stream":"btcusdt_261225@depth5@250ms","data":{"e":"depthUpdate","E":1700000000123,"T":1700000000120,'
        b'"s":"BTCUSDT_261225","U":5,"u":9,"pu":4,"b":[["2.1","1"]],"a":[["3.0","5"]]}}\n'
    )
    (book,) = read_recording(path)
    assert book == TapeBook(12, "BTCUSDT_261225", 9, [("2.1", "1")], [("3.0", "5")], 1700000000123 * 10**6)
    assert book.event_ms == 1700000000123
    assert BOOK._replace(receive_ns=5 * 10**9).event_ms == 5000  # received, where no more is known


STREAMS = ["adausdt@depth5@100ms", "zecusdt@depth5@100ms"]


def books(count: int, step_ns: int = 10**6) -> list[OrderBook]:
    """Of two pairs in turn, with ids of their own."""
    return [
        OrderBook(*(("ADAUSDT", n * step_ns, 10 + 3 * n) if n % 2 else ("ZECUSDT", n * step_ns, 7_000 + n)),
                 [(n + 1.0, 0.5)], [(n + 2.0, 0.25)])
        for n in range(count)
    ]  # fmt: skip


def tape_of(snapshots: Callable[[], Iterator[OrderBook]], *, loop: bool = False) -> Tape:
    return tape_of_snapshots("test", ["ADAUSDT", "ZECUSDT"], snapshots, loop=loop)


@contextmanager
def listen(simulator: Simulator, *streams: str) -> Iterator[websocket.WebSocket]:
    url = f"{simulator.stream_url}/stream?streams={'/'.join(streams or STREAMS)}"
    socket = websocket.create_connection(url, timeout=10, skip_utf8_validation=True)
    try:
        yield socket
    finally:
        socket.shutdown()


def take(socket: websocket.WebSocket, count: int) -> list[tuple[str, int, float]]:
    messages = [json.loads(socket.recv()) for _ in range(count)]
    return [(each["stream"], each["data"]["lastUpdateId"], float(each["data"]["bids"][0][0])) for each in messages]


@pytest.mark.parametrize("speed", [0.0, 50.0])
def test_a_loop_repeats_the_books_under_ids_that_go_on_rising(speed: float) -> None:
    made = books(1001)
    tape = tape_of(lambda: iter(made), loop=True)
    with Simulator(tapes=[tape], speed=speed) as simulator, listen(simulator) as socket:
        messages = take(socket, 3 * len(made))
        assert simulator.rounds >= 2
        assert not simulator.finished
    for stream in STREAMS:
        own = [each for each in messages if each[0] == stream]
        first = own[: len(own) // 3]
        assert [price for _, _, price in own] == [price for _, _, price in first] * 3
        assert all(later[1] > earlier[1] for earlier, later in pairwise(own))
        steps = [later[1] - earlier[1] for earlier, later in pairwise(first)]
        assert [later[1] - earlier[1] for earlier, later in pairwise(own[len(first) : 2 * len(first)])] == steps


def test_a_recording_without_a_clock_waits_for_its_reader() -> None:
    given = 0

    def endless() -> Iterator[OrderBook]:
        nonlocal given
        while True:
            given += 1
            yield OrderBook("ADAUSDT", given, given, [(2.0, 1.0)] * 5, [(3.0, 1.0)] * 5)

    with Simulator(tapes=[tape_of(endless)], speed=0) as simulator:
        with listen(simulator) as socket:
            take(socket, 1000)
            before = given
        assert before < 200_000  # what sockets and buffers hold, not all that could have been made
        with listen(simulator) as socket:
            assert take(socket, 1000)[0][1] <= given


def test_books_that_come_slowly_hold_up_nobody_else() -> None:
    gate = threading.Event()

    def slow() -> Iterator[OrderBook]:
        yield from books(300)
        gate.wait(10)
        yield from [each._replace(update_id=each.update_id + 10**6) for each in books(300)]

    with Simulator(["BTCUSDT"], tapes=[tape_of(slow)], speed=0) as simulator, listen(simulator) as socket:
        assert len(take(socket, 256)) == 256  # of the first ones those that were read at once
        with listen(simulator, "btcusdt@depth5@100ms") as other:
            assert len(take(other, 5)) == 5
        gate.set()
        assert len(take(socket, 344)) == 344
        assert simulator.wait_finished(10)
        assert (simulator.played, simulator.rounds) == (600, 1)


def test_the_end_of_the_source_is_the_end_of_the_simulator() -> None:
    def broken() -> Iterator[OrderBook]:
        yield from books(10)
        raise StoreError("the table is gone")

    stop = threading.Event()
    simulator = Simulator(tapes=[tape_of(broken)], speed=0)
    with pytest.raises(StoreError, match="the table is gone"), simulator, listen(simulator) as socket:  # noqa: PT012
        with pytest.raises((OSError, websocket.WebSocketException)):
            take(socket, 100)
        while not simulator.failed:
            stop.wait(0.01)


def test_an_empty_recording_ends_at_once_even_in_a_loop() -> None:
    with Simulator(tapes=[tape_of(lambda: iter([]), loop=True)]) as simulator, listen(simulator):
        assert simulator.wait_finished(10)


def test_a_simulator_that_plays_can_be_stopped_and_started_again() -> None:
    closed = []

    def made() -> Iterator[OrderBook]:
        try:
            yield from books(5000, step_ns=10**8)
        finally:
            closed.append(True)

    simulator = Simulator(tapes=[tape_of(made)])
    for _ in range(2):
        with simulator, listen(simulator) as socket:
            assert take(socket, 2)[0][2] == 1.0
    eventually(lambda: len(closed) >= 2)  # by the reading thread, for which `stop` does not wait
    assert len(closed) == 2
