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
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from pgweir_pooler.session.steps import Settings

if TYPE_CHECKING:
    from pgweir_pooler.session.statement_notes import ClientStatement

DEFAULT_MAX_PREPARED = 200
SERVER_NAME_PREFIX = b"pgweir_"
_SHAPE_BYTES = 8
_numbers = count()
_COLUMN_SIZE = 18  # what follows a column's name in a RowDescription


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


class ServerStatements:
    """What one server has prepared for clients of its pool."""

    __slots__ = ("copies", "is_reading_changed", "limit", "sql_names", "unclean", "unnamed")

    def __init__(self) -> None:
        self.limit = DEFAULT_MAX_PREPARED
        self.copies: OrderedDict[Statement, Copy] = OrderedDict()  # the least recently used first
        # The session reads texts by other settings, or sees other tables, than its client's settings tell: what is
        # prepared meanwhile is in `unclean`, and nobody else's.
        self.is_reading_changed = False
        self.unclean: list[Statement] = []
        # Statements that are there for SQL's EXECUTE and DEALLOCATE, under their clients' names.
        self.sql_names: set[str] = set()
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


def name_in_sql(name: bytes) -> str:
    """A statement's name in a message, as `sql_names` has it."""
    return name.decode("utf-8", "replace")


def with_client_names(text: bytes, bound: dict[Statement, bytes]) -> bytes:
    """An error's text with the client's names of statements in place of the server's."""
    for statement, name in bound.items():
        text = text.replace(b'"' + statement.name + b'"', b'"' + name + b'"')
    return text


def shape_of(parameters: bytes | None, row: bytes) -> bytes:
    """A digest of what a client must know to read rows, and behind it one of what it must know to send parameters.

    The bodies of a ParameterDescription (None when it was not described) and of a RowDescription (empty for NoData).
    Column names, types and their modifiers count, as they do for PostgreSQL's own check; where a column comes from, and
    in which format, do not.
    """
    digest = blake2b(digest_size=_SHAPE_BYTES)
    at, end = 2, len(row)
    while at < end:
        stop = row.find(b"\0", at) + 1
        if not stop:
            break
        digest.update(row[at:stop])
        digest.update(row[stop + 6 : stop + 16])  # type, its size, its modifier
        at = stop + _COLUMN_SIZE
    if parameters is None:
        return digest.digest()
    return digest.digest() + blake2b(parameters, digest_size=_SHAPE_BYTES).digest()
