"""What a client means by its statements' names, and what each reply that a server owes means for these books.

A note belongs to an entry of `Pipeline.owed`: it is told when the server has done what the entry stands for, or when it
failed at it or skipped it.
"""

from pgweir_pooler.session.statements import Copy, ServerStatements, Statement, name_in_sql, shape_of
from pgweir_pooler.session.suspicion import forgets

_PARAMETER_DESCRIPTION = 0x74


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


class ClientStatement(Note):
    """What one client means by a name, or by no name. As a note: of a Describe of its portal."""

    __slots__ = ("_rows", "before", "body", "is_settled", "statement", "told")

    def __init__(self, body: bytes | None, statement: Statement | None) -> None:
        self.body = body  # of its Parse message, behind the name; None when it was too long to be kept
        self.statement = statement  # None until it must be prepared by name
        self.is_settled = False  # the server has answered the Parse
        # The copy by whose shape the client reads rows; None while it was told none: then any shape is news to it.
        self.told: Copy | None = None
        # What the name meant before, until PostgreSQL has answered the Parse; else None.
        self.before: ClientStatement | None = None
        self._rows: bytes | None = None  # as a portal's description told it

    def described(self, tag: int, body: bytes) -> None:
        self._rows = body

    def read_portal(self) -> None:
        """Makes what a portal's description told count, where nothing else has told the client a shape."""
        if self.told is None and self._rows is not None:
            self.told = Copy()
            self.told.shape = shape_of(None, self._rows)

    def is_misled_by(self, copy: Copy) -> bool:
        """Whether rows of this copy would be read by the shape of another one."""
        told = self.told
        if told is None or told is copy or told.shape is None:  # the last: its preparation came to nothing
            return False
        # A portal's description tells of the rows alone.
        return copy.shape is None or not copy.shape.startswith(told.shape)


class Removal(Note):
    """A client's Close of a name, which may be given to another statement before the answer comes."""

    __slots__ = ("_client", "_closing", "_name", "_names", "_server")

    def __init__(
        self, names: dict[bytes, ClientStatement], closing: set[bytes], name: bytes, server: ServerStatements
    ) -> None:
        self._names = names
        self._server = server
        self._name = name
        self._closing = closing
        self._client = names.pop(name, None)
        closing.add(name)

    def answered(self) -> None:
        self._closing.discard(self._name)
        self._server.sql_names.discard(name_in_sql(self._name))

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
