"""The extended protocol's prepared statements and portals of one admin, and how their messages are read.

Commands have no parameters, so a Bind carries none. A portal keeps the rows that an Execute with a limit left.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from pgweir_pooler.console.columns import COLUMNS, TEXT, Column, Columns
from pgweir_pooler.console.commands import SESSION_SETTINGS, Command, Verb, parse_command
from pgweir_pooler.errors import (
    CommandNotSupported,
    DuplicateCursor,
    DuplicateStatement,
    NoSuchStatement,
    ProtocolViolation,
    TooManyStatements,
)
from pgweir_pooler.wire.cursor import Cursor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STATEMENTS_MAX: Final = 1000  # asyncpg keeps 100


def columns_of(command: Command | None) -> Columns:
    """What the command answers with; empty for no rows."""
    if command is None or command.verb is not Verb.SHOW:
        return ()
    if command.argument in SESSION_SETTINGS:
        return (Column(command.argument, TEXT),)
    return COLUMNS.get(command.argument, ())


@dataclass(slots=True)
class Portal:
    """A statement that is bound; `rows` are encoded and set by its first Execute."""

    command: Command | None
    formats: tuple[int, ...] = ()
    rows: AsyncIterator[bytes] | None = field(default=None, repr=False)


class Execute(NamedTuple):
    """An Execute message; `limit` 0 for all rows."""

    portal: Portal
    limit: int


class Statements:
    """Everything by name; the unnamed ones are replaced, named ones are not."""

    def __init__(self) -> None:
        self._statements: dict[bytes, Command | None] = {}  # until Close or the end
        self._portals: dict[bytes, Portal] = {}  # until Close, Sync or the end

    def parse(self, body: bytes) -> None:
        """Parse."""
        cursor = Cursor(body, "Parse message", ProtocolViolation)
        name, text = cursor.cstring(), cursor.cstring()
        if name and name in self._statements:
            raise DuplicateStatement(name)
        if len(self._statements) >= STATEMENTS_MAX:
            raise TooManyStatements(f"an admin has at most {STATEMENTS_MAX} prepared statements")
        self._statements.pop(b"", None)
        self._statements[name] = parse_command(text.decode("utf-8", "replace"))

    def bind(self, body: bytes) -> None:
        """Bind."""
        cursor = Cursor(body, "Bind message", ProtocolViolation)
        name, statement = cursor.cstring(), cursor.cstring()
        command = self._statement(statement)
        _codes(cursor)
        if _uint16(cursor):
            raise CommandNotSupported("the console's commands have no parameters")
        codes = _codes(cursor)
        cursor.end()
        if name and name in self._portals:
            raise DuplicateCursor(f'cursor "{_shown(name)}" already exists')
        if len(self._portals) >= STATEMENTS_MAX:
            raise TooManyStatements(f"an admin has at most {STATEMENTS_MAX} portals")
        self._portals[name] = Portal(command, _formats(codes, len(columns_of(command))))

    def describe(self, body: bytes) -> tuple[bool, Command | None, tuple[int, ...]]:
        """Describe: whether of a statement, its command, and the formats of a portal."""
        cursor = Cursor(body, "Describe message", ProtocolViolation)
        kind, name = cursor.take(1), cursor.cstring()
        if kind == b"S":
            return True, self._statement(name), ()
        portal = self._portal(name)
        return False, portal.command, portal.formats

    def execute(self, body: bytes) -> Execute:
        """Execute."""
        cursor = Cursor(body, "Execute message", ProtocolViolation)
        return Execute(self._portal(cursor.cstring()), max(0, cursor.int32()))

    def close(self, body: bytes) -> None:
        """Close; of what is not there, too."""
        cursor = Cursor(body, "Close message", ProtocolViolation)
        kind, name = cursor.take(1), cursor.cstring()
        if kind == b"S":
            self._statements.pop(name, None)
        else:
            self._portals.pop(name, None)

    def sync(self) -> None:
        """The implicit transaction ends, and portals with it."""
        self._portals.clear()

    def _statement(self, name: bytes) -> Command | None:
        if name not in self._statements:
            raise NoSuchStatement(f'prepared statement "{_shown(name)}" does not exist')
        return self._statements[name]

    def _portal(self, name: bytes) -> Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise NoSuchStatement(f'portal "{_shown(name)}" does not exist')
        return portal


def _uint16(cursor: Cursor) -> int:
    return int.from_bytes(cursor.take(2), "big")


def _codes(cursor: Cursor) -> tuple[int, ...]:
    count = _uint16(cursor)
    return struct.unpack(f">{count}H", cursor.take(2 * count))


def _formats(codes: tuple[int, ...], columns: int) -> tuple[int, ...]:
    """One code per column; empty when all are text."""
    if len(codes) == 1:
        codes *= columns
    elif len(codes) not in (0, columns):
        raise ProtocolViolation("bind message has a wrong number of result formats")
    if any(code not in (0, 1) for code in codes):
        raise ProtocolViolation("unsupported format code")
    return codes if any(codes) else ()


def _shown(name: bytes) -> str:
    return "".join(x if x.isprintable() else "?" for x in name[:63].decode("utf-8", "replace"))
