"""frames.py against the websockets library's own serializer, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from ingester.capture.frames import LARGEST_MESSAGE, FrameSplitter, ProtocolError

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
        Frame(Opcode.TEXT, b"masked").serialize(mask=True),
        b"\xc1\x01x",  # compressed, which nobody offered
        b"\x83\x00",  # an opcode that does not exist
        serialized(Opcode.CONT, b"of nothing"),
        serialized(Opcode.TEXT, b"a", fin=False) + serialized(Opcode.TEXT, b"b", fin=False),
        b"\x81\x7f" + (LARGEST_MESSAGE + 1).to_bytes(8),
    ],
)
def test_what_breaks_the_protocol_is_an_error(wire):
    with pytest.raises(ProtocolError):
        FrameSplitter().split(wire)
