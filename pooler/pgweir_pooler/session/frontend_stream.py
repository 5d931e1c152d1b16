"""The bytes of one logged-in client, read message by message.

While the client holds no server, `skim` drops what a server would ignore there and says whether anything is left
that needs one. With a server, `receive` books each message in that server's pipeline and returns what to forward:
usually the same bytes object. Bodies flow by their length; only the name at the start of Parse, Bind, Describe and
Close is looked at, because a named prepared statement of one client must never be found by another one on a shared
server.
"""

from pgweir_pooler.errors import NoUnnamedStatement, PoolerError, ProtocolViolation, StatementNotSupported
from pgweir_pooler.session.pipeline import Pipeline
from pgweir_pooler.wire.framing import (
    BIND,
    CLOSE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    FRONTEND_LIMITS,
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
_USES_STATEMENTS = frozenset({*_NAMED, EXECUTE, QUERY})
_NAME_LIMIT = 8192  # a portal's name; PostgreSQL cuts identifiers at 63 bytes, drivers use about 20
_STATEMENT = 0x53  # S in Describe and Close

_NAMED_STATEMENT = error_response_for(
    StatementNotSupported(
        "named prepared statements do not work in transaction mode",
        hint="Switch the driver's statement cache off (psycopg: prepare_threshold=None, "
        "asyncpg: statement_cache_size=0), or connect to the session-mode port.",
    )
)
_NO_UNNAMED_STATEMENT = error_response_for(NoUnnamedStatement())

# What goes to the server in place of a refused message: a Bind to a statement that no client can have made, for their
# names do not get there. PostgreSQL answers it as it would any statement that is unknown: the transaction fails, and it
# skips to the next Sync.
_REJECTED = message(b"B", b"\0pgweir: refused\0" + bytes(6))


class FrontendStream:
    """Reader of one client's messages after its login."""

    __slots__ = (
        "_is_doubtful",
        "_is_dropping",
        "_refusal",
        "awaits_execute",
        "error",
        "has_news",
        "has_terminated",
        "has_unnamed",
        "held",
        "is_at_start",
        "keeps_names",
        "remaining",
    )

    def __init__(self, *, keeps_names: bool) -> None:
        self.keeps_names = keeps_names  # session mode: names are the client's own, on a server of its own
        self.has_news = False  # one of the two below was set; whoever looks at them clears it
        self.has_terminated = False  # the client sent Terminate; nothing after it counts
        self.error: PoolerError | None = None  # the client broke the protocol; nothing after it counts
        # Public because two attributes are read per query, where a property would cost 60 ns.
        self.held = b""  # a header, or a name, that has not arrived whole and was not forwarded
        self.remaining = 0  # bytes still to come of a message that was forwarded in part
        # The unnamed statement was parsed on the server that is held now. While it waits to be executed, a
        # ReadyForQuery does not free the server: drivers may send Parse, Describe and Bind with a Sync after each.
        self.has_unnamed = False
        self.awaits_execute = False
        # That Parse may be skipped by an error before it, and so vouches for nothing behind the next Sync: there a Bind
        # could find what another client had parsed.
        self._is_doubtful = False
        # None of held, remaining and has_unnamed. Kept by `skim`, `receive` and `loan_ended`.
        self.is_at_start = True
        self._is_dropping = False  # what remains belongs to a message that was refused, and is not forwarded
        self._refusal = b""  # set by `_book` for `_receive`

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

    def loan_ended(self) -> None:
        """The server goes back; what was parsed without a name is not ours to use any more."""
        self.has_unnamed = self.awaits_execute = self._is_doubtful = False
        self._note()

    def _note(self) -> None:
        self.is_at_start = not (self.held or self.remaining or self.has_unnamed)

    def _receive(self, data: bytes, pipeline: Pipeline) -> bytes:
        if self.held:
            data = self.held + data
            self.held = b""
        end = len(data)
        pos = self.remaining
        begin = min(pos, end) if self._is_dropping else 0
        if pos > end:
            self.remaining = pos - end
            return data[begin:]
        self.remaining = 0
        self._is_dropping = False
        parts: list[bytes] = []
        while True:
            stop = self._book(data, pos, pipeline)
            parts.append(data[begin:stop])
            if not self._refusal:
                break
            pipeline.refuse(self._refusal)
            self._refusal = b""
            parts.append(_REJECTED)
            pos = begin = stop + 1 + read_header(data, stop)[1]
            if pos >= end:
                self.remaining = pos - end
                self._is_dropping = pos > end
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _book(self, data: bytes, pos: int, pipeline: Pipeline) -> int:
        """Books the messages from `pos`; returns where what may be forwarded ends: at a refused message, if any."""
        end = len(data)
        owed = pipeline.owed
        while pos < end:
            if end - pos < HEADER_SIZE:
                return self._hold(data, pos)
            tag, length = read_header(data, pos)
            if not 4 <= length <= FRONTEND_LIMITS.get(tag, 0):
                self._is_malformed(tag, length)
                return pos
            if tag == TERMINATE:
                self.has_terminated = self.has_news = True
                return pos
            if tag == SYNC:
                if self._is_doubtful:
                    self._is_doubtful = self.has_unnamed = False
            elif not self.keeps_names and tag in _USES_STATEMENTS:
                if tag in _NAMED:
                    is_named = _names_statement(data, pos, length, tag)
                    if is_named is None:
                        return self._hold(data, pos)
                    if is_named or (tag in (BIND, DESCRIBE) and not self._may_use_unnamed(data, pos, tag)):
                        self._refusal = _NAMED_STATEMENT if is_named else _NO_UNNAMED_STATEMENT
                        return pos
                self._note_statement(data, pos, tag, pipeline)
            if tag != COPY_DATA and tag != FLUSH:
                if pipeline.is_skipping:
                    pipeline.sent(tag)
                else:
                    owed.append(tag)
            pos += 1 + length
        self.remaining = pos - end
        return end

    def _may_use_unnamed(self, data: bytes, pos: int, tag: int) -> bool:
        """Whether Bind or Describe at `pos` finds the client's own unnamed statement, or wants none."""
        return self.has_unnamed or (tag == DESCRIBE and data[pos + HEADER_SIZE : pos + HEADER_SIZE + 1] != b"S")

    def _note_statement(self, data: bytes, pos: int, tag: int, pipeline: Pipeline) -> None:
        """Follows the unnamed statement: whether it is there, and still waits to be executed."""
        if tag == PARSE:
            if not self.has_unnamed:
                owed = pipeline.owed
                is_first = not owed or owed[-1] == SYNC or (owed[-1] == QUERY and len(owed) == 1)
                self._is_doubtful = pipeline.is_skipping or not is_first
            self.has_unnamed = self.awaits_execute = True
        elif tag == EXECUTE:
            self.awaits_execute = False
        elif tag == QUERY or (tag == CLOSE and data[pos + HEADER_SIZE : pos + HEADER_SIZE + 1] == b"S"):
            self.has_unnamed = self.awaits_execute = False

    def _is_malformed(self, tag: int, length: int) -> bool:
        limit = FRONTEND_LIMITS.get(tag)
        if limit is not None and 4 <= length <= limit:
            return False
        if limit is None:
            self.error = ProtocolViolation(f"invalid frontend message type {tag}")
        else:
            self.error = ProtocolViolation(
                f"invalid message length {length} of a message of type {chr(tag)!r}; the limits are 4 and {limit}"
            )
        self.has_news = True
        return True

    def _hold(self, data: bytes, pos: int) -> int:
        """Keeps data[pos:] until more arrives; returns `pos`."""
        self.held = data[pos:]
        if len(self.held) > HEADER_SIZE + _NAME_LIMIT:
            self.error = ProtocolViolation("a portal's name is too long")
            self.has_news = True
        return pos


def says_goodbye(data: bytes) -> bool:
    """Whether there is a Terminate among these messages; in the middle of one the same bytes mean nothing."""
    stream = FrontendStream(keeps_names=True)
    stream.receive(data, Pipeline())
    return stream.has_terminated


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
