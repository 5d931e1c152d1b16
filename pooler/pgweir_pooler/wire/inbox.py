"""Whole messages out of bytes that arrive in any pieces, for the logins (the hot path has its own framing).

Nothing is kept beyond the limit named by the caller: a length is refused as soon as it is read, before its
body comes.
"""

from pgweir_pooler.wire.cursor import ErrorMaker

_LENGTH_BYTES = 4
_HEADER_BYTES = 5


class Inbox:
    """The bytes of one peer that were not yet understood."""

    __slots__ = ("_data", "_error")

    def __init__(self, error: ErrorMaker) -> None:
        self._data = bytearray()  # filled by add(), emptied by the take functions
        self._error = error

    def __len__(self) -> int:
        return len(self._data)

    def add(self, data: bytes) -> None:
        """Appends what was received."""
        self._data += data

    def peek(self, count: int) -> bytes:
        """The first bytes, at most `count`; they stay."""
        return bytes(self._data[:count])

    def take_packet(self, max_length: int) -> bytes | None:
        """The body of the next untyped packet (length, body), None while it is incomplete.

        Raises this inbox's error when the length is under 8 (every such packet has a code) or over
        `max_length`.
        """
        if len(self._data) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._data[:_LENGTH_BYTES], "big")
        if not 8 <= length <= max_length:
            raise self._error("invalid length of startup packet")
        if len(self._data) < length:
            return None
        return self._take(length)[_LENGTH_BYTES:]

    def take_message(self, max_length: int) -> tuple[bytes, bytes] | None:
        """Type and body of the next message (type, length, body), None while it is incomplete.

        Raises this inbox's error when the length is under 4 or over `max_length`.
        """
        if len(self._data) < _HEADER_BYTES:
            return None
        length = int.from_bytes(self._data[1:_HEADER_BYTES], "big")
        if not _LENGTH_BYTES <= length <= max_length:
            raise self._error("invalid message length")
        if len(self._data) < length + 1:
            return None
        message = self._take(length + 1)
        return message[:1], message[_HEADER_BYTES:]

    def take_all(self) -> bytes:
        """Everything, understood or not."""
        return self._take(len(self._data))

    def _take(self, count: int) -> bytes:
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken
