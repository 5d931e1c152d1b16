"""Prepared statements on shared servers: what a client calls them, and what each server has.

A client's name stands for a text with its parameter types (`Statement`). Equal texts of all clients of a pool are one
`Statement`, which has one name on all servers. A server prepares it when it is first used there and keeps at most
`max_prepared_statements` of them, the least recently used go first.

A client decodes rows by the shape that it was told when it prepared, so no copy of another shape may answer it unseen.
Each server's `Copy` knows the shape that PostgreSQL described when it was prepared; while that copy lives, PostgreSQL
itself refuses to answer in another one (0A000 "cached plan must not change result type"). What the client was told is
the copy that it was prepared or described on. A statement for which PostgreSQL raised that error is retired: it
gets a new name, so that every server prepares it afresh.

A statement is kept by the clients and servers that know it and by nobody else.
"""

from collections import OrderedDict
from hashlib import blake2b
from itertools import count
from weakref import WeakValueDictionary

from pgweir_pooler.session.steps import Settings
from pgweir_pooler.session.suspicion import forgets

DEFAULT_MAX_PREPARED = 200
SERVER_NAME_PREFIX = b"pgweir_"
_SHAPE_BYTES = 8
_numbers = count()
_COLUMN_SIZE = 18  # what follows a column's name in a RowDescription
# What a client may have prepared at a time; drivers' caches hold 100 to 256 statements.
MAX_STATEMENTS_PER_CLIENT = 10_000
MAX_TEXT_PER_CLIENT = 64 << 20


class Statement:
    """A text with its parameter types, the same for all clients of a pool that have the same reading settings."""

    __slots__ = ("__weakref__", "asks", "body", "is_retired", "name", "reading")

    def __init__(self, body: bytes, reading: Settings, name: bytes, asks: int) -> None:
        self.body = body  # of its Parse message, behind the name: text, NUL, types
        self.reading = reading  # settings that decide what the text means, see `settings.reading_settings`
        self.name = name  # on all servers
        self.asks = asks  # what its execution may leave behind, see `suspicion`
        self.is_retired = False  # PostgreSQL found its shape changed: nobody uses this name any more


class StatementTable:
    """All statements of one pool, by bodies and reading settings, as long as a client or a server knows them."""

    __slots__ = ("_count", "_known")

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[bytes, Settings], Statement] = WeakValueDictionary()
        self._count = 0

    def __len__(self) -> int:
        return len(self._known)

    def intern(self, body: bytes, asks: int, reading: Settings = ()) -> Statement:
        """The statement with this body; a new one when it is new, or was retired."""
        statement = self._known.get((body, reading))
        if statement is None:
            self._count += 1
            statement = Statement(body, reading, SERVER_NAME_PREFIX + b"%x" % self._count, asks)
            self._known[body, reading] = statement
        return statement

    def retire(self, statement: Statement) -> None:
        """Its name is not used again; whoever has it gets the next one from `intern`."""
        statement.is_retired = True
        key = statement.body, statement.reading
        if self._known.get(key) is statement:
            del self._known[key]


class Copy:
    """A statement as one server has prepared it. `shape` stays None until the server has described it."""

    __slots__ = ("number", "shape")

    def __init__(self) -> None:
        self.shape: bytes | None = None
        self.number = next(_numbers)  # of two shapes, that of the later copy is the one of now


class ClientStatement:
    """What one client means by a name, or by no name."""

    __slots__ = ("before", "body", "is_settled", "statement", "told", "was_read")

    def __init__(self, body: bytes | None, statement: Statement | None) -> None:
        self.body = body  # of its Parse message, behind the name; None when it was too long to be kept
        self.statement = statement  # None until it must be prepared by name
        self.is_settled = False  # the server has answered the Parse
        # The copy by whose shape the client reads rows; None while it was told none: then any shape is news to it.
        self.told: Copy | None = None
        # What the name meant before, until PostgreSQL has answered the Parse; else None.
        self.before: ClientStatement | None = None
        # A portal was described while this was the unnamed statement: the client may know a shape that we do not.
        self.was_read = False

    def is_misled_by(self, copy: Copy) -> bool:
        """Whether rows of this copy would be read by the shape of another one."""
        told = self.told
        if told is None or told is copy or told.shape is None:  # the last: its preparation came to nothing
            return False
        return told.shape != copy.shape


class ServerStatements:
    """What one server has prepared for clients of its pool."""

    __slots__ = ("copies", "is_reading_changed", "limit", "unclean", "unnamed")

    def __init__(self) -> None:
        self.limit = DEFAULT_MAX_PREPARED
        self.copies: OrderedDict[Statement, Copy] = OrderedDict()  # the least recently used first
        # The session reads texts by other settings, or sees other tables, than its client's settings tell: what is
        # prepared meanwhile is in `unclean`, and nobody else's.
        self.is_reading_changed = False
        self.unclean: list[Statement] = []
        # Whose unnamed statement the server has; None when nobody's that is known. Forgotten at the end of a loan.
        self.unnamed: ClientStatement | None = None

    def add(self, statement: Statement) -> tuple[Copy, list[tuple[Statement, Copy]]]:
        """A copy that is about to be prepared, and which ones must be closed to make room."""
        copy = Copy()
        self.copies[statement] = copy
        self.copies.move_to_end(statement)
        if self.is_reading_changed:
            self.unclean.append(statement)
        closed = []
        while len(self.copies) > max(self.limit, 1):
            closed.append(self.copies.popitem(last=False))
        return copy, closed

    def reading_restored(self) -> None:
        """The session reads texts by its client's settings again."""
        self.is_reading_changed = False
        for statement in self.unclean:
            self.copies.pop(statement, None)
        self.unclean.clear()

    def forget(self) -> None:
        """The server has dropped all statements (DISCARD ALL, DEALLOCATE ALL)."""
        self.copies.clear()
        self.unclean.clear()
        self.unnamed = None


# --- what an expected reply means for these books


class Note:
    """What becomes of an expected reply. Exactly one of `answered` and `dropped` is called, once, unless both the
    client and the server are gone before."""

    __slots__ = ()

    def described(self, tag: int, body: bytes) -> None:
        """ParameterDescription, RowDescription or NoData came."""

    def answered(self) -> None:
        """The server did it."""

    def dropped(self) -> None:
        """The server failed at it, or skipped it."""


class Removal(Note):
    """A client's Close of a name, which may be given to another statement before the answer comes."""

    __slots__ = ("_client", "_closing", "_name", "_names")

    def __init__(self, names: dict[bytes, ClientStatement], closing: set[bytes], name: bytes) -> None:
        self._names = names
        self._name = name
        self._closing = closing
        self._client = names.pop(name, None)
        closing.add(name)

    def answered(self) -> None:
        self._closing.discard(self._name)

    def dropped(self) -> None:
        self._closing.discard(self._name)
        if self._client is not None:
            newer = self._names.setdefault(self._name, self._client)
            if newer is not self._client:
                newer.before = self._client  # its Parse is dropped, too


class Preparation(Note):
    """Our own Parse, or the Describe behind it: the copy is good once the server has described it."""

    __slots__ = ("_copy", "_parameters", "_server", "_statement")

    def __init__(self, server: ServerStatements, statement: Statement, copy: Copy) -> None:
        self._server = server
        self._statement = statement
        self._copy = copy
        self._parameters = b""

    def described(self, tag: int, body: bytes) -> None:
        if tag == _PARAMETER_DESCRIPTION:
            self._parameters = body
        else:
            self._copy.shape = shape_of(self._parameters, body)

    def dropped(self) -> None:
        if self._server.copies.get(self._statement) is self._copy:
            del self._server.copies[self._statement]


class Registration(Note):
    """A client's Parse, by which the statement is prepared on the server: the name is good once the server says so."""

    __slots__ = ("_client", "_name", "_names", "_preparation")

    def __init__(
        self,
        names: dict[bytes, ClientStatement],
        name: bytes,
        client: ClientStatement,
        preparation: Preparation,
    ) -> None:
        self._names = names
        self._name = name
        self._client = client
        self._preparation = preparation
        client.before = names.get(name)  # behind a DEALLOCATE ALL that may come to nothing
        names[name] = client

    def answered(self) -> None:
        self._client.before = None
        self._client.is_settled = True
        self._preparation.answered()

    def dropped(self) -> None:
        if self._names.get(self._name) is self._client:
            del self._names[self._name]
            if self._client.before is not None:
                self._names[self._name] = self._client.before
        self._preparation.dropped()


class UnnamedParse(Note):
    """A client's Parse of the unnamed statement, which was forwarded as it is and may be skipped."""

    __slots__ = ("_client", "_owner", "_server", "is_done")

    def __init__(self, owner: "ClientNames", server: ServerStatements, client: ClientStatement) -> None:
        self._owner = owner
        self._server = server
        self._client = client
        self.is_done = False

    def answered(self) -> None:
        self.is_done = True
        if self._owner.unnamed is self._client:
            self._server.unnamed = self._client

    def dropped(self) -> None:
        self.is_done = True
        # PostgreSQL drops the old unnamed statement before it reads the new one, but not if it skips the Parse; which
        # it was we cannot know. A client that goes on without a new Parse gets 26000.
        if self._owner.unnamed is self._client:
            self._owner.unnamed = None


class ClientNames:
    """What one client has prepared, by its names and by no name."""

    __slots__ = ("doomed", "names", "unnamed")

    def __init__(self) -> None:
        self.names: dict[bytes, ClientStatement] = {}
        self.unnamed: ClientStatement | None = None
        # What had a name when the client sent the DEALLOCATE ALL or DISCARD ALL that is not answered yet.
        self.doomed: dict[bytes, ClientStatement] | None = None

    def note_forgetting(self, text: bytes, server: ServerStatements) -> None:
        """A text that was sent may drop all prepared statements: what is parsed behind it is not meant."""
        if forgets(text):
            self.doomed = dict(self.names)
            server.forget()

    def forget(self, server: ServerStatements) -> None:
        """The server has dropped all prepared statements, the client's among them."""
        doomed, self.doomed = self.doomed, None
        if doomed is None:
            self.names.clear()
            server.forget()
            return
        for name, client in doomed.items():
            newer = self.names.get(name)
            if newer is client:
                del self.names[name]
            elif newer is not None and newer.before is client:
                newer.before = None


class Tells(Note):
    """What tells the client the shape of a copy, unless the server fails at it or skips it."""

    __slots__ = ("_before", "_client")

    def __init__(self, client: ClientStatement, copy: Copy) -> None:
        self._client = client
        self._before = client.told
        client.told = copy

    def answered(self) -> None:
        self._client.was_read = False

    def dropped(self) -> None:
        self._client.told = self._before


class Told(Note):
    """A client's Describe of its unnamed statement, which tells it a shape."""

    __slots__ = ("_client", "_parameters")

    def __init__(self, client: ClientStatement) -> None:
        self._client = client
        self._parameters = b""

    def described(self, tag: int, body: bytes) -> None:
        if tag == _PARAMETER_DESCRIPTION:
            self._parameters = body
        else:
            copy = Copy()
            copy.shape = shape_of(self._parameters, body)
            self._client.told = copy
            self._client.was_read = False


class Eviction(Note):
    """Our Close of a copy that made room for another one."""

    __slots__ = ("_copy", "_server", "_statement")

    def __init__(self, server: ServerStatements, statement: Statement, copy: Copy) -> None:
        self._server = server
        self._statement = statement
        self._copy = copy

    def dropped(self) -> None:
        if self._server.copies.setdefault(self._statement, self._copy) is self._copy:
            self._server.copies.move_to_end(self._statement, last=False)


class Error(Note):
    """What a client reads in place of the error by which PostgreSQL rejects what we refused."""

    __slots__ = ("message",)

    def __init__(self, message: bytes) -> None:
        self.message = message


_PARAMETER_DESCRIPTION = 0x74


def with_client_names(text: bytes, bound: dict[Statement, bytes]) -> bytes:
    """An error's text with the client's names of statements in place of the server's."""
    for statement, name in bound.items():
        text = text.replace(b'"' + statement.name + b'"', b'"' + name + b'"')
    return text


def shape_of(parameters: bytes, row: bytes) -> bytes:
    """A digest of what a client must know to send parameters and to read rows.

    The bodies of a ParameterDescription and of a RowDescription (empty for NoData). Column names, types and their
    modifiers count, as they do for PostgreSQL's own check; where a column comes from, and in which format, do not.
    """
    digest = blake2b(parameters, digest_size=_SHAPE_BYTES)
    digest.update(b"|")
    at, end = 2, len(row)
    while at < end:
        stop = row.find(b"\0", at) + 1
        if not stop:
            break
        digest.update(row[at:stop])
        digest.update(row[stop + 6 : stop + 16])  # type, its size, its modifier
        at = stop + _COLUMN_SIZE
    return digest.digest()
