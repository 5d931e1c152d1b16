"""The bytes of one logged-in client, read message by message.

While the client holds no server, `skim` drops what a server would ignore there and says whether anything is left
that needs one. With a server, `receive` books each message in that server's pipeline and returns what to forward:
usually the same bytes object. Bodies flow by their length; only the name at the start of Parse, Bind, Describe and
Close is looked at, because a named prepared statement of one client must never be found by another one on a shared
server.
"""

from pgweir_pooler.errors import PoolerError, ProtocolViolation, StatementNotSupported
from pgweir_pooler.session.pipeline import REFUSAL, Pipeline
from pgweir_pooler.wire.framing import (
    BIND,
    CLOSE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    FLUSH,
    FRONTEND_LIMITS,
    FUNCTION_CALL,
    HEADER_SIZE,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
    read_header,
)
from pgweir_pooler.wire.messages import error_response_for, message

_IGNORED_WITHOUT_SERVER = frozenset({COPY_DATA, COPY_DONE, COPY_FAIL, FLUSH})
_NAMED = frozenset({PARSE, BIND, DESCRIBE, CLOSE})
_NAME_LIMIT = 8192  # a portal's name; PostgreSQL cuts identifiers at 63 bytes, drivers use about 20
_FLUSH = message(b"H")
_STATEMENT = 0x53  # S in Describe and Close

_NAMED_STATEMENT = error_response_for(
    StatementNotSupported(
        "named prepared statements do not work in transaction mode",
        hint="Switch the driver's statement cache off (psycopg: prepare_threshold=None, "
        "asyncpg: statement_cache_size=0), or connect to the session-mode port.",
    )
)


class FrontendStream:
    """Reader of one client's messages after its login."""

    __slots__ = (
        "_dropping_to_sync",
        "error",
        "has_news",
        "has_terminated",
        "held",
        "is_at_start",
        "keeps_names",
        "remaining",
        "reply",
    )

    def __init__(self, *, keeps_names: bool) -> None:
        self.keeps_names = keeps_names  # session mode: names are the client's own, on a server of its own
        self.has_news = False  # one of the three below was set; whoever looks at them clears it
        self.has_terminated = False  # the client sent Terminate; nothing after it counts
        self.error: PoolerError | None = None  # the client broke the protocol; nothing after it counts
        self.reply = b""  # to be sent to the client now, from the last `receive`
        # Public because two attributes are read per query, where a property would cost 60 ns.
        self.held = b""  # a header, or a name, that has not arrived whole and was not forwarded
        self.remaining = 0  # bytes still to come of a message that was forwarded in part
        # None of the three around here: the next byte begins a message that counts. Kept by `skim` and `receive`.
        self.is_at_start = True
        self._dropping_to_sync = False  # a message was refused: the ones up to the next Sync are not forwarded

    @property
    def is_mid_message(self) -> bool:
        """A message was forwarded in part, and the server waits for the rest of it."""
        return self.remaining > 0

    def skim(self, data: bytes) -> bytes:
        """Feeds bytes while no server is held; returns those that need one, to be given to `receive` later."""
        work = self._skim(data)
        self._note()
        return work

    def _skim(self, data: bytes) -> bytes:
        if self.held:
            data = self.held + data
            self.held = b""
        end = len(data)
        pos = self.remaining
        if pos >= end:
            self.remaining = pos - end
            return b""
        self.remaining = 0
        while pos < end:
            if end - pos < HEADER_SIZE:
                self.held = data[pos:]
                return b""
            tag, length = read_header(data, pos)
            if tag not in _IGNORED_WITHOUT_SERVER:
                if tag == TERMINATE:
                    self.has_terminated = self.has_news = True
                    return b""
                return data[pos:] if pos else data
            if self._is_malformed(tag, length):
                return b""
            pos += 1 + length
        self.remaining = pos - end
        return b""

    def receive(self, data: bytes, pipeline: Pipeline) -> bytes:
        """Feeds bytes while a server is held; returns those to forward, booked in `pipeline`."""
        end = len(data)
        if (
            self.is_at_start
            and end > HEADER_SIZE
            and data[0] == QUERY
            and not pipeline.is_skipping
            and read_header(data, 0)[1] == end - 1
        ):
            pipeline.owed.append(QUERY)  # one whole Query, by far the most common case
            return data
        out = self._receive(data, pipeline)
        self._note()
        return out

    def _note(self) -> None:
        self.is_at_start = not (self.held or self.remaining or self._dropping_to_sync)

    def _receive(self, data: bytes, pipeline: Pipeline) -> bytes:
        if self.held:
            data = self.held + data
            self.held = b""
        end = len(data)
        pos = self.remaining
        if pos > end:
            self.remaining = pos - end
            return b"" if self._dropping_to_sync else data
        self.remaining = 0
        if self._dropping_to_sync:
            return self._forward_between_refusals(data, pos, pipeline)
        stop = self._book(data, pos, pipeline)
        if self._dropping_to_sync:
            return data[:stop] + _flush(pipeline) + self._forward_between_refusals(data, stop, pipeline)
        return data if stop == end else data[:stop]

    def _book(self, data: bytes, pos: int, pipeline: Pipeline) -> int:
        """Books the messages from `pos`; returns the end of what may be forwarded."""
        end = len(data)
        owed = pipeline.owed
        while pos < end:
            if end - pos < HEADER_SIZE:
                return self._hold(data, pos)
            tag, length = read_header(data, pos)
            if not 4 <= length <= FRONTEND_LIMITS.get(tag, 0):
                self._is_malformed(tag, length)
                return pos
            if tag in _NAMED and not self.keeps_names:
                verdict = _names_statement(data, pos, length, tag)
                if verdict is None:
                    return self._hold(data, pos)
                if verdict:
                    self._refuse(pipeline)
                    return pos
            elif tag == TERMINATE:
                self.has_terminated = self.has_news = True
                return pos
            if tag != COPY_DATA and tag != FLUSH:
                if pipeline.is_skipping:
                    pipeline.sent(tag)
                else:
                    owed.append(tag)
            pos += 1 + length
        self.remaining = pos - end
        return end

    def _is_malformed(self, tag: int, length: int) -> bool:
        limit = FRONTEND_LIMITS.get(tag)
        if limit is not None and 4 <= length <= limit:
            return False
        if limit is None:
            self.error = ProtocolViolation(f"invalid frontend message type {tag}")
        else:
            self.error = ProtocolViolation(f"invalid message length {length} of message type {tag}")
        self.has_news = True
        return True

    def _hold(self, data: bytes, pos: int) -> int:
        """Keeps data[pos:] until more arrives; returns `pos`."""
        self.held = data[pos:]
        if len(self.held) > HEADER_SIZE + _NAME_LIMIT:
            self.error = ProtocolViolation("a portal's name is too long")
            self.has_news = True
        return pos

    def _refuse(self, pipeline: Pipeline) -> None:
        """Answers a message by an error of ours; the ones up to the next Sync are dropped, as PostgreSQL does."""
        reply = pipeline.refuse(_NAMED_STATEMENT)
        if reply:
            self.reply += reply
            self.has_news = True
        self._dropping_to_sync = True

    def _forward_between_refusals(self, data: bytes, pos: int, pipeline: Pipeline) -> bytes:
        """Drops messages from `pos` up to a Sync and goes on normally from there, as often as it takes."""
        parts: list[bytes] = []
        while True:
            pos = self._drop_to_sync(data, pos)
            if self._dropping_to_sync:
                return b"".join(parts)
            begin = pos
            pos = self._book(data, pos, pipeline)
            parts.append(data[begin:pos])
            if not self._dropping_to_sync:
                return b"".join(parts)
            parts.append(_flush(pipeline))

    def _drop_to_sync(self, data: bytes, pos: int) -> int:
        """Drops messages from `pos`; returns the place of the Sync that ends it, if there is one."""
        end = len(data)
        while pos < end:
            if end - pos < HEADER_SIZE:
                self.held = data[pos:]
                return end
            tag, length = read_header(data, pos)
            if self._is_malformed(tag, length):
                return end
            if tag == TERMINATE:
                self.has_terminated = self.has_news = True
                return end
            if tag == SYNC:
                self._dropping_to_sync = False
                return pos
            pos += 1 + length
        self.remaining = pos - end
        return end


def _flush(pipeline: Pipeline) -> bytes:
    """A Flush where a refusal waits for replies that the server keeps for a Sync: the client may wait for it first."""
    owed = pipeline.owed
    if len(owed) > 1 and owed[-1] == REFUSAL and owed[-2] not in (SYNC, QUERY, FUNCTION_CALL, REFUSAL):
        return _FLUSH
    return b""


def _names_statement(data: bytes, pos: int, length: int, tag: int) -> bool | None:
    """Whether the message at `pos` uses a named prepared statement; None when too little of it has arrived."""
    available = min(len(data), pos + 1 + length)
    at = pos + HEADER_SIZE
    if tag == DESCRIBE or tag == CLOSE:
        if available > at and data[at] != _STATEMENT:
            return False
        at += 1
    elif tag == BIND:
        at = data.find(b"\0", at, available) + 1 or available
    if at < available:
        return data[at] != 0
    return None if available < pos + 1 + length else False
