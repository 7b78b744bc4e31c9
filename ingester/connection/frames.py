"""Splits what a websocket server sends into messages: many out of one read, not two system calls for each."""

from ingester.errors import IngesterError

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
DATA_FRAMES = (TEXT, BINARY)
LARGEST_MESSAGE = 1 << 20
"""Bytes; the largest that Binance sends on these streams is about 2 kB, so more is a sign of garbage on the line."""
MOST_FRAGMENTS = 1024
"""Frames of one message. Each costs memory, also an empty one; Binance sends a message in one."""

Message = tuple[int, bytes]
"""(opcode, payload)"""


class ProtocolError(IngesterError):
    """The server broke the websocket protocol (RFC 6455); the connection cannot go on."""


class FrameSplitter:
    """Takes bytes as they come and gives whole messages; keeps what is still incomplete.

    Only the server's side of RFC 6455, section 5.2, without extensions (none are offered in the handshake).
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0  # so many bytes make the next frame, as far as its head is known
        # A message may come in several frames, with control frames between them (section 5.4).
        self._opcode = 0
        self._parts: list[bytes] = []
        self._size = 0  # of these parts together

    def split(self, data: bytes) -> list[Message]:
        """All messages that are complete now, in order. Raises ProtocolError where the bytes are no frames."""
        if self._rest:
            if len(self._rest) + len(data) < self._needed:  # a frame that drips in is not looked at with each drop
                self._rest += data
                return []
            data = b"".join((self._rest, data))
        messages: list[Message] = []
        position, end, stop = 0, len(data), 0
        while end - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length > 125:
                if length > 127:
                    raise ProtocolError("the server sent a masked frame")
                start += 2 if length == 126 else 8
                if start > end:
                    stop = start
                    break
                length = int.from_bytes(data[position + 2 : start])
            if length > LARGEST_MESSAGE:
                raise ProtocolError(f"the server announced a frame of {length} bytes")
            stop = start + length
            if stop > end:
                break
            payload = data[start:stop]
            position = stop
            if first == 0x81:  # the common case: one unfragmented text frame
                messages.append((TEXT, payload))
            else:
                self._rare(first, payload, messages)
        if position < end:
            self._rest = bytearray(data[position:])
            self._needed = stop - position if stop > position else 0
        elif self._rest:
            self._rest = bytearray()
        return messages

    def _rare(self, first: int, payload: bytes, messages: list[Message]) -> None:
        final, opcode = first & 0x80, first & 0x0F
        if first & 0x70 or opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(f"the server sent a frame that starts with 0x{first:02x}")
        if opcode >= CLOSE:
            if not final or len(payload) > 125:
                raise ProtocolError("the server sent a control frame that is longer than 125 bytes, or fragmented")
            messages.append((opcode, payload))
            return
        if (opcode == 0) != bool(self._parts):
            raise ProtocolError("the server mixed up the frames of fragmented messages")
        self._opcode = opcode or self._opcode
        self._parts.append(payload)
        self._size += len(payload)
        if self._size > LARGEST_MESSAGE or len(self._parts) > MOST_FRAGMENTS:
            raise ProtocolError(
                f"the server sent a message of more than {LARGEST_MESSAGE} bytes or {MOST_FRAGMENTS} fragments"
            )
        if final:
            messages.append((self._opcode, b"".join(self._parts)))
            self._parts, self._size = [], 0
