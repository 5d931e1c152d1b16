"""A client's prepared statements: what becomes of its Parse, Bind, Describe and Close on a shared server.

Each message is looked at when the client holds a server that executes it (not one that skips to a Sync). It goes on as
it is, or with our name in place of the client's, or behind a Parse of ours when this server has not prepared the
statement yet; or it is refused, by an error that PostgreSQL itself would give. The unnamed statement goes on as it is
on the server where it was parsed, and is prepared by a name of ours on any other.

Once a client was told a shape, a Bind on a server where the statement is not prepared yet must wait until that server
has described it: `stop` says so, and `can_go_on` when that is over.
"""

from pgweir_pooler.errors import (
    CachedPlanChanged,
    DuplicateStatement,
    PoolerError,
    TooManyStatements,
    UnknownStatement,
)
from pgweir_pooler.session.pipeline import (
    KNOWN_PARSE,
    NAMED_CLOSE,
    NAMED_DESCRIBE,
    NAMED_PARSE,
    OWN_CLOSE,
    OWN_DESCRIBE,
    OWN_PARSE,
    TOLD_BIND,
    TOLD_DESCRIBE,
    Pipeline,
)
from pgweir_pooler.session.statements import (
    MAX_STATEMENTS_PER_CLIENT,
    MAX_TEXT_PER_CLIENT,
    ClientStatement,
    Copy,
    FirstParse,
    Note,
    Preparation,
    Registration,
    Removal,
    ServerStatements,
    Statement,
    StatementTable,
    Tells,
    Told,
    UnnamedOwner,
    UnnamedParse,
)
from pgweir_pooler.session.steps import Settings
from pgweir_pooler.session.suspicion import NEEDS_REPLAY, asks_of_statement
from pgweir_pooler.wire.framing import (
    BIND,
    CLOSE,
    DESCRIBE,
    HEADER_SIZE,
    IDLE,
    PARSE,
    QUERY,
    SYNC,
)
from pgweir_pooler.wire.messages import error_response_for, message

# What `edit` decides about a message.
AS_IS = 0  # it is booked, and goes on as it is
EDITED = 1  # it is booked; `piece` goes in place of everything before `resume`
INCOMPLETE = 2  # more of it must arrive first
REPLAY = 4  # it must be given again when the server has what the client prepared by SQL, and its channels
STOP = 3  # `piece` goes ahead of it; it must be given again when `can_go_on` says so

# What is held of a message until it is whole. A longer text cannot have a name; unnamed, it flows, and lives until the
# client's loan of the server ends.
_NAMED_LIMIT = 16 << 20
_UNNAMED_LIMIT = 1 << 20
_STATEMENT = 0x53  # S in Describe and Close

# A Bind to a statement that nobody can have, for names of clients do not get to the server. PostgreSQL answers it as it
# would any statement that is unknown: the transaction fails, and it skips to the next Sync.
REJECTED = message(b"B", b"\0pgweir: refused\0" + bytes(6))
# A name for a Parse that is sent for the sake of its error alone.
_SPARE = b"pgweir_spare"
_CLOSE_SPARE = message(b"C", b"S" + _SPARE + b"\0")
# Always answered by CloseComplete.
_CLOSE_NOTHING = message(b"C", b"Spgweir: nothing\0")
_FLUSH = message(b"H")
_NOTE = Note()


class ClientStatements(UnnamedOwner):
    """The statements of one client. `table` is that of its pool."""

    __slots__ = (
        "_awaited",
        "_awaits_all",
        "_text_bytes",
        "asks",
        "binds",
        "bound",
        "client_parses",
        "closing",
        "is_replayed",
        "names",
        "piece",
        "reading",
        "resume",
        "server_parses",
        "table",
    )

    def __init__(self, table: StatementTable, reading: Settings) -> None:
        super().__init__()
        self.table = table
        self.reading = reading  # the client's settings that decide what a text means
        self.names: dict[bytes, ClientStatement] = {}
        self.closing: set[bytes] = set()  # names whose Close is not answered yet
        self.is_replayed = False  # the server has what statements may name: what the client prepared by SQL, and more
        self.asks = 0  # what was parsed or bound in this loan may leave behind, see `suspicion`
        self.bound: dict[Statement, bytes] = {}  # in this loan, and as what
        # Counted since somebody last took them over.
        self.client_parses = self.server_parses = self.binds = 0
        self.piece = b""  # set by `edit`, as the next
        self.resume = 0
        self._awaited: tuple[Statement, Copy] | None = None  # what a Bind waits for
        self._awaits_all = False  # what was sent before must be answered first
        self._text_bytes = 0

    def loan_ended(self) -> None:
        """The server goes back."""
        self.asks = 0
        self.is_replayed = False
        self.bound.clear()
        self._awaited = None
        self._awaits_all = False

    def edit(self, tag: int, data: bytes, pos: int, after: int, pipeline: Pipeline) -> int:
        """Decides about the Parse, Bind, Describe or Close that begins at `pos` and ends at `after`."""
        if tag == BIND:
            return self._bind(data, pos, after, pipeline)
        if tag == PARSE:
            return self._parse(data, pos, after, pipeline)
        if after > len(data):
            return INCOMPLETE  # they are short, and most of it is the name
        if data[pos + HEADER_SIZE : pos + HEADER_SIZE + 1] != b"S":
            pipeline.owed.append(tag)
            return AS_IS
        name = data[pos + HEADER_SIZE + 1 : after - 1]
        return (self._describe if tag == DESCRIBE else self._close)(name, pos, after, pipeline)

    def can_go_on(self, pipeline: Pipeline) -> bool:
        """Whether what `stop` waits for has come, or will not come."""
        if self._awaits_all:
            if pipeline.owed and not (pipeline.is_skipping or pipeline.is_copying_in):
                return False
            self._awaits_all = False
        if self._awaited is None:
            return True
        statement, copy = self._awaited
        if copy.shape is None and pipeline.statements.copies.get(statement) is copy and not pipeline.is_skipping:
            return False
        self._awaited = None
        return True

    def plan_changed(self) -> None:
        """PostgreSQL refused what was bound in this loan because its shape has changed: nobody gets it again."""
        for statement in self.bound:
            self.table.retire(statement)
        self.bound.clear()

    # --- Parse

    def _parse(self, data: bytes, pos: int, after: int, pipeline: Pipeline) -> int:
        begin = pos + HEADER_SIZE
        stop = data.find(b"\0", begin, after)
        if stop < 0:
            if after > len(data):
                return INCOMPLETE
            pipeline.owed.append(PARSE)  # PostgreSQL says what is wrong with it
            return AS_IS
        if stop == begin:
            return self._parse_unnamed(data, begin + 1, after, pipeline)
        name = data[begin:stop]
        if after - begin > _NAMED_LIMIT:
            return self._refuse(
                TooManyStatements(f"a named statement is longer than {_NAMED_LIMIT} bytes"), after, pipeline
            )
        if after > len(data):
            return INCOMPLETE
        if self._is_unsettled(name, pipeline):
            return self._await_all(pos)
        body = data[stop + 1 : after]
        if name in self.names:
            return self._refuse_duplicate(name, body, after, pipeline)
        if len(self.names) >= MAX_STATEMENTS_PER_CLIENT or self._text_bytes + len(body) > MAX_TEXT_PER_CLIENT:
            self._text_bytes = sum(len(c.body or b"") for c in self.names.values())
            if len(self.names) >= MAX_STATEMENTS_PER_CLIENT or self._text_bytes + len(body) > MAX_TEXT_PER_CLIENT:
                return self._refuse(TooManyStatements("this session has too many prepared statements"), after, pipeline)
        self._text_bytes += len(body)
        self.client_parses += 1
        self.resume = after
        self.piece = self._register(name, body, pipeline)
        return EDITED

    def _register(self, name: bytes, body: bytes, pipeline: Pipeline) -> bytes:
        """Gives the name to the statement with this body; returns what is sent in place of the Parse."""
        statement = self.table.intern(body, asks_of_statement(body), self.reading)
        client = ClientStatement(body, statement)
        self.names[name] = client
        server = pipeline.statements
        copy = server.copies.get(statement)
        if (
            copy is None
            or server.is_reading_changed
            or (copy.shape is None and pipeline.has_boundary)  # what was sent before may be skipped
        ):
            return self._prepare(statement, pipeline, registers=(name, client))
        server.copies.move_to_end(statement)
        note = Registration(self.names, name, client)
        if pipeline.status != IDLE:
            # In a failed transaction, as far as is known, PostgreSQL will refuse it: a text of no consequence tells.
            pipeline.expect(OWN_CLOSE, _NOTE)
            pipeline.expect(NAMED_PARSE, note)
            return _CLOSE_SPARE + message(b"P", _SPARE + b"\0" + body)
        pipeline.expect(KNOWN_PARSE, note)
        return _CLOSE_NOTHING

    def _parse_unnamed(self, data: bytes, begin: int, after: int, pipeline: Pipeline) -> int:
        """`begin` is where its body begins."""
        body: bytes | None = None
        if after - begin <= _UNNAMED_LIMIT:
            if after > len(data):
                return INCOMPLETE
            body = data[begin:after]
        self.client_parses += 1
        self.server_parses += 1
        self.asks |= asks_of_statement(data[begin:after]) & ~NEEDS_REPLAY
        self.unnamed = client = ClientStatement(body, None)
        server = pipeline.statements
        server.unnamed = client
        owed = pipeline.owed
        if not owed or owed[-1] == SYNC or (owed[-1] == QUERY and len(owed) == 1):  # a Query, too, can be skipped
            client.is_settled = True  # good or bad, it takes the place of the one before it
            owed.append(PARSE)
        else:  # an error before it would have it skipped
            pipeline.expect(NAMED_PARSE, UnnamedParse(self, server, client))
        return AS_IS

    def _prepare(
        self, statement: Statement, pipeline: Pipeline, registers: tuple[bytes, ClientStatement] | None = None
    ) -> bytes:
        """Messages that prepare the statement on the server; the client reads the ParseComplete if it is its own."""
        server = pipeline.statements
        self.server_parses += 1
        copy, closed = server.add(statement)
        note = Preparation(server, statement, copy)
        pieces = []
        for old in (*closed, statement):  # itself: a Parse whose Describe came to nothing may have left it there
            pipeline.expect(OWN_CLOSE, _NOTE)
            pieces.append(message(b"C", b"S" + old.name + b"\0"))
        if registers is None:
            pipeline.expect(OWN_PARSE, note)
        else:
            pipeline.expect(NAMED_PARSE, FirstParse(self.names, *registers, note))
        pipeline.expect(OWN_DESCRIBE, note)
        pieces.append(message(b"P", statement.name + b"\0" + statement.body))
        pieces.append(message(b"D", b"S" + statement.name + b"\0"))
        return b"".join(pieces)

    # --- Bind

    def _bind(self, data: bytes, pos: int, after: int, pipeline: Pipeline) -> int:
        end = min(after, len(data))
        begin = data.find(b"\0", pos + HEADER_SIZE, end) + 1
        stop = data.find(b"\0", begin, end) if begin else -1
        if stop < 0:
            return self._bind_in_part(data, after, pipeline)
        name = data[begin:stop]
        client = self.names.get(name) if name else self.unnamed
        if (client is None or not client.is_settled) and self._is_unsettled(name, pipeline):
            return self._await_all(pos)
        if client is None:
            return self._refuse(UnknownStatement(name), after, pipeline)
        server = pipeline.statements
        if not name and server.unnamed is client:
            self.binds += 1
            pipeline.owed.append(BIND)
            return AS_IS
        statement = self._statement_of(client, server)
        if statement is None:
            return self._refuse(UnknownStatement(name), after, pipeline)
        if statement.asks & NEEDS_REPLAY and not self.is_replayed:
            return REPLAY
        copy = server.copies.get(statement)
        self.piece = b""
        if copy is None:
            self.piece = self._prepare(statement, pipeline)
            copy = server.copies[statement]
        elif copy.shape is None and pipeline.has_boundary:
            return self._await_all(pos)  # it may be skipped
        else:
            server.copies.move_to_end(statement)
        told = client.told
        if told is not copy:
            if _is_described(data, after):
                client.told = copy
            elif client.told is not None:
                if copy.shape is None:
                    return self._await(statement, copy, pos)
                if client.is_misled_by(copy):
                    self.table.retire(statement)  # other servers may have copies of the old shape
                    return self._refuse(CachedPlanChanged(), after, pipeline)
        self.asks |= statement.asks & ~NEEDS_REPLAY
        self.binds += 1
        self.bound[statement] = name
        pipeline.bound = self.bound
        if told is None or told is client.told:
            pipeline.owed.append(BIND)
        else:
            pipeline.expect(TOLD_BIND, Tells(client, told))
        length = after - pos - 1 + len(statement.name) - len(name)
        head = b"B" + length.to_bytes(4, "big") + data[pos + HEADER_SIZE : begin] + statement.name
        self.piece = self.piece + head if self.piece else head
        self.resume = stop
        return EDITED

    def _statement_of(self, client: ClientStatement, server: ServerStatements) -> Statement | None:
        """What it is called on this server; None when its text is not known.

        A server that has not prepared it reads the text by the settings that the client has now.
        """
        statement = client.statement
        if (
            statement is None
            or statement.is_retired
            or (statement.reading != self.reading and statement not in server.copies)
        ):
            if client.body is None:
                return None
            client.statement = statement = self.table.intern(client.body, asks_of_statement(client.body), self.reading)
        return statement

    def _await(self, statement: Statement, copy: Copy, pos: int) -> int:
        self.piece += _FLUSH  # else PostgreSQL keeps its description to itself
        self.resume = pos
        self._awaited = (statement, copy)
        return STOP

    def _bind_in_part(self, data: bytes, after: int, pipeline: Pipeline) -> int:
        if after > len(data):
            return INCOMPLETE
        pipeline.owed.append(BIND)  # PostgreSQL says what is wrong with it
        return AS_IS

    def _is_unsettled(self, name: bytes, pipeline: Pipeline) -> bool:
        """Whether an answer that is still to come, of another batch, decides what the name stands for.

        In the batch itself an error would have all that follows skipped.
        """
        if not pipeline.has_boundary:
            return False
        client = self.names.get(name) if name else self.unnamed
        return name in self.closing or (client is not None and not client.is_settled)

    def _await_all(self, pos: int) -> int:
        self.piece = _FLUSH
        self.resume = pos
        self._awaits_all = True
        return STOP

    # --- Describe and Close of statements

    def _describe(self, name: bytes, pos: int, after: int, pipeline: Pipeline) -> int:
        if self._is_unsettled(name, pipeline):
            return self._await_all(pos)
        client = self.names.get(name) if name else self.unnamed
        if client is None:
            return self._refuse(UnknownStatement(name, is_bind=False), after, pipeline)
        server = pipeline.statements
        if not name and server.unnamed is client:
            pipeline.expect(TOLD_DESCRIBE, Told(client))
            return AS_IS
        statement = self._statement_of(client, server)
        if statement is None:
            return self._refuse(UnknownStatement(name, is_bind=False), after, pipeline)
        if statement.asks & NEEDS_REPLAY and not self.is_replayed:
            return REPLAY
        copy = server.copies.get(statement)
        prepared = b""
        if copy is None:
            prepared = self._prepare(statement, pipeline)
        elif copy.shape is None and pipeline.has_boundary:
            return self._await_all(pos)
        self.bound[statement] = name  # PostgreSQL may find its shape changed here, too
        pipeline.expect(NAMED_DESCRIBE, Tells(client, client.told))
        client.told = server.copies[statement]
        self.piece = prepared + message(b"D", b"S" + statement.name + b"\0")
        self.resume = after
        return EDITED

    def _close(self, name: bytes, pos: int, after: int, pipeline: Pipeline) -> int:
        if not name:
            self.unnamed = pipeline.statements.unnamed = None
            pipeline.owed.append(CLOSE)
            return AS_IS
        if self._is_unsettled(name, pipeline):
            return self._await_all(pos)
        pipeline.expect(NAMED_CLOSE, Removal(self.names, self.closing, name))
        self.piece = _CLOSE_NOTHING  # the name is not the server's
        self.resume = after
        return EDITED

    def _refuse_duplicate(self, name: bytes, body: bytes, after: int, pipeline: Pipeline) -> int:
        """A Parse of a name that is taken: PostgreSQL sees that last, behind all that may be wrong with the text."""
        pipeline.expect(OWN_CLOSE, _NOTE)
        pipeline.expect(OWN_PARSE, _NOTE)
        self._refuse(DuplicateStatement(name), after, pipeline)
        self.piece = _CLOSE_SPARE + message(b"P", _SPARE + b"\0" + body) + self.piece
        return EDITED

    def _refuse(self, error: PoolerError, after: int, pipeline: Pipeline) -> int:
        pipeline.refuse(error_response_for(error))
        self.piece = REJECTED
        self.resume = after
        return EDITED


def _is_described(data: bytes, pos: int) -> bool:
    """Whether the message at `pos` is a Describe of a portal: the client is about to be told the shape."""
    return data[pos : pos + 1] == b"D" and data[pos + HEADER_SIZE : pos + HEADER_SIZE + 1] == b"P"
