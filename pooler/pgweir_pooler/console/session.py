"""An admin who is logged in: messages in, answers out, one command after the other.

One task carries out what has been received and ends when all of it is answered. While it works, what comes waits in the
inbox, which is bounded; while the admin does not read, rows wait to be made. A CancelRequest ends the wait of PAUSE or
WAIT_CLOSE.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

from pgweir_pooler.console.commands import Command, Verb, parse_command
from pgweir_pooler.console.encoding import data_row, row_description
from pgweir_pooler.console.statements import Portal, Statements, columns_of
from pgweir_pooler.errors import (
    CommandCanceled,
    CommandNotAllowed,
    ConsoleError,
    PoolerError,
    ProtocolViolation,
)
from pgweir_pooler.slices import Slices
from pgweir_pooler.wire.inbox import Inbox
from pgweir_pooler.wire.messages import (
    command_complete,
    error_response_for,
    message,
    notice_response,
    ready_for_query,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pgweir_contract.admin import AdminRole
    from pgweir_pooler.console.door import Console

log = structlog.get_logger()

MESSAGE_MAX_BYTES: Final = 65_536
INBOX_MAX_BYTES: Final = 2 * MESSAGE_MAX_BYTES  # above, nothing is read until commands are carried out
LINGER_S: Final = 5.0  # how long a closing admin may take to read the last words

_PARSE_COMPLETE: Final = message(b"1")
_BIND_COMPLETE: Final = message(b"2")
_CLOSE_COMPLETE: Final = message(b"3")
_NO_DATA: Final = message(b"n")
_NO_PARAMETERS: Final = message(b"t", b"\0\0")
_EMPTY_QUERY: Final = message(b"I")
_PORTAL_SUSPENDED: Final = message(b"s")

HELP: Final = """
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW LISTS|MEM|STATE
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tRELOAD
\tPAUSE [<database.tenant>]
\tRESUME [<database.tenant>]
\tDISABLE <database.tenant>
\tENABLE <database.tenant>
\tRECONNECT [<database.tenant>]
\tKILL [<database.tenant>]
\tKILL_CLIENT <client_id>
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tWAIT_CLOSE [<database.tenant>]"""


class ConsoleSession(asyncio.Protocol):
    """See the module."""

    def __init__(self, console: Console, user: str, role: AdminRole, application_name: str, *, id: int) -> None:  # noqa: A002
        self.id = id
        self.user = user
        self.role = role
        self.application_name = application_name
        self.connected_at = monotonic()
        self.last_request_at = 0.0
        self.transport: asyncio.Transport
        self._console = console
        self._inbox = Inbox(ProtocolViolation)
        self._statements = Statements()
        self._skips_to_sync = False  # after an error of the extended protocol
        self._task: asyncio.Task[None] | None = None  # while there is something to carry out
        self._waiting: asyncio.Task[None] | None = None  # an action under way, which a CancelRequest ends
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_closing = False

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's transports derive from no asyncio class

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        self._inbox.add(data)
        if len(self._inbox) > INBOX_MAX_BYTES:
            self.transport.pause_reading()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="carry out an admin's commands")
            self._task.add_done_callback(self._work_ended)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        self._console.left(self)

    # --- from outside

    def cancel(self) -> None:
        """A CancelRequest."""
        if self._waiting is not None:
            self._waiting.cancel()

    def close(self, error: PoolerError | None = None) -> None:
        """Ends the session, with an error that the admin reads or without a word."""
        if self._is_closing:
            return
        self._is_closing = True
        if error is not None:
            self.transport.write(error_response_for(error))
        self.transport.close()
        if self.transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)

    # --- messages

    async def _work(self) -> None:
        while not self._is_closing:
            try:
                taken = self._inbox.take_message(MESSAGE_MAX_BYTES)
                if taken is None:
                    # Here and not when the task has ended: what arrives in between would wait for ever.
                    self._task = None
                    return
                await self._take(*taken)
            except ProtocolViolation as error:
                self.close(error)
            if not self._is_closing and len(self._inbox) <= INBOX_MAX_BYTES:
                self.transport.resume_reading()

    def _work_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("an admin's command failed", exc_info=error)
            self.transport.abort()

    async def _take(self, tag: bytes, body: bytes) -> None:
        if tag == b"X":
            self.close()
        elif tag == b"S":
            self._skips_to_sync = False
            self._statements.sync()
            self._write(ready_for_query())
        elif self._skips_to_sync:
            return
        elif tag == b"Q":
            await self._query(body)
        elif tag in (b"P", b"B", b"D", b"E", b"C"):
            try:
                await self._extended(tag, body)
            except ConsoleError as error:
                self._skips_to_sync = True
                self._report(error)
        elif tag != b"H":  # Flush: everything is sent at once
            raise ProtocolViolation("the console takes no such message")

    async def _query(self, body: bytes) -> None:
        text, end, rest = body.partition(b"\0")
        if not end or rest:
            raise ProtocolViolation("malformed Query message: it must be one string")
        self.last_request_at = monotonic()
        try:
            command = parse_command(text.decode("utf-8", "replace"))
            columns = columns_of(command)
            if columns:
                self._write(row_description(columns))
            await self._send_all(Portal(command))
        except ConsoleError as error:
            self._report(error)
        self._write(ready_for_query())

    async def _extended(self, tag: bytes, body: bytes) -> None:
        statements = self._statements
        if tag == b"P":
            statements.parse(body)
            self._write(_PARSE_COMPLETE)
        elif tag == b"B":
            statements.bind(body)
            self._write(_BIND_COMPLETE)
        elif tag == b"C":
            statements.close(body)
            self._write(_CLOSE_COMPLETE)
        elif tag == b"D":
            of_statement, command, formats = statements.describe(body)
            columns = columns_of(command)
            self._write(
                (_NO_PARAMETERS if of_statement else b"") + (row_description(columns, formats) if columns else _NO_DATA)
            )
        else:
            self.last_request_at = monotonic()
            portal, limit = statements.execute(body)
            await self._send_all(portal, limit)

    # --- commands

    async def _send_all(self, portal: Portal, limit: int = 0) -> None:
        """Rows and CommandComplete, or PortalSuspended after `limit` rows; raises ConsoleError."""
        command = portal.command
        if command is None:
            self._write(_EMPTY_QUERY)
            return
        if portal.rows is None:
            await self._begin(command)
            portal.rows = self._rows(command, portal.formats)
        sent = 0
        async for row in portal.rows:
            self._write(row)
            sent += 1
            if sent == limit:
                self._write(_PORTAL_SUSPENDED)
                return
            if not self._writable.is_set():
                await self._writable.wait()
        self._write(command_complete(command.verb.value.encode()))

    async def _begin(self, command: Command) -> None:
        """What a command does beside showing rows."""
        if command.verb is Verb.SET:
            self._write(notice_response("NOTICE", "00000", "SET ignored: nothing here depends on it"))
        elif command.verb is not Verb.SHOW:
            await self._act(command)
        elif command.argument == "help":
            self._write(notice_response("NOTICE", "00000", "Console usage", detail=HELP))

    async def _act(self, command: Command) -> None:
        if self.role != "Admin":
            raise CommandNotAllowed(f"{command.verb.value} needs an admin with the role Admin")
        log.info("admin command", admin=self.user, command=command.verb.value, argument=command.argument)
        self._waiting = asyncio.get_running_loop().create_task(
            self._console.actions.carry_out(command), name=f"carry out {command.verb.value}"
        )
        try:
            await asyncio.wait([self._waiting])  # so that a cancelled action and a cancelled session differ
            if self._waiting.cancelled():
                raise CommandCanceled("the wait was cancelled", hint="What was ordered stays in force.")
            self._waiting.result()
        finally:
            if not self._waiting.cancel() and not self._waiting.cancelled():
                self._waiting.exception()  # nobody may be there to hear of it
            self._waiting = None

    async def _rows(self, command: Command, formats: tuple[int, ...]) -> AsyncIterator[bytes]:
        """Encoded rows, made in slices."""
        columns = columns_of(command)
        slices = Slices()
        for row in self._console.rows(command):
            if row is not None:
                yield data_row(row, columns, formats)
            await slices.pause()

    def _report(self, error: ConsoleError) -> None:
        log.info("admin command refused", admin=self.user, code=error.code)
        self._write(error_response_for(error))

    def _write(self, data: bytes) -> None:
        if not self._is_closing:
            self.transport.write(data)
