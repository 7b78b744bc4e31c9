"""Splits what a websocket server sends into messages: many out of one read, not two system calls for each."""

from ingester.errors import IngesterError

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
LARGEST_MESSAGE = 16 << 20
"""Bytes; the largest that Binance sends on these streams is about 2 kB, so more is a sign of garbage on the line."""

Message = tuple[int, bytes]
"""(opcode, payload)"""


class ProtocolError(IngesterError):
    """The server broke the websocket protocol (RFC 6455); the connection cannot go on."""


class FrameSplitter:
    """Takes bytes as they come and gives whole messages; keeps what is still incomplete.

    Only the server's side of RFC 6455, section 5.2, without extensions (none are offered in the handshake).
    """

    def __init__(self) -> None:
        self._rest = b""
        # A message may come in several frames, with control frames between them (section 5.4).
        self._opcode = 0
        self._parts: list[bytes] = []

    def split(self, data: bytes) -> list[Message]:
        """All messages that are complete now, in order. Raises ProtocolError where the bytes are no frames."""
        if self._rest:
            data = self._rest + data
        messages: list[Message] = []
        position, end = 0, len(data)
        while end - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length == 126:
                start += 2
                length = int.from_bytes(data[position + 2 : start]) if start <= end else end
            elif length == 127:
                start += 8
                length = int.from_bytes(data[position + 2 : start]) if start <= end else end
            elif length > 127:
                raise ProtocolError("the server sent a masked frame")
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
        self._rest = data[position:]
        return messages

    def _rare(self, first: int, payload: bytes, messages: list[Message]) -> None:
        final, opcode = first & 0x80, first & 0x0F
        if first & 0x70 or opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(f"the server sent a frame that starts with 0x{first:02x}")
        if opcode >= CLOSE:
            messages.append((opcode, payload))
            return
        if (opcode == 0) != bool(self._parts):
            raise ProtocolError("the server mixed up the frames of fragmented messages")
        self._opcode = opcode or self._opcode
        self._parts.append(payload)
        if sum(map(len, self._parts)) > LARGEST_MESSAGE:
            raise ProtocolError(f"the server sent a message of more than {LARGEST_MESSAGE} bytes")
        if final:
            messages.append((self._opcode, b"".join(self._parts)))
            self._parts = []
