"""Reading the fields of one message body, bounds checked.

A cursor never reads past its body and never guesses: a field that is not wholly there raises the error it was
made with, which says who broke the protocol. Bodies are never trimmed or split on NUL, because an empty
string is a legal value.
"""

import logging
from collections.abc import Callable

from pgweir_pooler.errors import PoolerError


class ServerProtocolError(PoolerError):
    """The server sent what the PostgreSQL protocol does not allow here; its connection is closed."""

    sqlstate = "08006"
    log_level = logging.WARNING


ErrorMaker = Callable[[str], PoolerError]
"""`ProtocolViolation` for what a client sent, `ServerProtocolError` for what a server sent."""


class Cursor:
    """A place in one message body."""

    __slots__ = ("_at", "_body", "_error", "_what")

    def __init__(self, body: bytes, what: str, error: ErrorMaker) -> None:
        self._body = body
        self._at = 0
        self._what = what
        self._error = error

    @property
    def at_end(self) -> bool:
        """Nothing is left."""
        return self._at == len(self._body)

    def malformed(self, why: str) -> PoolerError:
        """The error to raise: this body is not what it should be."""
        return self._error(f"malformed {self._what}: {why}")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._at + count
        if count < 0 or end > len(self._body):
            raise self.malformed("it ends too early")
        taken = self._body[self._at : end]
        self._at = end
        return taken

    def uint32(self) -> int:
        """The next four bytes as an unsigned number."""
        return int.from_bytes(self.take(4), "big")

    def int32(self) -> int:
        """The next four bytes as a signed number."""
        return int.from_bytes(self.take(4), "big", signed=True)

    def cstring(self) -> bytes:
        """The bytes up to the next NUL, which is skipped."""
        end = self._body.find(b"\0", self._at)
        if end < 0:
            raise self.malformed("a string is not terminated")
        text = self._body[self._at : end]
        self._at = end + 1
        return text

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._body) - self._at)

    def end(self) -> None:
        """States that the body ends here."""
        if not self.at_end:
            raise self.malformed("bytes follow its end")
