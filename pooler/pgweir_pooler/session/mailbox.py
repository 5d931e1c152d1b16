"""Notifications of one client that may not be written yet: they go out between transactions, in order.

Always true: what waits here and what waits in the client's socket is at most `limit_bytes`; more than that is dropped
for good and `has_overflown` says so, for a client that missed one notification must be told by the end of its session.
"""

from typing import Final

LIMIT_BYTES: Final = 1_048_576


class Mailbox:
    """See the module."""

    __slots__ = ("_limit_bytes", "_messages", "has_overflown", "size_bytes")

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._messages: list[bytes] = []  # until the next `take`
        self.size_bytes = 0
        self.has_overflown = False

    def deliver(self, message: bytes, *, is_between_transactions: bool, unwritten_bytes: int) -> bytes:
        """What may be written now, b"" for nothing. `unwritten_bytes` wait in the socket's own buffer.

        After each call `has_overflown` must be looked at.
        """
        if self.has_overflown:
            return b""
        if unwritten_bytes + self.size_bytes + len(message) > self._limit_bytes:
            self.has_overflown = True
            self.take()
            return b""
        if is_between_transactions and not self._messages:
            return message
        self._messages.append(message)
        self.size_bytes += len(message)
        return self.take() if is_between_transactions else b""

    def take(self) -> bytes:
        """All that waits, at the end of a transaction."""
        if not self._messages:
            return b""
        messages = b"".join(self._messages)
        self._messages.clear()
        self.size_bytes = 0
        return messages
