"""Which replies a server still owes, and so when it is free.

The client's messages that will be answered stand in `owed`, oldest first; the server's messages take them away. A
server is free only at a ReadyForQuery that says idle, with nothing owed after it: a Parse that was sent and flushed
without a Sync has been answered, but no ReadyForQuery follows, so it keeps its server. Nothing here guesses: a
reply that does not fit what is owed makes the pipeline `is_confused`, and a confused server is never free again,
only closed.

What takes an entry away (PostgreSQL documentation, "Message Flow"):

| entry | taken by |
| --- | --- |
| Query, FunctionCall, Sync | ReadyForQuery |
| Parse / Bind / Close | ParseComplete / BindComplete / CloseComplete |
| Describe | RowDescription or NoData (a ParameterDescription may come before) |
| Execute | CommandComplete, EmptyQueryResponse or PortalSuspended |
| Refusal | ErrorResponse alone: it stands for a message that we refuse, and what was sent cannot succeed |
| what concerns prepared statements | as Parse, Describe and Close; each has a `Note` that hears what became of it |

An ErrorResponse to an extended-protocol message takes all entries up to the next Sync, for the server skips those
messages; if that Sync was not sent yet, what is sent until then owes nothing (`is_skipping`).

COPY FROM STDIN is the one place where the protocol is ambiguous: the server ignores a Sync that it reads while copying,
but answers one that it reads after a failure, and only it knows where the failure was. A copy that succeeds makes all
Syncs before CopyDone void. After a copy that failed they become MAYBE_SYNC and move behind the ones that are certain:
one more ReadyForQuery takes a MAYBE_SYNC away, any other reply proves that the rest will not come, and until either
happens the server is not free. Extended-protocol messages between such a Sync and the next certain one, which no driver
sends, are skipped or answered, nobody can tell: they confuse the pipeline.
"""

from collections import deque

from pgweir_pooler.session.statement_notes import Error, Note
from pgweir_pooler.session.statements import ServerStatements, Statement
from pgweir_pooler.wire.framing import (
    BIND,
    BIND_COMPLETE,
    CLOSE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    COPY_IN_RESPONSE,
    COPY_OUT_RESPONSE,
    DATA_ROW,
    DESCRIBE,
    EMPTY_QUERY_RESPONSE,
    ERROR_RESPONSE,
    EXECUTE,
    FUNCTION_CALL,
    FUNCTION_CALL_RESPONSE,
    IDLE,
    NO_DATA,
    PARAMETER_DESCRIPTION,
    PARSE,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    QUERY,
    ROW_DESCRIPTION,
    SYNC,
)

# Entries that are not message types of the protocol.
MAYBE_SYNC = 0x100
# Entries with a note in `notes`. The client reads the replies of those that are its own.
REFUSAL = 0x101  # a Bind that PostgreSQL rejects, in place of a message that we refuse
NAMED_PARSE = 0x102  # the client's Parse, under our name
NAMED_CLOSE = 0x103  # the client's Close of a name
TOLD_DESCRIBE = 0x104  # the client's Describe of its unnamed statement
OWN_PARSE = 0x105
OWN_DESCRIBE = 0x106
OWN_CLOSE = 0x107
NAMED_DESCRIBE = 0x108  # the client's Describe of a statement, under our name
TOLD_BIND = 0x109  # the client's Bind, with a Describe behind it that tells another shape than before
PORTAL_DESCRIBE = 0x10A  # the client's Describe of a portal of its unnamed statement; the note is the statement
_FIRST_WITH_NOTE = REFUSAL

# Entries that may have no reply at all.
_UNCERTAIN = (MAYBE_SYNC, COPY_DONE, COPY_FAIL)
# Entries that the server works on when it has them; Parse, Bind, Describe and Close alone lead to nothing.
_RUNS = (QUERY, FUNCTION_CALL, EXECUTE, SYNC)

_TAKES: dict[int, tuple[int, ...]] = {
    REFUSAL: (),
    PARSE: (PARSE_COMPLETE,),
    BIND: (BIND_COMPLETE,),
    CLOSE: (CLOSE_COMPLETE,),
    DESCRIBE: (ROW_DESCRIPTION, NO_DATA),
    EXECUTE: (COMMAND_COMPLETE, EMPTY_QUERY_RESPONSE, PORTAL_SUSPENDED),
    NAMED_PARSE: (PARSE_COMPLETE,),
    NAMED_CLOSE: (CLOSE_COMPLETE,),
    TOLD_DESCRIBE: (ROW_DESCRIPTION, NO_DATA),
    PORTAL_DESCRIBE: (ROW_DESCRIPTION, NO_DATA),
    NAMED_DESCRIBE: (ROW_DESCRIPTION, NO_DATA),
    TOLD_BIND: (BIND_COMPLETE,),
    OWN_PARSE: (PARSE_COMPLETE,),
    OWN_DESCRIBE: (ROW_DESCRIPTION, NO_DATA),
    OWN_CLOSE: (CLOSE_COMPLETE,),
}
_READS_SHAPE = (OWN_DESCRIBE, TOLD_DESCRIBE, PORTAL_DESCRIBE)
# What goes to the client in place of any reply to such an entry.
_REPLACED: dict[int, bytes] = {OWN_PARSE: b"", OWN_DESCRIBE: b"", OWN_CLOSE: b""}
# The usual replies, each with the only entry that it takes away without more ado.
SIMPLY_TAKES: dict[int, int] = {
    PARSE_COMPLETE: PARSE,
    BIND_COMPLETE: BIND,
    CLOSE_COMPLETE: CLOSE,
    ROW_DESCRIPTION: DESCRIBE,
    NO_DATA: DESCRIBE,
}
_LEAVES: dict[int, tuple[int, ...]] = {
    REFUSAL: (),
    PARSE: (),
    BIND: (),
    CLOSE: (),
    DESCRIBE: (PARAMETER_DESCRIPTION,),
    PORTAL_DESCRIBE: (),
    TOLD_DESCRIBE: (PARAMETER_DESCRIPTION,),
    NAMED_DESCRIBE: (PARAMETER_DESCRIPTION,),
    OWN_DESCRIBE: (PARAMETER_DESCRIPTION,),
    EXECUTE: (DATA_ROW, COPY_IN_RESPONSE, COPY_OUT_RESPONSE, COPY_DATA, COPY_DONE),
    QUERY: (
        ROW_DESCRIPTION,
        DATA_ROW,
        COMMAND_COMPLETE,
        EMPTY_QUERY_RESPONSE,
        COPY_IN_RESPONSE,
        COPY_OUT_RESPONSE,
        COPY_DATA,
        COPY_DONE,
        ERROR_RESPONSE,
    ),
    FUNCTION_CALL: (FUNCTION_CALL_RESPONSE, ERROR_RESPONSE),
    SYNC: (ERROR_RESPONSE,),  # a deferred constraint fails when the Sync commits
}


class Pipeline:
    """The replies that one server owes to the client that holds it."""

    __slots__ = (
        "bound",
        "is_confused",
        "is_copying_in",
        "is_plain",
        "is_skipping",
        "is_unsynced",
        "notes",
        "owed",
        "statements",
        "status",
    )

    def __init__(self) -> None:
        # Appended by `FrontendStream` when a message's header is forwarded; removed here only.
        self.owed: deque[int] = deque()
        # One for each entry in `owed` that has one, in the same order; removed with it.
        self.notes: deque[Note] = deque()
        self.statements = ServerStatements()
        self.bound: dict[Statement, bytes] = {}  # what the client calls the statements that it has bound
        self.status = IDLE  # of the last ReadyForQuery
        self.is_skipping = False  # the server skips to a Sync that we have not seen yet
        self.is_copying_in = False  # the head of `owed` is a COPY FROM STDIN that the server reads
        self.is_unsynced = False  # extended-protocol messages were answered, and no ReadyForQuery since
        self.is_confused = False
        # None of the four above: what readers ask per query. Brought up to date by `ready` and `received`.
        self.is_plain = True

    @property
    def is_settled(self) -> bool:
        """Nothing is owed: the server waits for the next message, in the transaction state that `status` tells.

        Not so after extended-protocol messages without a Sync: these left a transaction open that no status tells of.
        """
        return not (self.owed or self.is_skipping or self.is_copying_in or self.is_unsynced or self.is_confused)

    @property
    def will_settle(self) -> bool:
        """Everything sent ends in a ReadyForQuery, so nothing more is needed for `is_settled`."""
        owed = self.owed
        return bool(owed) and owed[-1] in (QUERY, SYNC, FUNCTION_CALL) and not (self.is_copying_in or self.is_confused)

    @property
    def has_boundary(self) -> bool:
        """Something is owed whose failure would not have the next message skipped."""
        owed = self.owed
        return SYNC in owed or QUERY in owed or FUNCTION_CALL in owed

    @property
    def reads_copy(self) -> bool:
        """The server reads a COPY whose end was not sent yet: it does not survive another message."""
        return self.is_copying_in and COPY_DONE not in self.owed and COPY_FAIL not in self.owed

    def awaits_client(self, *, is_mid_message: bool) -> bool:
        """Whether the server can do nothing more before the client sends more, as far as can be known.

        `is_mid_message`: the client's last message has not been forwarded whole. An Execute counts as running until it
        is answered, Sync or not: a Flush may have come behind it.
        """
        whole = list(self.owed)
        if is_mid_message and whole:
            whole.pop()  # it was booked with its header; CopyData is not, and what is popped then makes no difference
        if self.is_copying_in:
            return COPY_DONE not in whole and COPY_FAIL not in whole
        return not any(tag in _RUNS for tag in whole)

    def sent(self, tag: int) -> None:
        """Books a message that was forwarded to the server; `tag` is its type."""
        if self.is_skipping:
            if tag == SYNC:
                self.is_skipping = False
                self.owed.appendleft(SYNC)  # before any MAYBE_SYNC: what is certain comes first
            elif self.owed and tag not in _UNCERTAIN:
                self.is_confused = True  # skipped or answered: that depends on what a MAYBE_SYNC comes to
            return
        self.owed.append(tag)

    def refuse(self, error: bytes) -> None:
        """Books a message that PostgreSQL will reject, sent in place of one that we refuse.

        Its ErrorResponse ends the transaction and skips to the next Sync as any other; `received` returns `error`, to
        be forwarded instead of it.
        """
        self.expect(REFUSAL, Error(error))

    def expect(self, entry: int, note: Note) -> None:
        """Books a message with a note; the note is told when it is answered, or dropped."""
        if self.is_skipping:
            self.sent(entry)
            note.dropped()
            return
        self.owed.append(entry)
        self.notes.append(note)

    def ready(self, status: int) -> bool:
        """A ReadyForQuery arrived. Returns whether the server is free now."""
        is_free = self._ready(status)
        self._note()
        return is_free

    def confuse(self) -> None:
        """The server said something that cannot be: it is never free again."""
        self.is_confused = True
        self.is_plain = False

    def _note(self) -> None:
        self.is_plain = not (self.is_copying_in or self.is_unsynced or self.is_confused or self.is_skipping)

    def _ready(self, status: int) -> bool:
        owed = self.owed
        self.status = status
        self.is_unsynced = False
        self._drop_idle_copy_ends()
        if owed and owed[0] == MAYBE_SYNC:
            self._insert_maybes(0)  # Syncs may have been sent after it, and they are certain
        if owed and owed[0] in (QUERY, SYNC, FUNCTION_CALL, MAYBE_SYNC):
            owed.popleft()
            if self.is_copying_in:
                self.is_confused = True  # a copy ends by CommandComplete or an error, never by ReadyForQuery
            self.is_skipping = False  # a MAYBE_SYNC did count, or there was nothing to skip
            self._drop_idle_copy_ends()
        else:
            self.is_confused = True
        return status == IDLE and not owed and not self.is_confused and not self.is_skipping

    def received(self, tag: int, body: bytes = b"") -> bytes | None:
        """Books any other message from the server, asynchronous ones (notice, parameter, notification) excepted.

        Returns what to forward in place of it, None to forward it as it is. `body` is looked at only while
        `reads_shape` holds.
        """
        owed = self.owed
        self._drop_idle_copy_ends()
        while owed and owed[0] == MAYBE_SYNC:
            owed.popleft()
            self._drop_idle_copy_ends()
        replacement = None
        if owed:
            replacement = self._answered(owed[0], tag, body)
        elif tag != ERROR_RESPONSE:  # FATAL comes at any time
            self.is_confused = True
        self._note()
        return replacement

    @property
    def reads_shape(self) -> bool:
        """Whether the next description is one that somebody must read whole."""
        owed = self.owed
        return bool(owed) and owed[0] in _READS_SHAPE

    def _answered(self, head: int, tag: int, body: bytes) -> bytes | None:
        owed = self.owed
        if tag == ERROR_RESPONSE:
            note = self.notes[0] if head == REFUSAL else None
            self._failed(head)
            return note.message if isinstance(note, Error) else None
        if tag == COPY_IN_RESPONSE and head in (QUERY, EXECUTE):
            self.is_copying_in = True
        elif tag == COMMAND_COMPLETE and self.is_copying_in:
            self._copied()
        elif tag in _TAKES.get(head, ()):
            owed.popleft()
            self.is_unsynced = True
            if head >= _FIRST_WITH_NOTE:
                note = self.notes.popleft()
                if tag == ROW_DESCRIPTION or tag == NO_DATA:
                    note.described(tag, body)
                note.answered()
        elif tag not in _LEAVES.get(head, ()):
            self.is_confused = True
        elif tag == PARAMETER_DESCRIPTION and head >= _FIRST_WITH_NOTE:
            self.notes[0].described(tag, body)
        return _REPLACED.get(head)

    def _drop_idle_copy_ends(self) -> None:
        """CopyDone and CopyFail outside of a copy are ignored by the server and owe nothing."""
        owed = self.owed
        while owed and (owed[0] == COPY_DONE or owed[0] == COPY_FAIL) and not self.is_copying_in:
            owed.popleft()

    def _failed(self, head: int) -> None:
        """An ErrorResponse that answers `head`."""
        voided = 0
        if self.is_copying_in:
            self.is_copying_in = False
            voided = self._take_copy_syncs()
        if head == PARSE:
            self._unnamed_failed()
        if head in _TAKES:
            skipped = self._skip_to_sync()
            if voided and skipped:
                self.is_confused = True  # they are answered if one of the Syncs before them counts
        if voided:
            self._insert_maybes(voided)

    def _unnamed_failed(self) -> None:
        """The client's unnamed statement could not be parsed, unless a later one has taken its place."""
        unnamed = self.statements.unnamed
        if unnamed is not None and self.owed.count(PARSE) == 1 and NAMED_PARSE not in self.owed:
            unnamed.body = unnamed.statement = self.statements.unnamed = None

    def _take_copy_syncs(self) -> int:
        """Removes the end of the copy and all Syncs before it; returns how many Syncs there were.

        Any other message is the end, too: PostgreSQL does not survive reading it while it copies, so it was, and what
        follows it will be, read after the failure.
        """
        owed = self.owed
        head = owed.popleft()
        syncs = 0
        while owed and owed[0] in (SYNC, COPY_DONE, COPY_FAIL):
            if owed.popleft() != SYNC:
                break
            syncs += 1
        owed.appendleft(head)
        return syncs

    def _copied(self) -> None:
        """A COPY FROM STDIN ended well: Syncs that the server read while copying do not count."""
        self.is_copying_in = False
        self._take_copy_syncs()
        if self.owed[0] == EXECUTE:
            self.owed.popleft()
            self.is_unsynced = True

    def _skip_to_sync(self) -> int:
        """Drops what the server skips; returns how many messages behind the one that failed."""
        owed = self.owed
        skipped = -1
        dropped = []
        while owed and owed[0] != SYNC:
            tag = owed.popleft()
            if tag >= _FIRST_WITH_NOTE:
                dropped.append(self.notes.popleft())
            if tag not in _UNCERTAIN:
                skipped += 1
        for note in reversed(dropped):  # each undoes what was there before it
            note.dropped()
        self.is_skipping = not owed
        return skipped

    def _insert_maybes(self, count: int) -> None:
        """Puts MAYBE_SYNCs behind the entry at the head and all Syncs that follow it: a reply can not tell them apart.

        The head is the failed Query, the Sync that ended the skipping, or nothing if the server skips to one to come.
        """
        owed = self.owed
        certain = [owed.popleft()] if owed and owed[0] != MAYBE_SYNC else []
        while owed and (owed[0] in _UNCERTAIN or owed[0] == SYNC):
            tag = owed.popleft()
            if tag == MAYBE_SYNC:
                count += 1
            elif tag == SYNC:
                certain.append(tag)
        owed.extendleft([MAYBE_SYNC] * count)
        owed.extendleft(reversed(certain))
