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
    NAMED_CLOSE,
    NAMED_DESCRIBE,
    NAMED_PARSE,
    OWN_CLOSE,
    OWN_DESCRIBE,
    OWN_PARSE,
    PORTAL_DESCRIBE,
    REFUSAL,
    TOLD_BIND,
    TOLD_DESCRIBE,
    Pipeline,
)
from pgweir_pooler.session.statement_notes import (
    ClientNames,
    ClientStatement,
    Eviction,
    Note,
    Preparation,
    Registration,
    Removal,
    Tells,
    Told,
    UnnamedParse,
)
from pgweir_pooler.session.statements import Copy, ServerStatements, Statement, StatementTable, name_in_sql
from pgweir_pooler.session.steps import Settings
from pgweir_pooler.session.suspicion import NEEDS_REPLAY, UNTAGGED, asks_of_statement
from pgweir_pooler.wire.framing import (
    BIND,
    CLOSE,
    DESCRIBE,
    HEADER_SIZE,
    PARSE,
    QUERY,
    SYNC,
)
from pgweir_pooler.wire.messages import FLUSH, error_response_for, message

# What `edit` decides about a message.
AS_IS = 0  # it is booked, and goes on as it is
EDITED = 1  # it is booked; `piece` goes in place of everything before `resume`
INCOMPLETE = 2  # more of it must arrive first
STOP = 3  # `piece` goes ahead of it; it must be given again when `can_go_on` says so
REPLAY = 4  # it must be given again when the server has what the client prepared by SQL, and its channels

# What a client may have prepared at a time; drivers' caches hold 100 to 256 statements.
MAX_STATEMENTS_PER_CLIENT = 10_000
MAX_TEXT_PER_CLIENT = 64 << 20
# What is held of a message until it is whole. A longer text cannot have a name; unnamed, it flows, and lives until the
# client's loan of the server ends.
_NAMED_LIMIT = 16 << 20
_UNNAMED_LIMIT = 1 << 20

# A Bind to a statement that nobody can have, for names of clients do not get to the server. PostgreSQL answers it as it
# would any statement that is unknown: the transaction fails, and it skips to the next Sync.
REJECTED = message(b"B", b"\0pgweir: refused\0" + bytes(6))
# A name for a Parse that is sent for the sake of its error alone.
_SPARE = b"pgweir_spare"
_CLOSE_SPARE = message(b"C", b"S" + _SPARE + b"\0")
# Always answered by CloseComplete.
_CLOSE_NOTHING = message(b"C", b"Spgweir: nothing\0")
_NOTE = Note()


class ClientStatements(ClientNames):
    """The statements of one client. `table` is that of its pool."""

    __slots__ = (
        "_awaited",
        "_awaits_all",
        "_portals",
        "_text_bytes",
        "_unsure",
        "asks",
        "binds",
        "bound",
        "client_parses",
        "closing",
        "is_replayed",
        "piece",
        "reading",
        "replay_for",
        "resume",
        "server_parses",
        "table",
    )

    def __init__(self, table: StatementTable, reading: Settings = ()) -> None:
        super().__init__()
        self.table = table
        self.reading = reading  # the client's settings that decide what a text means
        self.closing: set[bytes] = set()  # names whose Close is not answered yet
        self.is_replayed = False  # the server has what statements may name: what the client prepared by SQL, and more
        self.replay_for = b""  # the body of the statement that is bound or described when `edit` says REPLAY
        self.asks = 0  # what was parsed or bound in this loan may leave behind, see `suspicion`
        self.bound: dict[Statement, bytes] = {}  # in this loan, and as what
        # Counted since somebody last took them over.
        self.client_parses = self.server_parses = self.binds = 0
        self.piece = b""  # set by `edit`, as the next
        self.resume = 0
        self._awaited: tuple[Statement, Copy] | None = None  # what a Bind waits for
        self._awaits_all = False  # what was sent before must be answered first
        self._portals: set[bytes] = set()  # bound to the unnamed statement that the server has
        self._text_bytes = 0
        self._unsure: UnnamedParse | None = None  # of the newest unnamed statement, when it may be skipped

    def loan_ended(self) -> None:
        """The server goes back."""
        self.asks = 0
        self.is_replayed = False
        self.bound.clear()
        self._awaited = None
        self._awaits_all = False
        self._portals.clear()
        self.doomed = self._unsure = None

    def edit(self, tag: int, data: bytes, pos: int, after: int, pipeline: Pipeline) -> int:
        """Decides about the Parse, Bind, Describe or Close that begins at `pos` and ends at `after`."""
        if pipeline.is_copying_in and pipeline.reads_copy:
            pipeline.owed.append(tag)
            return AS_IS
        if tag == BIND:
            return self._bind(data, pos, after, pipeline)
        if tag == PARSE:
            return self._parse(data, pos, after, pipeline)
        if after > len(data):
            return INCOMPLETE  # they are short, and most of it is the name
        if data[pos + HEADER_SIZE : pos + HEADER_SIZE + 1] != b"S":
            unnamed = self.unnamed
            portals = self._portals
            if (
                portals
                and tag == DESCRIBE
                and unnamed is not None
                and unnamed.told is None
                and data[pos + HEADER_SIZE + 1 : after - 1] in portals
            ):
                pipeline.owed.append(PORTAL_DESCRIBE)
                pipeline.notes.append(unnamed)
            else:
                pipeline.owed.append(tag)
            return AS_IS
        name = data[pos + HEADER_SIZE + 1 : after - 1]
        return (self._describe if tag == DESCRIBE else self._close)(name, pos, after, pipeline)

    def can_go_on(self, pipeline: Pipeline) -> bool:
        """Whether what `stop` waits for has come, or will not come."""
        if self._awaits_all:
            if pipeline.owed and not (pipeline.is_skipping or pipeline.reads_copy):
                return False
            self._awaits_all = False
        if self._awaited is None:
            return self._unsure is None or self._unsure.is_done
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

    def _note_asks(self, asks: int, text: bytes, pipeline: Pipeline) -> None:
        if asks & NEEDS_REPLAY:
            self.note_forgetting(text, pipeline.statements)
        self.asks |= asks & ~NEEDS_REPLAY

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
        known = self.names.get(name)
        if known is not None and (self.doomed is None or self.doomed.get(name) is not known):
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
        # Also where the server has it: a Parse means the tables as they are now, and that copy may be of before.
        return self._prepare(statement, pipeline, registers=(name, client))

    def _parse_unnamed(self, data: bytes, begin: int, after: int, pipeline: Pipeline) -> int:
        """`begin` is where its body begins."""
        body: bytes | None = None
        if after - begin <= _UNNAMED_LIMIT:
            if after > len(data):
                return INCOMPLETE
            body = data[begin:after]
        self.client_parses += 1
        self.server_parses += 1
        if body is None:  # not all of it can be seen
            self.asks |= UNTAGGED
        else:
            self._note_asks(asks_of_statement(body), body, pipeline)
        self.unnamed = client = ClientStatement(body, None)
        self._portals.clear()
        server = pipeline.statements
        owed = pipeline.owed
        if not owed or owed[-1] == SYNC or (owed[-1] == QUERY and len(owed) == 1):
            server.unnamed = client
            owed.append(PARSE)
        else:  # an error before it would have it skipped: the server keeps what it had, which may be another client's
            server.unnamed = None
            self._unsure = UnnamedParse(self, server, client)
            pipeline.expect(NAMED_PARSE, self._unsure)
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
        for old, its_copy in closed:
            pipeline.expect(OWN_CLOSE, Eviction(server, old, its_copy))
            pieces.append(message(b"C", b"S" + old.name + b"\0"))
        # Itself, too: a Parse whose Describe came to nothing may have left it there.
        pipeline.expect(OWN_CLOSE, _NOTE)
        pieces.append(message(b"C", b"S" + statement.name + b"\0"))
        if registers is None:
            pipeline.expect(OWN_PARSE, note)
        else:
            pipeline.expect(NAMED_PARSE, Registration(self.names, *registers, note))
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
            if after > len(data):
                return INCOMPLETE
            pipeline.owed.append(BIND)  # PostgreSQL says what is wrong with it
            return AS_IS
        name = data[begin:stop]
        if self._is_unsettled(name, pipeline):
            return self._await_all(pos)
        client = self.names.get(name) if name else self.unnamed
        if client is None:
            return self._refuse(UnknownStatement(name), after, pipeline)
        server = pipeline.statements
        if not name:
            verdict = self._find_unnamed(pos, pipeline)
            if verdict == AS_IS:
                self.binds += 1
                self._portals.add(data[pos + HEADER_SIZE : begin - 1])
                pipeline.owed.append(BIND)
            if verdict != EDITED:
                return verdict
        statement = self._statement_of(client, server)
        if statement is None:
            return self._refuse(UnknownStatement(name), after, pipeline)
        if statement.asks & NEEDS_REPLAY and not self.is_replayed:
            self.replay_for = statement.body
            return REPLAY
        is_described = _is_described(data, after, portal=data[pos + HEADER_SIZE : begin])
        copy = self._find_copy(statement, pipeline)
        if copy is None:
            return self._await_all(pos)
        client.read_portal()
        if client.told is not copy and not is_described:
            verdict = self._check_shape(client, copy, data, pos, after, pipeline)
            if verdict != AS_IS:
                return verdict
        self._note_asks(statement.asks, statement.body, pipeline)
        self.binds += 1
        self._portals.discard(data[pos + HEADER_SIZE : begin - 1])
        self.bound[statement] = name
        pipeline.bound = self.bound
        if client.told is copy:
            pipeline.owed.append(BIND)
        else:
            pipeline.expect(TOLD_BIND, Tells(client, copy))
        length = after - pos - 1 + len(statement.name) - len(name)
        head = b"B" + length.to_bytes(4, "big") + data[pos + HEADER_SIZE : begin] + statement.name
        self.piece = self.piece + head if self.piece else head
        self.resume = stop
        return EDITED

    def _find_copy(self, statement: Statement, pipeline: Pipeline) -> Copy | None:
        """The server's copy, with what prepares it in `piece`; None while it may still be skipped."""
        server = pipeline.statements
        copy = server.copies.get(statement)
        self.piece = b""
        if copy is None:
            self.piece = self._prepare(statement, pipeline)
            return server.copies[statement]
        if copy.shape is None and pipeline.has_boundary:
            return None
        server.copies.move_to_end(statement)
        return copy

    def _find_unnamed(self, pos: int, pipeline: Pipeline) -> int:
        """AS_IS when the server has the client's unnamed statement, STOP when that is not known yet, else EDITED."""
        if pipeline.statements.unnamed is self.unnamed:
            return AS_IS
        unsure = self._unsure
        if unsure is None or unsure.is_done:
            return EDITED
        notes = reversed(pipeline.notes)
        for entry in reversed(pipeline.owed):
            if entry >= REFUSAL and next(notes) is unsure:
                return AS_IS  # whatever has the Parse skipped has this skipped, too
            if entry == SYNC:
                break
        self.piece = b""
        self.resume = pos
        return STOP

    def _check_shape(
        self, client: ClientStatement, copy: Copy, data: bytes, pos: int, after: int, pipeline: Pipeline
    ) -> int:
        """AS_IS when the client may read rows of this copy, which it is not about to be told of; else the verdict."""
        statement = client.statement
        assert statement is not None
        if client.told is None:
            client.told = copy  # its Describe may follow, or it has a shape in mind
        elif copy.shape is None:
            self.piece += FLUSH  # else PostgreSQL keeps its description to itself
            self.resume = pos
            self._awaited = (statement, copy)
            return STOP
        elif client.is_misled_by(copy):
            if copy.number > client.told.number:
                return self._refuse(CachedPlanChanged(), after, pipeline)
            self.table.retire(statement)  # this server's copy is of a shape that is no more
            return self._bind(data, pos, after, pipeline)
        return AS_IS

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

    def _is_unsettled(self, name: bytes, pipeline: Pipeline) -> bool:
        """Whether an answer that is still to come, of another batch, decides what the name stands for.

        In the batch itself an error would have all that follows skipped.
        """
        client = self.names.get(name)
        if name not in self.closing and (client is None or client.is_settled):
            return False
        return pipeline.has_boundary

    def _await_all(self, pos: int) -> int:
        self.piece = FLUSH
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
        if not name:
            verdict = self._find_unnamed(pos, pipeline)
            if verdict == AS_IS:
                pipeline.expect(TOLD_DESCRIBE, Told(client))
            if verdict != EDITED:
                return verdict
        statement = self._statement_of(client, server)
        if statement is None:
            return self._refuse(UnknownStatement(name, is_bind=False), after, pipeline)
        if statement.asks & NEEDS_REPLAY and not self.is_replayed:
            self.replay_for = statement.body
            return REPLAY
        copy = self._find_copy(statement, pipeline)
        if copy is None:
            return self._await_all(pos)
        if client.told is copy:
            pipeline.owed.append(DESCRIBE)
        else:
            pipeline.expect(NAMED_DESCRIBE, Tells(client, copy))
        self.bound[statement] = name  # a Describe, too, finds out that the shape is another one
        pipeline.bound = self.bound
        self.piece += message(b"D", b"S" + statement.name + b"\0")
        self.resume = after
        return EDITED

    def _close(self, name: bytes, pos: int, after: int, pipeline: Pipeline) -> int:
        if not name:
            self.unnamed = pipeline.statements.unnamed = None
            pipeline.owed.append(CLOSE)
            return AS_IS
        if self._is_unsettled(name, pipeline):
            return self._await_all(pos)
        server = pipeline.statements
        pipeline.expect(NAMED_CLOSE, Removal(self.names, self.closing, name, server))
        # The name is not the server's, unless SQL needed it there.
        self.piece = message(b"C", b"S" + name + b"\0") if name_in_sql(name) in server.sql_names else _CLOSE_NOTHING
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


def _is_described(data: bytes, pos: int, portal: bytes) -> bool:
    """Whether the message at `pos` is a Describe of this portal: the client is about to be told the shape."""
    return data[pos : pos + 1] == b"D" and data.startswith(b"P" + portal, pos + HEADER_SIZE)
