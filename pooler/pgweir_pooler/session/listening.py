"""The listening server's conversation: LISTEN and UNLISTEN go out, notifications and answers come in.

Channel names are bytes in UTF-8, the client encoding of every login of ours, without quotes. All statements are simple
queries, any number in flight, and their answers come in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pgweir_pooler.wire.cursor import ServerProtocolError
from pgweir_pooler.wire.framing import (
    COMMAND_COMPLETE,
    DATA_ROW,
    EMPTY_QUERY_RESPONSE,
    ERROR_RESPONSE,
    HEADER_SIZE,
    HELD_MESSAGE,
    NOTICE_RESPONSE,
    NOTIFICATION_RESPONSE,
    PARAMETER_STATUS,
    READY_FOR_QUERY,
    ROW_DESCRIPTION,
    read_header,
)
from pgweir_pooler.wire.messages import notification_channel, parse_error_fields, query

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Statements of one query are one transaction, and PostgreSQL looks through all channels of a session for each of them.
STATEMENTS_PER_QUERY = 100

# PostgreSQL 14 and later can end idle sessions; a session that listens is idle by nature.
PREPARE_SESSION = query(
    b"SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings"
    b" WHERE name IN ('idle_session_timeout', 'statement_timeout')"
)
ARE_YOU_THERE = query(b"")

_OTHER_REPLIES = frozenset(
    {COMMAND_COMPLETE, DATA_ROW, EMPTY_QUERY_RESPONSE, NOTICE_RESPONSE, PARAMETER_STATUS, ROW_DESCRIPTION}
)

Change: TypeAlias = tuple[bool, bytes]
"""True: LISTEN, False: UNLISTEN; and the channel."""


class Notification(NamedTuple):
    """A whole NotificationResponse."""

    channel: bytes
    message: bytes


class Answer(NamedTuple):
    """The oldest query has been answered, with these error fields if it failed."""

    error: dict[str, str]


class ListeningStream:
    """Reader of a listening server's messages, for as long as the connection lives."""

    __slots__ = ("_error", "_held", "owed")

    def __init__(self) -> None:
        self.owed = 0  # queries sent and not answered; who sends adds to it
        self._held = b""  # the beginning of a message
        self._error: dict[str, str] = {}  # of the query that is being answered

    def receive(self, data: bytes) -> list[Notification | Answer]:
        """What came, in order. Raises ServerProtocolError; the connection is unusable then."""
        if self._held:
            data = self._held + data
            self._held = b""
        found: list[Notification | Answer] = []
        pos, end = 0, len(data)
        while end - pos >= HEADER_SIZE:
            tag, length = read_header(data, pos)
            after = pos + 1 + length
            if not 4 <= length <= HELD_MESSAGE:
                raise ServerProtocolError(f"message {chr(tag)!r} states a length of {length}")
            if after > end:
                break
            if tag == NOTIFICATION_RESPONSE:
                message = data[pos:after]
                found.append(Notification(notification_channel(message[HEADER_SIZE:]), message))
            elif tag == READY_FOR_QUERY:
                if not self.owed:
                    raise ServerProtocolError("an answer that nobody asked for")
                self.owed -= 1
                found.append(Answer(self._error))
                self._error = {}
            elif tag == ERROR_RESPONSE:
                self._error = parse_error_fields(data[pos + HEADER_SIZE : after])
            elif tag not in _OTHER_REPLIES:
                raise ServerProtocolError(f"message {chr(tag)!r} does not fit a session that listens")
            pos = after
        self._held = data[pos:]
        return found


def queries(changes: Iterable[Change]) -> list[bytes]:
    """Query messages that carry the changes out, in order."""
    return [query(b";".join(chunk)) for chunk in _chunks(_statement(*change) for change in changes)]


def notify(channel: bytes) -> bytes:
    """A Query that sends an empty notification."""
    return query(b"NOTIFY " + _quoted(channel))


def _statement(is_wanted: bool, channel: bytes) -> bytes:
    return (b"LISTEN " if is_wanted else b"UNLISTEN ") + _quoted(channel)


def _quoted(name: bytes) -> bytes:
    return b'"' + name.replace(b'"', b'""') + b'"'


def _chunks(statements: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for statement in statements:
        chunk.append(statement)
        if len(chunk) == STATEMENTS_PER_QUERY:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
