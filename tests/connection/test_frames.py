"""frames.py against the websockets library's own serializer, however the bytes are cut."""

import time

import pytest
from hypothesis import given, strategies as st
from websockets.frames import Frame, Opcode

from ingester.connection.frames import LARGEST_MESSAGE, MOST_FRAGMENTS, FrameSplitter, ProtocolError

payloads = st.binary(max_size=200) | st.integers(120, 70_000).map(lambda size: b"x" * size)
messages = st.lists(
    st.tuples(st.sampled_from([Opcode.TEXT, Opcode.BINARY]), payloads)
    | st.tuples(st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=125)),
    max_size=8,
)


def serialized(opcode, payload, fin=True):
    return Frame(opcode, payload, fin).serialize(mask=False)


@given(messages, st.data())
def test_any_messages_in_any_pieces_come_out_whole(sent, data):
    wire = b"".join(serialized(opcode, payload) for opcode, payload in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    splitter = FrameSplitter()
    received = [m for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True) for m in splitter.split(wire[a:b])]
    assert received == [(int(opcode), payload) for opcode, payload in sent]


def test_a_fragmented_message_is_joined_with_a_ping_in_between():
    wire = (
        serialized(Opcode.TEXT, b"one ", fin=False)
        + serialized(Opcode.PING, b"!")
        + serialized(Opcode.CONT, b"", fin=False)
        + serialized(Opcode.CONT, b"two")
    )
    assert FrameSplitter().split(wire) == [(9, b"!"), (1, b"one two")]


@pytest.mark.parametrize(
    "wire",
    [
        b"\x81\x86\x01\x02\x03\x04lcpodf",  # masked, as only clients do
        b"\xc1\x01x",  # compressed, which nobody offered
        b"\x83\x00",  # an opcode that does not exist
        serialized(Opcode.CONT, b"of nothing"),
        serialized(Opcode.TEXT, b"a", fin=False) + serialized(Opcode.TEXT, b"b", fin=False),
        b"\x81\x7f" + (LARGEST_MESSAGE + 1).to_bytes(8),
        b"\x81\x7f" + (2**63).to_bytes(8),
        b"\x01\x00" + b"\x00\x00" * MOST_FRAGMENTS,  # fragments without end
        b"\x89\x7e\x01\x2c" + b"z" * 300,  # a ping that is too long
        b"\x09\x00",  # a ping in pieces
    ],
)
def test_what_breaks_the_protocol_is_an_error(wire):
    with pytest.raises(ProtocolError):
        FrameSplitter().split(wire)


def test_a_large_frame_that_drips_costs_no_more_than_its_bytes():
    wire = serialized(Opcode.TEXT, b"x" * LARGEST_MESSAGE)
    splitter, begun = FrameSplitter(), time.process_time()
    for position in range(0, len(wire) - 100, 100):
        assert splitter.split(wire[position : position + 100]) == []
    rest = (len(wire) - 1) // 100 * 100
    assert splitter.split(wire[rest:]) == [(1, b"x" * LARGEST_MESSAGE)]
    assert time.process_time() - begun < 1.0  # looked at as a whole with each drop, it would take minutes


@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 65_535, 65_536, 70_000])
def test_a_frame_byte_by_byte(size):
    wire = serialized(Opcode.TEXT, b"y" * size) + serialized(Opcode.TEXT, b"next")
    splitter = FrameSplitter()
    received = [message for byte in wire for message in splitter.split(bytes([byte]))]
    assert received == [(1, b"y" * size), (1, b"next")]
