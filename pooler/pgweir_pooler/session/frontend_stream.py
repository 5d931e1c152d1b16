"""The bytes of one logged-in client, read message by message.

While the client holds no server, `skim` drops what a server would ignore there and says whether anything is left
that needs one. With a server, `receive` books each message in that server's pipeline and returns what to forward:
usually the same bytes object. Bodies flow by their length; what names a prepared statement goes through
`client_statements`, and texts are searched for what they may leave behind (`suspicion`).

`receive` may stop in front of a message (`stop`): the rest is in `stopped`, and must be fed again, together with what
came after it, once the reason is gone.
"""

from pgweir_pooler.errors import PoolerError, ProtocolViolation
from pgweir_pooler.session.client_statements import AS_IS, EDITED, INCOMPLETE, REPLAY, ClientStatements
from pgweir_pooler.session.pipeline import Pipeline
from pgweir_pooler.session.statements import StatementTable
from pgweir_pooler.session.steps import Settings
from pgweir_pooler.session.suspicion import UNTAGGED, asks_of, needs_replay
from pgweir_pooler.wire.framing import (
    BIND,
    CLOSE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    FLUSH,
    FRONTEND_LIMITS,
    HEADER_SIZE,
    PARSE,
    QUERY,
    TERMINATE,
    read_header,
)

_IGNORED_WITHOUT_SERVER = frozenset({COPY_DATA, COPY_DONE, COPY_FAIL, FLUSH})
_OWES_NOTHING = frozenset({COPY_DATA, FLUSH})
_NAMES_STATEMENTS = frozenset({PARSE, BIND, DESCRIBE, CLOSE})
# A Query is held until it is whole, so that its text can be searched; a longer one flows, and anything is suspected.
_SEARCHED_TEXT = 1 << 20
_TEXT_LIMIT = 8192  # what is kept of the statements of a loan
_NAME_LIMIT = 8192  # of names in a Bind; PostgreSQL cuts identifiers at 63 bytes, drivers use about 20

# Why `receive` stopped.
FOR_COPY = 1  # a statement is being prepared and described on the server
FOR_REPLAY = 2  # the server must first have what the client prepared by SQL, and the channels it listens to


class FrontendStream:
    """Reader of one client's messages after its login."""

    __slots__ = (
        "_is_dropping",
        "_is_replay_new",
        "_reading",
        "_table",
        "asks",
        "error",
        "has_news",
        "has_terminated",
        "held",
        "is_at_start",
        "is_replayed",
        "needs_replay",
        "remaining",
        "statements",
        "stop",
        "stopped",
        "text",
    )

    def __init__(self, table: StatementTable | None, reading: Settings = ()) -> None:
        # Of the client's pool; None in session mode, where names are the client's own, on a server of its own.
        self._table = table
        self._reading = reading  # of the client's settings, those that decide what a text means
        self.has_news = False  # one of the three below was set; whoever looks at them clears it
        self.has_terminated = False  # the client sent Terminate; nothing after it counts
        self.error: PoolerError | None = None  # the client broke the protocol; nothing after it counts
        self.stop = 0
        self.stopped = b""
        self.text = b""  # the statements that were sent since nothing was owed: where names of settings are looked for
        # Public because two attributes are read per query, where a property would cost 60 ns.
        self.held = b""  # the beginning of a message that has not arrived as far as it is needed
        self.remaining = 0  # bytes still to come of a message that was forwarded in part
        # What the messages of this loan may leave behind, see `suspicion`.
        self.asks = 0
        self.statements: ClientStatements | None = None  # made for the first Parse, Bind, Describe or Close
        # The client has prepared statements by SQL, or listens: texts must be searched for their use.
        self.needs_replay = False
        # The server that is held has what may be named by what has come since nothing was owed.
        self.is_replayed = False
        self._is_replay_new = False
        # Neither held nor remaining bytes, no unnamed statement, nothing asked, nothing to replay: a whole Query may
        # simply go. Kept by `skim`, `receive`, `loan_ended` and `replay_wanted`.
        self.is_at_start = True
        self._is_dropping = False  # what remains belongs to a message that was replaced, and is not forwarded

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
            # One whole Query, by far the most common case.
            if data.find(b"(") >= 0 and self._table is not None:  # `asks_of` without the call
                asks = asks_of(data)
                if asks:
                    self.asks |= asks
                    self.is_at_start = False
            self.text = data if end <= _TEXT_LIMIT else _ends(data)
            pipeline.owed.append(QUERY)
            return data
        out = self._receive(data, pipeline)
        self._note()
        return out

    def loan_ended(self) -> None:
        """The server goes back."""
        self.asks = 0
        self.is_replayed = self._is_replay_new = False
        if self.statements is not None:
            self.statements.loan_ended()
        self._note()

    def replayed(self) -> None:
        """The server has got what the text that was stopped may name."""
        self.is_replayed = self._is_replay_new = True

    def replay_wanted(self, *, is_wanted: bool) -> None:
        """Whether the client has anything from now on that a server must get before some statements run."""
        self.needs_replay = is_wanted
        self._note()

    @property
    def is_text_cut(self) -> bool:
        """Whether `statement_texts` lacks something of what was sent since nothing was owed."""
        return not self.text or any(len(part) > _TEXT_LIMIT for part in (self.text, *self._bodies()))

    def reads_by(self, reading: Settings) -> None:
        """The client's settings that decide what a text means have become these."""
        self._reading = reading
        if self.statements is not None:
            self.statements.reading = reading

    def all_asks(self) -> int:
        """What the messages of this loan may leave behind."""
        return self.asks if self.statements is None else self.asks | self.statements.asks

    def statement_texts(self) -> bytes:
        """The texts and parameters of this loan, as far as they are kept."""
        return b"\0".join((self.text, *(_ends(body) for body in self._bodies())))

    def _bodies(self) -> list[bytes]:
        """The texts of the prepared statements of this loan, and of those that SQL's EXECUTE may have named."""
        statements = self.statements
        if statements is None:
            return []
        bodies = [statement.body for statement in statements.bound]
        texts = b"\0".join((self.text, *bodies)).lower() if statements.names else b""
        if b"execute" in texts:
            bodies += [known.body for name, known in statements.names.items() if known.body and name.lower() in texts]
        return bodies

    def _note(self) -> None:
        statements = self.statements
        self.is_at_start = not (
            self.held
            or self.remaining
            or self.asks
            or self.needs_replay
            or (
                statements is not None
                and (statements.names or statements.unnamed is not None or statements.bound or statements.asks)
            )
        )

    def _receive(self, data: bytes, pipeline: Pipeline) -> bytes:
        if self.held:
            data = self.held + data
            self.held = b""
        end = len(data)
        pos = self.remaining
        begin = min(pos, end) if self._is_dropping else 0
        if pos > end:
            self.remaining = pos - end
            self.text = self.text.ljust(_TEXT_LIMIT + 1, b"\0")  # cut: this part is not kept
            return data[begin:]
        self.remaining = 0
        self._is_dropping = False
        shares = self._table is not None
        if shares:
            self._note_text(data, is_first=not (pipeline.owed or pipeline.is_unsynced))
        parts: list[bytes] = []
        while pos < end:
            if end - pos < HEADER_SIZE:
                self.held = data[pos:]
                break
            tag, length = read_header(data, pos)
            if tag == TERMINATE or not 4 <= length <= FRONTEND_LIMITS.get(tag, 0):
                self._end(tag, length)
                break
            after = pos + 1 + length
            if pipeline.is_skipping:
                if tag not in _OWES_NOTHING:
                    pipeline.sent(tag)
            elif shares and tag in _NAMES_STATEMENTS:
                begin = self._edit(data, begin, pos, after, pipeline, parts)
                if self.stop or self.held:
                    break
            elif shares and tag == QUERY:
                if not self._query(data, pos, after, pipeline):
                    break
            elif tag not in _OWES_NOTHING:
                pipeline.owed.append(tag)
            pos = after
        else:  # all was read, the last message perhaps in part
            self.remaining = pos - end
            pos = end
        if not parts and not begin:
            return data if pos == end else data[:pos]
        parts.append(data[begin:pos])
        return b"".join(parts)

    def _edit(self, data: bytes, begin: int, pos: int, after: int, pipeline: Pipeline, parts: list[bytes]) -> int:
        """Has the client's statements decide about the message at `pos`, which names one.

        Adds what goes in place of data[begin:…] to `parts`, if anything is changed; returns where the rest begins.
        """
        tag = data[pos]
        statements = self.statements
        if statements is None:
            assert self._table is not None
            self.statements = statements = ClientStatements(self._table, self._reading)
            statements.is_replayed = self.is_replayed or not self.needs_replay
        # At the beginning of a pipeline for all that has come of it: in its middle there is no room for a replay.
        is_first = not pipeline.owed
        if (tag == PARSE or is_first) and self._stops_for_replay(data, pos, len(data) if is_first else after):
            return begin
        verdict = statements.edit(tag, data, pos, after, pipeline)
        if verdict == AS_IS:
            return begin
        if verdict == INCOMPLETE:
            self._hold(data, pos, tag)
            return begin
        if verdict == REPLAY:
            self._stop(FOR_REPLAY, data, pos)
            return begin
        parts += (data[begin:pos], statements.piece)
        if verdict == EDITED:
            self._is_dropping = after > len(data) and statements.resume >= after
            return statements.resume
        self._stop(FOR_COPY, data, pos)
        return pos

    def _query(self, data: bytes, pos: int, after: int, pipeline: Pipeline) -> bool:
        """Books a Query; False when something must come before it."""
        is_whole = after <= len(data)
        if not is_whole and after - pos <= _SEARCHED_TEXT:
            self._hold(data, pos, QUERY)
            return False
        if self._stops_for_replay(data, pos, after if pipeline.owed else len(data), is_whole=is_whole):
            return False
        self.asks |= asks_of(data[pos:after]) if is_whole else UNTAGGED
        statements = self.statements
        if statements is not None:
            statements.unnamed = pipeline.statements.unnamed = None
            if statements.names:
                statements.note_forgetting(data[pos:after], pipeline.statements)
        pipeline.owed.append(QUERY)
        return True

    def _end(self, tag: int, length: int) -> None:
        """A Terminate, or a message that cannot be: nothing after it counts."""
        if not self._is_malformed(tag, length):
            self.has_terminated = self.has_news = True

    def _note_text(self, data: bytes, *, is_first: bool) -> None:
        """Keeps what was sent, behind what is not answered yet; and whether there is something to replay."""
        whole = data if is_first else self.text + data
        self.text = whole if len(whole) <= _TEXT_LIMIT else _ends(whole)
        if self._is_replay_new:
            self._is_replay_new = False
        elif is_first:
            self.is_replayed = False  # the next text may name something else
        statements = self.statements
        if statements is not None:
            statements.is_replayed = self.is_replayed or not (self.needs_replay or statements.names)

    def _stops_for_replay(self, data: bytes, pos: int, end: int, *, is_whole: bool = True) -> bool:
        statements = self.statements
        if self.is_replayed or not (self.needs_replay or (statements is not None and statements.names)):
            return False
        if is_whole and not needs_replay(data[pos:end]):
            return False
        self._stop(FOR_REPLAY, data, pos)
        return True

    def _stop(self, why: int, data: bytes, pos: int) -> None:
        self.stop = why
        self.stopped = data[pos:]
        self.has_news = True

    def text_to_replay_for(self) -> bytes:
        """What may name something that must be on the server before it runs."""
        return self.stopped if self.statements is None else self.stopped + self.statements.replay_for

    def take_stopped(self) -> bytes:
        """The reason is gone: what is to be fed again."""
        stopped, self.stopped = self.stopped, b""
        self.stop = 0
        return stopped

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

    def _hold(self, data: bytes, pos: int, tag: int) -> None:
        """Keeps data[pos:] until more arrives."""
        self.held = data[pos:]
        if tag == BIND and len(self.held) > HEADER_SIZE + _NAME_LIMIT:
            self.error = ProtocolViolation("a portal's name is too long")
            self.has_news = True


def _ends(text: bytes) -> bytes:
    """The text, or its two ends, which tell by their length that there was more: SET begins with a name."""
    if len(text) <= _TEXT_LIMIT:
        return text
    return text[: _TEXT_LIMIT // 2] + b"\0" + text[-_TEXT_LIMIT // 2 :]


def says_goodbye(data: bytes) -> bool:
    """Whether there is a Terminate among these messages; in the middle of one the same bytes mean nothing."""
    stream = FrontendStream(None)
    stream.receive(data, Pipeline())
    return stream.has_terminated
